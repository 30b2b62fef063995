"""Who scores a reply: the protocol, and the judge by rules that is the default.

Five verdicts (natural, relevant, logical, engaging, informative). The rules trust nothing that only the agent says:
profile points count as far as the user's own messages support them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple, Protocol, runtime_checkable

from rapidfuzz.distance import Indel

from rlpa_env.evidence import COMMON, GENERIC, History, Said, history_of, point_traits, values_named, wording
from rlpa_env.form import form_of
from rlpa_env.hearing import Heard, asks_for, echo, hear
from rlpa_env.moves import moves
from rlpa_env.relevance import clashes, evidence_of, fit_to_request, offered, squash
from rlpa_env.text import is_question, letters, normalise, stems, visible, words
from rlpa_env.topics import topics_of_stem, topics_of_stems
from rlpa_env.types import CRITERIA, Dialogue, Point, Verdict
from rlpa_env.world import world

_MOST_POINTS = 2  # profile points that a natural reply names
_SAME = 0.8  # word overlap (Jaccard) from which on two replies are the same reply
_ALIKE, _SPELLED = 0.9, 30  # share of letters in common, and how many it takes, for a reply that is an earlier one in another spelling
_ECHO = 0.7  # share of content words from the message, from which on a reply is an echo

_FIRST_PERSON = re.compile(r"\b(?:i|i'm|i've|i'd|i'll|im|ive|my|me|mine|we|we're|our|us|myself)\b", re.IGNORECASE)
_SPECIFIC = re.compile(
    r"\b(?:must be|must have|must feel|sounds?|seems?|looks?|bet|imagine|wonder|reminds?|wow|ouch|ha(?:ha)+|lol|oh no|sorry|congrat\w*|"
    r"that's|thats|that is|it's|it is|hope|envy|jealous|brave|luck\w*|strange|funny|odd|me too|same here|welcome|hello|hi|hey)\b|!",
    re.IGNORECASE,
)
_HEDGED = re.compile(r"\b(?:must|might|may|perhaps|maybe|guess|imagine|suppose|sounds?|seems?|bet|probably|if|would|could|hope)\b", re.IGNORECASE)
_POINTING = re.compile(r"\b(?:it|that|this|they|them|those|these|he|she|there|him|her|his|their|its)\b", re.IGNORECASE)
_NEGATED = re.compile(r"\b(?:not|never|no|don't|doesn't|didn't|isn't|aren't|can't|cannot|won't|hate|despise|detest|loathe|dislike|resent|without|nor)\b", re.IGNORECASE)
_CLAIM_FRAME = re.compile(
    r"^(?:you(?:'re| are|'ve| have|'d| had| were| said| told| mentioned)?|as an?|being an?|for an?|your)\b", re.IGNORECASE
)
_NAME = re.compile(r"\b[A-Z]\w{2,}")
_APPRAISAL = stems(
    "great good nice cool fun awesome amazing wonderful fantastic lovely interesting exciting brilliant perfect excellent impressive "
    "incredible beautiful love glad happy sweet best"
)
_PRAISE = _APPRAISAL | stems(
    "fascinating inspiring noble neat gorgeous superb terrific delightful charming marvellous marvelous remarkable admirable stunning "
    "respectable rewarding fine super cute adorable smart clever"
)
_PRAISED = stems(  # what anything that somebody tells can be called
    "job profession career occupation work trade vocation calling field line industry city town village country place area region "
    "neighbourhood neighborhood hobby hobbies pastime interest activity game sport skill talent passion choice name part combination family "
    "personality quality trait age degree subject life story people person world time day way news idea sound truly indeed"
)
_MINOR = frozenset(words("really seriously right huh eh no so why what and you how about ok true"))


@runtime_checkable
class Judge(Protocol):
    """Anything that scores a reply."""

    def judge(self, points: Sequence[Point], dialogue: Dialogue, reply: str) -> Verdict:
        """Score ``reply`` to the last (user) message of ``dialogue``, shown ``points`` as the profile."""
        ...


@dataclass(frozen=True)
class Claim:
    """Something that a reply asserts of the user."""

    of_person: bool  # of the user, not of a thing or relative of theirs
    negated: bool
    stems: frozenset[str]
    concrete: frozenset[str]  # those that can be true or false
    sharp: frozenset[str]  # names, numbers, words of profile values: each of them must be supported


class Remark(NamedTuple):
    """One statement of a reply."""

    line: str  # its letters
    words: int
    stems: frozenset[str]
    own: frozenset[str]  # stems that say something
    personal: bool  # in the first person
    specific: bool  # reacts to something specific


@dataclass(frozen=True)
class ReplyTraits:
    """What the rules need of a reply alone, computed once for each text."""

    heard: Heard
    words: frozenset[str]
    form: tuple[float, str]  # score and reason of everything natural that needs no dialogue
    named: frozenset[tuple[str, str]]  # authored values that it names
    content: frozenset[str]  # content stems of its statements
    claims: tuple[Claim, ...]
    remarks: tuple[Remark, ...]
    points_back: bool  # a question speaks of "it", "that", "they"
    praise: bool  # nothing but praise or assent


@lru_cache(maxsize=16_384)
def reply_traits(reply: str) -> ReplyTraits:
    """Everything about a reply that no dialogue changes."""
    heard = hear(reply)
    statements = " ".join(heard.statements)
    content, personal = stems(statements), bool(_FIRST_PERSON.search(statements))
    return ReplyTraits(
        heard=heard,
        words=frozenset(words(reply)),
        form=form_of(heard),
        named=values_named(heard.stems),
        content=content,
        claims=tuple(filter(None, map(_claim, heard.claims))),
        remarks=tuple(map(_remark, heard.statements)),
        points_back=any(map(_POINTING.search, heard.questions)),
        praise=content <= (_APPRAISAL if personal else GENERIC) and not (personal and not content),
    )


def _remark(line: str) -> Remark:
    found = stems(line)
    personal, specific = bool(_FIRST_PERSON.search(line)), bool(_SPECIFIC.search(line))
    return Remark(letters(line), len(words(line)), found, found - GENERIC, personal, specific)


def _claim(claim: str) -> Claim | None:
    """A claim in a form that can be checked; None if it is a guess or says nothing concrete."""
    body = _CLAIM_FRAME.sub("", claim)
    found = stems(body) - GENERIC
    if _HEDGED.search(claim):
        return None
    sharp = found & _value_stems() | frozenset(part for part in found if part.isdigit()) | stems(" ".join(_NAME.findall(body)))
    concrete = sharp | frozenset(part for part in found if topics_of_stem(part))
    if not concrete:
        return None
    return Claim(not claim.lower().startswith("your"), bool(_NEGATED.search(claim)), found, concrete, sharp)


@lru_cache(maxsize=1)
def _value_stems() -> frozenset[str]:
    """Stems of short authored values: a claim made of them can be true or false."""
    short = (stems(value.value) for spec in world().slots.values() for value in spec.values)
    return frozenset().union(*(found for found in short if len(found) <= 2)) - COMMON


class RuleJudge:
    """The default judge: deterministic, offline, a few dozen microseconds a reply."""

    def judge(self, points: Sequence[Point], dialogue: Dialogue, reply: str) -> Verdict:
        """Score ``reply``; see the module's docstring.

        >>> from rlpa_env.types import Message
        >>> hello = [Message("user", "Hello")]
        >>> RuleJudge().judge([], hello, "Hi, I was just making tea. How is your evening?").passed
        True
        """
        history = history_of(tuple(dialogue))
        if history.last is None:
            raise ValueError("judge: expected a dialogue that holds a user message; got none. Pass what reply answers.")
        reply = visible(reply)
        traits = reply_traits(reply)
        again = _repeats(history, reply, traits)
        opinions: tuple[Opinion, ...] = (
            _naturalness(points, history, traits),
            _relevance(points, history, reply, traits),
            _logic(history, reply, traits),
            _engagement(history, traits, again),
            _informativeness(history, reply, traits, again),
        )
        named = dict(zip(CRITERIA, opinions, strict=True))
        return Verdict(
            **{name: score >= 0.5 for name, (score, _) in named.items()},
            scores=MappingProxyType({name: score for name, (score, _) in named.items()}),
            reasons=MappingProxyType({name: reason for name, (_, reason) in named.items()}),
        )


Opinion = tuple[float, str]  # score in [0, 1] (passes from 0.5 on) and a reason


def _naturalness(points: Sequence[Point], history: History, traits: ReplyTraits) -> Opinion:
    score, reason = traits.form
    if score < 0.5:
        return score, reason
    if several := asks_for(traits.heard, history.stems):
        return 0.3, f"it asks for {several} things at once"
    there = traits.heard.stems
    recited = {key for key in traits.named if key in history.values}
    named = {normalise(value) for _, value in recited}
    for point in points:
        own = point_traits(point).stems
        if own and own <= there and not own <= COMMON:
            named.add(normalise(point.value))
    if len(named) > _MOST_POINTS:
        return 0.2, f"it recites {len(named)} profile points"
    return score, reason


def _relevance(points: Sequence[Point], history: History, reply: str, traits: ReplyTraits) -> Opinion:
    message = history.last
    assert message is not None
    evidence = evidence_of(points, history, reply)
    if traits.heard.suggestions or message.kind == "request":
        bad = clashes(points, history, offered(reply))
        if bad:
            return min(0.2, squash(evidence)), f"the idea clashes with the user: {bad}"
    if message.kind == "request":
        met, reason = fit_to_request(points, history, reply)
        return (max(0.6, squash(evidence)) if met else min(0.4, squash(evidence))), reason
    score = squash(evidence)
    return score, "takes up what was said" if score >= 0.5 else "does not take up what was said"


def _logic(history: History, reply: str, traits: ReplyTraits) -> Opinion:
    message = history.last
    assert message is not None
    false = _false_claim(history, traits)
    if false:
        return 0.0, f"no user message supports: {false}"
    if message.kind and not _answers(history, reply, traits):
        return 0.2, "leaves the user's question unanswered"
    return 1.0, "asserts nothing unsupported"


def _false_claim(history: History, traits: ReplyTraits) -> str:
    """The first claim about the user that the user's messages do not support, as words; "" if all are supported."""
    for claim in traits.claims:
        theirs = (history.denied if claim.negated else history.own) if claim.of_person else history.stems
        unknown = claim.sharp - (theirs | history.stems if not claim.of_person else theirs)
        if unknown and not _hinted(history, claim):
            return " ".join(sorted(unknown))
        if claim.concrete & theirs or _hinted(history, claim):
            continue
        if not claim.sharp and not topics_of_stems(claim.concrete).isdisjoint(topics_of_stems(history.stems)):
            continue  # "your oven" after talk of baking
        return " ".join(sorted(claim.concrete))
    return ""


def _hinted(history: History, claim: Claim) -> bool:
    """Whether a claim names a value that the user told or hinted, and nothing else that would need support."""
    if claim.negated:
        return False
    named = (point_traits(Point(*key)).stems for key in history.values)
    known = frozenset().union(*(found for found in named if found and found <= claim.stems))
    return bool(known) and claim.sharp <= known | history.own


def _answers(history: History, reply: str, traits: ReplyTraits) -> bool:
    """Whether the reply says something that can count as an answer to the user's last question."""
    message, heard = history.last, traits.heard
    assert message is not None
    if not heard.statements:
        return False
    cues = moves(reply)
    if message.kind == "request":
        return bool(heard.suggestions) or cues.personal
    if cues.personal or (message.kind == "yes_no" and cues.yes) or cues.amount:
        return True
    if cues.fine and message.kind == "wh":
        return True
    return bool(traits.content - GENERIC - message.stems) and not cues.acknowledges


def _repeats(history: History, reply: str, traits: ReplyTraits) -> bool:
    """Whether the agent said (nearly) this before, be it with another word of the user's put in or with other slips of the pen."""
    lines = [line for line, sentence in zip(traits.heard.lines, traits.heard.sentences, strict=True) if sentence.count(" ") >= 2]
    if lines and all(line in history.lines for line in lines):
        return True
    written = traits.heard.letters
    if len(written) >= _SPELLED and any(Indel.normalized_similarity(written, earlier, score_cutoff=_ALIKE) for earlier in history.replies):
        return True
    own = wording(reply, history.last.text if history.last else "")
    size = len(own)
    if size <= 3:
        return False
    for earlier in history.wordings:
        if _SAME * size <= len(earlier) <= size / _SAME:  # else the overlap cannot be that large
            both = len(own & earlier)
            if both >= _SAME * (size + len(earlier) - both):
                return True
    return False


def _engagement(history: History, traits: ReplyTraits, again: bool) -> Opinion:
    if again:
        return 0.0, "said before in this dialogue"
    message, heard = history.last, traits.heard
    assert message is not None
    hooks = [remark for remark in traits.remarks if remark.line not in history.lines]
    if heard.flattery and (traits.praise or not heard.questions):
        return 0.3, "flattery instead of a hook"
    strong = any(_is_hook(remark, message.stems) for remark in hooks)
    fresh = [question for question in heard.asked if question.replace(" ", "") not in history.lines]
    if heard.asked and not fresh and not strong:
        return 0.2, "asks what it asked before"
    asks = bool(fresh)
    follows = asks and (traits.points_back or not heard.question_stems.isdisjoint(message.stems))
    if asks and (hooks or follows):
        return (1.0 if strong else 0.7), "a question that comes with a reaction"
    if strong:
        return 0.8, "a remark to react to"
    return 0.3, "a question without a reaction" if asks else "no hook"


def _is_hook(remark: Remark, theirs: frozenset[str]) -> bool:
    """A remark of one's own, or a reaction to something specific, of more than a few words."""
    own = remark.own - theirs
    if remark.words < 3 or (remark.words == 3 and not own) or not remark.stems:
        return False
    if remark.personal:
        return bool(own) or (remark.words > 3 and (bool(remark.own) or not remark.stems <= theirs))
    return len(own) >= 2 or (remark.words > 3 and bool(own) and remark.specific)


def _only_praises(message: Said, traits: ReplyTraits) -> bool:
    """Whether a reply, to a message that asks nothing, is the user's own words, a word of praise and a noun that fits anything.

    "What a wonderful job!", "You are a nurse? Wow, that is amazing." A question that asks something is more than that.
    """
    if message.kind or not traits.content & _PRAISE or any(remark.personal for remark in traits.remarks):
        return False
    asks = (question for question in traits.heard.asked if not _MINOR.issuperset(question.split()))
    return traits.content - message.stems <= _PRAISE | _PRAISED and all(_restates(question, message) for question in asks)


def _restates(question: str, message: Said) -> bool:
    """Whether a question only says again what the message said: "You are a nurse?"."""
    found = stems(question)
    return bool(found) and found <= message.stems and not is_question(question)


def _informativeness(history: History, reply: str, traits: ReplyTraits, again: bool) -> Opinion:
    if again:
        return 0.0, "nothing new: said before in this dialogue"
    message, heard = history.last, traits.heard
    assert message is not None
    theirs = message.stems
    if echo(reply, message.text) >= _ECHO and heard.stems and (len(heard.stems) > 1 or len(traits.words) > 4):
        return 0.1, "an echo of the user's message"
    fresh = frozenset().union(*(remark.stems for remark in traits.remarks if remark.line not in history.lines))
    own = traits.content & fresh - theirs - GENERIC
    asks = [q for q in heard.asked if q.count(" ") >= 2 and q.replace(" ", "") not in history.lines and not _MINOR.issuperset(q.split())]
    if traits.content & theirs and not own and not heard.question_stems - GENERIC - theirs:
        return 0.2, "a template around the user's own word"
    if _only_praises(message, traits):
        return 0.2, "mere praise"
    if own:
        return (1.0 if len(own) > 1 or asks else 0.7), "says something of its own"
    if traits.praise and traits.content and not asks:
        return 0.2, "mere praise"
    if asks and (heard.statements or heard.question_stems - GENERIC):
        return 0.6, "asks for something new"
    personal = any(remark.personal and remark.words >= 5 for remark in traits.remarks)
    return (0.5, "a remark of its own") if personal else (0.3, "adds nothing")
