"""Errors. Every message says what was expected, what came, and what to do about it."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Iterable
from difflib import get_close_matches
from importlib.util import find_spec

_MOST_LISTED = 30  # choices that an error names one by one
_CUT = "…"
_LETTER = r"[^\W\u3400-\u9fff]"  # of a word; Chinese puts no spaces between words
_START = rf"(?:(?<!{_LETTER})|(?<=\\[nrt])|(?<=\\u[0-9a-fA-F]{{4}}))"  # of a word, after an escape of JSON too


class RLPAError(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigError(RLPAError, ValueError):
    """An argument has a value that nothing here understands."""


class ProfileError(RLPAError, ValueError):
    """A profile, or a file of profiles, is not well formed."""


class NotInstalledError(RLPAError, ImportError):
    """An optional part was asked for whose packages are absent."""


class ModelError(RLPAError, RuntimeError):
    """A user, matcher or judge model failed; the turn has no valid reward."""


class OffSchemaError(ModelError):
    """A model answered and stayed off its schema: what it was shown may have caused that, and it is counted."""


class ContextError(ModelError):
    """An agent's context has no room for a whole answer: its dialogue ends there, with what it has earned."""


class BudgetError(ModelError):
    """The budget of a client is spent."""


def require(package: str, extra: str, what: str) -> None:
    """Raise NotInstalledError, naming the extra, if an optional package is not there; imports nothing."""
    if find_spec(package) is None:
        raise NotInstalledError(f"{what}: expected the package {package}; install it, in a checkout of RLPA, with: pip install '.[{extra}]'")


def unknown_choice(what: str, got: object, choices: Iterable[str]) -> ConfigError:
    """Build the error for a value outside ``choices``, naming the nearest one.

    >>> print(unknown_choice("style", "tersee", ["terse", "chatty"]))
    style: expected one of 'terse', 'chatty'; got 'tersee'. Did you mean 'terse'?
    """
    names = [str(choice) for choice in choices]
    near = get_close_matches(str(got), names, n=3, cutoff=0.0)
    likely = get_close_matches(str(got), names, n=1)  # no hint is better than a wild one
    few = len(names) <= _MOST_LISTED
    listed = ", ".join(repr(name) for name in (names if few else near)) + ("" if few else f", … ({len(names)} in all)")
    hint = f" Did you mean {likely[0]!r}?" if likely else ""
    return ConfigError(f"{what}: expected one of {listed}; got {got!r:.200}.{hint}")


def without_credentials(text: str) -> str:
    """A text, such as an error, without the user and password of addresses in it.

    >>> without_credentials("m at https://me:secret@host/v1: no answer")
    'm at https://host/v1: no answer'
    """
    return re.sub(r"(?<=://)[^/\s]+@", "", text)  # up to the last of them: a password may hold one


def check_number(name: str, value: object, least: float, *, whole: bool = True, optional: bool = False) -> None:
    """Raise ConfigError for a value that is no finite number >= ``least``, or is not None where that is allowed. True is no number."""
    number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= least
    if not number and not (optional and value is None):
        kind = "an integer" if whole else "a finite number"
        raise ConfigError(f"{name}: expected {'None or ' if optional else ''}{kind} >= {least}; got {value!r}.")


def excerpt(text: str, most: int) -> str:
    """The first ``most`` characters of a text, and "…" if there were more."""
    return text if len(text) <= most else text[:most] + _CUT


def redacted(text: str, values: Iterable[str]) -> str:
    """A text, such as the error of a server that quotes what it was sent, without these values.

    Nor as JSON, Python and HTML write them; and if the text is an `excerpt`, its end is not the beginning of one.

    >>> redacted("HTTP 400: cannot read 'Age: 34, nurse'", ["34", "Nurse"])
    "HTTP 400: cannot read 'Age: …, …'"
    >>> redacted("HTTP 400: cannot read 'Age: 3…", ["34"])
    "HTTP 400: cannot read 'Age: …"
    """
    escaped = {value: json.dumps(value)[1:-1] for value in values if value}
    twice = (json.dumps(form)[1:-1] for form in escaped.values())  # JSON that quotes JSON
    spellings = {*escaped, *escaped.values(), *twice, *(form for value in escaped for form in (repr(value)[1:-1], html.escape(value)))}
    for form in sorted(spellings, key=lambda form: (-len(form), form)):
        text = re.sub(rf"{_START}{re.escape(form)}(?!{_LETTER})", "…", text, flags=re.I)
    if not text.endswith(_CUT):
        return text
    begun = [found for form in spellings for end in range(1, len(form)) if (found := re.search(rf"{_START}{re.escape(form[:end])}…\Z", text, re.I))]
    return text[: min(found.start() for found in begun)] + _CUT if begun else text
