"""Faults that another reader from outside found: tricks that earned, and promises that were not kept."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from rlpa_env import (
    ConfigError,
    Message,
    Point,
    Profile,
    ProfileError,
    RecordEpisodes,
    RuleJudge,
    format_action,
    load_split,
    parse_action,
)
from rlpa_env.agents import make_agent
from rlpa_env.attentive import answer, listed
from rlpa_env.evaluate import evaluate
from rlpa_env.hearing import hear
from rlpa_env.loaders import load_aloe, split_text
from rlpa_env.manners import asks_secrets, is_rude
from rlpa_env.meaning import comparable, point_score
from rlpa_env.numeric import DialogueActs, TokenLevel
from rlpa_env.runs import read_runs
from rlpa_env.scripted import ScriptedUser
from rlpa_env.testing import check_judge, check_matcher, check_user
from rlpa_env.types import StopReason

ACTION = format_action([], "Hi there, I just made tea. What do you do?")


# What is not drawn, and other spellings -----------------------------------------------------------------------------------

UNSEEN = "\u00ad\u034f\u061c\u115f\u1160\u17b4\u180b\u180e\u200b\u200d\u2060\u2063\u206a\u3164\ufe0f\ufeff\uffa0\ufffb\U000e0041\U000e0100"


@pytest.mark.parametrize("char", UNSEEN, ids=[f"{ord(char):04x}" for char in UNSEEN])
def test_what_nobody_sees_parts_no_word(char):
    insult = "Only a fool would bother with chess, you idiot. What do you do?"
    hidden = insult.replace("fool", f"f{char}ool").replace("idiot", f"id{char}iot").replace("chess", f"ch{char}ess")
    assert parse_action(format_action([Point("Occupation", f"nur{char}se")], hidden)) == parse_action(format_action([Point("Occupation", "nurse")], insult))
    assert is_rude(hidden)
    assert asks_secrets(f"Which bank is it, and what is that P{char}IN?")
    judge, talk = RuleJudge(), [Message("user", "I love chess.")]
    assert judge.judge([], talk, hidden) == judge.judge([], talk, insult)
    assert not judge.judge([], talk, hidden).naturalness


SAME = "I spent my morning watching the rain, so I know that mood. What do you like doing in your free time?"
LOOK_ALIKE = dict(zip("aceopxy", "асеорху", strict=True))


def put_in(char, count):
    def spelled(text, rng):
        within = [i for i in range(1, len(text) - 1) if text[i - 1].isalpha() and text[i].isalpha()]
        for place in sorted(rng.sample(within, count), reverse=True):
            text = text[:place] + char + text[place:]
        return text

    return spelled


def look_alike(text, rng):
    for place in rng.sample([i for i, char in enumerate(text) if char in LOOK_ALIKE], 8):
        text = text[:place] + LOOK_ALIKE[text[place]] + text[place + 1 :]
    return text


SPELLINGS = {
    "hyphens": put_in("-", 4), "spaces": put_in(" ", 4), "many spaces": put_in(" ", 12), "slips": put_in("e", 4), "soft hyphens": put_in("\u00ad", 8),
    "apostrophes": put_in("'", 4), "other alphabet": look_alike, "shouted words": lambda text, rng: text.replace("rain", "RAIN").replace(".", "!"),
}  # fmt: skip


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_same_reply_in_other_spellings_is_the_same_reply(spelling):
    talk, judge, rng = [Message("user", "Hello")], RuleJudge(), random.Random(0)
    for turn in range(6):
        reply = SPELLINGS[spelling](SAME, rng)
        verdict = judge.judge([], talk, reply)
        if turn:
            assert not verdict.passed
            assert "said before" in verdict.reasons["engagement"] or "two alphabets" in verdict.reasons["naturalness"]
        talk += [Message("assistant", reply), Message("user", "Reading fills my days.")]


def test_sentences_of_several_replies_put_together_anew_in_other_spellings_are_said_before():
    first, second = "I spent my morning watching the rain. What do you do for work?", "My kitchen smells of burnt coffee today. Where did you grow up?"
    talk = [Message("user", "Hello"), Message("assistant", first), Message("user", "Hm."), Message("assistant", second), Message("user", "I see.")]
    for reply in ("I spent my morning watching the rain. Where did you grow up?", "I spent my mor-ning wat ching the rain. Where did you grow u-p?"):
        assert "before" in RuleJudge().judge([], talk, reply).reasons["engagement"]


@pytest.mark.parametrize("hide", [lambda text: text, lambda text: text.replace("little", "lit-tle").replace("kitchen", "kit-chen").replace("summer", "sum-mer")])
def test_a_template_with_another_word_of_the_users_is_one_in_other_spellings_too(hide):
    frame = "I kept a little picture of {} on my kitchen wall last summer. Is that odd?"
    talk = [Message("user", "I love rock-climbing, tree-planting, sky-diving and horse-riding."), Message("assistant", frame.format("rock-climbing, tree-planting, sky-diving and horse-riding"))]
    talk += [Message("user", "I climb volcanoes.")]
    assert "before" in RuleJudge().judge([], talk, hide(frame.format("volcanoes"))).reasons["engagement"]


@pytest.mark.parametrize("again", ["What is your motto in life?", "What is your mot-to in life?", "What i s your motto in life?"])
def test_a_person_minds_a_question_asked_again_in_any_spelling(again):
    user = ScriptedUser(style="plain")
    user.reset(load_split("vanilla/test")[0], np.random.default_rng(0))
    talk = [Message("user", "Hello")]
    for reply in ("I baked rolls this morning. What is your motto in life?", f"My radio broke down again. {again}"):
        turn = user.reply(tuple(talk), reply)
        talk += [Message("assistant", reply), Message("user", turn.message)]
    assert turn.dislike == "asked_again"


def test_it_earns_no_more_in_a_whole_dialogue_either():
    env = gym.make("RLPA-v0", split="vanilla/test")
    for spelling in SPELLINGS.values():
        returns, rng = [], random.Random(1)
        for seed in range(4):
            env.reset(seed=seed)
            over = total = 0
            while not over:
                _, reward, terminated, truncated, _ = env.step(format_action([], spelling(SAME, rng)))
                over, total = terminated or truncated, total + reward
            returns.append(total)
        assert np.mean(returns) < 2.5


@pytest.mark.parametrize("reply", ["I measured 10 kΩ and 5 μm there, odd numbers. Do you solder a lot?", "My friend Дмитрий bakes that too. What do you put in yours?"])
def test_other_alphabets_as_people_use_them_are_natural(reply):
    assert RuleJudge().judge([], [Message("user", "I bake bread and fix radios.")], reply).naturalness


def test_a_reply_that_only_begins_alike_is_another_one():
    talk = [Message("user", "Hello"), Message("assistant", "I keep thinking about the sea today. What do you do for work?"), Message("user", "I bake.")]
    verdict = RuleJudge().judge([], talk, "I keep thinking about fresh bread now. What do you bake on a slow day?")
    assert "before" not in verdict.reasons["engagement"]


# Consent -------------------------------------------------------------------------------------------------------------------


def test_nobody_asks_to_forget_what_they_only_hinted_at_nor_says_it_again():
    env, agent = gym.make("RLPA-v0", consent=True, split="vanilla/test"), make_agent("attentive")
    people = [person for person in load_split("vanilla/test") if person.sensitive]
    asked = 0
    for seed, person in enumerate(2 * people):
        _, info = env.reset(seed=seed, options={"profile": person.id})
        over, value, plain = False, "", set()
        while not over:
            *_, terminated, truncated, info = env.step(agent.act(info["messages"]))
            over, message = terminated or truncated, info["messages"][-1]["content"].lower()
            if value:
                assert value not in message
            elif env.unwrapped.withdrawn:
                value = env.unwrapped.withdrawn[0].value.lower()
                assert message.count(value) <= 1
                assert env.unwrapped.withdrawn[0] in plain
                asked += 1
            plain = {fact.point for fact, status in zip(env.unwrapped._user._mind.facts, env.unwrapped._user._mind.status, strict=True) if status == 2}
    assert asked >= 6


def test_a_withdrawn_hint_that_is_taken_up_is_not_cleared_up():
    user = ScriptedUser(consent=True, cues="implicit")
    user.reset(load_split("vanilla/test")[0], np.random.default_rng(0))
    impression = type("Taken", (), {"takes_up": (0,)})()
    user._mind.status[0] = 1
    assert user._clear_up(impression) == [0]
    user._withdrawn.add(0)
    assert user._clear_up(impression) == []


# Records and reports -------------------------------------------------------------------------------------------------------


def recorded(path, **limits):
    env, agent = RecordEpisodes(gym.make("RLPA-v0", split="vanilla/test", **limits), path), make_agent("attentive")
    for seed in range(3):
        _, info = env.reset(seed=seed)
        over = False
        while not over:
            *_, terminated, truncated, info = env.step(agent.act(info["messages"]))
            over = terminated or truncated
    return [json.loads(line) for line in path.read_text().splitlines()]


def limits_read(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return [episode["limit"] for episode in read_runs([path])[0].episodes]


@pytest.mark.parametrize("limits", [{"max_episode_steps": 5, "max_turns": 5}, {"max_episode_steps": 5}])
def test_a_recorded_episode_is_as_long_as_its_own_limit(tmp_path, limits):
    assert limits_read(tmp_path / "read.jsonl", recorded(tmp_path / "own.jsonl", **limits)) == [5, 5, 5]


def test_a_record_of_an_earlier_version_has_the_limit_it_was_made_with(tmp_path):
    records = [{key: value for key, value in record.items() if key != "limit"} for record in recorded(tmp_path / "own.jsonl", max_episode_steps=5, max_turns=5)]
    assert limits_read(tmp_path / "old.jsonl", records) == [5, 5, 5]
    assert limits_read(tmp_path / "older.jsonl", [{**record, "kwargs": {}} for record in records]) == [10, 10, 10]  # of the id


def test_tokens_are_no_turns_in_a_record(tmp_path):
    env = RecordEpisodes(TokenLevel(gym.make("RLPA-v0", max_episode_steps=2, max_turns=2)), tmp_path / "tokens.jsonl")
    env.reset(seed=0)
    rng, over, total, steps = np.random.default_rng(0), False, 0.0, 0
    while not over:
        _, reward, terminated, truncated, _ = env.step(int(rng.integers(env.action_space.n)))
        over, total, steps = terminated or truncated, total + reward, steps + 1
    (record,) = map(json.loads, (tmp_path / "tokens.jsonl").read_text().splitlines())
    assert len(record["turns"]) == 2 < steps
    assert sum(turn["reward"] for turn in record["turns"]) == pytest.approx(total)
    assert record["finished"]


def test_a_reset_that_fails_leaves_the_dialogue_and_its_record(tmp_path):
    env = RecordEpisodes(gym.make("RLPA-v0", max_episode_steps=3, max_turns=3), tmp_path / "own.jsonl")
    env.reset(seed=0)
    env.step(ACTION)
    with pytest.raises(ConfigError):
        env.reset(options={"profile": "nobody"})
    env.step(ACTION)
    env.step(ACTION)
    env.close()
    (record,) = map(json.loads, (tmp_path / "own.jsonl").read_text().splitlines())
    assert len(record["turns"]) == 3


def test_what_a_caller_adds_to_the_messages_is_theirs(tmp_path):
    def talk(adds):
        env = DialogueActs(gym.make("RLPA-v0"))
        _, info = env.reset(seed=3)
        for move in (1, 2, 1):
            if adds:
                info["messages"].append({"role": "user", "content": "I am a nurse and I love chess."})
            *_, info = env.step(np.full(env.action_space.shape, move) if env.action_space.shape else move)
        return [message for message in info["messages"] if message["role"] == "assistant"]

    assert talk(True) == talk(False)
    env = RecordEpisodes(gym.make("RLPA-v0"), tmp_path / "own.jsonl")
    _, info = env.reset(seed=0)
    info["messages"].append({"role": "assistant", "content": "never said"})
    *_, info = env.step(ACTION)
    info["messages"].append({"role": "assistant", "content": "never said"})
    env.close()
    assert "never said" not in (tmp_path / "own.jsonl").read_text()


@pytest.mark.parametrize("number", [np.int64, float])
def test_the_number_of_a_talk_is_an_integer_whatever_was_given(number):
    env = gym.make("RLPA-Sessions-v0")
    env.reset(seed=0, options={"session": number(1)})
    env.step(ACTION)
    _, info = env.reset(options={"session": number(2)})
    assert type(info["session"]) is int


# Evaluation ----------------------------------------------------------------------------------------------------------------


def module(name, text):
    found = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, None))
    exec(text, found.__dict__)
    return found


@pytest.mark.parametrize("held", ["policy", "Brain()"])
def test_equal_names_of_two_modules_are_two_agents(tmp_path, held, monkeypatch):
    text = "def policy(): return {0!r}\nclass Brain:\n    def __call__(self): return {0!r}\n"

    class Mine:
        def __init__(self, part):
            self.part = part

        def act(self, messages):
            return self.part()

    settings = {"split": "vanilla/test", "users": 2, "references": "none", "out": tmp_path, "quiet": True}
    returns = []
    for name, action in (("here", ACTION), ("there", "nothing of any form")):
        made = module(name, text.format(action))
        monkeypatch.setitem(sys.modules, name, made)
        returns.append(evaluate({"mine": Mine(eval(held, made.__dict__))}, **settings)[0]["return"])
    assert returns[0] > 0.0 == returns[1]


def test_an_episode_is_kept_as_soon_as_it_ends_whichever_ends_first(tmp_path, monkeypatch):
    path, order = tmp_path / "episodes.jsonl", []

    class Backwards:
        """Workers of which the last ends first, and each only when the one before it is kept."""

        def __init__(self, workers, **options):
            self.submitted = []

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return False

        def submit(self, play, *arguments):
            future = Future()
            self.submitted.append((future, play, arguments))
            if len(self.submitted) == 10:
                threading.Thread(target=self.end_all, daemon=True).start()
            return future

        def end_all(self):
            for kept, (future, play, arguments) in enumerate(reversed(self.submitted)):
                future.set_result(play(*arguments))
                order.append(arguments[-1][0])
                until = time.monotonic() + 20
                while time.monotonic() < until and (len(path.read_text().splitlines()) if path.exists() else 0) <= kept:
                    time.sleep(0.01)

    monkeypatch.setattr(sys.modules[evaluate.__module__], "ProcessPoolExecutor", Backwards)
    evaluate(["script"], split="vanilla/test", users=10, references="none", out=tmp_path, workers=2, quiet=True)
    assert [json.loads(line)["profile"] for line in path.read_text().splitlines()] == order
    assert len(order) == 10


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc, which Linux has, to see whether a process is left")
def test_workers_end_with_the_process_that_began_them(tmp_path):
    play = f"evaluate(['attentive'], users=74, references='none', out={str(tmp_path)!r}, workers=2, quiet=True)"
    running = subprocess.Popen([sys.executable, "-c", f"if __name__ == '__main__':\n    from rlpa_env import evaluate\n    {play}"])
    until, path = time.monotonic() + 60, tmp_path / "episodes.jsonl"
    while not (path.exists() and path.read_text().count("\n") >= 2):
        assert time.monotonic() < until
        assert running.poll() is None
        time.sleep(0.05)
    workers = [int(child) for task in Path(f"/proc/{running.pid}/task").iterdir() for child in (task / "children").read_text().split()]
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert len(workers) >= 2
    until = time.monotonic() + 20
    while alive := [pid for pid in workers if Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes()]:
        assert time.monotonic() < until, alive
        time.sleep(0.1)
    assert all(json.loads(line)["stop_reason"] in list(StopReason) for line in path.read_text().splitlines())


# Loading and matching ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "points"),
    [
        ("Her 7-year-old daughter plays the violin.", [("Other Information", "Her 7-year-old daughter plays the violin")]),
        ("She is single-minded and driven.", [("Other Information", "single-minded and driven")]),
        ("He is engaged in local politics and enjoys chess.", [("Other Information", "engaged in local politics"), ("Interests", "chess")]),
        ("He is engaged to a nurse.", [("Marital Status", "engaged"), ("Family Background", "to a nurse")]),
        ("A 34-year-old florist.", [("Age", "34"), ("Occupation", "florist")]),
        ("She is single and lives in Rome.", [("Marital Status", "single"), ("Location", "Rome")]),
    ],
)
def test_nothing_is_invented_of_a_description(text, points):
    assert split_text(text) == points


def test_personalities_of_blank_lines_are_named(tmp_path):
    (tmp_path / "profile.jsonl").write_text(json.dumps("She is a 34-year-old florist.") + "\n")
    (tmp_path / "personality.jsonl").write_text(json.dumps(" ") + "\n")
    with pytest.raises(ProfileError, match=r"personality\.jsonl.*personality=False"):
        load_aloe(tmp_path)
    assert len(load_aloe(tmp_path, personality=False)) == 1


@pytest.mark.parametrize(
    ("guess", "truth"),
    [
        ("ain't married", "married"), ("aint married", "married"), ("wasnt married", "married"), ("couldn't swim", "swimming"), ("wont eat meat", "eats meat"),
        ("shouldn't drink", "drinks"), ("nope, no dogs", "dogs"), ("runs 1.5 km daily", "runs 5 km daily"), ("runs 1.5 km daily", "runs 1.25 km daily"),
        ("runs 1.5 km daily", "runs 1 km daily"), ("-2.5 diopters", "2.5 diopters"), ("spouse is a tree surgeon", "tree surgeon"), ("a grandparent who paints", "paints"),
    ],
)  # fmt: skip
def test_the_opposite_another_number_and_another_person_match_nothing(guess, truth):
    for slot in ("Other Information", "Occupation"):
        assert point_score(Point(slot, guess), Point(slot, truth)) < 0.5


def test_a_spouse_is_somebody_else_but_in_what_makes_one_married_or_widowed():
    allowed = {(guess, truth): comparable(Point("Marital Status", guess), Point("Marital Status", truth))
               for guess in ("has a spouse", "lives apart from the spouse", "spouse has died", "the husband is divorced") for truth in ("married", "separated", "widowed", "divorced")}  # fmt: skip
    assert {pair for pair, found in allowed.items() if found} == {
        ("has a spouse", "married"), ("lives apart from the spouse", "separated"), ("spouse has died", "widowed"),
    }  # fmt: skip


@pytest.mark.parametrize(("guess", "truth"), [("runs 1.5 km a day", "runs 1.5 km daily"), ("owns 2 cats", "two cats"), ("2.0 stars", "2.0 stars"), ("about 2.5 km", "about 2.5 km")])
def test_equal_numbers_still_match(guess, truth):
    assert point_score(Point("Other Information", guess), Point("Other Information", truth)) >= 0.5


@pytest.mark.parametrize("name", ["prior", "oracle"])
def test_the_ends_of_the_scale_are_nobodys_own(name):
    with pytest.raises(ConfigError, match=f"expected another name for an agent of your own; got '{name}'"):
        evaluate({"attentive": None, name: make_agent("script")}, users=1, quiet=True)
    assert evaluate({name: None}, users=1, quiet=True)


@pytest.mark.parametrize(
    ("given", "turns"),
    [({"max_turns": 3}, 3), ({"max_episode_steps": 3}, 3), ({"max_turns": 2, "max_episode_steps": 2}, 2), ({"max_episode_steps": 12}, 12), ({}, 10)],
)
def test_either_number_is_the_turn_limit_of_an_evaluation_which_is_told_and_holds(given, turns, tmp_path):
    evaluate({"own": make_agent("attentive")}, users=1, env_kwargs={"style": "chatty", **given}, references="none", out=tmp_path, quiet=True)
    (line,) = [json.loads(text) for text in (tmp_path / "episodes.jsonl").read_text().splitlines()]
    assert (line["limit"], len(line["turns"]), line["stop_reason"]) == (turns, turns, "turn_limit")
    assert f"for {turns} turns" in line["messages"][0]["content"]


class OwnMatcher:
    threshold = 0.5

    def scores(self, guess, truth):
        return np.zeros((len(truth), len(guess)))


class OwnJudge:
    def judge(self, points, dialogue, reply):
        return True


class OwnUser(ScriptedUser):
    def reply(self, dialogue, reply):
        return super().reply(dialogue, reply).message


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"matcher": OwnMatcher}, r"matcher: expected a name or an object; got the class OwnMatcher\. Write matcher=OwnMatcher\(…\)"),
        ({"judge": OwnMatcher()}, r"judge: expected a name, or an object with judge; OwnMatcher has no judge"),
        ({"user": OwnJudge()}, r"user: .* with reset and reply; OwnJudge has no reset and no reply"),
        ({"user": ScriptedUser(), "style": "terse"}, r"style: expected user='scripted' or 'llm' beside it; got style='terse' and a user of your own"),
    ],
)
def test_a_part_that_is_none_is_refused_at_once(given, told):
    with pytest.raises(ConfigError, match=told):
        gym.make("RLPA-v0", **given)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"matcher": OwnMatcher()}, r"matcher: expected scores of shape \(2, \d+\), a row a guessed point, a column a true one; got \(\d+, 2\)"),
        ({"judge": OwnJudge()}, "judge: expected judge to return a Verdict; got True"),
        ({"user": OwnUser()}, "user: expected reply to return a UserTurn; got "),
    ],
)
def test_what_an_own_part_returns_is_looked_at(given, told):
    env = gym.make("RLPA-v0", disable_env_checker=True, **given)
    env.reset(seed=0)
    with pytest.raises(ConfigError, match=told):
        env.step(format_action([("Occupation", "baker"), ("Age", "34")], "Oh, what do you bake?"))


@pytest.mark.parametrize(
    ("check", "part", "told"),
    [
        (check_matcher, OwnMatcher, "got the class OwnMatcher"),
        (check_matcher, OwnJudge(), "OwnJudge has no threshold and no scores"),
        (check_judge, OwnJudge(), "expected a Verdict; got True"),
        (check_judge, OwnMatcher(), "OwnMatcher has no judge"),
        (check_user, OwnUser(), "reply: expected a UserTurn; got"),
        (check_user, type("Bare", (), {"reset": None, "reply": None})(), "expected a user with revealed and profile and snapshot and restore; Bare has none"),
    ],
)
def test_a_conformance_check_says_what_is_missing_as_an_assertion(check, part, told):
    with pytest.raises(AssertionError, match=told):
        check(part)


def test_an_own_user_may_come_to_every_environment():
    for env_id in ("RLPA-v0", "RLPA-Shift-v0", "RLPA-Long-v0", "RLPA-Sessions-v0"):
        env = gym.make(env_id, user=ScriptedUser(style="terse"))
        assert env.reset(seed=0)[1]["turn"] == 0


# What a third reader earned by cheating ------------------------------------------------------------------------------------

KNITS = [Message("user", "Hello"), Message("assistant", "Hi, I just put the kettle on. Do you have a hobby?"), Message("user", "I'm really into knitting.")]
WIDE = "What should I know about the job that fills your days, the hobbies of your free time, and the city where you live?"


@pytest.mark.parametrize(
    ("reply", "fails", "why"),
    [
        (f"Knitting calms me, too. {WIDE}", "naturalness", "it asks for 3 things at once"),
        ("Denune zonura knitting karo lunusi. Where do you live?", "naturalness", "no English"),
        ("The zonura knitting karo lunusi. Where do you live?", "naturalness", "no English"),
        ("Ich finde stricken wirklich ganz wunderbar. Where do you live?", "naturalness", "no English"),
        ("You despise knitting, my aunt could tell.", "logic", "no user message supports"),
        ("You never liked knitting, I wrote that down. Where do you live?", "logic", "no user message supports"),
        ("You don't enjoy knitting one bit, I gather. Where do you live?", "logic", "no user message supports"),
    ],
)
def test_a_reply_that_earned_for_the_wrong_reason_does_not(reply, fails, why):
    verdict = RuleJudge().judge([], KNITS, reply)
    assert not verdict.passed
    assert why in verdict.reasons[fails]


@pytest.mark.parametrize(
    "reply",
    [
        "Knitting calms me, too. What do you do, and where do you live?",
        "You can't beat knitting by the fire, I find. What do you knit?",
        "You never know what knitting turns into; I made a scarf of three metres.",
        "My grandma knits amigurumi octopuses for the neonatal ward. Where do you live?",
        "There is an amigurumi and a macramé in my mezzanine, all of it knitting. Where do you live?",  # three words that nothing here uses, held together by English
    ],
)
def test_a_reply_beside_these_still_earns(reply):
    assert RuleJudge().judge([], KNITS, reply).passed


def test_a_value_that_is_quoted_is_no_question_for_all_that_it_names():
    told = [*KNITS[:2], Message("user", "As for family: late-born child of older parents.")]
    reply = "That explains a lot about how one grows up. What else goes with late-born child of older parents?"
    assert len(hear(reply).asks_slots) > 2
    assert RuleJudge().judge([], told, reply).naturalness
    assert not RuleJudge().judge([], KNITS, reply).naturalness


class Wide:
    """`attentive`, with one question for several slots in the place of its own."""

    questions = (WIDE, "How about your parents and the place you grew up in, the partner you share a home with, and your age?")

    def act(self, messages):
        turn = sum(message["role"] == "assistant" for message in messages)
        return format_action(listed(messages), f"{answer(messages).split('. ')[0].rstrip('.')}. {self.questions[turn % 2]}")


def test_one_question_mark_for_many_slots_is_an_interrogation():
    rows = evaluate({"wide": Wide(), "attentive": None}, split="vanilla/val", users=8, references="none", workers=1, quiet=True)
    wide, honest = (next(row["return"] for row in rows if row["agent"] == name) for name in ("wide", "attentive"))
    assert wide < 0.5 * honest


@pytest.mark.parametrize(
    ("guess", "truth"),
    [("less curious", "curious"), ("least loyal of all", "loyal"), ("almost married", "married"), ("soon married", "married"), ("about to be single", "single"), ("not yet married", "married")],
)
def test_what_is_not_quite_so_is_not_so(guess, truth):
    assert point_score(Point("Personality", guess), Point("Personality", truth)) == 0
    assert point_score(Point("Personality", guess), Point("Personality", guess)) == 1


@pytest.mark.parametrize(("number", "bare"), [("less than 30", "30"), ("almost thirty", "30")])
def test_a_bound_stays_what_it_says_and_is_no_number(number, bare):
    assert point_score(Point("Age", number), Point("Age", number)) == 1
    assert point_score(Point("Age", number), Point("Age", bare)) == 0
    assert point_score(Point("Other Information", "lessons in tango"), Point("Other Information", "lessons in tango")) == 1


def test_who_is_asked_for_four_things_at_once_loses_patience():
    user = ScriptedUser(style="plain")
    user.reset(load_split("vanilla/val")[0], np.random.default_rng(0))
    start = user.patience
    user.reply((Message("user", "Hello"),), f"Hello, I just made tea. {WIDE}")
    assert user.patience < start
    user.reset(load_split("vanilla/val")[0], np.random.default_rng(0))
    user.reply((Message("user", "Hello"),), "Hello, I just made tea. What do you do, and where do you live?")
    assert user.patience == start


def test_a_person_whose_words_are_quoted_is_not_questioned():
    value = "old games with family and friends at work"
    user = ScriptedUser(style="plain", cues="explicit")
    opening = user.reset(Profile.from_mapping({"id": "p", "slots": {"Interests": value, "Location": "Stellenbosch"}}), np.random.default_rng(0))
    first = "Hello, I just made tea. What do you like doing in your free time?"
    told = user.reply((Message("user", opening),), first)
    assert value in told.message.lower()
    dialogue = (Message("user", opening), Message("assistant", first), Message("user", told.message))
    assert len(hear(f"What else goes with {value}?").asks_slots) > 2
    assert user.reply(dialogue, f"I have a free evening, too. What else goes with {value}?").dislike == ""
