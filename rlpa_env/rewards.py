"""The two rewards of a turn and their sum. Pure arithmetic over points, matches and verdicts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from rlpa_env.matching import Matcher, match_points
from rlpa_env.text import stems
from rlpa_env.types import Point


@dataclass(frozen=True)
class ProfileScore:
    """How well a guess fits the truth. All figures in [0, 1]."""

    precision: float = 0.0  # hits / guessed points; 0 for an empty guess
    recall: float = 0.0  # hits / true points
    f1: float = 0.0  # 2·hits / (guessed + true), the paper's profile reward
    grounded_f1: float = 0.0  # the same, a hit counting only if that point had been revealed
    invented: float = 0.0  # share of guessed points that nothing said supports; see `unsupported`
    ceiling: float = 0.0  # share of true points revealed before the guess
    hits: int = 0


def f1(hits: int, guessed: int, true: int) -> float:
    """2·|P̂∩P| / (|P̂| + |P|), with 0 for two empty sets (paper, section 3).

    >>> f1(2, 3, 5)
    0.5
    """
    return 2.0 * hits / (guessed + true) if guessed + true else 0.0


def profile_reward(guess: Sequence[Point], truth: Sequence[Point], matcher: Matcher) -> float:
    """R_profile: F1 of one-to-one matched points; 1 iff both are the same set, 0 for an empty guess."""
    return f1(len(match_points(matcher, guess, truth)), len(guess), len(truth))


def partial_rewards(counted: Collection[int], guessed: int, true: int) -> tuple[float, ...]:
    """F1 of the first 1, 2, … points of a guess whose points number ``counted`` are hits; the last is that of the guess.

    What each point added is the difference to the figure before it, so that a learner can credit it by itself.

    >>> partial_rewards({0, 2}, guessed=3, true=5)
    (0.333..., 0.285..., 0.5)
    """
    return tuple(f1(sum(hit < n for hit in counted), n, true) for n in range(1, guessed + 1))


def profile_score(
    guess: Sequence[Point],
    truth: Sequence[Point],
    matcher: Matcher,
    *,
    revealed: Collection[Point] = (),
    said: tuple[str, ...] = (),
) -> ProfileScore:
    """Match a guess and score it; see `score_pairs`."""
    return score_pairs(match_points(matcher, guess, truth), guess, truth, revealed=revealed, said=said)


def score_pairs(
    pairs: Sequence[tuple[int, int]],
    guess: Sequence[Point],
    truth: Sequence[Point],
    *,
    revealed: Collection[Point] = (),
    said: tuple[str, ...] = (),
) -> ProfileScore:
    """Score a guess whose hits are known.

    Args:
        pairs: (index of guess, index of truth) of every hit.
        revealed: true points that the user had revealed before the guess.
        said: the user's messages before the guess; a guessed point is supported if one of them holds its content
            words, or if it hits a revealed point.
    """
    known = set(revealed)
    grounded = {g for g, t in pairs if truth[t] in known}
    invented = len(unsupported(guess, grounded, said))
    return ProfileScore(
        precision=len(pairs) / len(guess) if guess else 0.0,
        recall=len(pairs) / len(truth) if truth else 0.0,
        f1=f1(len(pairs), len(guess), len(truth)),
        grounded_f1=f1(len(grounded), len(guess), len(truth)),
        invented=invented / len(guess) if guess else 0.0,
        ceiling=sum(map(known.__contains__, truth)) / len(truth) if truth else 0.0,
        hits=len(pairs),
    )


def unsupported(guess: Sequence[Point], grounded: Collection[int], said: Sequence[str]) -> list[int]:
    """Indices of the guessed points that nothing said supports: the inventions.

    Supported is what hits a revealed point or has all its content words in one message, whomever that is about: somebody else's job
    that is listed as the person's own is a mistake, but no invention. `evidence.supported`, of the judges, reads who is meant.

    Args:
        grounded: indices of the guessed points that hit a revealed point.
        said: the user's messages before the guess.

    >>> unsupported([Point("Age", "34"), Point("Location", "Porto"), Point("Pets", "cat")], {0}, ["Porto is far away."])
    [2]
    >>> unsupported([Point("Occupation", "nurse")], (), ["My sister is the nurse in the family."])
    []
    """
    heard = [stems(text) for text in said] if len(grounded) < len(guess) else []
    return [index for index, point in enumerate(guess) if index not in grounded and not _said(stems(point.value), heard)]


def _said(wanted: frozenset[str], heard: Sequence[frozenset[str]]) -> bool:
    return bool(wanted) and any(map(wanted.issubset, heard))


def total_reward(profile: float, response: float, profile_weight: float = 1.0, response_weight: float = 1.0) -> float:
    """R = w_p·R_profile + w_r·R_response."""
    return profile_weight * profile + response_weight * response
