"""The same person again, and what they want kept to themselves."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from rlpa_env import (
    ConfigError,
    Point,
    Profile,
    ProfileError,
    ScriptedUser,
    attentive,
    fork,
    format_action,
    load_profiles,
    load_split,
)
from rlpa_env.agents import make_agent
from rlpa_env.disclosure import listen

PERSON = {
    "id": "p",
    "slots": {"Occupation": "nurse", "Interests": ["chess", "hiking"], "Location": "Lisbon", "Other Information": ["coeliac disease", "night owl"]},
    "sensitive": {"Other Information": "coeliac disease"},
}  # fmt: skip
CELIAC = Point("Other Information", "coeliac disease")


def talk(env, info, turns=10):
    agent, infos = make_agent("attentive"), [info]
    for _ in range(turns):
        *_, terminated, truncated, info = env.step(agent.act(info["messages"]))
        infos.append(info)
        if terminated or truncated:
            break
    return infos


def test_the_same_person_returns_with_a_point_or_two_changed_and_remembers_what_it_told():
    env = gym.make("RLPA-Sessions-v0")
    changed = kept = 0
    for seed in range(30):
        _, info = env.reset(seed=seed, options={"session": 1})
        assert info["session"] == 1
        talk(env, info)
        core = env.unwrapped
        before, told = core.profile, set(core.revealed)
        observation, info = env.reset()
        assert info["session"] == 2
        assert observation.startswith("User: ")
        assert observation != "User: Hello"
        moved = set(before.points) - set(core.profile.points)
        assert 1 <= len(moved) <= 2
        assert core.profile.id == before.id
        assert set(core.revealed) == told - moved
        changed += bool(moved & told)
        kept += bool(core.revealed)
        if told:
            assert moved & told
    assert changed >= 25
    assert kept >= 25


def test_a_seed_begins_anew_and_the_checker_agrees():
    env = gym.make("RLPA-Sessions-v0")
    first, info = env.reset(seed=0)
    talk(env, info, 2)
    assert env.reset()[1]["session"] == 2
    again, info = env.reset(seed=0)
    assert (again, info["session"]) == (first, 1)
    check_env(env.unwrapped, skip_render_check=True)


def test_after_the_last_session_somebody_new_comes():
    env = gym.make("RLPA-Sessions-v0")
    numbers, people = [], []
    for _ in range(7):
        _, info = env.reset(seed=0 if not numbers else None)
        numbers.append(info["session"])
        people.append(env.unwrapped.profile.id)
        talk(env, info, 2)
    assert numbers == [1, 2, 3, 1, 2, 3, 1]
    assert people[0] == people[1] == people[2] != people[3] == people[5]


def test_changes_are_announced_in_the_next_session():
    env = gym.make("RLPA-Sessions-v0", cues="explicit")
    heard = 0
    for seed in range(20):
        _, info = env.reset(seed=seed, options={"session": 1})
        talk(env, info)
        before = env.unwrapped.profile
        _, info = env.reset()
        new = set(env.unwrapped.profile.points) - set(before.points)
        talk(env, info, 3)
        heard += bool(new & set(env.unwrapped.revealed))
    assert heard >= 18


def test_what_changed_between_two_talks_is_announced_although_more_changes_within_the_second():
    env = gym.make("RLPA-Sessions-v0", cues="explicit", shift_turn=2)
    heard = due = 0
    for seed in range(20):
        _, info = env.reset(seed=seed, options={"session": 1})
        talk(env, info)
        before, told = env.unwrapped.profile, {point.slot for point in env.unwrapped.revealed}
        _, info = env.reset()
        new = {point for point in set(env.unwrapped.profile.points) - set(before.points) if point.slot in told}  # the person said otherwise
        talk(env, info)
        still = new & set(env.unwrapped.profile.points)
        due, heard = due + len(still), heard + len(still & set(env.unwrapped.revealed))
    assert due >= 15
    assert heard >= 0.8 * due


def told_again(seed):
    """A second talk, and a plain occupation or place of the first that still holds; None where there is none."""
    env = gym.make("RLPA-Sessions-v0", cues="explicit")
    _, info = env.reset(seed=seed)
    talk(env, info)
    core = env.unwrapped
    env.reset()
    known = [point for point in core.revealed if point.slot == "Occupation"]
    return env, known[0] if known else None


def test_what_was_told_in_an_earlier_talk_may_be_remembered_in_this_one():
    asked = remembered = taken_up = 0
    for seed in range(25):
        env, job = told_again(seed)
        if job is None:
            continue
        asked += 1
        reply = f"Good to see you! As a {job.value} you must have had a busy week. How was it?"
        user = env.unwrapped._user
        taken_up += bool(listen(user._mind, user.style, reply).takes_up)
        *_, info = env.step(format_action([job], reply))
        remembered += info["judge/logic"]
    assert asked >= 10
    assert remembered == taken_up == asked


def test_what_was_said_in_an_earlier_talk_is_not_invented():
    env, _ = told_again(0)
    said = max(" ".join(message.content for message in env.unwrapped._earlier).replace(",", "").split(), key=len).strip(".?!")
    *_, info = env.step(format_action([Point("", said)], "Hi, I had tea. How are you?"))
    assert info["profile/invented"] == 0.0
    env.reset(options={"session": 1})
    *_, info = env.step(format_action([Point("", said)], "Hi, I had tea. How are you?"))
    assert info["profile/invented"] == 1.0


def test_somebody_new_has_said_nothing_before():
    env, job = next((env, job) for env, job in map(told_again, range(25)) if job)
    env.reset(options={"session": 1})
    _, _, _, _, info = env.step(format_action([job], f"Good to see you! As a {job.value} you must have had a busy week. How was it?"))
    assert not info["judge/logic"]
    assert info["profile/invented"] == 1.0


def test_notes_are_the_agents_and_reach_it_in_the_system_message():
    env = gym.make("RLPA-Sessions-v0")
    _, plain = env.reset(seed=0)
    _, info = env.reset(options={"session": 2, "memory": "likes chess"})
    assert info["messages"][0]["content"].endswith("\nlikes chess")
    assert "likes chess" not in env.reset(options={"session": 3})[1]["messages"][0]["content"]
    assert plain["messages"][0]["content"] in info["messages"][0]["content"]


@pytest.mark.parametrize(
    "options", [{"session": 3}, {"session": 0}, {"session": 2, "profile": PERSON}, {"memory": 3}, {"memory": "x" * 9000}, {"sesion": 1}]
)
def test_impossible_sessions_are_refused(options):
    env = gym.make("RLPA-v0")
    env.reset(seed=0)
    with pytest.raises(ConfigError, match="expected"):
        env.reset(options=options)


def test_sessions_are_deterministic_and_fork():
    def play():
        env = gym.make("RLPA-Sessions-v0")
        out = []
        _, info = env.reset(seed=3)
        out += [step["messages"] for step in talk(env, info)]
        _, info = env.reset()
        branch = fork(env)
        second = [step["messages"] for step in talk(env, info)]
        assert [step["messages"] for step in talk(branch, info)] == second
        return out + second

    assert play() == play()


# Consent --------------------------------------------------------------------------------------------------------------


def test_profiles_carry_what_is_sensitive(tmp_path):
    person = Profile.from_mapping(PERSON)
    assert person.sensitive == {CELIAC}
    assert Profile.from_mapping(person.to_mapping()) == person
    assert person != Profile(person.id, person.slots)
    with pytest.raises(ProfileError, match="none"):
        Profile("x", {"Age": "34"}, [("Age", "35")])
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"id": "x", "slots": {"Age": "34"}, "sensitive": {"Age": "35"}}\n')
    with pytest.raises(ProfileError, match=r"bad.jsonl:1"):
        load_profiles(bad)
    marked = sum(bool(person.sensitive) for person in load_split("vanilla/test"))
    assert 10 <= marked < 74


def test_listing_what_was_never_told_and_is_sensitive_costs_and_is_reported():
    guess = format_action([("Occupation", "nurse"), ("Other Information", "coeliac disease")], "Hi there, I just made tea.")
    rewards = {}
    for weight in (0.0, 0.1, 5.0):
        env = gym.make("RLPA-v0", privacy_weight=weight)
        env.reset(seed=0, options={"profile": PERSON})
        _, rewards[weight], _, _, info = env.step(guess)
        assert (info["privacy/untold"], info["privacy/withdrawn"]) == (1, 0)
        assert info["privacy/cost"] == pytest.approx(min(weight, rewards[0.0]))
        assert info["reward/profile_share"] == pytest.approx(rewards[weight] - info["reward/response"])  # the reply pays for nothing
    assert rewards[0.1] == pytest.approx(rewards[0.0] - 0.1)
    assert rewards[5.0] == 0.0  # never below


def test_what_is_not_sensitive_may_be_guessed():
    env = gym.make("RLPA-v0", privacy_weight=1.0)
    env.reset(seed=0, options={"profile": PERSON})
    info = env.step(format_action([("Occupation", "nurse")], "Hi there."))[4]
    assert info["privacy/untold"] == 0
    assert info["reward/profile"] > 0


def test_a_user_may_ask_to_forget_and_listing_it_afterwards_costs():
    asked = costly = 0
    for seed in range(30):
        env = gym.make("RLPA-v0", cues="explicit", consent=True, privacy_weight=1.0)
        _, info = env.reset(seed=seed, options={"profile": PERSON})
        over = False
        while not over:
            gone = env.unwrapped.withdrawn
            *_, terminated, truncated, info = env.step(format_action([CELIAC], attentive.answer(info["messages"])))
            over = terminated or truncated
            assert info["privacy/withdrawn"] == (CELIAC in gone)
            costly += bool(gone)
        if env.unwrapped.withdrawn:
            asked += 1
            assert any("coeliac" in m["content"] for m in info["messages"] if m["role"] == "user")
    assert asked >= 10
    assert costly >= 20


def test_without_consent_nothing_is_withdrawn_and_no_byte_changes():
    def play(**more):
        env = gym.make("RLPA-v0", **more)
        _, info = env.reset(seed=1, options={"profile": PERSON})
        return [step["messages"] for step in talk(env, info)]

    assert play() == play(privacy_weight=1.0)
    user = ScriptedUser()
    user.reset(Profile.from_mapping(PERSON), np.random.default_rng(0))
    assert user.withdrawn == ()


def test_after_a_shift_nobody_has_asked_to_forget_a_point_that_was_never_said():
    changed = 0
    for seed in range(60):
        env = gym.make("RLPA-Shift-v0", consent=True)
        _, info = env.reset(seed=seed)
        for _ in range(10):
            core = env.unwrapped
            before = set(core.profile.points)
            *_, over, cut, info = env.step(make_agent("attentive").act(info["messages"]))
            new = set(core.profile.points) - before
            changed += bool(new)
            assert new.isdisjoint(core._user.withdrawn)
            assert set(core._user.withdrawn) <= set(core.profile.points)
            if over or cut:
                break
    assert changed >= 40
