"""Action text <-> `Action`. The instructions for the format live beside the parser that reads it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from rlpa_env.errors import ConfigError
from rlpa_env.text import INVISIBLE, normalise
from rlpa_env.types import Point

MAX_ACTION_CHARS = 16_384  # of a completion, as in the action space; of a longer one no more is read, and it is malformed
MAX_REPLY_CHARS = 2_000
MAX_POINTS = 64
MAX_VALUE_CHARS = 200
LINE_MARKS = ("-", "*", "•")  # one of them begins a line of a guess
_LONGEST_CACHED = 400  # characters of a line

NO_PROFILE = "no_profile"  # no <profile> tag
UNCLOSED_PROFILE = "unclosed_profile"
NO_RESPONSE = "no_response"  # no <response> tag
UNCLOSED_RESPONSE = "unclosed_response"
REPEATED_TAG = "repeated_tag"  # a second block, or a tag inside a block
TEXT_OUTSIDE = "text_outside"  # anything but white space outside the two blocks
WRONG_ORDER = "wrong_order"
BAD_LINE = "bad_line"  # a line of the profile block that is no "- ..." line, or JSON that cannot be read
TOO_MANY_POINTS = "too_many_points"
REPLY_TOO_LONG = "reply_too_long"
PARSE_ERRORS = (
    NO_PROFILE, UNCLOSED_PROFILE, NO_RESPONSE, UNCLOSED_RESPONSE, REPEATED_TAG, TEXT_OUTSIDE, WRONG_ORDER, BAD_LINE,
    TOO_MANY_POINTS, REPLY_TOO_LONG,
)  # fmt: skip

# Linear on any text: nothing that repeats can reach over the next "<", or be split in two ways.
_TAG = re.compile(r"<\s*(/\s*)?(profile|response)(\s*|[\s/][^<>]*)>", re.I)
_ANY_TAG = re.compile(r"</?[A-Za-z|][^<>]{0,80}>")
_CONTROL = re.compile(rf"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff{INVISIBLE}]")
_ALTERNATIVES = re.compile(r"(?:(?<!\s)\s+)?(?:[,;/|&]|\bor\b|\band\b)\s*", re.I)
_RANGE = re.compile(r"(\d{1,4})\s*(?:[-–—~]|to)\s*(\d{1,4})(\s*(?:years?|yrs?)(?:[\s-]+old)?)?", re.I)
_UNKNOWN = frozenset(
    {"unknown", "none", "na", "n a", "not known", "not specified", "unspecified", "not mentioned", "not sure", "unsure"}
    | {"nothing", "null", "undefined", "not yet known", "no information", "tbd", "not applicable", "not available"}
)

_INSTRUCTIONS = """You are talking with a person you do not know yet{limit}. Get to know them and be good company.
After every message of theirs write what you believe about them, then your reply, in exactly this form, with all four tags:

<profile>
- Occupation: what they do for a living
- Interests: something they like
</profile>

<response>
your reply
</response>

One trait a line, as many lines as you have reason to believe, none while you know nothing. Slots: {slots}; other slot names are allowed. \
They see your reply only, never the profile. End every answer with </response>."""
# Measured (docs/experiments.md): small models take "- Slot: value" for a name, and leave the last tag out unless it is asked for at the end.


class Action(NamedTuple):
    """A parsed completion."""

    profile: tuple[Point, ...]  # the guess, alternatives split, duplicates dropped; at most MAX_POINTS
    reply: str  # what the user hears; at most MAX_REPLY_CHARS, no tags
    error: str = ""  # "" or one of PARSE_ERRORS: the turn earns 0


class Block(NamedTuple):
    """A completion cut at the tag that ends its guess: the first that is not an opening ``<profile>``."""

    head: str  # what comes before that tag: all of it, where there is none
    tag: str
    rest: str

    @property
    def closed(self) -> bool:
        """Whether a tag that closes a profile ended it."""
        found = _TAG.fullmatch(self.tag)
        return found is not None and found.group(2).lower() == "profile"


def instructions(max_turns: int | None = None) -> str:
    """The system message: the task, the format, and the turn limit where there is one."""
    from rlpa_env.profiles import VANILLA_SLOTS

    limit = f", for {max_turns} turns" if max_turns is not None else ""
    return _INSTRUCTIONS.format(limit=limit, slots=", ".join(VANILLA_SLOTS))


def format_action(points: Iterable[Sequence[str]], reply: str) -> str:
    """Write points and reply in the form that `parse_action` reads. Raises ConfigError for what are no pairs of texts, or no text.

    >>> print(format_action([Point("Age", "34"), Point("", "has a cat")], "Hi!"))
    <profile>
    - Age: 34
    - has a cat
    </profile>
    <BLANKLINE>
    <response>
    Hi!
    </response>
    """
    pairs = list(points)
    wrong = next((pair for pair in pairs if isinstance(pair, str) or len(pair) != 2 or not all(isinstance(part, str) for part in pair)), None)
    if wrong is not None or not isinstance(reply, str):
        what = f"pairs (slot, value) of texts, such as ('Age', '34'); got {wrong!r:.80}" if wrong is not None else f"a text as reply; got {reply!r:.80}"
        raise ConfigError(f"format_action: expected {what}.")
    lines = "".join(f"- {slot}: {value}\n" if slot else f"- {value}\n" for slot, value in pairs)
    return f"<profile>\n{lines}</profile>\n\n<response>\n{reply}\n</response>"


def parse_action(text: object) -> Action:
    """Read a completion; never raises, takes linear time.

    From ``<profile>`` to its close (else to ``<response>``, else to the end) is the guess and never reaches the user;
    what remains, tags removed, is the reply, which may be empty: saying nothing is bad manners, not bad form. A tag with
    anything beside its name hides the guess too, but is malformed. ``error`` names the first thing that is wrong with the form.
    """
    raw = text if isinstance(text, str) else str(text)
    error = REPLY_TOO_LONG if len(raw) > MAX_ACTION_CHARS else ""
    raw = _CONTROL.sub("", raw[:MAX_ACTION_CHARS])
    guess, reply, form_error = _blocks(raw)
    points, line_error = _points(guess)
    reply = " ".join(_ANY_TAG.sub(" ", reply).split("\x00")).strip()
    if not error:
        error = form_error or line_error
    if not error and len(points) > MAX_POINTS:
        error = TOO_MANY_POINTS
    if not error and len(reply) > MAX_REPLY_CHARS:
        error = REPLY_TOO_LONG
    return Action(points[:MAX_POINTS], reply[:MAX_REPLY_CHARS], error)


def cut_block(text: str) -> Block:
    """Cut a completion, or the beginning of one, where `parse_action` lets its guess end; one opened twice, which is malformed, goes on.

    >>> cut_block("<profile>- Age: 30</Profile > Hello").tag
    '</Profile >'
    """
    raw = _CONTROL.sub("", text)
    for found in _TAG.finditer(raw):
        if found.group(1) or found.group(2).lower() != "profile":
            return Block(raw[: found.start()], found.group(), raw[found.end() :])
    return Block(raw, "", "")


def listable(point: Point) -> bool:
    """Whether a guess can hold this point as it stands.

    One whose value names alternatives is read as each of them, one that says that nothing is known as nothing.

    >>> [listable(Point("Interests", value)) for value in ("chess", "rock and roll", "N/A")]
    [True, False, False]
    """
    line = f"- {point.slot}: {point.value}" if point.slot else f"- {point.value}"
    points, error = _points(line)
    return not error and [(own.slot, normalise(own.value)) for own in points] == [(point.slot, normalise(point.value))]


def _blocks(raw: str) -> tuple[str, str, str]:
    """(text of the guess, text of the reply, what is wrong with the tags)."""
    found = list(_TAG.finditer(raw))
    tags = [(m.start(), m.end(), bool(m.group(1)), m.group(2).lower()) for m in found]
    form = [(closing, name) for (_, _, closing, name), m in zip(tags, found, strict=True) if not m.group(3).strip()]
    good = [(False, "profile"), (True, "profile"), (False, "response"), (True, "response")]
    if form == good and len(tags) == len(form):
        outside = raw[: tags[0][0]] + raw[tags[1][1] : tags[2][0]] + raw[tags[3][1] :]
        error = TEXT_OUTSIDE if outside.strip() else ""
        guess, reply = raw[tags[0][1] : tags[1][0]], raw[tags[2][1] : tags[3][0]]
        return guess, (reply if not error else raw[tags[1][1] :]), error
    return _salvaged(raw, tags), _heard(raw, tags), REPEATED_TAG if form == good else _tag_error(form)


def _tag_error(form: list[tuple[bool, str]]) -> str:
    if (False, "profile") not in form:
        return NO_PROFILE
    if (False, "response") not in form:
        return NO_RESPONSE if (True, "profile") in form else UNCLOSED_PROFILE
    if any(form.count(tag) > 1 for tag in form):
        return REPEATED_TAG
    if (True, "profile") not in form:
        return UNCLOSED_PROFILE
    if (True, "response") not in form:
        return UNCLOSED_RESPONSE
    return WRONG_ORDER


def _salvaged(raw: str, tags: list[tuple[int, int, bool, str]]) -> str:
    """The first guess of a malformed completion."""
    for index, (_, end, closing, name) in enumerate(tags):
        if name == "profile" and not closing:
            stop = tags[index + 1][0] if index + 1 < len(tags) else len(raw)
            return raw[end:stop]
    return ""


def _heard(raw: str, tags: list[tuple[int, int, bool, str]]) -> str:
    """What the user hears of a malformed completion: everything outside every guess, tags removed."""
    kept, at, inside = [], 0, False
    for start, end, closing, name in tags:
        if not inside:
            kept.append(raw[at:start])
        if name == "profile":
            inside = not closing
        elif not closing:
            inside = False
        at = end
    if not inside:
        kept.append(raw[at:])
    return " ".join(kept)


def _points(guess: str) -> tuple[tuple[Point, ...], str]:
    """The guessed points and, if a line cannot be read, BAD_LINE."""
    found: dict[tuple[str, str], Point] = {}
    error = ""
    stripped = guess.strip()
    if stripped.startswith("{"):
        pairs = _json_pairs(stripped)
        error = "" if pairs is not None else BAD_LINE
        for slot, value in pairs or ():
            _add(found, slot, value)
        return tuple(found.values()), error
    for line in stripped.split("\n"):
        line = line.strip()
        if not line:
            continue
        if line[0] not in LINE_MARKS:
            error = error or BAD_LINE
            continue
        for key, point in _line_points(line) if len(line) <= _LONGEST_CACHED else _line_points.__wrapped__(line):
            found.setdefault(key, point)
        if len(found) > MAX_POINTS:
            break
    return tuple(found.values()), error


@lru_cache(maxsize=16_384)
def _line_points(line: str) -> tuple[tuple[tuple[str, str], Point], ...]:
    """The points of one line with their keys; a dialogue says the same lines turn after turn."""
    found: dict[tuple[str, str], Point] = {}
    body = line[1:].strip()
    slot, colon, value = body.partition(":")
    if not colon or len(slot) > 60:
        slot, value = "", body
    _add(found, slot.strip(" *_"), value)
    return tuple(found.items())


def _json_pairs(text: str) -> list[tuple[str, str]] | None:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict):
        return None
    pairs: list[tuple[str, str]] = []
    for slot, raw in data.items():
        values: list[Any] = raw if isinstance(raw, list) else [raw]
        for value in values:
            if isinstance(value, (dict, list)):
                return None
            if value is not None and not isinstance(value, bool):
                pairs.append((slot[:MAX_VALUE_CHARS], str(value)))
    return pairs


def _add(found: dict[tuple[str, str], Point], slot: str, raw: str) -> None:
    """Split alternatives, drop what says nothing, collapse duplicates."""
    # Cut before anything else looks at it: Unicode's normal forms take quadratic time on a run of accents.
    value = raw.strip().strip("\"'`*_ ").rstrip(".;, ")[: MAX_VALUE_CHARS * 4]
    if not value:
        return
    bounds = _RANGE.fullmatch(value)
    if not bounds and normalise(value) in _UNKNOWN:  # before "n/a" is split
        return
    parts = [end + (bounds[3] or "") for end in bounds.group(1, 2)] if bounds else _ALTERNATIVES.split(value)
    for part in parts:
        part = part.strip(" \"'.()")[:MAX_VALUE_CHARS]
        key = normalise(part)
        if not key or key in _UNKNOWN:
            continue
        found.setdefault((normalise(slot), key), Point(slot, part))
        if len(found) > MAX_POINTS:
            return
