"""The guards of judge, matcher and parser, each with the one place where it lives, so that it can be taken out for a while.

Nothing in the package knows of this: ``without`` replaces a named function or constant for as long as a block runs, and
clears what was remembered with it. A guard that has moved is an error, and a test holds that each still changes something.
The simulated person is not touched: they go on minding flattery, silence or interrogation, and may leave.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NamedTuple

from rlpa_env.errors import ConfigError, unknown_choice

Opinion = tuple[float, str]
_CACHES = (  # of what a guard decides
    ("judges", "reply_traits"), ("matching", "_comparable"), ("meaning", "comparable"), ("meaning", "point_score"),
    ("actions", "_line_points"),
)  # fmt: skip
_NEVER = re.compile(r"(?!)")


class Patch(NamedTuple):
    """One name of the package, and what stands there instead, made from what stood there."""

    module: str
    name: str
    instead: Callable[[Any], Any]


class Guard(NamedTuple):
    """One rule that a cheat has to get past."""

    part: str  # "judge", "matcher" or "parser"
    does: str
    patches: tuple[Patch, ...]


def _constant(value: Any) -> Callable[[Any], Any]:
    return lambda real: value


def _answering(value: Any) -> Callable[[Any], Any]:
    return lambda real: lambda *args: value


def _form_without(**heard: Any) -> Patch:
    """The judge's form check, deaf to something that was heard. The person hears it all the same."""
    return Patch("judges", "form_of", lambda real: lambda found: real(dataclasses.replace(found, **heard)))


def _waived(opinion: str, *reasons: str) -> Patch:
    """An opinion of the judge that passes where it would have failed for one of these reasons."""

    def instead(real: Callable[..., Opinion]) -> Callable[..., Opinion]:
        def lenient(*args: Any) -> Opinion:
            score, reason = real(*args)
            return (1.0, f"waived: {reason}") if reason in reasons else (score, reason)

        return lenient

    return Patch("judges", opinion, instead)


def _recall(hits: int, guessed: int, true: int) -> float:
    return hits / true if true else 0.0


def _shared_of_truth(real: Callable[..., tuple[int, int]]) -> Callable[..., tuple[int, int]]:
    """What both values say over what the truth says, whatever else the guess says."""
    weight = import_module("rlpa_env.meaning")._weight

    def instead(guess: frozenset[str], truth: frozenset[str]) -> tuple[int, int]:
        return real(guess, truth)[0], weight(truth)

    return instead


def _each_its_best(scores_GT: Any, threshold: float) -> list[tuple[int, int]]:
    """Every guess with the truth that it fits best, be it taken already."""
    rows = ((row, int(scores.argmax())) for row, scores in enumerate(scores_GT))
    return [(row, column) for row, column in rows if scores_GT[row, column] >= threshold]


GUARDS = {
    "machine speak": Guard("judge", "no markup, role labels, assistant phrases, orders or talk of scores", (_form_without(machine_speak=False),)),
    "manners": Guard("judge", "no insults, no questions for passwords and the like", (_form_without(rude=False, pries=False),)),
    "lists": Guard("judge", "no bullets, numbering or long enumeration", (_form_without(has_list=False),)),
    "length": Guard("judge", "at most 60 words, no lecture", (_form_without(lecture=False), Patch("form", "_MOST_WORDS", _constant(10**6)))),
    "word shapes": Guard("judge", "ordinary words of one language, no loops, no heaps", (Patch("form", "_odd_words", _answering("")),)),
    "piles": Guard("judge", "no pile of things from unconnected topics", (Patch("form", "_piled", _answering(False)),)),
    "points named": Guard("judge", "at most two profile points in one reply", (Patch("judges", "_MOST_POINTS", _constant(10**6)),)),
    "take-up": Guard("judge", "a reply takes up what was said or asked", (Patch("relevance", "_ENOUGH", _constant(-10.0)),)),
    "requests": Guard(
        "judge", "an idea fits a told point and clashes with none",
        (Patch("judges", "fit_to_request", _answering((True, "waived"))), Patch("judges", "clashes", _answering(""))),
    ),
    "traits": Guard("judge", "an idea fits something told, not any word that was used", (Patch("relevance", "is_trait", _answering(True)),)),
    "support": Guard("judge", "listed points count as far as the user's messages support them", (Patch("relevance", "supported", _answering(True)),)),
    "claims": Guard("judge", "nothing is asserted of the user that they did not say", (Patch("judges", "_false_claim", _answering("")),)),
    "answers": Guard("judge", "the user's question is answered", (Patch("judges", "_answers", _answering(True)),)),
    "repeats": Guard(
        "judge", "no reply, remark or question again",
        (Patch("judges", "history_of", lambda real: lambda talk: real(talk)._replace(lines=frozenset(), wordings=(), replies=())),),
    ),
    "flattery": Guard(
        "judge", "no compliment instead of a hook, no praise instead of content",
        (_form_without(flattery=0), _waived("_engagement", "flattery instead of a hook"), _waived("_informativeness", "mere praise")),
    ),
    "interrogation": Guard(
        "judge", "at most two questions, and a reaction with them",
        (Patch("form", "_MOST_QUESTIONS", _constant(10**6)), _waived("_engagement", "a question without a reaction")),
    ),
    "hook": Guard("judge", "a remark or question that gives something to react to", (_waived("_engagement", "no hook"),)),
    "echo": Guard("judge", "less than 70 % of the words are the user's", (Patch("judges", "echo", _answering(0.0)),)),
    "template": Guard(
        "judge", "something of one's own beside the user's word", (_waived("_informativeness", "a template around the user's own word"),)
    ),
    "substance": Guard("judge", "a reply adds something", (_waived("_informativeness", "adds nothing"),)),
    "precision": Guard("matcher", "F1: wrong points cost; without it recall alone", (Patch("rewards", "f1", _constant(_recall)),)),
    "one to one": Guard("matcher", "a true point is hit once; without it by every guess that fits", (Patch("matching", "assign", _constant(_each_its_best)),)),
    "surplus": Guard("matcher", "words beyond the truth lower the score of a pair", (Patch("meaning", "_common", _shared_of_truth),)),
    "contradictions": Guard("matcher", "numbers, negation, person and kind must agree", (Patch("meaning", "_compatible", _answering(True)),)),
    "slots": Guard(
        "matcher", "slots agree; a bare number needs its slot",
        (Patch("matching", "canonical_slot", _answering(None)), Patch("meaning", "_same_slot", _answering(True))),
    ),
    "alternatives": Guard(
        "parser", "a/b/c and 30-35 are split before they are counted",
        (Patch("actions", "_ALTERNATIVES", _constant(_NEVER)), Patch("actions", "_RANGE", _constant(_NEVER))),
    ),
    "64 points": Guard("parser", "at most 64 points", (Patch("actions", "MAX_POINTS", _constant(10**6)),)),
    "format": Guard("parser", "a malformed turn earns nothing", (Patch("env", "parse_action", lambda real: lambda text: real(text)._replace(error="")),)),
}  # fmt: skip
TOGETHER = {  # where one guard stands behind another, both have to go before anything opens
    "echo+template+hook": ("echo", "template", "hook"),
    "alternatives+surplus": ("alternatives", "surplus"),
    "precision+64 points": ("precision", "64 points"),
    "repeats+take-up": ("repeats", "take-up"),
    "machine speak+take-up": ("machine speak", "take-up"),
    "flattery+take-up": ("flattery", "take-up"),
    "interrogation+take-up": ("interrogation", "take-up"),
}


def names_of(column: str) -> tuple[str, ...]:
    """The guards of one column of the table: of a name, or of several with "+" between them; "" is none.

    Raises ConfigError for a guard that is not there.
    """
    names = tuple(filter(None, column.split("+")))
    for name in names:
        if name not in GUARDS:
            raise unknown_choice("guard", name, tuple(GUARDS))
    return names


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Judge, matcher and parser of this process without these guards, for as long as the block runs.

    Raises:
        ConfigError: a guard is unknown, or what it patches is no longer there.
    """
    patches = [patch for name in names for guard in names_of(name) for patch in GUARDS[guard].patches]
    kept: list[tuple[Any, str, Any]] = []
    try:
        for patch in patches:
            module = import_module(f"rlpa_env.{patch.module}")
            if not hasattr(module, patch.name):
                raise ConfigError(f"guard: expected rlpa_env.{patch.module}.{patch.name}; it is not there. Name its new place in guards.py.")
            kept.append((module, patch.name, getattr(module, patch.name)))
            setattr(module, patch.name, patch.instead(getattr(module, patch.name)))
        _forget()
        yield
    finally:
        for module, name, real in reversed(kept):
            setattr(module, name, real)
        _forget()


def _forget() -> None:
    for module, name in _CACHES:
        getattr(import_module(f"rlpa_env.{module}"), name).cache_clear()
