"""Other people's profiles: every value is a piece of their text, nearly every sentence yields one, damage is named."""

from __future__ import annotations

import json

import gymnasium as gym
import pytest

import rlpa_env
from rlpa_env.loaders import load_aloe, load_personachat, split_text
from rlpa_env.text import normalise

PEOPLE = [
    "She is a 41-year-old tax adviser who enjoys pottery, night walks, and baking. She lives in Ghent with two parrots.",
    "He is a 23-year-old apprentice. He works as a bicycle courier. He's engaged and has a dog named Flint.",
    "She is a 60-year-old retired pilot. She is divorced with one son. She has a degree in physics. She fears heights.",
]
TRAITS = ["He is witty, often making clever remarks. He is curious about people.", "She is calm."]


def write(folder, profiles=PEOPLE, traits=TRAITS):
    for name, lines in (("profile", profiles), ("personality", traits)):
        text = "".join((line if line.startswith("!") else json.dumps(line)) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return folder


def test_aloe_people_become_points(tmp_path):
    first, second, third = load_aloe(write(tmp_path))
    assert first.slots["Age"] == ("41",)
    assert first.slots["Occupation"] == ("tax adviser",)
    assert first.slots["Interests"] == ("pottery", "night walks", "baking")
    assert first.slots["Location"] == ("Ghent with two parrots",)
    assert first.slots["Personality Traits"] == ("witty", "curious about people")
    assert second.slots["Marital Status"] == ("engaged",)
    assert "bicycle courier" in second.slots["Occupation"]
    assert "a dog named Flint" in second.slots["Other Information"]
    assert third.slots["Education Background"] == ("a degree in physics",)
    assert third.slots["Family Background"] == ("with one son",)
    assert third.slots["Personality Traits"] == ("witty", "curious about people")  # person i: personality i modulo 2


def test_every_sentence_yields_a_point_and_none_is_invented():
    for text in (*PEOPLE, *TRAITS):
        for sentence in text.split(". "):
            points = split_text(sentence)
            assert points
            for _, value in points:
                assert normalise(value) in normalise(sentence)


def test_a_bad_line_is_skipped_and_named_and_many_are_an_error(tmp_path):
    with pytest.warns(UserWarning, match=r"profile\.jsonl: skipped unreadable line 7"):
        people = load_aloe(write(tmp_path, [*PEOPLE * 2, "! no json", *PEOPLE * 40]))
    assert len(people) == 126
    assert len({person.id for person in people}) == 126
    with pytest.raises(rlpa_env.ProfileError, match=r"profile\.jsonl: expected one JSON str a line; 2 of 5"):
        load_aloe(write(tmp_path, [*PEOPLE, "! a", "! b"]))
    (tmp_path / "personality.jsonl").unlink()
    with pytest.raises(rlpa_env.ProfileError, match="there is none"):
        load_aloe(write(tmp_path).parent / "nowhere")


def test_personachat_sentences_are_points(tmp_path):
    path = tmp_path / "personas.jsonl"
    path.write_text(json.dumps({"persona": ["i have two cats.", "i hate pink.", "I hate pink."], "turns": []}) + "\n")
    (person,) = load_personachat(path)
    assert [value for _, value in person.points] == ["i have two cats.", "i hate pink."]
    path.write_text(json.dumps({"persona": "i have two cats."}) + "\n")
    with pytest.raises(rlpa_env.ProfileError, match="'persona' to be a list"):
        load_personachat(path)


@pytest.mark.parametrize("persona", [[], ["  "], ["i ski.", 3], None])
def test_a_persona_without_a_sentence_is_named_with_its_line_in_the_file(tmp_path, persona):
    path = tmp_path / "personas.jsonl"
    path.write_text("\n\n" + json.dumps({"persona": ["i ski.", " "]}) + "\n\n" + json.dumps({"persona": persona}) + "\n")
    with pytest.raises(rlpa_env.ProfileError, match=r"personas\.jsonl:5: expected 'persona'"):
        load_personachat(path)


def test_a_line_of_brackets_is_an_unreadable_line_like_others(tmp_path):
    people = write(tmp_path, PEOPLE * 40) / "profile.jsonl"
    people.write_text("[" * 100_000 + "\n" + people.read_text())
    with pytest.warns(UserWarning, match=r"profile\.jsonl: skipped unreadable line 1"):
        assert len(load_aloe(tmp_path)) == 120
    people.write_text("\n" + "[" * 100_000)
    with pytest.raises(rlpa_env.ProfileError, match=r"profile\.jsonl: .* 1 of 1 lines are none \(first: line 2\)"):
        load_aloe(tmp_path)


def test_loaded_people_can_be_met(tmp_path):
    path = tmp_path / "people.jsonl"
    path.write_text("".join(json.dumps(p.to_mapping()) + "\n" for p in load_aloe(write(tmp_path))), encoding="utf-8")
    env = gym.make("RLPA-v0", split=str(path))
    _, info = env.reset(seed=3)
    for _ in range(10):
        text = "<response>\nI baked a loaf this morning and it was fine. What do you like doing in your free time?\n</response>"
        _, _, terminated, truncated, info = env.step(text)
        if terminated or truncated:
            break
    assert info["profile/revealed"] > 0
