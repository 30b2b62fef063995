"""Whether a guessed point means a true one: pairwise scores, then the best one-to-one assignment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Protocol, runtime_checkable

import numpy as np
from scipy.optimize import linear_sum_assignment

from rlpa_env.encoders import MINILM, encoder_of
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
    slots = [canonical_slot(point.slot) if point.slot else None for point in truth]
    return {own: tuple(i for i, slot in enumerate(slots) if own is None or slot in (None, own)) for own in {None, "", *slots}}


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
    Names stay with their words: what is said of Lisbon is near to Lisbon, whatever it is.

    Where they allow it, a pair that matches by its words keeps its lexical score. Any other scores the weighted mean of the
    cosine of the two values (each with the slot beside it), of how well the guess covers the word of the truth that it
    covers least, and of the lexical score: near misses share all words but one. Needs the extra ``embed``.

    Args:
        model: name or local folder of a sentence-transformers model. Weights and threshold were chosen with
            all-MiniLM-L6-v2 (``benchmarks/matcher_quality``, writer 1).
    """

    threshold = 0.44
    weights = (0.4, 0.4, 0.2)  # of cosine, least covered word, lexical score

    def __init__(self, model: str = MINILM) -> None:
        self.encoder = encoder_of(model, "matcher 'embedding'")

    def scores(self, guess: Sequence[Point], truth: Sequence[Point]) -> np.ndarray:
        """Float array [len(guess), len(truth)] in [0, 1]."""
        scores_GT = LexicalMatcher().scores(guess, truth)
        asked = [
            (row, column)
            for row, g in enumerate(guess)
            for column, t in enumerate(truth)
            if scores_GT[row, column] < LexicalMatcher.threshold
            and comparable(g, t)
            and not (meaning(g.value).bare or meaning(t.value).bare or t.value.istitle())
        ]
        texts: dict[str, int] = {}
        pairs = [_Pair(guess[row].value, truth[column], texts) for row, column in asked]
        vectors = self.encoder(list(texts))
        sure_GT = np.where(scores_GT >= LexicalMatcher.threshold, scores_GT, 0.0)
        for (row, column), pair in zip(asked, pairs, strict=True):
            measures = pair.cosine(vectors), pair.least_covered(vectors), scores_GT[row, column]
            sure_GT[row, column] = min(1.0, max(0.0, float(np.dot(self.weights, measures))))
        return sure_GT


class _Pair:
    """The texts by whose vectors a guessed value and a true point are compared, by place in a shared table."""

    def __init__(self, guess: str, truth: Point, texts: dict[str, int]) -> None:
        def place(text: str) -> int:
            return texts.setdefault(text, len(texts))

        beside = f" ({truth.slot.lower()})" if truth.slot else ""
        self.whole = place(guess + beside), place(truth.value + beside)
        self.words = [[place(word) for word in words(value) if word not in STOP_WORDS] for value in (guess, truth.value)]

    def cosine(self, vectors: np.ndarray) -> float:
        """Of the two values, each with the slot beside it."""
        return float(vectors[self.whole[0]] @ vectors[self.whole[1]])

    def least_covered(self, vectors: np.ndarray) -> float:
        """Over the words of the truth the least of their best cosines with a word of the guess."""
        ours, theirs = self.words
        return float((vectors[theirs] @ vectors[ours].T).max(axis=1).min()) if ours and theirs else 0.0


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
    return assign(np.asarray(matcher.scores(guess, truth), dtype=float), matcher.threshold)
