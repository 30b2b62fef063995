"""The disclosure engine: what a listener's reply means to this person, and which points may be told now.

Pure decisions over a small state (`Mind`); how a chosen point is worded lives in ``voice.py``. The scheme is an
agenda-based user simulation (Schatzmann & Young 2009): points wait on an agenda, the reply moves some of them up.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import chain

import numpy as np

from rlpa_env.hearing import MOST_ASKED, Heard, asks_for, echo, hear
from rlpa_env.profiles import Profile
from rlpa_env.text import stems
from rlpa_env.topics import topics_of
from rlpa_env.types import Point
from rlpa_env.world import Value, world

HIDDEN, HINTED, PLAIN = 0, 1, 2
_MOST_LINKED = 4  # points of a profile that only a follow-up opens
AGAIN_AFTER = 15  # turns until a topic, a question or a reply counts as new again
_INSULTED = 2  # steps of patience that an insult costs; anything else disliked costs one
_VOLUNTEERED = 2  # points an unasked, unmoved user gives away in a whole episode


@dataclass(frozen=True)
class Fact:
    """One profile point with what the engine has to know about it."""

    point: Point
    value: Value | None  # the authored record, None for people from elsewhere
    slot: str  # canonical slot name, or the profile's own key
    single: bool
    private: bool
    topics: frozenset[str]
    stems: frozenset[str]  # content stems of the value
    slot_stems: frozenset[str]
    gate: int = -1  # index of the fact whose follow-up opens this one; -1: open from the start


@dataclass(frozen=True)
class Style:
    """How somebody talks. Probabilities are per reply."""

    name: str
    patience: int = 5
    first: float = 0.92  # tells something when asked with a reaction
    cold: float = 0.72  # tells something when merely asked
    second: float = 0.45  # adds a second point once warm
    chat: float = 0.35  # opens with an acknowledgement
    request: float = 0.42  # asks for an idea when it may
    sentences: int = 3
    trust: int = 2  # reactions wanted before private matters


STYLES = {
    "plain": Style("plain"),
    "terse": Style("terse", chat=0.05, second=0.3, sentences=2),
    "chatty": Style("chatty", patience=6, chat=0.75, second=0.6, trust=1),
    "evasive": Style("evasive", first=0.78, cold=0.5, second=0.3, trust=3),
    "impatient": Style("impatient", patience=3, chat=0.1, second=0.4),
}
_STYLE_OF_TRAIT = {
    "terse": "shy quiet reserved introverted silent laconic modest stoic",
    "chatty": "talkative outgoing sociable extroverted cheerful bubbly warm playful enthusiastic",
    "evasive": "secretive guarded private sceptical cautious mysterious distrustful suspicious dreamy",
    "impatient": "impatient restless blunt impulsive hot-headed competitive ambitious direct",
}


@dataclass
class Mind:
    """Everything that changes while one person talks. Cheap to copy, so that dialogues can fork."""

    facts: tuple[Fact, ...]
    status: list[int]  # HIDDEN | HINTED | PLAIN for each fact
    opened: set[int] = field(default_factory=set)  # linked facts whose gate was followed up
    sentence: dict[int, frozenset[str]] = field(default_factory=dict)  # stems of what was said of each fact
    last: tuple[int, ...] = ()  # facts voiced in the newest message
    trust: int = 0
    patience: int = 5
    start_patience: int = 5
    recovered: bool = False
    cold_questions: int = 0  # replies running that ask without reacting
    volunteered: int = 0
    turn: int = 0
    heard: dict[str, int] = field(default_factory=dict)  # normalised replies -> turn
    questions: dict[str, int] = field(default_factory=dict)  # normalised questions -> turn
    answered: set[str] = field(default_factory=set)  # slots asked about and answered
    pending: str = ""  # "" | "question" | a request topic, waiting for the next reply
    message: str = ""  # own newest message

    def copy(self) -> Mind:
        """An independent copy; the facts, which never change, are shared."""
        return replace(
            self,
            status=self.status[:],
            opened=set(self.opened),
            sentence=dict(self.sentence),
            heard=dict(self.heard),
            questions=dict(self.questions),
            answered=set(self.answered),
        )


@dataclass(frozen=True)
class Impression:
    """What one reply means to this person at this moment."""

    heard: Heard
    reacts: bool | None  # picks up what was said; None: there was nothing to pick up
    takes_up: tuple[int, ...]  # told facts that any sentence picks up
    asked: tuple[int, ...]  # untold facts that a question aims at, best first
    declined: bool  # a private matter was asked too early
    asks: bool
    empty_handed: bool  # asked for something of which nothing is left
    confirmed: bool  # stated something true about the user
    suits: bool | None  # a suggestion answers a request well; None: no request was open
    dislike: str  # "" or a key of voice.json's "dislike"


@lru_cache(maxsize=8192)
def facts_of(profile: Profile) -> tuple[Fact, ...]:
    """The facts of a profile with their links: at least one linked pair where two points can be linked."""
    return _linked(tuple(map(_fact, profile.points)))


@lru_cache(maxsize=16_384)
def _fact(point: Point) -> Fact:
    spec = world().slot(point.slot) if point.slot else None
    value = world().find(point.slot, point.value) if point.slot else None
    return Fact(
        point=point,
        value=value,
        slot=spec.name if spec else point.slot,
        single=bool(spec and spec.single),
        private=bool(spec and spec.private),
        topics=frozenset(value.topics) if value else topics_of(point.value),
        stems=stems(point.value),
        slot_stems=stems(point.slot),
    )


def _linked(facts: tuple[Fact, ...]) -> tuple[Fact, ...]:
    """Give up to a quarter of the points a gate: another point, by shared topic where there is one."""
    gates: dict[int, int] = {}
    wanted = min(_MOST_LINKED, max(1, len(facts) // 4))
    order = [i for i, fact in enumerate(facts) if not fact.private]
    pairs = [(i, j) for j in reversed(order) for i in order if i < j]
    by_topic = ((i, j) for i, j in pairs if not facts[i].topics.isdisjoint(facts[j].topics))
    for i, j in chain(by_topic, pairs):
        if len(gates) == wanted:
            break
        if j not in gates and i not in gates and j not in gates.values() and not facts[j].single:
            gates[j] = i
    if not gates and len(order) >= 2:  # nothing but single-valued slots: link the last two
        gates[order[-1]] = order[-2]
    return tuple(replace(fact, gate=gates[i]) if i in gates else fact for i, fact in enumerate(facts))


@lru_cache(maxsize=8192)
def style_of(profile: Profile) -> Style:
    """The style that somebody's personality suggests; plain where it suggests none."""
    traits = {stem for point in profile.points if "ersonality" in point.slot for stem in stems(point.value)}
    for name, words in _STYLE_OF_TRAIT.items():
        if traits & stems(words):
            return STYLES[name]
    return STYLES["plain"]


def budget(mind: Mind) -> int:
    """At most this many new points a reply (paper: 15 % of the profile)."""
    return max(1, int(0.15 * len(mind.facts)))


@lru_cache(maxsize=1)
def _values_by_stem() -> dict[str, tuple[Value, ...]]:
    table: dict[str, list[Value]] = {}
    for spec in world().slots.values():
        for value in spec.values:
            for stem in stems(value.value):
                table.setdefault(stem, []).append(value)
    return {stem: tuple(values) for stem, values in table.items()}


@lru_cache(maxsize=16384)
def values_in(text: str) -> tuple[Value, ...]:
    """Authored values all of whose content words occur in ``text``."""
    there = stems(text)
    found = {}
    for stem in there:
        for value in _values_by_stem().get(stem, ()):
            if stems(value.value) <= there:
                found[value.slot, value.value] = value
    return tuple(found[key] for key in sorted(found))


def _claims(mind: Mind, heard: Heard) -> tuple[bool, bool]:
    """Whether the reply says something true, and something false, about this person."""
    true = false = False
    for claim in heard.claims:
        there = stems(claim)
        if any(fact.stems and fact.stems <= there for fact in mind.facts):
            true = True
            continue
        for value in values_in(claim):
            false |= any((fact.single and fact.slot == value.slot) or _excludes(fact, value) for fact in mind.facts)
    return true, false


def _excludes(fact: Fact, value: Value) -> bool:
    """Whether nobody of whom the fact is true can have the value: an ambitious person is not easygoing."""
    return fact.value is not None and (value.value in fact.value.needs.get("not", ()) or fact.value.value in value.needs.get("not", ()))


def _picked_up(mind: Mind, heard: Heard) -> tuple[int, ...]:
    """Told facts that the reply picks up: by their words, or by topic if just told."""
    found = []
    for index, said in mind.sentence.items():
        fact = mind.facts[index]
        own = heard.stems
        if not (own.isdisjoint(said) and own.isdisjoint(fact.stems)) or (index in mind.last and not heard.topics.isdisjoint(fact.topics)):
            found.append(index)
    return tuple(found)


def _asked(mind: Mind, heard: Heard) -> tuple[int, ...]:
    """Untold facts that a question aims at: by slot, then by topic."""
    if not heard.questions:
        return ()
    slots, asked, topics = heard.asks_slots, heard.question_stems, heard.question_topics
    by_slot, by_topic = [], []
    for index, (fact, status) in enumerate(zip(mind.facts, mind.status, strict=True)):
        if status != HIDDEN:
            continue
        if fact.slot in slots or (fact.slot_stems and fact.slot_stems <= asked):
            by_slot.append(index)
        elif not (topics.isdisjoint(fact.topics) and asked.isdisjoint(fact.stems)):
            by_topic.append(index)
    return (*by_slot, *by_topic)


def _suits(mind: Mind, heard: Heard) -> bool:
    """Whether a suggestion fits something this person has told and clashes with nothing true of them."""
    offered = frozenset().union(frozenset(), *(stems(line) for line in heard.suggestions))
    topics = frozenset().union(frozenset(), *(topics_of(line) for line in heard.suggestions))
    for fact in mind.facts:
        if fact.value and any(stems(word) <= offered for word in fact.value.clash):
            return False
    return any(offered & mind.facts[i].stems or topics & mind.facts[i].topics for i in mind.sentence)


def listen(mind: Mind, style: Style, reply: str) -> Impression:
    """Understand one reply. Reads the state, changes nothing."""
    heard = hear(reply)
    takes_up = _picked_up(mind, heard)
    own = stems(mind.message)
    reacts: bool | None = None
    if own:
        reacts = bool(set(takes_up) & set(mind.last)) or bool(heard.stems & own) or bool(takes_up)
        reacts = reacts and echo(reply, mind.message) < 0.6
    asked = _asked(mind, heard)
    open_now = [i for i in asked if mind.facts[i].gate < 0 or i in mind.opened]
    allowed = tuple([i for i in open_now if not (mind.facts[i].private and mind.trust < style.trust)])
    true, false = _claims(mind, heard)
    suits = None
    if mind.pending not in ("", "question"):
        suits = bool(heard.suggestions) and _suits(mind, heard)
    return Impression(
        heard=heard,
        reacts=reacts,
        takes_up=takes_up,
        asked=allowed,
        declined=bool(open_now) and not allowed,
        asks=bool(heard.questions),
        empty_handed=bool(heard.asks_slots) and not open_now,
        confirmed=true and not false,
        suits=suits,
        dislike=_dislike(mind, heard, reacts, false),
    )


def _dislike(mind: Mind, heard: Heard, reacts: bool | None, false_claim: bool) -> str:
    """The first thing this person would complain about, or ""."""
    text = heard.letters
    if heard.rude:
        return "insult"
    if heard.pries:
        return "prying"
    if heard.machine_speak:
        return "machine"
    if text and _recent(mind, mind.heard.get(text)):
        return "repeat"
    if false_claim:
        return "false_claim"
    if heard.flattery >= 2 or (heard.flattery and not heard.questions and reacts is not True):
        return "flattery"
    if heard.lecture or heard.has_list:
        return "lecture"
    if len(heard.questions) > 1 or (len(heard.asks_slots) > MOST_ASKED and asks_for(heard, _said(mind))) or (heard.questions and reacts is False and mind.cold_questions >= 2):
        return "interrogation"
    if any(_recent(mind, mind.questions.get(question.replace(" ", ""))) for question in heard.asked):
        return "asked_again"
    if heard.asks_slots & mind.answered:
        own = heard.asks_slots & {fact.slot for fact in mind.facts}
        told = {fact.slot for i, fact in enumerate(mind.facts) if mind.status[i] == PLAIN and fact.single}
        if own and own <= (told & mind.answered):
            return "asked_again"
    if not text or (mind.pending == "question" and not heard.statements):
        return "ignored"
    if mind.pending not in ("", "question") and not heard.suggestions:
        return "ignored"
    return ""


def _said(mind: Mind) -> frozenset[str]:
    """Stems of what this person has told, and of the newest message."""
    return stems(mind.message).union(*(fact.stems for fact, status in zip(mind.facts, mind.status, strict=True) if status != HIDDEN))


def _recent(mind: Mind, turn: int | None) -> bool:
    return turn is not None and mind.turn - turn < AGAIN_AFTER


def remember(mind: Mind, impression: Impression) -> None:
    """Take in one reply: trust, patience, what was asked, which links it opened."""
    heard = impression.heard
    if impression.dislike:
        mind.patience -= _INSULTED if impression.dislike == "insult" else 1
        mind.trust = max(0, mind.trust - 1)
    elif impression.reacts:
        mind.trust += 1
        if mind.patience < mind.start_patience and not mind.recovered:
            mind.patience += 1
            mind.recovered = True
    if heard.questions and impression.reacts is False:
        mind.cold_questions += 1
    elif impression.reacts or not heard.questions:
        mind.cold_questions = 0
    if heard.questions:  # a follow-up: a question in a reply that picks a told fact up
        for index, fact in enumerate(mind.facts):
            if fact.gate in impression.takes_up:
                mind.opened.add(index)
    mind.heard[heard.letters] = mind.turn
    mind.questions.update((question.replace(" ", ""), mind.turn) for question in heard.asked)
    mind.answered.update(heard.asks_slots)


def choose(mind: Mind, style: Style, impression: Impression, rng: np.random.Generator) -> list[int]:
    """Indices of the facts to tell now: newly told ones within the budget."""
    most = budget(mind)
    if impression.dislike or impression.heard.text.strip() == "":
        return []
    opened = [i for i in sorted(mind.opened) if mind.status[i] == HIDDEN]
    if impression.asks and opened and any(mind.facts[i].gate in impression.takes_up for i in opened):
        fresh = [i for i in opened if mind.facts[i].gate in impression.takes_up]
        candidates = [*fresh, *(i for i in impression.asked if i not in fresh)]
    else:
        candidates = list(impression.asked)
    if not candidates:
        return _volunteer(mind, impression, rng)
    if rng.random() > (style.first if impression.reacts is not False else style.cold):
        return []
    chosen = [candidates[0] if len(candidates) == 1 or rng.random() < 0.6 else candidates[1]]
    if most > 1 and impression.reacts and rng.random() < style.second + 0.05 * min(mind.trust, 4):
        rest = [i for i in candidates if i not in chosen] or _untold(mind, style, chosen)
        if rest:
            chosen.append(rest[int(rng.random() * len(rest))])
    return chosen[:most]


def _untold(mind: Mind, style: Style, chosen: list[int]) -> list[int]:
    return [
        i
        for i, fact in enumerate(mind.facts)
        if mind.status[i] == HIDDEN
        and i not in chosen
        and (fact.gate < 0 or i in mind.opened)
        and not (fact.private and mind.trust < style.trust)
    ]


def _volunteer(mind: Mind, impression: Impression, rng: np.random.Generator) -> list[int]:
    """Unasked, people tell little: small talk stalls."""
    free = [i for i, f in enumerate(mind.facts) if mind.status[i] == HIDDEN and f.gate < 0 and not f.private]
    if not free or mind.volunteered >= _VOLUNTEERED or rng.random() > (0.3 if impression.reacts else 0.12):
        return []
    mind.volunteered += 1
    return [free[int(rng.random() * len(free))]]
