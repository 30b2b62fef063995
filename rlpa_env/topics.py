"""What a text is about: a fixed list of everyday topics, each known by the words that usually come with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from math import log
from types import MappingProxyType

from rlpa_env.text import stem, stems

_LONGEST_CACHED = 4_000  # characters
_NO_TOPICS: frozenset[str] = frozenset()


@lru_cache(maxsize=1)
def topic_words() -> Mapping[str, tuple[str, ...]]:
    """Topic name -> its words, most typical first, as in ``data/topics.json``."""
    raw = json.loads((files("rlpa_env") / "data" / "topics.json").read_text(encoding="utf-8"))
    return MappingProxyType({name: tuple(found) for name, found in raw.items()})


# What people who call themselves so leave alone; a name of data/kinds.json stands for itself.
_LEAVES_ALONE = {
    "vegetarian": ("meat", "fish"), "vegan": ("meat", "fish", "dairy", "egg"), "drink": ("alcohol",), "teetotal": ("alcohol",),
    "teetotaller": ("alcohol",), "sober": ("alcohol",), "coeliac": ("gluten",), "celiac": ("gluten",), "lactose": ("dairy",),
    "milk": ("dairy",), "sweets": ("sugar",), "diabetic": ("sugar",), "seafood": ("fish",), "swim": ("water",), "planes": ("flying",),
    "peanuts": ("nuts",), "coffee": ("caffeine",),
}  # fmt: skip
_BY_NAME_ALONE = frozenset(map(stem, ("vegetarian", "vegan", "teetotal", "teetotaller", "sober", "coeliac", "celiac", "diabetic")))


@lru_cache(maxsize=1)
def _kinds() -> Mapping[str, frozenset[str]]:
    """Stem of a kind -> stems of everything of that kind."""
    raw = json.loads((files("rlpa_env") / "data" / "kinds.json").read_text(encoding="utf-8"))
    table = {stem(name): frozenset(map(stem, found)) for name, found in raw.items()}
    for word, names in _LEAVES_ALONE.items():
        table[stem(word)] = frozenset().union(table.get(stem(word), ()), *(table[stem(name)] for name in names))
    return MappingProxyType(table)


def kinds_in(disliked: frozenset[str], own: frozenset[str] = frozenset()) -> frozenset[str]:
    """Stems of what somebody will not have who dislikes these, or who says these of themselves.

    >>> "steak" in kinds_in(stems("meat")), "wine" in kinds_in(frozenset(), stems("I am teetotal"))
    (True, True)
    """
    table = _kinds()
    names = disliked | (own & _BY_NAME_ALONE)
    return frozenset().union(*(table[name] for name in names if name in table))


@lru_cache(maxsize=1)
def _by_stem() -> Mapping[str, frozenset[str]]:
    """Stem -> topics in which it occurs."""
    table: dict[str, set[str]] = {}
    for name, found in topic_words().items():
        for word in (name, *found):
            table.setdefault(stem(word), set()).add(name)
    return MappingProxyType({key: frozenset(names) for key, names in table.items()})


def topics_of(text: str) -> frozenset[str]:
    """Topics that some content word of ``text`` belongs to.

    >>> sorted(topics_of("I was kneading dough at four"))
    ['baking']
    """
    return _topics_of(text) if len(text) <= _LONGEST_CACHED else _topics_of.__wrapped__(text)


@lru_cache(maxsize=32_768)
def _topics_of(text: str) -> frozenset[str]:
    return topics_of_stems(stems(text))


def topics_of_stem(found: str) -> frozenset[str]:
    """Topics of one content stem."""
    return _by_stem().get(found, _NO_TOPICS)


@lru_cache(maxsize=32_768)
def topics_of_each(found: frozenset[str]) -> tuple[frozenset[str], ...]:
    """The topics of each of these content stems that has any."""
    table = _by_stem()
    return tuple([table[key] for key in found if key in table])


@lru_cache(maxsize=32_768)
def topics_of_stems(found: frozenset[str]) -> frozenset[str]:
    """The same for content stems that are already known."""
    table = _by_stem()
    topics: set[str] = set()
    for key in found:
        topics.update(table.get(key, ()))
    return frozenset(topics)


@lru_cache(maxsize=32_768)
def topic_weights(found: frozenset[str]) -> Mapping[str, float]:
    """Topic -> how clearly these stems point to it, in (0, 1]: a word of few topics says more than one of many."""
    table = _by_stem()
    weights: dict[str, float] = {}
    for key in found:
        topics = table.get(key, _NO_TOPICS)
        if topics:
            weight = 1.0 / (1.0 + log(len(topics)))
            for name in topics:
                if weights.get(name, 0.0) < weight:
                    weights[name] = weight
    return MappingProxyType(weights)


def related(text_a: str, text_b: str) -> float:
    """How clearly two texts share a topic, in [0, 1]; 1 when they share a content word.

    >>> related("I bake bread", "the oven broke") > related("I bake bread", "my violin teacher")
    True
    """
    return related_stems(stems(text_a), stems(text_b))


def related_stems(stems_a: frozenset[str], stems_b: frozenset[str]) -> float:
    """``related`` for content stems."""
    if stems_a & stems_b:
        return 1.0
    weights_a, weights_b = topic_weights(stems_a), topic_weights(stems_b)
    if len(weights_b) < len(weights_a):
        weights_a, weights_b = weights_b, weights_a
    return max((min(value, weights_b[name]) for name, value in weights_a.items() if name in weights_b), default=0.0)
