"""Sentences that the reference agents say: reactions, questions, suggestions. Composition only; no listening."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any

from rlpa_env.text import STOP_WORDS, words
from rlpa_env.types import Point
from rlpa_env.world import world

_DULL = frozenset("today lately still really maybe always never quite sort kind stuff thing things bit anyway".split())


@lru_cache(maxsize=1)
def lines() -> dict[str, Any]:
    """The authored sentences, read once."""
    return json.loads((files("rlpa_env") / "data" / "replies.json").read_text(encoding="utf-8"))


def nth(options: Sequence[str], key: str, said: frozenset[str] = frozenset()) -> str:
    """A line picked by ``key``, the first in order from there that is not in ``said``; stable in every process."""
    start = zlib.crc32(key.encode("utf-8", "replace")) % len(options)
    turned = (*options[start:], *options[:start])
    return next((line for line in turned if line not in said), turned[0])


def phrase(point: Point) -> str:
    """The value as it stands in a sentence: with its article where the world knows one."""
    known = world().find(point.slot, point.value)
    return known.phrase if known else point.value


def key_words(message: str) -> str:
    """The most telling word of a message, with its article-like neighbour; "" if there is none."""
    tokens = words(message)
    telling = [token for token in tokens if token not in STOP_WORDS and token not in _DULL and len(token) > 3]
    return f"the {max(telling, key=len)}" if telling else ""


def question_for(slot: str, key: str, said: frozenset[str] = frozenset()) -> str:
    """A question that asks for a slot."""
    asks = lines()["ask"]
    line = nth(asks.get(slot, asks["*"]), key, said)
    return line.replace("{slot}", slot.lower() or "life")


def reaction_to(point: Point, key: str) -> str:
    """A remark on a point that the user has told."""
    react = lines()["react"]
    line = nth(react.get(point.slot, react["*"]), key)
    text = line.replace("A {value}", "A {value}").replace("{value}", point.value)
    return text[0].upper() + text[1:]


def pick_up(message: str, key: str) -> str:
    """A remark on what was just said, without knowing what it means; small talk where nothing was said."""
    telling = key_words(message)
    if not telling:
        return nth(lines()["small"], key)
    return nth(lines()["pick_up"], key).replace("{words}", telling)


def follow_up(about: str, key: str, said: frozenset[str] = frozenset()) -> str:
    """A question that goes deeper into something told."""
    options = [line.replace("{words}", about) for line in lines()["follow"]]
    return nth(options, key, said)


def suggestion(point: Point, key: str) -> str:
    """An idea that fits a point: one of the world's fitting things where it is known."""
    known = world().find(point.slot, point.value)
    value = nth(known.fits, key) if known and known.fits else point.value
    return nth(lines()["suggest"], key).replace("{value}", value)
