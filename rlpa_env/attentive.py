"""The attentive reference agent: reads plain statements by rules, reacts, asks one sensible question.

It reads by inverting the slots' public sentence templates, never by a list of values: a value that it has not seen
before is read like any other, a hint is not understood.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from rlpa_env import replies
from rlpa_env.actions import parse_action
from rlpa_env.profiles import VANILLA_SLOTS
from rlpa_env.text import normalise, sentences
from rlpa_env.types import Point
from rlpa_env.world import world

Messages = Sequence[Mapping[str, str]]

_ARTICLE = r"(?:(?:an?|the) )?"
_VALUE = r"(?P<value>[^.!?,;:]{2,48}?)"
_CLOSED = ("Gender", "Marital Status")  # slots whose few values everybody knows
_REQUEST = re.compile(r"\b(?:ideas?|suggest\w*|recommend\w*|tips?|advice|(?:should|could) i|me|my|we|myself)\b", re.I)
_ORDER = (
    "Occupation", "Interests", "Location", "Education Background", "Personality Traits", "Other Information",
    "Family Background", "Marital Status", "Age", "Interests", "Gender", "Personality Traits", "Other Information",
)  # fmt: skip


def _pattern(template: str) -> re.Pattern[str] | None:
    """A template as a regular expression; None if its fixed words are too few to mean anything."""
    fixed = re.sub(r"\{.*?\}", " ", template)
    if len(fixed.replace(" ", "").strip(".,!?")) < 3:
        return None
    escaped = re.escape(template.rstrip(".!"))
    escaped = escaped.replace(re.escape("{value}"), _VALUE, 1).replace(re.escape("{a}"), _ARTICLE + _VALUE, 1)
    escaped = escaped.replace(re.escape("{value}"), ".+?").replace(re.escape("{a}"), ".+?")
    return re.compile(rf"(?:^|(?<=[.!?] )){escaped}(?=[.!?](?:\s|$)|$)", re.I)


@lru_cache(maxsize=1)
def _readers() -> tuple[tuple[str, re.Pattern[str]], ...]:
    found = []
    for spec in world().slots.values():
        for template in spec.say:
            pattern = _pattern(template)
            if pattern:
                found.append((spec.name, pattern, len(template)))
    found.sort(key=lambda item: -item[2])  # the more words fixed, the surer
    return tuple((name, pattern) for name, pattern, _ in found)


@lru_cache(maxsize=1)
def _strangers() -> tuple[re.Pattern[str], ...]:
    templates = [line for lines in world().voice["distractor"].values() for line in lines]
    return tuple(pattern for pattern in map(_pattern, templates) if pattern)


@lru_cache(maxsize=1)
def _small() -> frozenset[str]:
    """Stock phrases that tell nothing; anybody who listens for a day knows them."""
    voice = world().voice
    keys = ("smalltalk", "ack", "cold", "warm", "no_more", "private", "confirm", "deny", "thanks_idea", "bad_idea")
    return frozenset(normalise(line) for key in (*keys, "question_back", "followup_lead") for line in voice[key])


@lru_cache(maxsize=16384)
def read(message: str) -> tuple[Point, ...]:
    """Points that one user message states plainly of the user."""
    text = message
    for pattern in _strangers():
        text = pattern.sub(" ", text)
    text = " ".join(line for line in sentences(text) if normalise(line) not in _small())
    found: dict[str, Point] = {}
    for name, pattern in _readers():
        match = pattern.search(text)
        if not match:
            continue
        value = match.group("value").strip()
        if _plausible(name, value):
            found.setdefault(normalise(value), Point(name, value))
            text = text[: match.start()] + " " + text[match.end() :]
    return tuple(found.values())


def _plausible(slot: str, value: str) -> bool:
    if slot == "Age":
        return value.isdigit()
    if slot in _CLOSED:
        return any(normalise(value) == normalise(known.value) for known in world().slots[slot].values)
    closed = {normalise(known.value) for name in _CLOSED for known in world().slots[name].values}
    return not value.isdigit() and normalise(value) not in closed and len(value.split()) <= 6


def listed(messages: Messages) -> tuple[Point, ...]:
    """Everything read so far; a later value of a single-valued slot replaces the earlier one."""
    points: dict[tuple[str, str], Point] = {}
    for message in messages:
        if message["role"] != "user":
            continue
        for point in read(message["content"]):
            spec = world().slot(point.slot)
            key = (point.slot, "" if spec and spec.single else normalise(point.value))
            points.pop(key, None)
            points[key] = point
    return tuple(points.values())


def answer(messages: Messages) -> str:
    """React to the newest message, then ask for something not yet known."""
    said = frozenset(
        line for m in messages if m["role"] == "assistant" for line in sentences(parse_action(m["content"]).reply)
    )
    last = messages[-1]["content"]
    key = f"{len(messages)} {last}"
    known = listed(messages)
    new = read(last)
    if len(messages) <= 2:
        first = replies.nth(replies.lines()["hello"], key)
    elif _REQUEST.search(_asked(last)):
        fitting = [p for p in known if p.slot in ("Interests", "Other Information", "Occupation") and p not in new]
        point = fitting[len(messages) % len(fitting)] if fitting else Point("Interests", "a walk and a warm drink")
        first = replies.suggestion(point, key)
    elif new and not _asked(last):
        first = replies.reaction_to(new[0], key)
    elif _asked(last):
        first = replies.nth(replies.lines()["answer"], key, said)
    else:
        first = replies.pick_up(last, key)
    telling = replies.key_words(last)
    turn = len(messages) // 2
    if len(messages) > 2 and not new and telling and "?" not in last:
        question = replies.follow_up(telling, key, said)
    elif new and turn % 4 == 0:
        question = replies.follow_up(new[0].value, key, said)
    else:
        question = replies.question_for(_next_slot(said, known), key, said)
    return f"{first} {question}"


def wants(message: str) -> tuple[bool, bool]:
    """Whether a message asks for an idea, and whether it asks at all."""
    question = _asked(message)
    return bool(_REQUEST.search(question)), bool(question)


def _asked(message: str) -> str:
    """The question that a message ends with, "" if it ends with none."""
    return next((line for line in sentences(message)[-1:] if line.endswith("?")), "")


def _next_slot(said: frozenset[str], known: Sequence[Point]) -> str:
    """The first slot in a sensible order that was neither asked for nor told."""
    asks = replies.lines()["ask"]
    told = {point.slot for point in known}
    extended = [point.slot for point in known if point.slot not in VANILLA_SLOTS]
    for index, slot in enumerate((*_ORDER, *extended)):
        asked = sum(line in said for line in asks.get(slot, ()))
        if asked <= _ORDER[:index].count(slot) and not (slot in told and slot not in _ORDER[:index]):
            return slot
    return "Interests"
