"""Errors. Every message says what was expected, what came, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from importlib.util import find_spec


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
    near = get_close_matches(str(got), names, n=1, cutoff=0.0)
    listed = ", ".join(repr(name) for name in names)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return ConfigError(f"{what}: expected one of {listed}; got {got!r}.{hint}")
