"""What the tiny start model was taught: one documented mixture of dialogues, fixed before any RL run.

This is the last pass; before it the model practises hearing, copying and answering with a teacher that lists nearly
everything (`drill`, `rehearsal`; the order of the passes is in `rlpa_agent.start`).

Every dialogue is held with the environment's own scripted user. The teacher knows which points were told plainly and
writes them down exactly, but it is *weak* on purpose:

- each turn it lists every told point only with a probability drawn for that turn from U(0.35, 0.9);
- its reply is that of the attentive reference agent in 75 % of turns, else one of six kinds of poor reply.

Nine of ten values are replaced by one to four random words, so that copying is learned instead of a list of values. Users are
drawn from vanilla/train (extended/train for one dialogue in ten); words of held-out values are never used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files

import numpy as np

from rlpa_env import Message, Point, Profile, ScriptedUser, format_action, load_split, parse_action
from rlpa_env.attentive import answer
from rlpa_env.disclosure import Fact
from rlpa_env.replies import lines
from rlpa_env.text import normalise, stems, words
from rlpa_env.voice import distractor, hint_lines, pick, plain_lines
from rlpa_env.world import world

REPLACED = 0.9  # share of values that become random words
EXTENDED = 0.1  # share of dialogues with people of extended/train
EXTENDED_IN_DRILL = 0.3  # the same for drills
BEGUN_BADLY = 0.4  # share of taught turns of a teacher with slips whose block begins with gaps and mistakes


@dataclass(frozen=True)
class Teacher:
    """Who holds the agent's side of a dialogue."""

    good_replies: float  # share of replies by the attentive reference agent; the others are of six poor kinds
    listed: tuple[float, float]  # range of the per-turn probability that a told point is listed
    slips: float = 0.0  # share of turns that go wrong, at most; they stand in the history and are not taught


WEAK = Teacher(0.75, (0.35, 0.9))
"""What the start was taught by: it leaves something to learn."""
ABLE = Teacher(0.9, (0.9, 1.0))
"""Lists nearly everything and replies well: practice in what the weak teacher shows too seldom to be learned from it."""
STEADY = Teacher(0.95, (1.0, 1.0), slips=0.95)
"""Does well after turns that went wrong, and went on being wrong: who has only seen good dialogues is lost after a mistake of his own."""
STRONG = Teacher(1.0, (1.0, 1.0))
"""Lists every point that it was told plainly and nothing else: a supervised ceiling to compare with."""

_KEPT = ("Age", "Gender", "Marital Status")  # closed slots keep their values
_SYLLABLES = "ba co di fu ga ho ji ka lo mi nu pe qui ro sa te vo wy za bre cla dro fle gri plo ster thun wen zor né sø mü".split()
_POOR = (
    "Ok.",
    "I see.",
    "That is nice.",
    "You are amazing, really wonderful!",
    "Wow, what a fantastic person you are!",
    "As an assistant I am here to help. How can I assist you today?",
    "Tell me more. What else? Anything more?",
    "Interesting.",
)


@lru_cache(maxsize=1)
def vocabulary() -> tuple[str, ...]:
    """Ordinary words for replaced values: the topic words, without any word of a held-out value."""
    topics = json.loads((files("rlpa_env") / "data" / "topics.json").read_text(encoding="utf-8"))
    held_out = {
        word
        for spec in world().slots.values()
        for value in spec.values
        if "train" not in value.splits
        for word in words(value.value)
    }
    found = {word for entries in topics.values() for entry in entries for word in words(entry)}
    return tuple(sorted(word for word in found - held_out if word.isalpha() and len(word) > 2))


def random_value(rng: np.random.Generator) -> str:
    """One to four words, ordinary, spliced or made up, some with capitals and hyphens: copied to the end and no further."""

    def ordinary() -> str:
        return vocabulary()[int(rng.random() * len(vocabulary()))]

    def word() -> str:
        kind = rng.random()
        if kind < 0.2:
            made = "".join(_SYLLABLES[int(rng.random() * len(_SYLLABLES))] for _ in range(2 + int(rng.random() * 2)))
        elif kind < 0.5:  # the pieces of real words in an order that no real word has
            head, tail = ordinary(), ordinary()
            made = head[: 2 + int(rng.random() * 3)] + tail[-2 - int(rng.random() * 4) :]
        else:
            made = ordinary()
        return made.capitalize() if rng.random() < 0.2 else made

    mark = rng.random()
    value = word()
    for _ in range((mark > 0.3) + (mark > 0.7) + (mark > 0.94)):
        value += ("-" if rng.random() < 0.12 else " ") + word()
    return value


class Disguised(ScriptedUser):
    """The scripted user with most values replaced by random words, which it voices in the authored sentences."""

    def reset(self, profile: Profile, rng: np.random.Generator) -> str:
        """Become ``profile`` in disguise; ``profile`` of this user is the disguised one."""
        opening = super().reset(profile, rng)
        slots: dict[str, list[str]] = {slot: [] for slot in profile.slots}
        facts = []
        for fact in self._mind.facts:
            drawn = _disguised(fact, rng)
            while normalise(drawn.point.value) in map(normalise, slots[fact.point.slot]):  # a slot has no value twice
                drawn = _disguised(fact, rng)
            facts.append(drawn)
            slots[fact.point.slot].append(drawn.point.value)
        self.facts = self._mind.facts = tuple(facts)
        self._profile = Profile(id=profile.id, slots={slot: tuple(values) for slot, values in slots.items()})
        return opening


def _disguised(fact: Fact, rng: np.random.Generator) -> Fact:
    if fact.slot in _KEPT or fact.value is None or rng.random() > REPLACED:
        return fact
    old, new = fact.value.value, random_value(rng)

    def put(line: str) -> str:
        changed = re.sub(re.escape(old), lambda _: new, line, count=1, flags=re.IGNORECASE)
        return changed[0].upper() + changed[1:]

    phrase = re.sub(re.escape(old), lambda _: new, fact.value.phrase, count=1, flags=re.IGNORECASE)
    record = replace(fact.value, value=new, phrase=phrase, explicit=tuple(put(line) for line in fact.value.explicit))
    return replace(fact, point=Point(fact.point.slot, new), value=record, stems=stems(new))


def written(points: Sequence[Point], reply: str) -> str:
    """An action with the values of a slot on one line: what follows a value is then its successor in the same slot.

    With a line a value, the model writes the first value of a slot again and again: "- Interests:" has two sequels.
    """
    slots: dict[str, list[str]] = {}
    for slot, value in points:
        slots.setdefault(slot, []).append(value)
    return format_action([(slot, ", ".join(values)) for slot, values in slots.items()], reply)


def _poor_reply(messages: Sequence[dict[str, str]], rng: np.random.Generator) -> str:
    kind = rng.random()
    if kind < 0.3:  # a question out of nowhere
        asks = lines()["ask"]
        slot = [slot for slot in asks if slot != "*"][int(rng.random() * 10)]
        return asks[slot][int(rng.random() * len(asks[slot]))]
    if kind < 0.5:
        return lines()["small"][int(rng.random() * len(lines()["small"]))]
    if kind < 0.6:
        return messages[-1]["content"]
    return _POOR[int(rng.random() * len(_POOR))]


class Pupil:
    """The author of slips. What it missed stays missed and what it garbled stays garbled, as in a model's own blocks."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.attention = rng.random()  # probability of noting a new point
        self.heard: set[Point] = set()
        self.block: list[Point] = []

    def hears(self, message: str, told: Sequence[Point]) -> None:
        """Note what is new of ``told``, or miss it, or garble it; at times a scrap of the message instead."""
        rng = self.rng
        for point in (point for point in told if point not in self.heard):
            self.heard.add(point)
            if rng.random() < self.attention:
                self.block.append(point)
            elif rng.random() < 0.3:
                self.block.append(self._garbled(point, told))
        said = message.split()
        if said and told and rng.random() < 0.1:
            at = int(rng.random() * len(said))
            self.block.append(Point(told[int(rng.random() * len(told))].slot, " ".join(said[at : at + 1 + int(rng.random() * 3)]).strip(".,!?")))

    def _garbled(self, point: Point, told: Sequence[Point]) -> Point:
        kind, parts = self.rng.random(), point.value.split()
        if kind < 0.3 and len(parts) > 1:  # half of it
            return Point(point.slot, " ".join(parts[:-1] if self.rng.random() < 0.5 else parts[1:]))
        if kind < 0.6:
            return Point(told[int(self.rng.random() * len(told))].slot, point.value)
        return Point(point.slot, random_value(self.rng) if kind < 0.8 else f"{point.value} {random_value(self.rng)}")

    def corrected(self, told: Sequence[Point]) -> None:
        """The teacher has spoken."""
        self.block = list(told)

    def slip(self, messages: Sequence[dict[str, str]]) -> str:
        """A turn that went wrong: its own block, at times with gaps; a reply as it should be, or stale, repeated or garbled."""
        rng = self.rng
        share = rng.random() if rng.random() < 0.3 else 1.0
        block = [point for point in dict.fromkeys(self.block) if point.value and rng.random() < share]
        earlier = [parse_action(m["content"]).reply for m in messages if m["role"] == "assistant"]
        kind = rng.random()
        if earlier and kind < 0.3:
            reply = earlier[-1 - int(rng.random() * min(3, len(earlier)))]
        elif earlier and kind < 0.5:
            reply = answer(messages[:-2])
        elif kind < 0.65:
            said = answer(messages).split(" ")
            said[int(rng.random() * len(said))] = random_value(rng)
            reply = " ".join(said)
        else:
            reply = _poor_reply(messages, rng) if kind < 0.8 else answer(messages)
        return written(block, reply)


def dialogue(
    rng: np.random.Generator, turns: tuple[int, int] = (2, 10), teacher: Teacher = WEAK
) -> list[tuple[str, str]]:
    """One teacher dialogue as (role, content) pairs, beginning with the user's Hello and ending with the teacher."""
    split = "extended/train" if rng.random() < EXTENDED else "vanilla/train"
    people = load_split(split)
    person = people[int(rng.random() * len(people))]
    length = turns[0] + int(rng.random() * (turns[1] - turns[0] + 1))
    return held(person, rng, length, teacher, Disguised())[0]


def drill(rng: np.random.Generator, turns: tuple[int, int] = (1, 4), slips: float = 0.0) -> list[tuple[str, str]]:
    """Dense practice in hearing: up to four points a message, among distractors and hints; the answer lists all told.

    A dialogue tells a point every other turn, so that nine of ten tokens teach something else; this teaches the slot
    of a sentence, the bounds of a value, and the copying of both, in a tenth of the time.
    """
    split = "extended/train" if rng.random() < EXTENDED_IN_DRILL else "vanilla/train"
    people = load_split(split)
    voice = world().voice
    user = Disguised()
    messages: list[tuple[str, str]] = []
    facts: list[Fact] = []
    for _ in range(2):
        user.reset(people[int(rng.random() * len(people))], rng)
        facts += user.facts
    if slips and rng.random() < 0.5:  # many values of few slots: what was listed already must not be listed again
        slots = sorted({fact.slot for fact in facts})
        kept = {slots[int(rng.random() * len(slots))] for _ in range(4)}
        facts = [fact for fact in facts if fact.slot in kept]
    order = [facts[i] for i in rng.permutation(len(facts))]
    told: dict[Point, None] = {}
    used: set[str] = set()
    rate, pupil = slips * rng.random(), Pupil(rng.spawn(1)[0])
    for _ in range(turns[0] + int(rng.random() * (turns[1] - turns[0] + 1))):
        parts: list[tuple[str, Point | None]] = []
        for fact in [order.pop() for _ in range(min(len(order), 1 + int(rng.random() * 4)))]:
            parts.append((pick(rng, plain_lines(fact), used), fact.point))
        while rng.random() < 0.5:
            other = distractor(user.profile, [fact.slot for fact in facts], rng, used)
            if other:
                parts.append((other[0], None))
        if order and hint_lines(order[0]) and rng.random() < 0.4:
            parts.append((pick(rng, hint_lines(order[0]), used), None))
        if rng.random() < 0.4:
            parts.append((pick(rng, voice["smalltalk"], used), None))
        parts = [parts[i] for i in rng.permutation(len(parts))]
        told |= {point: None for _, point in parts if point}
        messages.append(("user", " ".join(line for line, _ in parts)))
        pupil.hears(messages[-1][1], tuple(told))
        if len(messages) > 1 and rng.random() < rate:
            messages.append(("slip", pupil.slip(_heard(messages))))
            continue
        pupil.corrected(tuple(told))
        if rng.random() < ABLE.good_replies:
            reply = answer(_heard(messages))
        else:
            reply = _POOR[int(rng.random() * 3)]
        completion = written(tuple(told), reply)
        messages += _begun_badly(completion, rng) if rng.random() < rate * BEGUN_BADLY else [("assistant", completion)]
    return _taught(messages)


def _heard(messages: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    """As an agent gets them; a slip was said like any other turn, or part of one."""
    found: list[dict[str, str]] = []
    for role, content in messages:
        if role == "user" or found[-1]["role"] == "user":
            found.append({"role": "user" if role == "user" else "assistant", "content": content})
        else:
            found[-1]["content"] += content
    return found


def _begun_badly(completion: str, rng: np.random.Generator) -> list[tuple[str, str]]:
    """A turn whose block begins with gaps, lines said twice and wrong ones, which is not taught, and then makes up for it."""
    block, mark, rest = completion.partition("</profile>")
    first, *lines = block.splitlines(keepends=True)
    at = int(rng.random() * (len(lines) + 1))
    said: list[str] = []
    owed: list[str] = []
    for line in lines[:at]:
        slot, _, values = line.rstrip("\n").partition(": ")
        one, *more = values.split(", ")
        kind = rng.random()
        if kind < 0.3:
            owed.append(line)
        elif more and kind < 0.6:
            said.append(f"{slot}: {one}\n")
            owed.append(f"{slot}: {', '.join(more)}\n")
        else:
            said.append(line)
            if kind > 0.9:
                said.append(f"{slot}: {random_value(rng)}\n")
    if said and rng.random() < 0.4:
        said += [said[int(rng.random() * len(said))] for _ in range(1 + int(rng.random() * 3))]
    return [("slip", "".join([first, *said])), ("assistant", "".join([*owed, *lines[at:]]) + mark + rest)]


def _taught(messages: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Up to the last turn from which something is to be learned."""
    while messages[-1][0] != "assistant":
        messages.pop()
    return messages


def recovery(rng: np.random.Generator) -> list[tuple[str, str]]:
    """As ``rehearsal``, in histories full of slips."""
    return drill(rng, slips=STEADY.slips) if rng.random() < 0.4 else dialogue(rng, teacher=STEADY)


def rehearsal(rng: np.random.Generator) -> list[tuple[str, str]]:
    """A drill or a whole dialogue with the able teacher, one as often as the other."""
    return drill(rng) if rng.random() < 0.5 else dialogue(rng, teacher=ABLE)


def held(
    person: Profile,
    rng: np.random.Generator,
    turns: int,
    teacher: Teacher = WEAK,
    user: ScriptedUser | None = None,
) -> tuple[list[tuple[str, str]], list[tuple[Point, ...]]]:
    """A teacher dialogue with ``person`` of at most ``turns`` turns, and the points told plainly before each of them."""
    user = user or ScriptedUser()
    opening = user.reset(person, np.random.Generator(np.random.PCG64(int(rng.integers(2**63)))))
    said = [Message("user", opening)]
    messages = [{"role": "user", "content": opening}]
    told: dict[Point, None] = {}
    before: list[tuple[Point, ...]] = []
    pairs: list[tuple[str, str]] = [("user", opening)]
    rate, pupil = teacher.slips * rng.random() if teacher.slips else 0.0, Pupil(rng.spawn(1)[0])
    for turn in range(turns):
        before.append(tuple(told))
        slipped = bool(turn) and bool(rate) and rng.random() < rate
        share = teacher.listed[0] + (teacher.listed[1] - teacher.listed[0]) * rng.random()
        listed = [point for point in told if rng.random() < share]
        reply = answer(messages) if rng.random() < teacher.good_replies else _poor_reply(messages, rng)
        completion = written(listed, reply)
        if slipped:
            completion = pupil.slip(messages)
            reply = parse_action(completion).reply
        else:
            pupil.corrected(listed)
        badly = bool(rate) and not slipped and rng.random() < BEGUN_BADLY
        pairs += _begun_badly(completion, rng) if badly else [("slip" if slipped else "assistant", completion)]
        heard = user.reply(tuple(said), reply)
        said += [Message("assistant", reply), Message("user", heard.message)]
        told |= dict.fromkeys(heard.plainly)
        pupil.hears(heard.message, tuple(told))
        if heard.left:
            break
        pairs.append(("user", heard.message))
        messages = _heard(pairs)
    return _taught(pairs), before
