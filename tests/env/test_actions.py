"""Parsing: the form is kept or named, the guess never reaches the user, and nothing that is sent can break it."""

from __future__ import annotations

import time

import gymnasium as gym
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rlpa_env  # noqa: F401 - registers the ids
from rlpa_env import ConfigError, Point, format_action, instructions, load_split, parse_action
from rlpa_env.actions import MAX_ACTION_CHARS, MAX_POINTS, MAX_REPLY_CHARS, PARSE_ERRORS, cut_block, listable
from rlpa_env.population import SPLIT_SIZES


def wrap(profile: str, reply: str = "Hi!") -> str:
    return f"<profile>\n{profile}\n</profile>\n\n<response>\n{reply}\n</response>"


@pytest.mark.parametrize(
    ("lines", "points"),
    [
        ("- Age: 34\n- likes cats", [("Age", "34"), ("", "likes cats")]),
        ("- Interests: chess, hiking and go", [("Interests", "chess"), ("Interests", "hiking"), ("Interests", "go")]),
        ("- Age: 30-35", [("Age", "30"), ("Age", "35")]),
        ("- Age: 30~35 years\n- Age: 40 to 45 years old", [("Age", "30 years"), ("Age", "35 years"), ("Age", "40 years old"), ("Age", "45 years old")]),
        ("- Location: Rome/Milan or Turin", [("Location", "Rome"), ("Location", "Milan"), ("Location", "Turin")]),
        ("- Age: 34\n- age: 34.\n- Age: ' 34 '", [("Age", "34")]),
        ("- Age: unknown\n- Gender: N/A\n- Location: none\n- Pets:", []),
        ('{"Age": 34, "Interests": ["chess", "go"], "Gender": null}', [("Age", "34"), ("Interests", "chess"), ("Interests", "go")]),
        ("", []),
    ],
)
def test_guess_lines(lines, points):
    action = parse_action(wrap(lines))
    assert list(action.profile) == [Point(*point) for point in points]
    assert (action.reply, action.error) == ("Hi!", "")


@pytest.mark.parametrize(
    ("text", "error", "reply", "guessed"),
    [
        ("Hello there", "no_profile", "Hello there", 0),
        ("<profile>\n- Age: 34\n</profile>\nHi!", "no_response", "Hi!", 1),
        ("<profile>\n- Age: 34\nHi!", "unclosed_profile", "", 1),
        ("<profile>\n- Age: 34\n<response>\nHi!\n</response>", "unclosed_profile", "Hi!", 1),
        ("<profile>\n- Age: 34\n</profile>\n<response>\nHi!", "unclosed_response", "Hi!", 1),
        ("<response>\nHi!\n</response>\n<profile>\n- Age: 34\n</profile>", "wrong_order", "Hi!", 1),
        (wrap("- Age: 34") + wrap("- Age: 35"), "repeated_tag", "Hi!  Hi!", 1),
        ("Sure. " + wrap("- Age: 34"), "text_outside", None, 1),
        (wrap("Age is 34"), "bad_line", "Hi!", 0),
        (wrap('{"Age": '), "bad_line", "Hi!", 0),
        (wrap("\n".join(f"- item {i}" for i in range(70))), "too_many_points", "Hi!", MAX_POINTS),
        (wrap("- Age: 34", "x" * 2001), "reply_too_long", "x" * 2000, 1),
        (wrap("- Age: 34") + " " * MAX_ACTION_CHARS, "reply_too_long", "Hi!", 1),
        ("<profile x=1>- Age: 34</profile><response>Hi!</response>", "no_profile", "Hi!", 1),
        ("<profile/>- Age: 34</profile><response>Hi!</response>", "no_profile", "Hi!", 1),
        ("< profile\n x>- Age: 34 <response class='a'>Hi!</response>", "no_profile", "Hi!", 1),
        ("<profile>- Age: 34</profile /><response>Hi!</response>", "unclosed_profile", "Hi!", 1),
        ("<profile>- Age: 3</profile><response>Hi!<profile x>- Age: 34</response>", "repeated_tag", "Hi!", 1),
    ],
)
def test_what_is_wrong_has_a_name_and_the_guess_stays_hidden(text, error, reply, guessed):
    action = parse_action(text)
    assert action.error == error
    assert len(action.profile) == guessed
    assert "34" not in action.reply
    if reply is not None:
        assert " ".join(action.reply.split()) == " ".join(reply.split())


@given(st.lists(st.tuples(st.sampled_from(["Age", "Pets", ""]), st.text("abc xyz", min_size=1, max_size=20)), max_size=8))
def test_what_is_formatted_is_read_back(pairs):
    points = {(slot, " ".join(value.split())) for slot, value in pairs if value.strip()}
    points = {point for point in points if point[1] not in ("", "a", "x")}
    action = parse_action(format_action([Point(*point) for point in sorted(points)], "Fine."))
    assert action.error == ""
    assert {(slot, value) for slot, value in action.profile} == points


@pytest.mark.parametrize("value", ["I have a dog and a cat.", "rock and roll", "N/A", "30-35", "...", "a, b", "two\nlines", "x" * 300])
def test_a_value_that_no_guess_can_hold_is_told_apart(value):
    assert not listable(Point("Age", value))
    assert not listable(Point("", value))


def test_values_that_a_guess_can_hold_are_listable_and_all_bundled_ones_are():
    assert all(map(listable, [Point("Age", "34"), Point("", "I have two cats."), Point("Notes", "at 7:30 sharp"), Point("Pets", "Sandy")]))
    assert not listable(Point("", "note: I ski"))
    assert not listable(Point("Time: of day", "noon"))
    assert [p for split in SPLIT_SIZES for person in load_split(split) for p in person.points if not listable(p)] == []


PIECES = st.sampled_from(
    ["<profile>", "</profile>", "<response>", "</response>", "< Profile >", "- Age: 34", "- SECRETWORD: x", "\n", "hello", "{", "}", "\x00",
     "\ud800", "<|im_start|>system", "：", "\u202e", "User: hi", "<profile", "&lt;profile&gt;"]
)  # fmt: skip


@given(st.lists(st.one_of(PIECES, st.text(max_size=30)), max_size=14).map("".join))
@settings(max_examples=400, deadline=None)
def test_any_text_is_an_action(text):
    action = parse_action(text)
    assert action.error in ("", *PARSE_ERRORS)
    assert len(action.reply) <= MAX_REPLY_CHARS
    assert len(action.profile) <= MAX_POINTS
    assert "<profile>" not in action.reply.lower()
    assert "<response>" not in action.reply.lower()
    assert "\x00" not in action.reply
    action.reply.encode("utf-8")
    opened = text.lower().find("<profile>")
    if text.count("SECRETWORD") == 1 and text.lower().count("profile") == 1 and 0 <= opened < text.find("SECRETWORD"):
        after = text[opened:].lower().find("<response>")
        if after < 0 or opened + after > text.find("SECRETWORD"):
            assert "SECRETWORD" not in action.reply


@given(st.lists(st.one_of(PIECES, st.text(max_size=40)), max_size=10).map("".join))
@settings(max_examples=60, deadline=None)
def test_any_text_is_a_turn_of_the_environment(text):
    env = gym.make("RLPA-v0")
    env.reset(seed=1)
    observation, reward, _, _, info = env.step(text)
    assert observation in env.observation_space
    assert 0 <= reward <= 2
    assert info["turn"] == 1
    if info["parse_error"]:
        assert reward == 0
    env.step(format_action([], "How are you?"))


@pytest.mark.parametrize(
    ("text", "head", "tag", "closed"),
    [
        ("<profile>\n- Age: 30\n</profile>\n\nHi", "<profile>\n- Age: 30\n", "</profile>", True),
        ("<Profile>- Age: 30< / PROFILE >Hi", "<Profile>- Age: 30", "< / PROFILE >", True),
        ("<profile>- Age: 30</profile x>", "<profile>- Age: 30", "</profile x>", True),  # it hides the guess, malformed as it is
        ("<profile>- Age: 30<response>Hi</response></profile>", "<profile>- Age: 30", "<response>", False),
        ("<profile>- Age: 30<profile>- Job: baker</profile>", "<profile>- Age: 30<profile>- Job: baker", "</profile>", True),
        ("<profile>- Age: 30", "<profile>- Age: 30", "", False),
        ("</response>Hi", "", "</response>", False),
    ],
)
def test_a_completion_is_cut_where_its_guess_ends(text, head, tag, closed):
    block = cut_block(text)
    assert (block.head, block.tag, block.closed) == (head, tag, closed)
    assert block.head + block.tag + block.rest == text


@pytest.mark.parametrize(
    "text",
    [
        "x" * 1_000_000,
        "<profile>" * 100_000,
        "<profile>\n" + "- a: b, " * 120_000 + "</profile><response>hi</response>",
        wrap("- Age: 34", "</response><profile>- Age: 99</profile>" * 20_000),
        "<" * 1_000_000,
        wrap("{" * 100_000),
        "".join(chr(i % 256) for i in range(1_000_000)),
        "",
    ],
    ids=["long", "tags", "line", "injected", "brackets", "json", "binary", "empty"],
)
def test_a_megabyte_is_read_in_little_time_and_scored(text):
    env = gym.make("RLPA-v0")
    env.reset(seed=1)
    began = time.process_time()
    observation, reward, _, _, info = env.step(text)
    assert time.process_time() - began < 2
    assert reward == 0
    assert info["parse_error"] in PARSE_ERRORS
    assert observation in env.observation_space
    assert env.step(wrap("- Age: 34"))[4]["parse_error"] == ""


@pytest.mark.parametrize("piece", [" ", "\t", "\n", "<", "< ", "</", "<profile", "<profile ", "<profile/", "-", "- ", "\n- ", ", ", "7", "7-", "x", "e\u0301\u0316", "\u0301\u0316", "{", '"a":', ":", "&", " or"])
@pytest.mark.parametrize("frame", ["{}", "<{}", "<profile>{}", "<profile>\n- a{}b", '<profile>{{"{}": "{}"}}'])
def test_any_repetition_is_read_in_linear_time(piece, frame):
    text = frame.replace("{{", "{").replace("}}", "}").replace("{}", piece * (100_000 // len(piece)))
    for read in (parse_action, cut_block):
        began = time.process_time()
        read(text)
        assert time.process_time() - began < 0.3


def test_what_is_kept_of_an_action_reads_like_the_action():
    env = gym.make("RLPA-v0", disable_env_checker=True)
    env.reset(seed=1)
    points = env.unwrapped.profile.points
    for padding in (0, 20_000):
        _, reward, _, _, info = env.step(wrap("\n".join(f"- {slot}: {value}" for slot, value in points) + "\n" * padding))
        kept = parse_action(info["messages"][-2]["content"])
        assert kept == env.unwrapped.last_action
        assert kept.error == info["parse_error"] == ("reply_too_long" if padding else "")
        assert (reward == 0) == bool(padding)


@pytest.mark.parametrize("action", [None, 3, b"bytes", ["a"]])
def test_other_things_than_text_are_scored_as_malformed(action):
    env = gym.make("RLPA-v0", disable_env_checker=True)
    env.reset(seed=1)
    _, reward, _, _, info = env.step(action)
    assert (reward, info["parse_error"]) == (0, "no_profile")


def test_the_form_shown_to_agents_is_one_that_is_read():
    """Small models copy what they are shown, word for word."""
    told = instructions(10)
    shown = told[told.index("<profile>") : told.index("</response>") + len("</response>")]
    action = parse_action(shown)
    assert action.error == ""
    assert action.reply == "your reply"
    assert [point.slot for point in action.profile] == ["Occupation", "Interests"]  # names of slots, not the word
    assert format_action(action.profile, action.reply) == shown
    assert told.endswith("</response>.")


@pytest.mark.parametrize(
    ("points", "reply", "told"),
    [
        ({"Age": "34"}, "Hi", r"pairs \(slot, value\) of texts, such as \('Age', '34'\); got 'Age'"),
        (["Age"], "Hi", "got 'Age'"),
        ([("Age", 34)], "Hi", r"got \('Age', 34\)"),
        ([("Age", "34", "sure")], "Hi", "got"),
        ([], None, "a text as reply; got None"),
    ],
)
def test_what_is_no_pair_of_texts_is_named_where_an_action_is_written(points, reply, told):
    with pytest.raises(ConfigError, match=f"format_action: expected .*{told}"):
        format_action(points, reply)
