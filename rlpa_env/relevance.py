"""How far a reply takes up what the user said: words, topics, the kind of answer asked for, points that fit.

Weights are round numbers set by kind of evidence: a shared content word is worth two shared topics, the newest message
counts more than older ones, a reply of the wrong kind loses as much as a topic gives.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from math import exp

from rlpa_env.evidence import COMMON, GENERIC, History, PointTraits, Said, is_trait, point_traits, supported
from rlpa_env.hearing import Heard, hear
from rlpa_env.moves import Moves, moves
from rlpa_env.text import stems
from rlpa_env.topics import topic_weights, topics_of_each, topics_of_stems
from rlpa_env.types import Point

_WEAK = 0.1  # weight of a shared word that any conversation contains
_AT_ONCE = 1.5  # weight of a word of the message taken up in the first sentence of the reply
_IN_PASSING = 1.0  # the same, later in the reply
_DROPPED = 0.25  # share left of a thread that the user did not go on with: not enough alone
_ENOUGH = 0.38  # evidence from which on a reply counts as relevant
_STEEP = 2.0  # of the logistic that maps evidence to [0, 1]


def _shared(ours: frozenset[str], theirs: frozenset[str]) -> float:
    """Weight of the shared content words."""
    common = ours & theirs
    weak = len(common & COMMON)  # counted, for a sum would round as the words happen to lie in the set
    return len(common) - weak + _WEAK * weak


def _taken_up(reply: Heard, theirs: frozenset[str]) -> float:
    """Weight of the words taken over from a message; at once counts more than in passing, after something else."""
    shared = min(1.6, _shared(reply.stems, theirs))
    if shared and len(reply.sentences) > 1 and not _shared(stems(reply.sentences[0]) - COMMON, theirs):
        return _IN_PASSING * shared
    return _AT_ONCE * shared


def _same_topic(ours: frozenset[str], theirs: frozenset[str]) -> float:
    """How clearly words that are *not* shared belong to one topic, in [0, 1]; less, the more other topics come up."""
    yours = topic_weights(theirs)
    mine = topic_weights(ours - theirs) if yours else yours
    both = [min(weight, yours[name]) for name, weight in mine.items() if name in yours]
    if not both:
        return 0.0
    topical = topics_of_each(ours)
    fitting = sum([not topics.isdisjoint(yours) for topics in topical])
    return max(both) * min(1.0, 2.0 * fitting / len(topical))


def _kind_of_answer(message: Said, cues: Moves, ours: Moves, reply: Heard) -> float:
    """Agreement between what was asked or felt and the kind of reply; negative when they do not go together."""
    total = 0.0
    kind = message.kind
    if kind in ("yes_no", "back", "wh"):
        told = (cues.how_much and ours.amount) or (cues.why and ours.reason) or (cues.where and ours.place)
        if (kind == "yes_no" and ours.yes) or (kind == "wh" and told):
            total += 0.7
        elif cues.how_are:
            total += 0.8 if ours.fine else -0.4
        elif kind == "back" and ours.personal:
            total += 0.2
        elif not ours.personal:
            total -= 0.2
        if ours.acknowledges and not ours.personal:
            total -= 0.6
        if ours.me_too:
            total -= 0.6
        if not reply.statements:
            total -= 0.4
    elif kind == "":
        if ours.yes and not ours.acknowledges:
            total -= 0.3
        if ours.returns:  # "and you?" wants something that was just told
            total -= 0.3
        if ours.acknowledges or ours.me_too:
            total += 0.2
        if ours.acknowledges and reply.questions and reply.stems <= GENERIC:
            total += 0.25  # "that sounds fun, do you go often?" can only be about what was just said
    if ours.sorry:
        total += 0.4 if cues.sad else -0.1
    if ours.bye:
        total += 0.5 if cues.bye else -0.3
    return total


def evidence_of(points: Sequence[Point], history: History, reply: str) -> float:
    """Unbounded evidence that ``reply`` answers the newest message of ``history``."""
    message = history.last
    if message is None:
        return 0.0
    heard = hear(reply)
    ours, cues = moves(reply), moves(message.text)
    own = heard.stems
    total = _taken_up(heard, message.stems) + 1.0 * _same_topic(own, message.stems)
    total += _kind_of_answer(message, cues, ours, heard)
    older = own - message.stems - _repeated(heard, history)
    if older:
        if history.previous:  # the thread that the user's message itself answers
            thread = history.previous.stems
            going_on = 0.6 * min(1.5, _shared(older, thread)) + 0.4 * _same_topic(older - thread, thread)
            if going_on and not _is_open(history.previous, message, older):
                going_on *= _DROPPED
            total += going_on
        total += _from_points(points, history, older, message)
    total += 0.3 * min(1.0, _shared(older, history.own_before))
    if ours.stranger:
        spoken_of = cues.person or (history.previous is not None and moves(history.previous.text).person)
        total += 0.3 if spoken_of else -0.6
    first = history.previous is None or not history.own_before
    if ours.greets:
        total += 0.5 if first and cues.greets else (0.0 if first else -0.4)
    if not message.stems - COMMON and (heard.questions or ours.personal):
        total += 0.4  # nothing to take up: any move that keeps the talk going will do
    return total


def _is_open(previous: Heard, message: Said, older: frozenset[str]) -> bool:
    """Whether the user took up what was said to them, or was asked what the reply comes back to.

    Otherwise the agent goes on about its own subject, whatever the user says.
    """
    thread = previous.stems
    if (message.stems & thread) - COMMON or not message.weights.keys().isdisjoint(topic_weights(thread)):
        return True
    return any(stems(question) & older for question in previous.questions)


def _repeated(heard: Heard, history: History) -> frozenset[str]:
    """Stems that a reply has only in sentences said before: a line at the end of every reply continues no thread."""
    again = [line in history.lines for line in heard.lines]
    if not any(again):
        return frozenset()
    old, new = (" ".join(s for s, said in zip(heard.sentences, again, strict=True) if said is kind) for kind in (True, False))
    return stems(old) - stems(new)


def _from_points(points: Sequence[Point], history: History, own: frozenset[str], message: Said) -> float:
    """Support from profile points that the user has told: named in the reply, better if on the message's topic."""
    best = 0.0
    ours = topics_of_stems(own)
    for point in points:
        traits = point_traits(point)
        named = traits.stems & own
        if not named or named <= COMMON:
            if ours.isdisjoint(traits.topics) or message.weights.keys().isdisjoint(traits.topics):
                continue
            worth = 0.3
        else:
            worth = 0.6 if message.weights.keys().isdisjoint(traits.topics) else 0.8
        if worth > best and supported(point, history):
            best = worth
    return best


def squash(evidence: float) -> float:
    """Evidence as a score in [0, 1]; 0.5 where a reply begins to count as relevant."""
    return 1.0 / (1.0 + exp(-_STEEP * (max(-5.0, min(5.0, evidence)) - _ENOUGH)))


_AVOIDS = re.compile(r"\b(?:no|not|without|instead of|rather than|skip|avoid|except|never|nothing with|minus|don't)\s+(?:\w+\s+){0,2}?(?P<what>\w+)", re.I)


@lru_cache(maxsize=16_384)
def offered(reply: str) -> frozenset[str]:
    """Content stems of what a reply suggests, without what it advises against."""
    return frozenset().union(*(stems(_AVOIDS.sub(" ", line)) for line in hear(reply).suggestions))


def fits(traits: PointTraits, offer: frozenset[str], offer_topics: frozenset[str]) -> bool:
    """Whether an offer suits a point: an authored fitting thing, the point's own words, or its main topics."""
    if (traits.stems & offer) - COMMON:
        return True
    if any(2 * len((good & offer) - COMMON) >= len(good) for good in traits.fits if good - COMMON):
        return True
    return any(name in offer_topics for name in traits.topics[:2])


def clashes(points: Sequence[Point], history: History, offer: frozenset[str]) -> str:
    """What in an offer is wrong for this person by a given point or by their own words; "" if nothing."""
    if not offer:
        return ""
    wrong = offer & history.disliked
    if wrong:
        return sorted(wrong)[0]
    for point in (*points, *(Point(*key) for key in sorted(history.values))):
        for bad in point_traits(point).clash:
            if bad <= offer:
                return " ".join(sorted(bad))
    return ""


def fit_to_request(points: Sequence[Point], history: History, reply: str) -> tuple[bool, str]:
    """Whether a request was met: an offer that fits a told point which the request did not name."""
    message = history.last
    offer = offered(reply)
    if message is None or not offer:
        return False, "asked for an idea, it suggests nothing"
    topics = topics_of_stems(offer)
    told = [point for point in points if supported(point, history) and is_trait(point, history)]
    for point in told:
        traits = point_traits(point)
        if not traits.stems <= message.asked and fits(traits, offer, topics):
            return True, f"the idea fits {point.value}"
    if told or history.own_before:
        return False, "the idea fits nothing that the user has told"
    return True, "an idea, and nothing is known yet that it could fit"
