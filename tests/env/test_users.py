"""The scripted user: grounded, gradual, responsive, with honest dislikes."""

from __future__ import annotations

from collections import Counter

import gymnasium as gym
import numpy as np
import pytest

from rlpa_env import LexicalMatcher, Message, Point, Profile, ScriptedUser, load_split
from rlpa_env.agents import make_agent
from rlpa_env.disclosure import STYLES, facts_of, style_of
from rlpa_env.replies import lines, question_for
from rlpa_env.testing import check_user
from rlpa_env.text import normalise, sentences, stems
from rlpa_env.voice import distractor, hint_lines, plain_lines
from rlpa_env.world import world

PEOPLE = load_split("vanilla/val")[:60]


def talk(agent_name: str, person: Profile, seed: int = 0, turns: int = 10, **arguments):
    """Messages, user turns and the user after a dialogue held without the environment's rewards."""
    user, agent = ScriptedUser(**arguments), make_agent(agent_name)
    messages = [{"role": "user", "content": user.reset(person, np.random.default_rng(seed))}]
    said, answers = [Message("user", messages[0]["content"])], []
    for _ in range(turns):
        completion = agent.act(messages)
        reply = completion.split("<response>")[1].split("</response>")[0].strip()
        messages.append({"role": "assistant", "content": completion})
        answers.append(user.reply(tuple(said), reply))
        messages.append({"role": "user", "content": answers[-1].message})
        said += [Message("assistant", reply), Message("user", answers[-1].message)]
        if answers[-1].left:
            break
    return messages, answers, user


def ask(user: ScriptedUser, reply: str, message: str = "Hello"):
    return user.reply((Message("user", message),), reply)


def test_the_scripted_user_passes_its_own_conformance_check():
    check_user(ScriptedUser())
    check_user(ScriptedUser(style="evasive", cues="implicit"))


def test_hello_and_nothing_told():
    user = ScriptedUser()
    assert user.reset(PEOPLE[0], np.random.default_rng(0)) == "Hello"
    assert user.revealed == ()


def test_grounded_and_gradual():
    for seed, person in enumerate(PEOPLE):
        _, answers, user = talk("attentive", person, seed)
        most = max(1, int(0.15 * len(person.points)))
        seen: set[Point] = set()
        for turn in answers:
            assert len(turn.told) <= most
            assert set(turn.told) <= set(person.points)
            assert not set(turn.told) & seen
            assert not set(turn.distractors) & set(person.points)
            assert len(sentences(turn.message)) <= 3, turn.message
            seen |= set(turn.told)
        assert seen == set(user.revealed)


def test_plainly_told_points_stand_verbatim_in_the_message():
    count = 0
    for seed, person in enumerate(PEOPLE[:30]):
        for turn in talk("attentive", person, seed, cues="explicit")[1]:
            for point in turn.plainly:
                assert point.value.casefold() in turn.message.casefold()
                count += 1
    assert count > 100


def test_some_replies_reveal_nothing():
    told = [bool(turn.told) for seed, p in enumerate(PEOPLE) for turn in talk("attentive", p, seed)[1]]
    assert 0.1 < 1 - np.mean(told) < 0.7


def test_a_question_makes_its_slot_likelier():
    hits = Counter()
    for seed, person in enumerate(PEOPLE):
        for name, reply in (("asked", "I bake on Sundays. What do you do for a living?"), ("not", "I bake on Sundays.")):
            user = ScriptedUser(cues="explicit", style="plain")
            user.reset(person, np.random.default_rng(seed))
            hits[name] += any(point.slot == "Occupation" for point in ask(user, reply).told)
    assert hits["asked"] >= 0.6 * len(PEOPLE)
    assert hits["not"] <= 0.1 * len(PEOPLE)


def test_private_matters_want_trust_first():
    told = 0
    for seed, person in enumerate(PEOPLE):
        user = ScriptedUser(style="plain")
        user.reset(person, np.random.default_rng(seed))
        told += any(point.slot == "Age" for point in ask(user, "How old are you, if I may ask?").told)
    assert told == 0


def test_every_bundled_profile_has_a_link_that_only_a_follow_up_opens():
    for split in ("vanilla/test", "extended/test", "vanilla/val"):
        for person in load_split(split):
            gates = [fact.gate for fact in facts_of(person) if fact.gate >= 0]
            assert gates
            assert all(facts_of(person)[gate].gate < 0 for gate in gates)


def test_linked_points_stay_hidden_without_a_follow_up():
    for seed, person in enumerate(PEOPLE[:20]):
        _, _, user = talk("script", person, seed, style="chatty")
        facts = facts_of(person)
        linked = {fact.point for fact in facts if fact.gate >= 0}
        revealed = set(user.revealed)
        picked_up = user.snapshot()[2].opened
        assert not (linked & revealed) - {facts[i].point for i in picked_up}


def test_at_least_a_quarter_of_fact_like_sentences_are_not_about_the_user():
    distractors = facts = 0
    for seed, person in enumerate(PEOPLE):
        for turn in talk("attentive", person, seed)[1]:
            distractors += len(turn.distractors)
            facts += len(set(turn.told) | set(turn.plainly))
    assert distractors / (distractors + facts) >= 0.25


def test_distractors_never_state_a_true_value():
    rng = np.random.default_rng(0)
    for person in PEOPLE:
        for slot in {point.slot for point in person.points}:
            found = distractor(person, [slot], rng, set())
            if found:
                assert found[1].value not in {point.value for point in person.points}


def test_hints_are_not_matched_by_copying_the_sentence():
    matcher = LexicalMatcher()
    wrong = []
    for spec in world().slots.values():
        for value in spec.values:
            truth = [Point(value.slot, value.value)]
            for line in value.implicit:
                for guess in (Point("", line), Point(value.slot, line)):
                    if matcher.scores([guess], truth)[0, 0] >= matcher.threshold:
                        wrong.append((value.value, line))
    assert not wrong


def test_mixed_cues_hint_first_for_about_two_in_five():
    hints = total = 0
    for seed, person in enumerate(PEOPLE):
        for turn in talk("attentive", person, seed)[1]:
            total += len(turn.told)
            hints += len(set(turn.told) - set(turn.plainly))
    assert 0.3 <= hints / total <= 0.5


def test_taking_a_cue_up_brings_the_plain_value():
    brought = hinted = 0
    for seed, person in enumerate(PEOPLE):
        user = ScriptedUser(cues="implicit", style="plain")
        user.reset(person, np.random.default_rng(seed))
        first = ask(user, "I had tea. What do you do for a living?")
        if not first.told:
            continue
        hinted += 1
        second = ask(user, f"Hm, {first.message} I wonder, why is that?", first.message)
        brought += set(first.told) <= set(second.plainly)
    assert hinted > 30
    assert brought >= 0.7 * hinted


@pytest.mark.parametrize(
    ("kind", "replies"),
    [
        ("insult", ["Only a fool would talk like that, you bore me."]),
        ("prying", ["I had tea. What is your card number?"]),
        ("repeat", ["I had a calm day, how nice to talk."] * 2),
        ("machine", ["As an AI language model, I am here to assist you."]),
        ("interrogation", ["Where do you live? What do you do for a living? Any hobby?"]),
        ("flattery", ["You are amazing! You are so wonderful and brilliant!"]),
        ("lecture", ["1. Get up early.\n2. Drink water.\n3. Write a list.\n4. Repeat daily."]),
        ("ignored", [""]),
    ],
)
def test_honest_dislikes_cost_patience_and_are_voiced(kind, replies):
    user = ScriptedUser(style="plain")
    user.reset(PEOPLE[3], np.random.default_rng(1))
    start = user.patience
    for reply in replies:
        turn = ask(user, reply)
    assert turn.dislike == kind
    assert user.patience == start - (2 if kind == "insult" else 1)
    assert any(line in turn.message for line in world().voice["dislike"][kind])
    assert turn.told == ()


def test_a_false_claim_is_disliked_and_a_true_one_is_not():
    slots = {"Occupation": "archivist", "Interests": ["yoga", "chess"], "Personality Traits": "shy"}
    person = Profile.from_mapping({"id": "x", "slots": slots})
    for said, expected in (("a baker", "false_claim"), ("an archivist", ""), ("outgoing", "false_claim"), ("shy", ""), ("witty", "")):
        claim, user = f"So you are {said} then.", ScriptedUser(style="plain")
        user.reset(person, np.random.default_rng(0))
        assert ask(user, claim).dislike == expected


def test_asking_again_what_was_answered_is_disliked():
    person = Profile.from_mapping({"id": "x", "slots": {"Occupation": "archivist", "Interests": ["yoga", "chess"]}})
    for seed in range(20):
        user = ScriptedUser(style="plain", cues="explicit")
        user.reset(person, np.random.default_rng(seed))
        first = ask(user, "I like mornings. What do you do for a living?")
        if first.told:
            break
    assert Point("Occupation", "archivist") in first.told
    again = ask(user, "I see, archives and shelves. Which line of work are you in?", first.message)
    assert again.dislike == "asked_again"


def test_patience_never_rises_above_its_start_and_regains_one_step_at_most():
    for seed, person in enumerate(PEOPLE[:20]):
        user, agent = ScriptedUser(style="chatty"), make_agent("attentive")
        messages = [{"role": "user", "content": user.reset(person, np.random.default_rng(seed))}]
        start, gains, last = user.patience, 0, user.patience
        for turn in range(10):
            reply = "" if turn % 3 == 1 else agent.act(messages).split("<response>")[1].split("</response>")[0].strip()
            answer = ask(user, reply, messages[-1]["content"])
            messages += [{"role": "assistant", "content": reply}, {"role": "user", "content": answer.message}]
            gains += max(0, user.patience - last)
            last = user.patience
            assert user.patience <= start
            if answer.left:
                break
        assert gains <= 1


def test_at_zero_patience_the_user_leaves():
    user = ScriptedUser(style="impatient")
    user.reset(PEOPLE[0], np.random.default_rng(0))
    answers = [ask(user, "") for _ in range(3)]
    assert [answer.left for answer in answers] == [False, False, True]


def test_requests_come_on_about_three_turns_in_ten():
    share = np.mean([bool(turn.request) for seed, p in enumerate(PEOPLE) for turn in talk("attentive", p, seed)[1]])
    assert 0.2 <= share <= 0.4


def test_style_follows_personality_and_styles_differ():
    quiet = Profile.from_mapping({"id": "a", "slots": {"Personality Traits": ["shy"], "Interests": ["yoga"]}})
    loud = Profile.from_mapping({"id": "b", "slots": {"Personality Traits": ["talkative"], "Interests": ["yoga"]}})
    assert (style_of(quiet).name, style_of(loud).name) == ("terse", "chatty")
    length = {
        style: np.mean([len(t.message.split()) for s, p in enumerate(PEOPLE[:30]) for t in talk("attentive", p, s, style=style)[1]])
        for style in STYLES
    }
    assert length["chatty"] > 1.25 * length["terse"]
    assert len({style_of(person).name for person in load_split("vanilla/train")}) == len(STYLES)


def test_an_insult_takes_the_last_patience_and_no_more():
    user, left, shown = ScriptedUser(style="impatient"), False, [3]
    user.reset(PEOPLE[0], np.random.default_rng(0))
    for number in range(9):
        left = left or ask(user, f"You are an idiot, number {number}.").left
        shown.append(user.patience)
    assert left
    assert shown[:3] == [3, 1, 0]
    assert min(shown) == 0


@pytest.mark.parametrize("value", ["...", ".", "?!", "🙂"])
@pytest.mark.parametrize("slot", ["Occupation", "Age", "Location", "Shoe size"])
def test_a_value_without_a_letter_is_said_too(slot, value):
    person = Profile("odd", {slot: value})
    for cues in ("explicit", "implicit"):
        user = ScriptedUser(cues=cues, shift_turn=4)
        message = user.reset(person, np.random.default_rng(0))
        for number in range(6):
            message = ask(user, f"I had toast, number {number}. {question_for(slot, str(number))}", message).message
            assert message.strip()


@pytest.mark.parametrize(
    "slots",
    [
        {"Shoe size": ["43"], "Notes": ["i have two cats.", "my father was a construction worker."], "Zodiac": "Leo"},
        {"Occupation": "freelance graphic designer", "Interests": ["hiking", "painting"], "Pets": "two cats named Pixel"},
        {"Favourite sentence": "I would rather be late than early, whatever people say about it."},
    ],
)
def test_any_profile_works(slots):
    person = Profile.from_mapping({"id": "free", "slots": slots})
    heard = []
    for seed in range(25):
        user = ScriptedUser(cues="explicit", style="chatty")
        message = user.reset(person, np.random.default_rng(seed))
        for slot in [*slots, *slots]:
            told = user.revealed
            lead = f"I wondered about {told[seed % len(told)].value} today." if told else "I wondered about that today."
            reply = f"{lead} {question_for(slot, str(seed))}"
            message = ask(user, reply, message).message
        heard += user.revealed
    assert set(heard) == set(person.points)


def test_authored_plain_lines_hold_the_value_and_hints_do_not():
    for person in load_split("vanilla/test")[:20]:
        for fact in facts_of(person):
            assert all(fact.point.value.casefold() in line.casefold() for line in plain_lines(fact))
            assert not any(f" {normalise(fact.point.value)} " in f" {normalise(line)} " for line in hint_lines(fact))


@pytest.mark.parametrize("cues", ["mixed", "implicit"])
def test_what_people_from_elsewhere_tell_can_be_known_from_their_words(cues):
    values = {"Occupation": "tax adviser", "Interests": ["night walks", "pottery"], "Motto": "measure twice", "Shoe Size": "43", "Location": "Ghent"}
    person = Profile("elsewhere", values)
    told = 0
    for seed in range(12):
        user = ScriptedUser(cues=cues, style="chatty")
        message = user.reset(person, np.random.default_rng(seed))
        for slot in values:
            before = set(user.revealed)
            message = ask(user, question_for(slot, str(seed)), message).message
            for point in set(user.revealed) - before:
                told += 1
                authored = any(fact.point == point and fact.value for fact in facts_of(person))
                assert authored or stems(point.value) & stems(message), (point, message)
    assert told > 20


@pytest.mark.parametrize(("agent", "episodes", "most"), [("attentive", 120, 0.02), ("silent", 1000, 0.05)])
def test_no_message_is_too_frequent(agent, episodes, most):
    counts: Counter[str] = Counter()
    people = load_split("vanilla/train")
    for seed in range(episodes):
        counts.update(turn.message for turn in talk(agent, people[seed], seed)[1])
    assert max(counts.values()) / sum(counts.values()) <= most


def test_long_dialogues_take_topics_up_again():
    env = gym.make("RLPA-Long-v0", style="chatty", cues="explicit")
    again = 0
    for seed in range(5):
        _, info = env.reset(seed=seed)
        told_at: dict[str, int] = {}
        for turn in range(40):
            ask = lines()["ask"]["Interests"][turn % 20 % 3] if turn % 20 < 3 else "It goes well with an apple."
            text = f"<response>\nTea number {turn} is brewing, I like it. {ask}\n</response>"
            _, _, over, stop, info = env.step(text)
            for value in [p.value for p in env.unwrapped.revealed if p.slot == "Interests"]:
                if value.casefold() in info["messages"][-1]["content"].casefold():
                    again += turn - told_at.setdefault(value, turn) >= 15
            if over or stop:
                break
    assert again >= 1
