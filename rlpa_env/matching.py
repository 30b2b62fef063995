"""Whether a guessed point means a true one: pairwise scores, then the best one-to-one assignment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from scipy.optimize import linear_sum_assignment

from rlpa_env.encoders import MINILM, encoder_of
from rlpa_env.errors import ConfigError
from rlpa_env.meaning import comparable, meaning, point_score
from rlpa_env.profiles import canonical_slot
from rlpa_env.text import STOP_WORDS, words
from rlpa_env.types import Point


@runtime_checkable
class Matcher(Protocol):
    """Anything that can compare points."""

    threshold: float  # a pair counts when its score is at least this, in (0, 1]

    def scores(self, guess: Sequence[Point], truth: Sequence[Point]) -> np.ndarray:
        """Float array [len(guess), len(truth)] in [0, 1]; 1 means the same."""
        ...


@lru_cache(maxsize=16_384)
def _comparable(truth: tuple[Point, ...]) -> Mapping[str | None, tuple[int, ...]]:
    """Slot of a guess -> the true points that it may match; None: a slot outside the schema; "": one that truth lacks."""
    found: dict[str | None, list[int]] = {"": []}
    for i, point in enumerate(truth):
        slot = canonical_slot(point.slot) if point.slot else None
        if slot is None:  # may be meant by any
            for indices in found.values():
                indices.append(i)
        else:
            found.setdefault(slot, found[""][:]).append(i)
    return {None: tuple(range(len(truth)))} | {slot: tuple(indices) for slot, indices in found.items()}


class LexicalMatcher:
    """Words, numbers, negation and person; no model.

    Slots must agree when both resolve to the schema; a point whose slot is unknown is compared by value alone. A
    value that is only a number, yes/no or a stop word matches under the same slot name only.
    """

    threshold = 0.6

    def scores(self, guess: Sequence[Point], truth: Sequence[Point]) -> np.ndarray:
        """Float array [len(guess), len(truth)] in [0, 1]."""
        scores_GT = np.zeros((len(guess), len(truth)))
        comparable = _comparable(tuple(truth))
        for row, point in enumerate(guess):
            own = canonical_slot(point.slot) if point.slot else None
            for column in comparable.get(own, comparable[""]):
                score = point_score(point, truth[column])
                if score:
                    scores_GT[row, column] = score
        return scores_GT


class EmbeddingMatcher:
    """Meaning by sentence embeddings; numbers, negation, persons, kinds and slots stay with the rules (`comparable`).

    Where they allow it, a pair that matches by its words keeps its lexical score. Any other scores the mean of two cosines:
    of the two values, each with the slot beside it, and of the word of the truth that the guess covers least with the word
    that covers it best, for near misses share all words but one. Words of the guess that are near to none of the truth cost,
    so that several values in one line are no guess at each of them. Places stay with their names: whatever is said of
    Lisbon is near to Lisbon. Needs the extra ``embed``.

    Args:
        model: name or local folder of a sentence-transformers model. The threshold was chosen for all-MiniLM-L6-v2.
    """

    threshold = 0.54

    def __init__(self, model: str = MINILM) -> None:
        self.encoder = encoder_of(model, "matcher 'embedding'")

    def scores(self, guess: Sequence[Point], truth: Sequence[Point]) -> np.ndarray:
        """Float array [len(guess), len(truth)] in [0, 1]."""
        scores_GT = LexicalMatcher().scores(guess, truth)
        scores_GT[scores_GT < LexicalMatcher.threshold] = 0.0
        pairs = [
            (row, column)
            for row, g in enumerate(guess)
            for column, t in enumerate(truth)
            if not scores_GT[row, column] and comparable(g, t) and not _names_a_place(t)
            if not (meaning(g.value).bare or meaning(t.value).bare)
        ]
        texts: dict[str, int] = {}  # and their places among the vectors
        asked = [_Asked.of(guess[row].value, truth[column], texts) for row, column in pairs]
        vectors = self.encoder(list(texts))
        for (row, column), question in zip(pairs, asked, strict=True):
            scores_GT[row, column] = min(1.0, max(0.0, question.score(vectors)))
        return scores_GT


def _names_a_place(point: Point) -> bool:
    return point.value.istitle() and canonical_slot(point.slot) == "Location"


_BESIDE = 0.4  # cosine with the nearest word of the truth below which a word of a guess says something else
_SURPLUS = 0.1  # what each of these costs but the first: "works as a baker" has one


class _Asked(NamedTuple):
    """One comparison, as places of texts among the vectors."""

    guess: int
    truth: int
    guess_words: list[int]
    truth_words: list[int]

    @classmethod
    def of(cls, guess: str, truth: Point, texts: dict[str, int]) -> _Asked:
        """Enter the texts that it needs."""
        beside = f" ({truth.slot.lower()})" if truth.slot else ""
        own, true = (texts.setdefault(value + beside, len(texts)) for value in (guess, truth.value))
        ours, theirs = (
            [texts.setdefault(word, len(texts)) for word in words(value) if word not in STOP_WORDS] for value in (guess, truth.value)
        )
        return cls(own, true, ours, theirs)

    def score(self, vectors: np.ndarray) -> float:
        """Mean of the cosine of the values and of the least covered word's, less what is beside the point."""
        whole = float(vectors[self.guess] @ vectors[self.truth])
        if not (self.guess_words and self.truth_words):
            return whole
        near_TG = vectors[self.truth_words] @ vectors[self.guess_words].T
        beside = int((near_TG.max(axis=0) < _BESIDE).sum())
        return (whole + float(near_TG.max(axis=1).min())) / 2 - _SURPLUS * max(0, beside - 1)


def assign(scores_GT: np.ndarray, threshold: float) -> list[tuple[int, int]]:
    """One-to-one pairs (guess, truth) of maximum total score among those with score >= threshold."""
    good = scores_GT >= threshold
    guesses, truths = (indices.tolist() for indices in good.nonzero())
    if len(set(guesses)) == len(guesses) and len(set(truths)) == len(truths):  # nothing to choose
        return list(zip(guesses, truths, strict=True))
    rows, columns = linear_sum_assignment(np.where(good, scores_GT, 0.0), maximize=True)
    return [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if good[i, j]]


def match_points(matcher: Matcher, guess: Sequence[Point], truth: Sequence[Point]) -> list[tuple[int, int]]:
    """Pairs (index of guess, index of truth) that count as hits."""
    if not guess or not truth:
        return []
    return assigned(matcher.scores(guess, truth), matcher.threshold, (len(guess), len(truth)))


def assigned(scores_GT: Any, threshold: float, shape: tuple[int, int]) -> list[tuple[int, int]]:
    """`assign` of what anybody's matcher returned. Raises ConfigError if it is no matrix of guesses by truths."""
    scores_GT = np.asarray(scores_GT, dtype=float)
    if scores_GT.shape != shape:
        raise ConfigError(f"matcher: expected scores of shape {shape}, a row a guessed point, a column a true one; got {scores_GT.shape}.")
    return assign(scores_GT, threshold)
