"""The report holds what the environment measured, reads what runs left, and lets no text out of its place."""

from __future__ import annotations

import json
import re
from importlib.resources import files

import gymnasium as gym
import pytest
from report_records import record, turn, write

from rlpa_env import ConfigError, Point, RLPAError
from rlpa_env.agents import make_agent
from rlpa_env.cli import main
from rlpa_env.clients import ChatClient, ChatConfig
from rlpa_env.evaluate import Setting, evaluate
from rlpa_env.llm import LLMJudge
from rlpa_env.report import embedded, page, report_data, write_report
from rlpa_env.runs import read_runs
from rlpa_env.standings import standings
from rlpa_env.transcript import HIT, INVENTED, LUCKY, MISSED, UNKNOWN, UNTOLD, WRONG, turns_of
from rlpa_env.wrappers import RecordEpisodes

HOSTILE = "</script><script>alert(1)</script><!-- <img src=x onerror=alert(2)> & \u2028\u2029 \ud800 @DATA@ @SCRIPT@"


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated")
    rows = evaluate(["stuffer"], users=2, out=folder / "plain", quiet=True, workers=1)
    evaluate({"copyist": None}, env_id="RLPA-Shift-v0", users=1, out=folder / "shift", quiet=True, workers=1)
    return folder, rows


def agrees(own, figures):
    """Whether counts of marks give the figures of the environment's info."""
    listed, true = len(own.guesses), len(own.truth)
    kinds = [guess.kind for guess in own.guesses]
    hits, grounded = kinds.count(HIT) + kinds.count(LUCKY), kinds.count(HIT)
    assert hits == own.states.count(HIT) + own.states.count(LUCKY)
    assert figures["precision"] == pytest.approx(hits / listed if listed else 0.0)
    assert figures["recall"] == pytest.approx(hits / true)
    assert figures["f1"] == pytest.approx(2 * hits / (listed + true))
    assert figures["grounded_f1"] == pytest.approx(2 * grounded / (listed + true))
    assert figures["ceiling"] == pytest.approx((own.states.count(HIT) + own.states.count(MISSED)) / true)
    assert figures["invented"] == pytest.approx(sum(not guess.supported for guess in own.guesses) / listed if listed else 0.0)


def test_hits_misses_and_inventions_are_those_of_the_environments_infos(evaluated):
    folder, _ = evaluated
    seen = set()
    for run in read_runs([folder]):
        for episode in run.episodes:
            for own, figures in zip(turns_of(episode), episode["turns"], strict=True):
                agrees(own, figures)
                seen |= {*own.states, *(guess.kind for guess in own.guesses)}
    assert seen == {HIT, LUCKY, MISSED, UNTOLD, WRONG, INVENTED}


def test_after_a_shift_the_truth_is_the_new_one_from_its_turn_on(evaluated):
    folder, _ = evaluated
    episode = next(e for run in read_runs([folder / "shift"]) for e in run.episodes if len(e["turns"]) == 10)
    truths = [own.truth for own in turns_of(episode)]
    assert len(set(truths[:5])) == len(set(truths[5:])) == 1
    assert truths[4] != truths[5]
    assert truths[5] == tuple(p for own in turns_of(episode)[-1:] for p in own.truth)
    assert "points" in episode["turns"][0]
    assert "points" not in episode["turns"][9]  # only where they are not the episode's


def test_recorded_episodes_show_the_same_as_evaluated_ones(evaluated, tmp_path):
    folder, _ = evaluated
    old = next(e for run in read_runs([folder / "plain"]) for e in run.episodes if e["agent"] == "stuffer")
    env = RecordEpisodes(gym.make("RLPA-v0", split="vanilla/test"), tmp_path / "mine.jsonl")
    _, info = env.reset(seed=old["seed"], options={"profile": old["profile"]})
    agent, over = make_agent("stuffer"), False
    while not over:
        _, _, terminated, truncated, info = env.step(agent.act(info["messages"]))
        over = terminated or truncated
    env.reset(seed=5)
    env.step("no form at all")
    env.close()
    (run,) = read_runs([tmp_path / "mine.jsonl"])
    new, unfinished = run.episodes
    assert new["agent"] == "mine"
    for ours, theirs in zip(turns_of(new), turns_of(old), strict=True):
        assert (ours.user, ours.reply, ours.guesses, ours.states) == (theirs.user, theirs.reply, theirs.guesses, theirs.states)
        assert ours.figures["reward"] == theirs.figures["reward"]
    assert unfinished["stop_reason"] == "unfinished"
    (entry,) = standings([run])[0].entries
    assert entry.row["episodes"] == 1  # the unfinished one has no score
    assert entry.row["return"] == pytest.approx(sum(t["reward"] for t in old["turns"]))
    assert "normalised" not in entry.row
    assert "avg" not in entry.row
    shown = report_data([run])["dialogues"][1]
    assert shown["turns"][0]["malformed"] == "no_profile"
    assert shown["turns"][0]["raw"] == "no form at all"


def test_marks_of_a_turn_worked_out_by_hand():
    said = [("I live in Porto and my sister plays golf.", [("Location", "Porto"), ("Interests", "golf"), ("Interests", "tea"), ("Age", "50")], "Nice.")]
    (own,) = turns_of(record(turns=[turn(hits=[[0, 3], [2, 2]], told=[1, 3])], said=said))
    assert [guess.kind for guess in own.guesses] == [HIT, WRONG, LUCKY, INVENTED]
    assert [guess.truth for guess in own.guesses] == [3, -1, 2, -1]
    assert own.states == (UNTOLD, MISSED, LUCKY, HIT)


def test_older_records_are_matched_by_words_and_say_what_they_do_not_know():
    old = {key: value for key, value in turn(profile=0.4).items() if key not in ("hits", "told")}
    (own,) = turns_of(record(turns=[old | {"f1": 2 / 5}]))
    assert own.guesses[0].kind == HIT
    assert own.states == (HIT, UNKNOWN, UNKNOWN, UNKNOWN)
    (own,) = turns_of(record(turns=[old | {"f1": 0.77}]))  # matched by something else than words
    assert own.guesses[0].kind == UNKNOWN
    assert set(own.states) == {UNKNOWN}
    (own,) = turns_of(record(turns=[turn(hits=[[7, 0]], told=[99], f1=2 / 5)]))  # indices of some other profile
    assert own.states[0] == HIT


def test_scores_are_those_of_the_evaluation(evaluated):
    folder, rows = evaluated
    (standing,) = standings(read_runs([folder / "plain"]))
    by_name = {entry.agent: entry.row for entry in standing.entries}
    for row in rows:
        for key in ("return", "return_lo", "normalised", "normalised_profile_hi", "profile_grounded_f1", "avg", "al", "al_hi"):
            assert by_name[row["agent"]][key] == pytest.approx(row[key]), key


PEOPLE = [f"person {i}" for i in range(8)]


def many(agent, rewards, **more):
    return [record(agent, person, [turn(profile=value, response=0.0)], **more) for person, value in zip(PEOPLE, rewards, strict=True)]


def test_who_cannot_be_told_apart_shares_a_rank(tmp_path):
    good, alike, bad = [0.9] * 8, [0.78, 1.0] * 4, [0.1] * 8  # alike is 0.01 worse on average
    folder = write(tmp_path / "r" / "episodes.jsonl", many("good", good) + many("alike", alike) + many("bad", bad))
    (standing,) = standings(read_runs([folder]))
    assert {e.agent: (e.rank, e.tied) for e in standing.entries} == {"good": (1, ("alike",)), "alike": (1, ("good",)), "bad": (3, ())}
    assert standing.differences["good", "bad"] == pytest.approx((0.8, 0.8, 0.8))
    assert standing.differences["bad", "good"] == pytest.approx((-0.8, -0.8, -0.8))


def test_agents_without_people_in_common_are_not_compared(tmp_path):
    mine = many("mine", [0.9] * 8)[:4]
    folder = write(tmp_path / "r" / "episodes.jsonl", mine + many("yours", [0.1] * 8)[4:])
    (standing,) = standings(read_runs([folder]))
    assert standing.differences["mine", "yours"] is None
    assert [(e.rank, e.tied) for e in standing.entries] == [(1, ()), (1, ())]


def test_an_interrupted_evaluation_has_no_normalised_score_and_says_why(tmp_path):
    records = many("mine", [0.5] * 8) + many("prior", [0.1] * 8) + many("oracle", [0.9] * 8)[:5]
    (standing,) = standings(read_runs([write(tmp_path / "r" / "episodes.jsonl", records)]))
    entry = next(e for e in standing.entries if e.agent == "mine")
    assert "normalised" not in entry.row
    assert "3 of its 8 episodes" in entry.note
    whole = standings(read_runs([write(tmp_path / "s" / "episodes.jsonl", records + many("oracle", [0.9] * 8))]))[0]
    assert next(e for e in whole.entries if e.agent == "mine").row["normalised"] == pytest.approx(0.5)


def test_a_floor_that_is_the_scale_leaves_the_normalised_score_out(tmp_path):
    records = many("mine", [0.5] * 8) + many("prior", [0.3] * 8) + many("oracle", [0.3] * 8)
    data = report_data(read_runs([write(tmp_path / "r" / "episodes.jsonl", records)]))
    assert data["boards"][0]["entries"][0]["scores"]["normalised"] is None
    json.loads(embedded(data))


def test_one_name_in_two_runs_is_one_agent_only_if_no_episode_tells_them_apart(tmp_path):
    one = write(tmp_path / "one" / "episodes.jsonl", many("prior", [0.1] * 8) + many("policy", [0.5] * 8))
    two = write(tmp_path / "two" / "episodes.jsonl", many("prior", [0.1] * 8) + many("policy", [0.7] * 8))
    (standing,) = standings(read_runs([one, two]))
    assert sorted(e.agent for e in standing.entries) == ["policy (one)", "policy (two)", "prior"]
    assert next(e for e in standing.entries if e.agent == "prior").row["episodes"] == 8


def test_runs_with_different_floors_are_said_to_have_them(tmp_path):
    ends = {"prior": 0.1, "oracle": 0.9}
    one = write(tmp_path / "one" / "episodes.jsonl", [r for name, f1 in (ends | {"mine": 0.5}).items() for r in many(name, [f1] * 8)])
    two = write(tmp_path / "two" / "episodes.jsonl", [r for name, f1 in (ends | {"prior": 0.2}).items() for r in many(name, [f1] * 8)])
    (standing,) = standings(read_runs([one, two]))
    notes = {entry.agent: entry.note for entry in standing.entries}
    assert {"prior (one)", "prior (two)", "oracle", "mine"} == set(notes)
    assert notes["mine"] == "no normalised score: the runs have each another prior; report them one by one"


@pytest.mark.parametrize(("weights", "rows"), [("a", {"policy": 16}), ("b", {"policy (one)": 8, "policy (two)": 8})])
def test_further_seeds_are_added_to_the_same_policy_only(tmp_path, weights, rows):
    """No episode of these two runs tells them apart, since no person and seed is in both; what the records say of the agent does."""
    one = write(tmp_path / "one" / "episodes.jsonl", many("policy", [1.0] * 8, identity={"weights": "a"}))
    two = write(tmp_path / "two" / "episodes.jsonl", many("policy", [0.0] * 8, identity={"weights": weights}, seed=1))
    (standing,) = standings(read_runs([one, two]))
    assert {entry.agent: entry.row["episodes"] for entry in standing.entries} == rows


def test_a_metrics_file_may_hold_other_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"iteration": 1, "return": 2.0}\n{"note": "resumed"}\n{"iteration": 2, "return": 3.0}\n')
    (run,) = read_runs([path])
    assert [line["return"] for line in run.metrics] == [2.0, 3.0]


def test_tasks_are_kept_apart(tmp_path):
    records = many("mine", [0.5] * 8) + many("mine", [0.9] * 8, setting="other") + many("mine", [0.9] * 8, env="RLPA-Long-v0")
    boards = standings(read_runs([write(tmp_path / "r" / "episodes.jsonl", records)]))
    assert [(b.env, b.detail) for b in boards] == [("RLPA-v0", "setting abc"), ("RLPA-v0", "setting other"), ("RLPA-Long-v0", "")]


def test_tasks_say_in_words_who_judges_alignment_where_it_is_not_the_rules_alone(tmp_path):
    def details(*tasks):
        return [b.detail for b in standings(read_runs([write(tmp_path / "r" / "episodes.jsonl", [record(**task) for task in tasks])]))]

    llm = {"model": "qwen", "base_url": "http://127.0.0.1:9/v1"}
    by_rules, served = Setting().named, Setting(env_kwargs=(("llm", llm),), al_judge="llm").named
    own = Setting(al_judge=LLMJudge(ChatClient(ChatConfig.from_mapping(llm)), trusted=True)).named
    assert details({"setting": "a", **served}) == ["AL by llm qwen"]
    named = details({"setting": "a", **by_rules}, {"setting": "b", **served}, {"setting": "c", **own})
    assert named == ["AL by rules · setting a", "AL by llm qwen · setting b", "AL by LLMJudge qwen · setting c"]
    unjudged = [{key: value for key, value in turn().items() if key != "al"}]
    assert details({"setting": "a", "turns": unjudged}, {"setting": "b", **served})[0] == "setting a"
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps([{"agent": "a", "env": "RLPA-v0", "split": "s", "return": 1.0, **served}]))
    assert standings(read_runs([rows]))[0].detail == "AL by llm qwen · results of rows.json, without episodes"


def test_an_agent_that_only_failed_is_listed_without_a_score(tmp_path):
    failed = [record("broken", p, [turn(valid=False)], stop_reason="failure", error="the server is gone") for p in PEOPLE]
    (standing,) = standings(read_runs([write(tmp_path / "r" / "episodes.jsonl", many("mine", [0.5] * 8) + failed)]))
    assert [(e.agent, e.rank) for e in standing.entries] == [("mine", 1), ("broken", None)]
    assert "the server is gone" in standing.entries[1].note


def test_torn_lines_and_lines_of_another_kind_are_noted_and_passed_over(tmp_path):
    lines = [*many("mine", [0.5] * 8), {"agent": "odd", "turns": []}, record("odd", turns=[turn(f1=float("nan"))])]
    folder = write(tmp_path / "r" / "episodes.jsonl", lines, torn='{"agent": "mine", "tur')
    (run,) = read_runs([folder])
    assert len(run.episodes) == 8
    assert any("torn line 11" in note for note in run.notes)
    assert any("2 of 10 lines are no episodes" in note for note in run.notes)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("episodes.jsonl", "", "expected at least one episode"),
        ("episodes.jsonl", '{"id": "x", "slots": {"Age": "3"}}\n' * 3, "expected recorded episodes"),
        ("episodes.jsonl", "what\nis\nthis\n", "expected one JSON object a line"),
        ("notes.txt", "hello", "expected episodes.jsonl, results.json or metrics.jsonl"),
        ("results.json", '{"figures": 3}', "no list of result rows"),
    ],
)
def test_what_is_no_run_is_refused_with_the_reason(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(RLPAError, match=message):
        write_report([tmp_path], tmp_path / "out.html")
    assert not (tmp_path / "out.html").exists()


def test_wrong_arguments_are_named(tmp_path):
    folder = write(tmp_path / "runs" / "episodes.jsonl", [record()])
    with pytest.raises(ConfigError, match=r"Did you mean .*runs"):
        write_report([tmp_path / "rums"], tmp_path / "x.html")
    with pytest.raises(ConfigError, match="one or more run folders"):
        write_report([], tmp_path / "x.html")
    with pytest.raises(ConfigError, match="dialogues: expected a number >= 0; got -1"):
        write_report([folder], tmp_path / "x.html", dialogues=-1)
    with pytest.raises(ConfigError, match="is a folder"):
        write_report([folder], tmp_path)


def test_result_rows_alone_give_a_leaderboard_without_ranks(tmp_path):
    rows = [{"agent": name, "env": "RLPA-v0", "split": "s", "return": value, "return_lo": 0.0, "return_hi": 9.0} for name, value in (("a", 1.0), ("b", 2.0))]
    (tmp_path / "results.json").write_text(json.dumps(rows))
    data = report_data(read_runs([tmp_path]))
    assert [(e["agent"], e["rank"], e["scores"]["return"]) for e in data["boards"][0]["entries"]] == [("b", None, [2.0, 0.0, 9.0]), ("a", None, [1.0, 0.0, 9.0])]
    assert data["dialogues"] == []


def test_training_curves_come_with_validation_and_health(tmp_path):
    lines = [{"iteration": i, "return": i / 2, "kl_per_turn": 0.1 * i, "health": "ok" if i < 3 else "collapse"} for i in (1, 2, 3)]
    write(tmp_path / "run" / "metrics.jsonl", lines)
    write(tmp_path / "run" / "validation.jsonl", [{"iteration": 2, "return": 5.0}])
    (curves,) = report_data(read_runs([tmp_path]))["training"]
    assert curves["x"] == [1, 2, 3]
    assert curves["series"][0] == {"y": [0.5, 1.0, 1.5], "watched": [5.0]}
    assert curves["series"][4]["y"] == [0.1, 0.2, 0.3]
    assert curves["series"][3]["y"] == [None] * 3
    assert (curves["health"], curves["troubled"]) == ([(3, "collapse")], 1)


def test_a_page_of_hundreds_of_episodes_stays_small_and_shows_the_same_people_of_every_agent(tmp_path):
    turns = [turn(hits=[[0, 0]], told=[0])] * 10
    said = [("word " * 30, [Point("Age", "34"), Point("Interests", "golf")] * 2, "word " * 30)] * 10
    records = [record(agent, f"p{i}", turns, said, limit=10) for agent in "abcd" for i in range(100)]
    write(tmp_path / "r" / "episodes.jsonl", records)
    written = write_report([tmp_path / "r"], tmp_path / "deep" / "out.html", dialogues=42)
    assert (written.dialogues, written.of) == (42, 400)
    assert written.bytes < 42 * 12_000 + 100_000
    data = report_data(read_runs([tmp_path / "r"]), 42)
    by_agent = {agent: [d["user"] for d in data["dialogues"] if d["agent"] == agent] for agent in "abcd"}
    assert [len(people) for people in by_agent.values()] == [11, 11, 10, 10]
    assert all(people == [f"p{i}" for i in range(len(people))] for people in by_agent.values())
    assert report_data(read_runs([tmp_path / "r"]), 0)["played"] == 400


def test_embedded_text_is_json_that_cannot_end_its_element():
    data = {HOSTILE: [HOSTILE, float("nan"), float("inf"), 1.5, None, (True,)]}
    text = embedded(data)
    assert text.isascii()
    assert not re.search(r"[<>&]|\\u2028(?<!\\u2028)", text)
    assert json.loads(text) == {HOSTILE: [HOSTILE, None, None, 1.5, None, [True]]}


def test_nothing_that_a_run_says_becomes_part_of_the_page(tmp_path):
    bad = HOSTILE.replace("\ud800", "")  # half a character is not kept by a file
    reasons = {"reasons": {"logic": bad}, "parse_error": bad}
    hostile = record(bad, bad, [turn(**reasons)], [(bad, [(bad, bad)], bad)], {bad: "x", "Age": bad}, env=bad, split=bad, error=bad)
    folder = write(tmp_path / "r" / "episodes.jsonl", [hostile])
    write(folder / "metrics.jsonl", [{"iteration": 1, "return": 1.0, "health": bad}])
    text = page(report_data(read_runs([folder])))
    assert text.count("<script") == text.count("</script>") == 2
    assert "alert(1)</" not in text
    assert "<img" not in text
    assert "@" not in re.sub(r'<script type="application/json".*?</script>|<style>.*?</style>', "", text, flags=re.S)
    (held,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert json.loads(held)["dialogues"][0]["agent"] == bad


def test_the_page_asks_for_nothing_and_its_scripts_write_no_markup():
    text = page({"title": "", "boards": []})
    assert set(re.findall(r"https?://[^\s\"'<>)]+", text)) == {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert not re.search(r"@import|url\(|<link(?! rel=\"icon\" href=\"data:,\")|<img|<iframe", text)
    for script in (files("rlpa_env") / "page").iterdir():
        if script.name.endswith(".js"):
            code = script.read_text(encoding="utf-8")
            assert len(code.splitlines()) <= 400
            assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|Function\(|fetch\(|XMLHttp|import\(|</script|<!--", code), script


def test_the_command_writes_the_page_and_says_what_is_left_off(tmp_path, capsys):
    folder = write(tmp_path / "r" / "episodes.jsonl", many("mine", [0.5] * 8), torn='{"agent')
    main(["report", str(folder), "--out", str(tmp_path / "o.html"), "--dialogues", "3"])
    out = capsys.readouterr().out
    assert "3 of 8 dialogues; 5 left off, see --dialogues" in out
    assert "torn line" in out
    assert (tmp_path / "o.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="Write one with: rlpa-env eval"):
        main(["report", str(tmp_path / "empty")])
