"""What a user's own messages say, and so what they support: about themselves, about others, asked, wished, denied.

A judge may believe nothing but this. One `Said` a message, one `History` a dialogue, grown message by message.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from rlpa_env.hearing import Heard, hear, split_questions
from rlpa_env.text import is_question, normalise, sentences, stem, stems, words
from rlpa_env.topics import kinds_in, topic_weights, topics_of_stems
from rlpa_env.types import Message, Point
from rlpa_env.world import Value, world

Key = tuple[str, str]  # (slot, value) of an authored value
_NONE: frozenset[str] = frozenset()

# Stems that turn up in any conversation; sharing one of them says little.
_COMMON_WORDS = """
love good great nice cool fun awesome amazing wonderful favorite favourite time day days year years week weekend live
work play new old big little best better happy enjoy feel people person guy name hard long high start stop place live
life talk call hope wait bet help ready sound sounds interesting interested night morning ask rather part thing mostly
pretty stay leave end turn hear heard plan happen care want home busy free bad able tell month months next last young moved two three four
five six seven eight nine ten second minute hour rest right wrong
"""
COMMON = frozenset(stems(_COMMON_WORDS))

_GENERIC_WORDS = """
good great nice cool fun awesome amazing wonderful fantastic lovely interesting exciting brilliant perfect excellent impressive
incredible beautiful fascinating inspiring best better special sound sounds life part story stories important meaningful great
day days time world people person feel feeling hear heard happy glad love enjoy enjoyable pleasure delightful cool neat sweet
awesome congratulations congrats wow bravo admire respect proud talk talking chat share sharing tell topic word words subject
choice answer question message conversation hobby passion activity experience moment moments journey place thing true right exactly
agree understand absolutely totally completely truly indeed deeply highly quite bring joy joyful memory memories value big matter
"""
GENERIC = frozenset(stems(_GENERIC_WORDS)) | COMMON
"""Stems that praise, assent or fill: a sentence of nothing else says nothing."""

# Of lower-case text, and alternatives behind one \b: so `re` turns most places down at the first letter, ten times as fast as otherwise.
_REQUEST = re.compile(
    r"\b(?:(?<!no )(?:ideas?|suggest\w*|recommend\w*|tips?|advice|advise)\b|(?:what|where|which|who|how)(?: else| \w+)? (?:should|could|can|shall) (?:i|we)\b"
    r"|should i\b|what would you (?:do|pick|choose|think i|say i|suggest|reckon i|cook|buy|get|give|watch|read|make|bring|take|plan)\b"
    r"|would you (?:pick|choose|go for)\b|if you were me\b|in my (?:place|shoes)\b|help me (?:choose|pick|decide|plan|find)\b"
    r"|(?:any|know|got) (?:\w+ ){0,3}(?:thoughts|inspiration|place|spot)\b|what(?:'s| is) (?:a|your) (?:good|best|pick|vote)\b"
    r"|what (?:could|might) (?:\w+ ){1,4}(?:be|do|work|suit)\b|(?:what|which) (?:film|movie|book|present|gift|dish|meal|place|song|show|dessert|game) (?:should|could|would|might|for|to)\b"
    r"|(?:how|what|where|which|who)\b[^.!?]*\b(?:would|should|could)\b[^.!?]*\b(?:me|my|us|our)\b|any \w+ you(?:'d| would)\b|if you (?:bought|gave|made) me\b"
    r"|got (?:an?|any|some|something)\b[^.!?]*\bfor (?:me|my|us|our)\b"
    r"|(?:need|want|looking for|could use) (?:an?|some) (?:\w+ )?(?:ideas?|present|gift|plan|film|suggestion|inspiration)\b)"
)  # fmt: skip
_BEGS = re.compile(r"\b(?:any|need|want|give me|could use) (?:an? |some )?(?:ideas?|tips?|suggestions?|advice)\b")
_YES_NO = re.compile(
    r"^(?:(?:well|so|and|but|oh|hey|cool|nice|ok|okay|or|then),?\s+)*(?:do|does|did|are|am|is|was|were|have|has|had|can|could|will|"
    r"would|should|may|any|ever|isn't|aren't|don't|doesn't|didn't|haven't|wouldn't|ready|you like)\b",
    re.IGNORECASE,
)
_BACK = re.compile(r"^\W*(?:(?:and|so|but|what about|how about|how is it with),?\s+)*(?:you|u|yourself|yours)\W*$", re.IGNORECASE)
_OTHER_PEOPLE = (
    r"(?:mother|mum|mom|mommy|mama|father|dad|daddy|papa|parents|brothers?|sisters?|siblings?|cousins?|uncles?|aunts?|nephews?|nieces?|"
    r"neighbou?rs?|friends?|buddy|mates?|flatmates?|roommates?|colleagues?|coworkers?|boss|teacher|landlord|landlady|dentist|doctor|barber|"
    r"grand(?:mother|father|ma|pa|parents)|gran|nan|ex|husband|wife|partner|girlfriend|boyfriend|fianc[eé]e?|sons?|daughters?|kids?|children|"
    r"in-laws|sister-in-law|brother-in-law|mother-in-law|father-in-law|godmother|godfather|pen ?pal|hairdresser|classmates?|guy|woman|man|"
    r"lady|schoolmate|fellow|stranger|couple|people|person|folks?|someone|somebody|everyone|everybody)"
)
_OTHERS = re.compile(
    rf"^(?:(?:well|so|and|but|oh|yes|no|actually|funny|also|now|anyway|then|though),?\s+)*(?:(?:my|our|the|an?|one|some|this|that|most)\s+(?:[\w'-]+\s+)"
    rf"{{0,3}}?{_OTHER_PEOPLE}\b|(?:he|she|they|someone|somebody|everyone|everybody|people)\b)"
)
_OF_ME = re.compile(
    r"\b(?:says?|said|thinks?|tells?|told|calls?|called|know|knows|swears?|claims?|forgets?|guess(?:es)?|finds?|sees?) (?:that |me )?(?:i'm|i am|i've|i)\b"
    r"|\b(?:calls?|called|knows?|describes?) me\b|\bpeople forget\b|\band (?:i|me)\b"
)
_NOT_NOW = re.compile(
    r"\b(?:used to\b|when i was\b|as a (?:kid|child|teenager|boy|girl|student)\b|years ago\b|back then\b|in (?:another|a past) life\b|once (?:was|had|upon)\b|"
    r"(?:almost|nearly) (?:became|was|bought|moved|married)\b|i wish\b|if (?:only )?i\b(?!'m| am)|i(?:'d| would) (?:love|like) to\b|always wanted\b|(?:one|some) ?day\b|"
    r"dream(?:s|ed|t|ing)? (?:of|about)\b|they say\b|i (?:heard|read|hear)\b|apparently\b|rumou?r\b|supposedly\b|no longer\b|gave up\b|"
    r"i (?:quit|stopped)\b|formerly\b|in (?:the|that) (?:film|movie|book|novel|show|series|podcast)\b|on tv\b|"
    r"people (?:think|say|assume|guess|call|take|keep)\b|(?:mistake|take|took) me for\b|they're wrong\b|i felt like\b|once\W*$|once, |long ago\b|in films?\b|i always imagined\b|it wasn't so\b|i envi(?:ed|ous)\b|"
    r"i was (?!born|raised|brought|thinking|just|up\b|about|told|named|out\b)|i could (?:have|be|become)\b|might have (?:been|become)\b|crossed my mind\b|(?:nearly|almost) (?:went|took|did|got)\b|"
    r"(?:kidding|joking|wrongly|by mistake)\b)|(?:\.\.\.|…).*\b(?:no|not|wish|laugh|wrong|never)\b"
)
_DENIES = re.compile(
    r"\b(?:not|never|no|nor|neither|without|don't|doesn't|didn't|isn't|aren't|wasn't|haven't|hasn't|can't|cannot|couldn't|won't|wouldn't|"
    r"hate|dislike|detest|avoid|allergic|afraid|scared|stopped|quit|can not|dont|cant|nothing|sick of|loathe|refuse)\b"
)
_AFFIRMS = re.compile(  # negations that deny nothing
    r"\b(?:never|don't|can't) (?:get|grow) tired of\b|\bnothing (?:\w+ ){1,3}like\b|\bwithout\b[^.!?,]*\b(?:feels?|is|are|would)\b|"
    r"\b(?:can't|cannot|couldn't|won't|wouldn't|don't) (?:live|do|be|go|imagine|get enough|help|stop|wait|miss|trade|give|sit|resist)\b|"
    r"\bnot (?:only|just|a day|to brag|ashamed)\b|\bno (?:wonder|day|weekend|evening)\b|\bnever (?:miss|without|say no|fails?)\b|\bor not\b|\bno secret\b"
)
_RETRACTS = re.compile(r"^(?:i wish|no\b|not\b|ha\b|wait|kidding|just kidding|joking|never)", re.IGNORECASE)
_PARTS = re.compile(r"[,;:]\s|\bbut\b")
_DISLIKES = re.compile(
    r"\b(?:hate|dislike|detest|loathe|can't stand|cannot stand|can not stand|allergic to|afraid of|scared of|terrified of|"
    r"(?:don't|do not|dont|never|can't|cannot|won't|can not) (?:really |much )?(?:like|eat|drink|touch|do|enjoy|watch|read|stand|want|fly)|"
    r"no (?:more )?|not (?:a fan of|into|fond of|keen on)|fear of|sick of|tired of|avoid|gave up|quit|stopped|refuse)\s+(?P<what>[^.!?,;]{3,60})"
)


_ABSTAINS = re.compile(r"\b(?:don't|do not|dont|never|can't|cannot|can not|no longer) (?P<what>drink|swim|fly|run)\b")


class Said(NamedTuple):
    """One user message as evidence."""

    text: str
    kind: str  # of what wants an answer: "" | "request" | "yes_no" | "wh" | "back"
    question: str  # the last question, "" if none
    asked: frozenset[str]  # stems of the sentences that ask or seek
    stems: frozenset[str]
    weights: Mapping[str, float]  # topic -> how clearly
    own: frozenset[str]  # stems of what is said of oneself, now, and not denied
    denied: frozenset[str]  # stems of what is said of oneself with a negation
    disliked: frozenset[str]  # stems of what the user would not have
    values: frozenset[Key]  # authored values that are told or hinted of oneself
    authored: bool  # one of its sentences is an authored one, so its speaker is made of authored values


class History(NamedTuple):
    """Everything said in a dialogue so far. Sets only grow; ``last`` and ``previous`` are the newest messages."""

    stems: frozenset[str] = frozenset()
    own: frozenset[str] = frozenset()
    own_before: frozenset[str] = frozenset()  # own stems of all messages but the last
    denied: frozenset[str] = frozenset()
    disliked: frozenset[str] = frozenset()
    values: frozenset[Key] = frozenset()
    authored: bool = False  # see ``Said``
    last: Said | None = None  # newest user message
    previous: Heard | None = None  # newest assistant message
    lines: frozenset[str] = frozenset()  # letters of assistant sentences and questions
    wordings: tuple[frozenset[str], ...] = ()  # of assistant replies, see ``wording``
    replies: tuple[str, ...] = ()  # their letters


@dataclass(frozen=True)
class PointTraits:
    """One profile point with what a judge has to know about it."""

    stems: frozenset[str]
    topics: tuple[str, ...]  # of the authored value, the main one first; else of the words
    value: Value | None
    fits: tuple[frozenset[str], ...]
    clash: tuple[frozenset[str], ...]


@lru_cache(maxsize=16_384)
def point_traits(point: Point) -> PointTraits:
    """The traits of a point; those of the authored value where there is one."""
    known = world().find(point.slot, point.value)
    own = stems(point.value)
    return PointTraits(
        stems=own,
        topics=known.topics if known else tuple(sorted(topics_of_stems(own))),
        value=known,
        fits=tuple(filter(None, map(stems, known.fits))) if known else (),
        clash=tuple(filter(None, map(stems, known.clash))) if known else (),
    )


def supported(point: Point, history: History) -> bool:
    """Whether the user's own messages say or clearly hint this point of themselves."""
    traits = point_traits(point)
    if traits.value and (traits.value.slot, traits.value.value) in history.values:
        return True
    told = traits.stems & (history.own | history.denied)
    if len(traits.stems) <= 2:
        return bool(traits.stems) and traits.stems <= history.own
    return 2 * len(told) >= len(traits.stems) and not told <= COMMON


def is_trait(point: Point, history: History) -> bool:
    """Whether a supported point is something that the user told, not a word that they happened to use.

    Somebody who speaks authored sentences is made of authored values, and a point must name half of one that was told.
    Of anybody else nobody can say what is a trait: whatever they said of themselves may be.
    """
    own = point_traits(point).stems
    return not history.authored or any(_names_half(own, point_traits(Point(*key)).stems) for key in history.values)


def _names_half(own: frozenset[str], value: frozenset[str]) -> bool:
    named = own & value
    return 2 * len(named) >= len(value) and not named <= COMMON


@lru_cache(maxsize=1)
def _lines() -> tuple[Mapping[str, tuple[Key, ...]], Mapping[str, tuple[tuple[frozenset[str], Key], ...]]]:
    """Normalised authored sentence -> the values it tells or hints; and a value's rarest stem -> values."""
    told: dict[str, list[Key]] = {}
    named: dict[str, list[tuple[frozenset[str], Key]]] = {}
    counts: dict[str, int] = {}
    values = [value for spec in world().slots.values() for value in spec.values]
    for value in values:
        for part in stems(value.value):
            counts[part] = counts.get(part, 0) + 1
    for value in values:
        key = (value.slot, value.value)
        for line in (*value.explicit, *value.implicit):
            told.setdefault(normalise(line), []).append(key)
        parts = stems(value.value)
        if parts and value.slot != "Age":
            named.setdefault(min(sorted(parts), key=lambda part: counts[part]), []).append((parts, key))
    return {k: tuple(v) for k, v in told.items()}, {k: tuple(v) for k, v in named.items()}


def values_named(found: frozenset[str]) -> frozenset[Key]:
    """Authored values all of whose content stems are among these."""
    named = _lines()[1]
    return frozenset(key for part in found for parts, key in named.get(part, ()) if parts <= found)


def about_self(sentence: str) -> bool:
    """Whether a sentence speaks of its speaker, now and in earnest: not of others, the past, wishes or hearsay.

    >>> about_self("I'm a nurse."), about_self("My sister is a nurse."), about_self("I used to be a nurse.")
    (True, False, False)
    """
    low = sentence.lower()
    if is_question(sentence) or _NOT_NOW.search(low):
        return False
    return not _OTHERS.match(low) or bool(_OF_ME.search(low))


class _Line(NamedTuple):
    """One sentence of a user as evidence; users say the same sentences again, so these are what is cached."""

    stems: frozenset[str]
    question: str  # its question, "" if it asks nothing
    seeks: bool  # uses the words of somebody who wants an idea
    begs: bool  # ... and is a request even without a question
    own: frozenset[str] = frozenset()
    denied: frozenset[str] = frozenset()
    disliked: frozenset[str] = frozenset()
    values: frozenset[Key] = frozenset()
    authored: bool = False


@lru_cache(maxsize=32_768)
def _line(sentence: str) -> _Line:
    found, low = stems(sentence), sentence.lower()
    questions = split_questions((sentence,))[0]
    asked = questions[-1] if questions else ""
    first = _Line(found, asked, bool(_REQUEST.search(low)), bool(_BEGS.search(low)))
    told = frozenset(_lines()[0].get(normalise(sentence), ()))
    if told:
        return first._replace(own=found, values=told | values_named(found), authored=True)
    if not about_self(sentence):
        return first
    disliked = [stems(match.group("what")) for pattern in (_DISLIKES, _ABSTAINS) for match in pattern.finditer(low)]
    parts = [(stems(part), bool(_DENIES.search(_AFFIRMS.sub(" ", part.lower())))) for part in _PARTS.split(sentence)]
    own = frozenset().union(*(part for part, denies in parts if not denies))
    denied = frozenset().union(*(part for part, denies in parts if denies))
    wrong = frozenset().union(*disliked) - COMMON if denied else _NONE
    values = values_named(own) | {key for key in values_named(denied) if _DENIES.search(key[1].lower())}  # "no smartphone"
    return first._replace(own=own, denied=denied, disliked=wrong | kinds_in(wrong, own), values=values)


def _kind(lines: Sequence[_Line], question: str) -> str:
    if any(line.begs for line in lines) or (question and any(line.seeks for line in lines)):
        return "request"
    if not question:
        return ""
    if _BACK.match(question):
        return "back"
    return "yes_no" if _YES_NO.match(question) else "wh"


def _union(sets: list[frozenset[Any]]) -> frozenset[Any]:
    """Their union; mostly there is one that is not empty."""
    filled = [found for found in sets if found]
    return (filled[0] if len(filled) == 1 else filled[0].union(*filled[1:])) if filled else _NONE


@lru_cache(maxsize=2_048)
def said(message: str) -> Said:
    """A user message as evidence.

    >>> said("My sister is a nurse. What should I cook tonight?").kind
    'request'
    """
    found_lines = sentences(message)
    lines = [_line(sentence) for sentence in found_lines]
    for index, sentence in enumerate(found_lines[:-1]):
        if sentence.endswith(("...", "\u2026")) and _RETRACTS.match(found_lines[index + 1]):
            lines[index] = _Line(lines[index].stems, lines[index].question, lines[index].seeks, lines[index].begs)
    question = next((line.question for line in reversed(lines) if line.question), "")
    found = _union([line.stems for line in lines])
    return Said(
        text=message,
        kind=_kind(lines, question),
        question=question,
        asked=_union([line.stems for line in lines if line.question or line.begs or line.seeks]),
        stems=found,
        weights=topic_weights(found),
        own=_union([line.own for line in lines]),
        denied=_union([line.denied for line in lines]),
        disliked=_union([line.disliked for line in lines]),
        values=_union([line.values for line in lines]),
        authored=any(line.authored for line in lines),
    )


_WITHIN = re.compile(r"(?<=[^\W\u3400-\u9fff])[^\w\s](?=[^\W\u3400-\u9fff])")  # a word: a hyphen, wherever it was put


@lru_cache(maxsize=512)
def wording(reply: str, answered: str) -> frozenset[str]:
    """The words of a reply without those it takes over from the message: what a template keeps from turn to turn."""
    theirs = said(answered).stems
    if (joined := _WITHIN.sub("", answered)) != answered:
        theirs |= stems(joined)
    return frozenset([word for word, stemmed in _stemmed(reply) if stemmed not in theirs])


@lru_cache(maxsize=16_384)
def _stemmed(reply: str) -> tuple[tuple[str, str], ...]:
    return tuple((word, stem(word)) for word in dict.fromkeys(words(_WITHIN.sub("", reply))))


_NOTHING = History()
_STRIDE = 100  # prefixes are filled in steps, so that a long dialogue needs no deep recursion


def history_of(dialogue: tuple[Message, ...]) -> History:
    """Everything said so far; costs one message when the dialogue without its last message is known already."""
    for end in range(_STRIDE, len(dialogue), _STRIDE):
        _history(dialogue[:end])
    return _history(dialogue)


@lru_cache(maxsize=512)  # as many as a hundred dialogues side by side need; more would keep the garbage collector busy
def _history(dialogue: tuple[Message, ...]) -> History:
    if not dialogue:
        return _NOTHING
    before, message = _history(dialogue[:-1]), dialogue[-1]
    if message.role == "user":
        now = said(message.content)
        return History(
            stems=before.stems | now.stems,
            own=before.own | now.own,
            own_before=before.own,
            denied=before.denied | now.denied,
            disliked=before.disliked | now.disliked,
            values=before.values | now.values,
            authored=before.authored or now.authored,
            last=now,
            previous=before.previous,
            lines=before.lines,
            wordings=before.wordings,
            replies=before.replies,
        )
    if message.role != "assistant":
        return before
    heard = hear(message.content)
    return History(
        stems=before.stems,
        own=before.own,
        own_before=before.own_before,
        denied=before.denied,
        disliked=before.disliked,
        values=before.values,
        authored=before.authored,
        last=before.last,
        previous=heard,
        lines=before.lines.union(heard.lines, [question.replace(" ", "") for question in heard.asked]),
        wordings=(*before.wordings, wording(message.content, before.last.text if before.last else "")),
        replies=(*before.replies, heard.letters),
    )
