"""Agents x users x seeds, resumed after an interruption, and the reference agents in order."""

from __future__ import annotations

import io
import json
import sys
import threading
from concurrent.futures import Future

import numpy as np
import pytest
from rich.console import Console

from rlpa_env import (
    CRITERIA,
    BudgetError,
    ChatClient,
    ConfigError,
    LLMJudge,
    ModelError,
    OffSchemaError,
    Point,
    PromptingAgent,
    RuleJudge,
    ScriptedUser,
    format_action,
)
from rlpa_env.agents import AGENTS, TRICKS, constant_profile, make_agent
from rlpa_env.evaluate import Setting, collect, evaluate, results_table
from rlpa_env.population import load_split
from rlpa_env.report import report_data
from rlpa_env.results import paired_difference, per_turn, ties
from rlpa_env.runs import read_runs
from rlpa_env.standings import standings
from rlpa_env.wrappers import described

USERS = 24


@pytest.fixture(scope="module")
def records():
    return collect(dict.fromkeys(AGENTS), Setting(users=USERS), quiet=True)


def mean(records, key):
    return float(per_turn(records, key).mean())


@pytest.mark.parametrize("name", ["script", "prior", *TRICKS])
def test_every_trick_is_below_attentive_with_its_interval_clear_of_0(records, name):
    _, low, _ = paired_difference(records["attentive"], records[name])
    assert low > 0


def test_oracle_is_above_attentive(records):
    assert paired_difference(records["oracle"], records["attentive"])[1] > 0


def test_copying_the_users_sentences_does_not_pay(records):
    assert mean(records["copyist"], "f1") <= 0.7 * mean(records["attentive"], "f1")


def test_the_best_constant_profile_is_nearly_worthless_on_test():
    constant = set(constant_profile("vanilla/train"))
    people = load_split("vanilla/test")
    f1 = [2 * len(constant & set(p.points)) / (len(constant) + len(p.points)) for p in people]
    assert sum(f1) / len(f1) <= 0.12


def test_revealed_share_is_calibrated(records):
    share = {name: sum(r["turns"][-1]["revealed"] for r in records[name]) / USERS for name in records}
    assert share["prior"] <= 0.15
    assert share["script"] <= 0.45
    assert share["oracle"] >= 0.75


def test_resume_plays_only_what_is_missing(tmp_path):
    plays = []

    class Counting:
        def act(self, messages):
            plays.append(len(messages))
            return format_action([Point("Gender", "woman")], "I made soup. What do you do for a living?")

    evaluate({"mine": Counting()}, users=3, out=tmp_path, quiet=True, workers=1)
    first = len(plays)
    whole = (tmp_path / "results.json").read_text()
    lines = (tmp_path / "episodes.jsonl").read_text().splitlines()
    kept = [line for line in lines if not (json.loads(line)["agent"] == "mine" and json.loads(line)["seed"] == 2)]
    (tmp_path / "episodes.jsonl").write_text("\n".join(kept) + "\n")
    evaluate({"mine": Counting()}, users=3, out=tmp_path, quiet=True, workers=1)
    assert 0 < len(plays) - first < first
    assert (tmp_path / "results.json").read_text() == whole


def test_results_name_their_task_and_always_hold_floor_and_scale(tmp_path):
    rows = evaluate(["script"], users=3, seeds=(0, 1), out=tmp_path, quiet=True)
    assert [row["agent"] for row in rows] == ["script", "prior", "oracle"]
    assert rows[1]["normalised"] == 0.0
    assert rows[2]["normalised"] == 1.0
    assert rows[0]["users"] == 3
    assert rows[0]["seed"] == [0, 1]
    assert len(rows[0]["al"]) == 10
    assert json.loads((tmp_path / "results.json").read_text())[0]["agent"] == "script"


def test_a_batching_agent_gets_many_dialogues_and_the_same_scores():
    class One:
        def act(self, messages):
            return make_agent("script").act(messages)

    class Many(One):
        largest = 0

        def act_batch(self, dialogues):
            self.largest = max(self.largest, len(dialogues))
            return [self.act(messages) for messages in dialogues]

    many = Many()
    rows = evaluate({"one": One(), "many": many}, users=5, quiet=True, workers=1)
    assert many.largest == 5
    assert rows[0]["return"] == rows[1]["return"]


def test_al_uses_the_hidden_profile_and_malformed_turns_score_0():
    class Mute:
        def act(self, messages):
            return "no tags at all"

    rows = evaluate({"mute": Mute()}, users=2, quiet=True, workers=1)
    assert rows[0]["avg"] == 0.0
    assert rows[0]["malformed"] == 1.0


def test_more_users_than_there_are_is_refused():
    with pytest.raises(ConfigError, match=r"expected 1\.\.74"):
        evaluate(["script"], users=75, quiet=True)


@pytest.mark.parametrize(
    ("agents", "seeds", "words"),
    [("attentive", (0,), r"agents: expected a list .*\['NAME'\]"), ([RuleJudge()], (0,), "agents: expected"), (["prior"], 3, r"seeds: expected a list.*\[3\]"),
     (["prior"], "01", "seeds"), (["prior"], [0.5], "seeds")],
)  # fmt: skip
def test_agents_and_seeds_are_lists(agents, seeds, words):
    with pytest.raises(ConfigError, match=words):
        evaluate(agents, seeds=seeds, users=1, references="none", quiet=True, workers=1)


def test_episodes_of_a_file_count_as_long_as_it_holds_the_same_people(tmp_path):
    path = tmp_path / "people.jsonl"

    def played(job):
        path.write_text(json.dumps({"id": "x", "slots": {"Occupation": job, "Interests": ["chess", "tea"]}}) + "\n")
        evaluate(["prior"], split=path, references="none", out=tmp_path / "out", quiet=True, workers=1)
        return [line["truth"]["Occupation"] for line in lines(tmp_path / "out")]

    assert played("baker") == ["baker"]
    assert played("baker") == ["baker"]
    assert played("nurse") == ["baker", "nurse"]


def test_the_keys_of_bundled_splits_stay_those_of_kept_results():
    assert Setting().key == "492d0621f0ac"
    assert Setting("RLPA-Shift-v0", "extended/test", env_kwargs=(("credit", "grounded"),)).key == "b8acc8c0734f"


def test_the_same_agent_twice_is_a_tie():
    records = collect({"script": None, "again": make_agent("script")}, Setting(users=4), quiet=True, workers=1)
    assert ties(records) in ([("script", "again")], [("again", "script")])
    rows = evaluate({"script": None, "again": make_agent("script")}, users=4, quiet=True, workers=1)
    assert rows[0]["tied_with"] == ["again"]
    text = Console(width=200, file=io.StringIO(), record=True)
    text.print(results_table(rows))
    assert "tied with again" in text.export_text()


GOOD = format_action([Point("Gender", "woman")], "I made soup. What do you do for a living?")


class Answering(ChatClient):
    """A client that answers by itself; ``script(messages)`` may raise."""

    def __init__(self, script=lambda messages: GOOD, **settings):
        super().__init__(base_url="http://me:secret@127.0.0.1:9/v1", **{"model": "one", **settings})
        self.script, self.asked = script, 0

    def begin(self, messages, **options):
        self.asked += 1
        future = Future()
        try:
            future.set_result(self.script(messages))
        except ModelError as error:
            future.set_exception(error)
        return future


def held(agents, out, users=2, **more):
    return evaluate(agents, users=users, out=out, references="none", quiet=True, workers=1, **more)


def lines(out):
    return [json.loads(line) for line in (out / "episodes.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("method", "other"), [("base", {"model": "two"}), ("base", {"temperature": 0.0}), ("reminder", {})])
def test_another_model_of_one_name_is_not_taken_for_this_one_and_the_same_resumes(tmp_path, method, other):
    first, second = Answering(), Answering(**other)
    held({"base": PromptingAgent(first)}, tmp_path)
    (row,) = held({"base": PromptingAgent(second, method)}, tmp_path)
    assert first.asked == second.asked > 0
    assert row["identity"] == {"method": method, "llm": {"model": "one", "temperature": 0.7, "max_tokens": 512, "language": "en", **other}}
    again, elsewhere = Answering(), Answering(timeout=1.0, concurrency=2, budget=9.0, price=(1.0, 1.0), **other)
    held({"base": PromptingAgent(again)}, tmp_path)
    held({"base": PromptingAgent(elsewhere, method)}, tmp_path)
    assert again.asked == elsewhere.asked == 0
    assert len(lines(tmp_path)) == 4
    agents = {episode["agent"] for run in read_runs([tmp_path]) for episode in run.episodes}
    assert len(agents) == 2  # in the report too
    assert agents == {"base (one)", "base (two)"} or "model" not in other


def test_an_agent_without_an_identity_is_told_by_its_class_and_attributes(tmp_path):
    class Mine:
        def __init__(self, key):
            self._key, self.played = key, []

        def act(self, messages):
            self.played.append(1)
            return GOOD

    agents = [Mine("sk-one"), Mine("sk-two"), Mine("sk-one")]
    for agent in agents:
        held({"mine": agent}, tmp_path)
    assert [bool(agent.played) for agent in agents] == [True, True, False]
    assert "sk-" not in (tmp_path / "episodes.jsonl").read_text()  # an attribute may be anything: only its digest is kept


def test_episodes_of_other_weights_are_played_anew(tmp_path):
    class Net:
        def __init__(self, weight):
            self.layers, self.played = [{"weight": np.full(3, weight)}], []

        def act(self, messages):
            self.played.append(1)
            return GOOD

    agents = [Net(0.0), Net(1.0), Net(0.0)]
    for agent in agents:
        held({"net": agent}, tmp_path)
    assert [bool(agent.played) for agent in agents] == [True, True, False]

    class Weighing(RuleJudge):
        def __init__(self, weight):
            self.weight = np.full(3, weight)

    assert len({Setting(env_kwargs=(("judge", Weighing(weight)),)).key for weight in (0.0, 1.0, 0.0)}) == 2


class Opaque:
    """An agent that nobody can tell from another."""

    def __init__(self, **more):
        self.say, self.played = (lambda: GOOD), []
        vars(self).update(more)

    def act(self, messages):
        self.played.append(1)
        return self.say()


def test_episodes_of_who_cannot_be_told_from_others_are_played_anew_unless_it_says_who_it_is(tmp_path):
    agents = [Opaque(), Opaque(), Opaque(identity={"is": "me"}), Opaque(identity={"is": "me"})]
    for agent in agents[:2]:
        with pytest.warns(UserWarning, match=r"agent 'who': expected attributes .*<lambda>, of which nothing can be read.*identity"):
            held({"who": agent, "prior": None}, tmp_path)
    for agent in agents[2:]:
        held({"who": agent, "prior": None}, tmp_path)
    assert [bool(agent.played) for agent in agents] == [True, True, True, False]
    assert [line["agent"] for line in lines(tmp_path)].count("prior") == 2


def test_a_judge_that_cannot_be_told_from_others_has_its_episodes_played_anew(tmp_path):
    class Odd(RuleJudge):
        def __init__(self):
            self.weigh = lambda: 1

    for count in (2, 4):
        with pytest.warns(UserWarning, match="env_kwargs: expected attributes"):
            held(["script"], tmp_path, env_kwargs={"judge": Odd()})
        assert len(lines(tmp_path)) == count


def test_episodes_from_before_identities_are_nobodys_model(tmp_path):
    held({"base": PromptingAgent(Answering())}, tmp_path)
    old = [{key: value for key, value in line.items() if key != "identity"} for line in lines(tmp_path)]
    (tmp_path / "episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in old))
    client = Answering()
    held({"base": PromptingAgent(client)}, tmp_path)
    assert client.asked > 0


@pytest.mark.parametrize(
    ("error", "again"), [("m at http://host/v1: no answer after 5 attempts", True), ("agent: no answer", True), ("off schema: judge: none", False)]
)
def test_failures_from_outside_are_held_again_and_those_off_schema_stay(tmp_path, error, again):
    held({"base": PromptingAgent(Answering())}, tmp_path)
    kept = lines(tmp_path)
    kept[0] |= {"stop_reason": "failure", "error": error}
    kept[0]["turns"][-1]["valid"] = False
    (tmp_path / "episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    client = Answering()
    (row,) = held({"base": PromptingAgent(client)}, tmp_path)
    assert (client.asked == len(kept[0]["turns"])) is again
    assert row["failures"] == (0 if again else 1)
    assert len(lines(tmp_path)) == (3 if again else 2)


@pytest.mark.parametrize("batches", [True, False])
def test_an_agents_failure_ends_its_own_episode_and_is_held_again(tmp_path, batches):
    def failing(messages):
        if len(messages) > 4:
            bad.append(messages[3]["content"])
            if messages[3]["content"] == bad[0]:
                raise ModelError("one at http://me:secret@host/v1: no answer")
        return GOOD

    class Alone:
        identity = {"is": "alone"}  # noqa: RUF012

        def act(self, messages):
            return failing(messages)

    bad = []
    (row,) = held({"base": PromptingAgent(Answering(failing)) if batches else Alone()}, tmp_path, users=3)
    assert (row["failures"], row["off_schema"], row["users"]) == (1, 0, 3)
    assert row["tokens_per_turn"] == len(GOOD.split())  # of what it said; the call that failed said nothing
    (failed,) = [line for line in lines(tmp_path) if line["stop_reason"] == "failure"]
    assert failed["error"] == "agent: one at http://host/v1: no answer"
    assert [turn["valid"] for turn in failed["turns"]] == [True, True, False]
    assert failed["messages"][-1] == {"role": "assistant", "content": ""}
    assert failed["turns"][2]["reward"] == failed["turns"][2]["response"] == 0.0
    assert failed["turns"][2]["hits"] == []
    (run,) = read_runs([tmp_path])
    assert len(run.episodes) == 3
    assert run.notes == ()
    text = Console(width=200, file=io.StringIO(), record=True)
    text.print(results_table([row]))
    assert "1 episodes failed, not counted" in text.export_text()
    bad[0] = ""  # the server is up again
    (row,) = held({"base": PromptingAgent(Answering(failing)) if batches else Alone()}, tmp_path, users=3)
    assert row["failures"] == 0
    assert len(lines(tmp_path)) == 4


def test_a_batch_that_fails_as_a_whole_fails_each_of_its_dialogues():
    class Batching:
        def act_batch(self, dialogues):
            raise ModelError("down")

    with pytest.raises(ModelError, match="broken: expected at least one episode without a failure; the first failed with: agent: down"):
        held({"broken": Batching()}, None)


def failing(words):
    class Failing:
        identity = {"is": words}  # noqa: RUF012

        def act(self, messages):
            raise ModelError(words)

    return Failing()


def test_an_agent_without_a_result_does_not_take_those_of_the_others_with_it(tmp_path):
    with pytest.raises(ModelError, match=r"broken: expected at least one episode.*; cut: expected.*others are in .*results.json"):
        held({"broken": failing("down"), "script": None, "cut": failing("away")}, tmp_path)
    (row,) = json.loads((tmp_path / "results.json").read_text())
    assert (row["agent"], row["tied_with"]) == ("script", [])


def _printed(rows):
    text = Console(width=200, file=io.StringIO(), record=True)
    text.print(results_table(rows))
    return text.export_text()


def test_an_agent_that_was_off_schema_in_every_episode_is_in_the_table_and_in_the_report(tmp_path):
    held({"script": None}, tmp_path)
    path = tmp_path / "episodes.jsonl"
    kept = [record | {"stop_reason": "failure", "error": "off schema: judge: none"} for record in lines(tmp_path)]
    path.write_text("".join(json.dumps(line) + "\n" for line in kept))
    rows = held({"script": None, "prior": None}, tmp_path)
    assert [(row["agent"], row["ranked"]) for row in rows] == [("script", False), ("prior", True)]
    text = Console(width=200, file=io.StringIO(), record=True)
    text.print(results_table(rows))
    said = text.export_text()
    assert said.index("prior") < said.index("script") < said.index("not ranked: 2")
    zeroed = rows[0]["off_schema_as_0"]
    assert zeroed["return"] > 0  # of the turns before
    assert f"{zeroed['return']:.2f} as 0" in said
    assert f"{zeroed['avg']:.1f} as 0" in said
    assert said.count(" as 0") == 4  # no normalised scores without oracle
    assert "off schema, left out" in _printed([rows[0] | {"ranked": True}])
    assert " as 0" not in _printed(rows[1:])
    for file in (path, tmp_path / "results.json"):
        (board,) = standings(read_runs([file]))
        assert [entry.agent for entry in board.entries] == ["prior", "script"]
        assert "not ranked: 2 turns off schema" in board.entries[1].note
        assert report_data(read_runs([file]))["boards"][0]["entries"][1]["scores"]["return"] is None


def test_a_spent_budget_ends_the_evaluation_and_a_larger_one_goes_on(tmp_path):
    def spent(messages):
        if len(messages) > 4:
            raise BudgetError("llm budget: expected at most 1; 1.01 is spent.")
        return GOOD

    with pytest.raises(BudgetError, match=r"1.01 is spent. Finished episodes are in .*episodes.jsonl; .*larger budget goes on"):
        held({"script": None, "base": PromptingAgent(Answering(spent, budget=1.0, price=(1.0, 1.0)))}, tmp_path)
    assert [line["agent"] for line in lines(tmp_path)] == ["script", "script"]
    held({"script": None, "base": PromptingAgent(Answering(budget=2.0, price=(1.0, 1.0)))}, tmp_path)
    assert [line["agent"] for line in lines(tmp_path)] == ["script", "script", "base", "base"]


def test_a_spent_budget_of_the_environment_leaves_no_failed_episodes(tmp_path):
    llm = {"base_url": "http://127.0.0.1:9/v1", "model": "m", "budget": 0.0, "price": (1.0, 1.0)}
    with pytest.raises(BudgetError, match="larger budget goes on"):
        held(["script"], tmp_path, env_kwargs={"judge": "llm", "llm": llm})
    assert not (tmp_path / "episodes.jsonl").exists()


def test_the_task_is_another_with_another_model_and_the_same_with_another_server():
    def key(**llm):
        return Setting("RLPA-LLM-v0", env_kwargs=(("llm", {"base_url": "http://a/v1", "model": "m", **llm}),)).key

    assert len({key(), key(model="n"), key(temperature=0.0), key(language="zh"), key(max_tokens=9), key(extra_body={"top_k": 1})}) == 6
    same = {"base_url": "http://b/v1", "timeout": 9.0, "budget": 3.0, "concurrency": 2, "api_key_env": "KEY", "temperature": 0.7, "price": (1, 2)}
    assert key(**same) == key()
    assert Setting("RLPA-v0", "vanilla/val", env_kwargs=(("style", "terse"),)).key == "8277e78e62c3"  # as ever: old runs resume


@pytest.mark.parametrize(("matcher", "names"), [("lexical", ["script", "prior", "oracle"]), ("llm", ["script", "prior"])])
def test_the_oracle_is_left_out_where_it_would_ask_models(monkeypatch, matcher, names):
    seen = []

    def instead(agents, *rest):
        seen.append(list(agents))
        raise ConfigError("enough")

    monkeypatch.setattr(sys.modules["rlpa_env.evaluate"], "collect", instead)  # the package has a function of the module's name
    llm = {"llm": {"model": "m", "base_url": "http://127.0.0.1:9/v1"}} if matcher == "llm" else {}
    more = {"users": 2, "env_kwargs": {"matcher": matcher, **llm}}
    for references in ({}, {"references": "all"}, {"references": "prior"}, {"references": "none"}):
        with pytest.raises(ConfigError, match="enough"):
            evaluate(["script"], **more, **references)
    assert seen == [names, ["script", "prior", "oracle"], ["script", "prior"], ["script"]]
    with pytest.raises(ConfigError, match="Did you mean 'none'"):
        evaluate(["script"], references="nne")


def test_without_the_oracle_the_normalised_score_is_missing_and_the_table_says_so(tmp_path):
    rows = evaluate(["script"], users=2, references="prior", out=tmp_path, quiet=True, workers=1)
    assert [row["agent"] for row in rows] == ["script", "prior"]
    assert not any(key.startswith("normalised") for row in rows for key in row)
    text = Console(width=200, file=io.StringIO(), record=True)
    text.print(results_table(rows))
    said = text.export_text()
    assert "–" in said
    assert "No normalised scores" in said
    assert "--references all" in said


def test_objects_are_arguments_of_the_environment_and_tell_tasks_apart(tmp_path):
    class Strict(RuleJudge):
        def __init__(self, level):
            self.level = level

    tasks = ({"judge": RuleJudge()}, {"judge": Strict(1)}, {"judge": Strict(2)}, {"judge": RuleJudge()}, {"user": ScriptedUser(style="terse")})
    for kwargs in tasks:
        held(["script"], tmp_path, env_kwargs=kwargs)
    kept = lines(tmp_path)
    assert len(kept) == 2 * 4
    assert len({line["setting"] for line in kept}) == 4
    assert kept[0]["kwargs"] == {"judge": {"class": "RuleJudge"}}
    assert {line["limit"] for line in kept} == {10}
    with pytest.raises(ConfigError, match=r"copy\.deepcopy"):
        held(["script"], tmp_path, env_kwargs={"judge": Strict(threading.Lock())})
    assert evaluate(["script"], users=9, references="none", quiet=True, env_kwargs={"judge": RuleJudge()})[0]["users"] == 9


def test_alignment_before_a_shift_is_judged_on_the_truth_of_that_turn_where_a_judge_is_waited_for():
    class Waited(RuleJudge):
        def judge_flow(self, points, dialogue, reply):
            yield from ()
            return self.judge(points, dialogue, reply)

    def truths(judge):
        seen = []

        class Watching(RuleJudge):
            def judge(self, points, dialogue, reply):
                seen.append(tuple(points))
                return super().judge(points, dialogue, reply)

        setting = Setting("RLPA-Shift-v0", users=1, env_kwargs=(("judge", judge), ("shift_turn", 3)), al_judge=Watching())
        return seen, collect({"script": None}, setting, quiet=True, workers=1)["script"][0]["turns"]

    seen, turns = truths(Waited())
    assert len(set(seen[:2])) == 1
    assert seen[1] != seen[2]
    assert (seen, turns) == truths(RuleJudge())


VERDICT = json.dumps({name: {"reason": "why", "pass": True} for name in CRITERIA})


def test_a_model_that_judges_alignment_sees_the_truth_is_named_in_rows_and_records_and_tells_evaluations_apart(tmp_path):
    (rules,) = held(["script"], tmp_path, al_judge="rules")
    client = Answering(lambda messages: VERDICT)
    (row,) = held(["script"], tmp_path, al_judge=LLMJudge(client, trusted=True))
    kept = lines(tmp_path)
    assert client.asked == sum(len(line["turns"]) for line in kept[2:])
    assert rules["avg"] < row["avg"] == 100.0 * client.asked / 20  # who has left counts 0
    assert rules["return"] == row["return"]  # the training judge is who it was
    assert row["al_judge"]["client"]["model"] == kept[2]["al_judge"]["client"]["model"] == "one"
    assert "al_judge" not in rules
    assert "al_judge" not in kept[0]
    assert len({line["setting"] for line in kept}) == 2
    held(["script"], tmp_path, al_judge=LLMJudge(client, trusted=True))
    held(["script"], tmp_path)  # as ever: records without a judge's name are the rules'
    assert len(lines(tmp_path)) == 4


def test_the_model_of_the_environment_judges_alignment_if_it_is_asked_to_and_is_shown_the_truth():
    llm = {"model": "m", "base_url": "http://127.0.0.1:9/v1"}
    setting = Setting(env_kwargs=(("llm", llm),), al_judge="llm")
    assert setting.aligner.trusted
    assert setting.aligner.client.config.model == "m"
    assert (setting.waits, setting.asks) == (False, True)  # so the oracle, whose forks nobody judges so, is played
    assert setting.named["al_judge"] == "llm"
    assert setting.make().spec.kwargs.get("llm") is None  # its own parts ask no model
    assert Setting("RLPA-LLM-v0", env_kwargs=(("llm", llm),), al_judge="llm").make().unwrapped.waits  # its id names parts that do
    with pytest.raises(ConfigError, match=r"llm: expected user='llm', matcher='llm' or judge='llm' beside it; got 'scripted', 'lexical', 'rules'"):
        Setting(env_kwargs=(("llm", llm),)).make()
    with pytest.raises(ConfigError, match="llm: expected settings"):
        held(["script"], None, al_judge="llm")
    with pytest.raises(ConfigError, match=r"al_judge: expected one of 'rules', 'llm'; got 'rule'\. Did you mean 'rules'"):
        held(["script"], None, al_judge="rule")


def test_replies_of_many_dialogues_are_judged_for_alignment_side_by_side():
    class Slow(RuleJudge):
        def judge_flow(self, *asked):
            future = Future()
            waiting.append(future)
            most.append(len(waiting))
            threading.Timer(0.01, future.set_result, (None,)).start()
            yield future
            waiting.remove(future)
            return self.judge(*asked)

    waiting, most = [], []
    assert held(["script"], None, users=4, al_judge=Slow())[0]["avg"] == held(["script"], None, users=4)[0]["avg"]
    assert max(most) == 4


@pytest.mark.parametrize(
    ("error", "failures", "off_schema", "again"),
    [(ModelError("m at http://host/v1: no answer"), 1, 0, 2), (OffSchemaError("judge: expected JSON"), 1, 1, 0)],
)
def test_where_the_judge_of_alignment_fails_the_turn_is_missing_and_never_a_0(tmp_path, error, failures, off_schema, again):
    class Failing(RuleJudge):
        identity = {"is": "failing"}  # noqa: RUF012

        def judge(self, points, dialogue, reply):
            asked.append(reply)
            if len(asked) == 3 and error:
                raise error
            return super().judge(points, dialogue, reply)

    asked = []
    (row,) = held(["script"], tmp_path, al_judge=Failing())
    cut = lines(tmp_path)[0]
    assert (row["failures"], row["off_schema"]) == (failures, off_schema)
    assert (cut["stop_reason"], len(cut["turns"]), cut["turns"][-1]["valid"]) == ("failure", 3, False)
    assert "judging alignment" in cut["error"]
    asked = []
    error = None
    held(["script"], tmp_path, al_judge=Failing())
    assert len(lines(tmp_path)) == (3 if again else 2)


def test_a_budget_that_the_judge_of_alignment_spends_ends_the_evaluation(tmp_path):
    class Spent(RuleJudge):
        def judge(self, points, dialogue, reply):
            raise BudgetError("llm budget: expected at most 1; 1.01 is spent.")

    with pytest.raises(BudgetError, match="larger budget goes on"):
        held({"mine": make_agent("script")}, tmp_path, al_judge=Spent())
    assert not (tmp_path / "episodes.jsonl").exists()


def test_records_and_rows_name_the_models_and_neither_server_nor_key(tmp_path):
    llm = {"base_url": "http://me:secret@127.0.0.1:9/v1", "model": "m", "api_key_env": "MY_KEY", "temperature": 0.2}
    (row,) = held(["silent"], tmp_path, env_kwargs={"judge": "llm", "llm": llm})  # says nothing to judge
    named = {"model": "m", "temperature": 0.2, "max_tokens": 512, "language": "en"}
    assert row["kwargs"] == lines(tmp_path)[0]["kwargs"] == {"judge": "llm", "llm": named}
    judge = LLMJudge(Answering(model="j"), guard=False)
    assert described(judge)["client"]["model"] == "j"
    assert described(judge) != described(LLMJudge(Answering(model="j")))
    assert "127.0.0.1" not in (tmp_path / "results.json").read_text() + (tmp_path / "episodes.jsonl").read_text() + json.dumps(described(judge))
