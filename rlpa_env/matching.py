"""Whether a guessed point means a true one: pairwise scores, then the best one-to-one assignment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import numpy as np
from rapidfuzz.distance import Levenshtein
from scipy.optimize import linear_sum_assignment

from rlpa_env.errors import require
from rlpa_env.profiles import canonical_slot
from rlpa_env.text import normalise, stem, words
from rlpa_env.text import stems as content_stems
from rlpa_env.types import Point

_NUMBER_WORDS = {
    word: number
    for number, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen".split()
    )
} | {word: 10 * (i + 2) for i, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split())}
_NEGATIONS = frozenset(
    "not no never none without cannot can't don't doesn't didn't isn't aren't wasn't weren't won't wouldn't haven't "
    "hasn't hates hate dislikes dislike dont doesnt didnt isnt cant hardly former ex formerly used".split()
)
_OTHERS = frozenset(
    "he she they his her their mother father mom mum dad sister brother wife husband partner son daughter uncle aunt "
    "cousin grandmother grandfather grandma grandpa friend neighbour neighbor colleague boss roommate flatmate "
    "parents postman".split()
)
_FILLER = frozenset(
    map(
        stem,
        "work works working job employed profession career living lives live based resident reside hobby hobbies love "
        "loves enjoy enjoys enjoying likes fan fond keen interested interest person being years year old age aged "
        "currently describe personality trait trained studied study studying attended earned holds owner status favorite "
        "favourite identifies gender".split(),
    )
)
_GENERIC = frozenset(map(stem, "degree diploma certificate qualification background apprenticeship course big small".split()))
_SYNONYMS = {
    stem(word): stem(base)
    for base, others in {
        "woman": "female lady girl women",
        "man": "male guy gentleman boy men",
        "nonbinary": "enby genderqueer",
        "single": "unmarried unattached bachelor",
        "married": "wedded",
        "divorced": "divorcee",
        "fear": "afraid scared phobia terrified",
        "vegetarian": "veggie meatless",
        "kid": "child children kids",
        "photography": "photographing photographs photos",
        "movie": "film films cinema",
        "physician": "doctor",
        "lawyer": "attorney solicitor",
        "car": "automobile",
        "bicycle": "bike biking cycling bicycling",
    }.items()
    for word in others.split()
}
_FUZZY = 6  # letters from which a typo is forgiven


@runtime_checkable
class Matcher(Protocol):
    """Anything that can compare points."""

    threshold: float  # a pair counts when its score is at least this, in (0, 1]

    def scores(self, guess: Sequence[Point], truth: Sequence[Point]) -> np.ndarray:
        """Float array [len(guess), len(truth)] in [0, 1]; 1 means the same."""
        ...


@dataclass(frozen=True)
class _Meaning:
    """What a value says, as far as words show it."""

    normal: str
    stems: frozenset[str]
    numbers: frozenset[int]
    negated: bool
    other: bool  # about somebody else
    bare: bool  # only a number, yes/no or stop words: means nothing without its slot


@lru_cache(maxsize=65_536)
def _meaning(value: str) -> _Meaning:
    normal = normalise(value).replace("non binary", "nonbinary")
    tokens = words(value.replace("non-binary", "nonbinary").replace("Non-binary", "nonbinary"))
    numbers, rest = set(), []
    tens = 0
    for token in (part for word in tokens for part in word.split("-")):
        if token.isdigit() and token.isascii() and len(token) < 10:
            numbers.add(int(token))
        elif token in _NUMBER_WORDS:
            number = _NUMBER_WORDS[token]
            if number >= 20:
                tens = number
                numbers.add(number)
            else:
                if tens and number < 10:
                    numbers.discard(tens)
                    number += tens
                numbers.add(number)
                tens = 0
            continue
        else:
            rest.append(token)
        tens = 0
    content = {_SYNONYMS.get(s, s) for s in content_stems(" ".join(rest)) if not s.isdigit()}
    kept = content - _FILLER
    if not kept and not numbers:  # "works": nothing but filler, so the filler is what it says; "34 years old" is a number
        kept = content
    other = any(token in _OTHERS for token in tokens[:4]) and len(tokens) > 2
    negated = any(token in _NEGATIONS for token in tokens)
    return _Meaning(normal, frozenset(kept), frozenset(numbers), negated, other, not kept)


def _weight(stems: frozenset[str]) -> float:
    return sum(0.4 if s in _GENERIC else 1.0 for s in stems)


def _common(a: frozenset[str], b: frozenset[str]) -> tuple[float, float]:
    """(weight of what both say, weight of what either says); long words may differ by a typo."""
    same = a & b
    left, right = a - same, set(b - same)
    shared, total = _weight(same), _weight(same)
    for word in sorted(left):
        twin = next(
            (o for o in sorted(right) if min(len(o), len(word)) >= _FUZZY and Levenshtein.distance(o, word) <= 1), None
        )
        if twin is not None:
            right.discard(twin)
            shared += 1.0
        total += _weight(frozenset((word,)))
    return shared, total + _weight(frozenset(right))


def value_score(guess: str, truth: str) -> float:
    """How far two values say the same, in [0, 1]; whatever one says beyond the other lowers it.

    >>> value_score("works as a baker", "baker"), value_score("cat person", "dog person")
    (1.0, 0.0)
    """
    a, b = _meaning(guess), _meaning(truth)
    if a.normal == b.normal:
        return 1.0
    if a.negated != b.negated or a.other != b.other or a.numbers != b.numbers:
        return 0.0
    if a.bare or b.bare:
        return 1.0 if a.bare and b.bare and a.numbers and a.numbers == b.numbers else 0.0
    shared, total = _common(a.stems, b.stems)
    return shared / total if total else 0.0


@lru_cache(maxsize=262_144)
def comparable(guess: Point, truth: Point) -> bool:
    """Whether two points may mean the same at all, however alike they sound.

    Not where both slots are known and differ, numbers differ, one is negated, or one is about somebody else; and a
    value that is only a number, yes/no or a stop word means something under the same slot name only.

    >>> comparable(Point("Age", "34"), Point("Age", "33")), comparable(Point("", "no pets"), Point("", "has pets"))
    (False, False)
    """
    if not _same_slot(guess, truth):
        return False
    a, b = _meaning(guess.value), _meaning(truth.value)
    return a.normal == b.normal or (a.negated == b.negated and a.other == b.other and a.numbers == b.numbers)


def _same_slot(guess: Point, truth: Point) -> bool:
    own, true = (canonical_slot(p.slot) if p.slot else None for p in (guess, truth))
    if own is not None and true is not None and own != true:
        return False
    if _meaning(truth.value).bare or _meaning(guess.value).bare:
        return own == true if own or true else normalise(guess.slot) == normalise(truth.slot) and bool(guess.slot)
    return True


@lru_cache(maxsize=262_144)
def point_score(guess: Point, truth: Point) -> float:
    """`value_score` where the slots allow it, else 0."""
    return value_score(guess.value, truth.value) if _same_slot(guess, truth) else 0.0


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
    """Meaning by sentence embeddings; numbers, negation, persons and slots stay with the rules.

    A pair scores the cosine of the two values' embeddings where the rules allow it, or its lexical score if that is
    higher. Needs the extra ``embed``.

    Args:
        model: name or local path of a sentence-transformers model.
    """

    threshold = 0.6

    def __init__(self, model: str = "sentence-transformers/all-MiniLM-L6-v2") -> None:
        require("sentence_transformers", "embed", "matcher 'embedding'")
        self.model = model
        self._encoder: Any = None
        self._known: dict[str, np.ndarray] = {}

    def scores(self, guess: Sequence[Point], truth: Sequence[Point]) -> np.ndarray:
        """Float array [len(guess), len(truth)] in [0, 1]."""
        scores_GT = LexicalMatcher().scores(guess, truth)
        open_GT = [
            (row, column)
            for row, g in enumerate(guess)
            for column, t in enumerate(truth)
            if scores_GT[row, column] < 1.0 and comparable(g, t) and not (_meaning(g.value).bare or _meaning(t.value).bare)
        ]
        if open_GT:
            self._embed({normalise(p.value) for row, column in open_GT for p in (guess[row], truth[column])})
        for row, column in open_GT:
            cosine = float(self._known[normalise(guess[row].value)] @ self._known[normalise(truth[column].value)])
            scores_GT[row, column] = max(scores_GT[row, column], min(1.0, max(0.0, cosine)))
        return scores_GT

    def _embed(self, values: set[str]) -> None:
        new = sorted(values - self._known.keys())
        if not new:
            return
        if self._encoder is None:
            from sentence_transformers import SentenceTransformer

            self._encoder = SentenceTransformer(self.model, device="cpu")
        vectors = self._encoder.encode(new, normalize_embeddings=True, show_progress_bar=False)
        self._known.update(zip(new, np.asarray(vectors, dtype=float), strict=True))


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
