"""What can be said of the paper's claims: intervals over seeds and users together, and a verdict for each sentence.

Axes: S seeds, U users, K turns, B bootstrap draws. A draw takes S seeds and U users with replacement and every pair of them;
the same draws serve everybody, so differences are paired. With one seed the draws are over users alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from null_band import Band, band
from published import Row, checks
from rich.console import Console
from rich.table import Table

from rlpa_env.metrics import improvement
from rlpa_env.results import weights

LEAST_USERS = 20  # fewer people decide no claim
_LACKING = "not every seed has a dialogue with the figure"
HELD, NOT, UNKNOWN = "held", "did not hold", "cannot be said"
WIDTH = 170


class Estimate(NamedTuple):
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    def text(self, digits: int = 1) -> str:
        """For a cell; "–" if there is none."""
        if math.isnan(self.value):
            return "–"
        return f"{self.value:.{digits}f} [dim]{self.low:.{digits}f}…{self.high:.{digits}f}[/]"


def resampled(values_SUX: np.ndarray, draws: int = 2000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Mean over seeds and users, and the same of every bootstrap draw: shapes [X…] and [B, X…].

    NaN is missing and left out; where nothing is left the mean is NaN.
    """
    seeds, users = values_SUX.shape[:2]
    flat_SUX = values_SUX.reshape(seeds, users, -1)
    known_SUX = ~np.isnan(flat_SUX)
    weights_BS, weights_BU = weights(seeds, seed + 1, draws), weights(users, seed, draws)

    def mean(weight_S: np.ndarray, weight_U: np.ndarray) -> np.ndarray:
        total = np.einsum("bs,bu,sux->bx", weight_S, weight_U, np.where(known_SUX, flat_SUX, 0.0), optimize=True)
        share = np.einsum("bs,bu,sux->bx", weight_S, weight_U, known_SUX.astype(float), optimize=True)
        return np.where(share > 0, total / np.where(share > 0, share, 1.0), np.nan)

    shape = values_SUX.shape[2:]
    point = mean(np.full((1, seeds), 1 / seeds), np.full((1, users), 1 / users))[0]
    return point.reshape(shape), mean(weights_BS, weights_BU).reshape(draws, *shape)


def interval(point: float, draws_B: np.ndarray) -> Estimate:
    """The figure with its percentile interval; NaN where no draw has it."""
    known = draws_B[~np.isnan(draws_B)]
    if math.isnan(point) or not len(known):
        return Estimate(math.nan, math.nan, math.nan)
    low, high = np.percentile(known, [2.5, 97.5])
    return Estimate(float(point), float(low), float(high))


def estimate(values_SUX: np.ndarray, figure: Callable[[np.ndarray], Any]) -> Estimate:
    """``figure`` of the mean over seeds and users; it maps [X…] to a number."""
    point, draws = resampled(values_SUX)
    return interval(float(figure(point)), np.array([float(figure(draw)) for draw in draws]))


def change(gap_SU: np.ndarray) -> tuple[Estimate, list[float]]:
    """Mean of a difference that is taken within each dialogue, together and for each seed.

    A dialogue that lacks one side of it is NaN, and left out: weighing in one side alone it would make a difference of its own.
    """
    return estimate(gap_SU, float), [float(resampled(gap_U[None], 1)[0]) for gap_U in gap_SU]


def alignment_figures(al_SUK: np.ndarray) -> dict[str, Any]:
    """AL(k), AVG, N-IR and N-R² in the paper's units with intervals, and the null band of such a row whose verdicts persist."""
    point_K, draws_BK = resampled(100.0 * al_SUK)
    fits = np.array([improvement(row.tolist()) for row in draws_BK])
    slope, fit = improvement(point_K.tolist())
    avg = float(point_K.mean())
    chance = band(al_SUK.shape[0] * al_SUK.shape[1], _level(avg), draws=2000)
    return {
        "al": [interval(float(point_K[k]), draws_BK[:, k]) for k in range(len(point_K))],
        "avg": interval(avg, draws_BK.mean(axis=1)),
        "n_ir": interval(slope, fits[:, 0]),
        "n_r2": interval(fit, fits[:, 1]),
        "null": chance,
        "avg_by_seed": [float(100.0 * np.nanmean(al_UK)) for al_UK in al_SUK],
    }


def _level(percent: float) -> float:
    """Rounded, so that rows of about the same alignment share a simulated band."""
    return min(0.95, max(0.05, round(percent / 5) * 0.05)) if 1e-9 < percent < 100 - 1e-9 else round(percent / 100)


def beyond_chance(figures: Mapping[str, Any]) -> bool:
    """Whether a row rises by more than a flat one does, whose verdicts may persist: both figures above the null band."""
    chance: Band = figures["null"]
    return figures["n_ir"].value > chance.n_ir and figures["n_r2"].value > chance.n_r2


def published_cells(row: Row | None) -> list[str]:
    """AVG, N-IR and N-R² as printed; a figure that its turns do not give is marked, with what they give."""
    if row is None:
        return ["", "", ""]
    cells = []
    for name, check in checks(row).items():
        digits = 2 if name == "avg" else 3
        cells.append(f"{check.printed:.{digits}f}" + ("" if check.follows else f"† ({check.recomputed:.{digits}f})"))
    return cells


FOOT = "† does not follow from the printed turns, which give the figure in brackets (docs/paper_audit.md)"


def band_text(chance: Band) -> str:
    """The null band for a cell."""
    return f"±{chance.n_ir:.3f} · {chance.n_r2:.2f}"


@dataclass(frozen=True)
class Claim:
    """One sentence of the paper and what our figures say to it."""

    sentence: str
    outcome: str  # HELD, NOT or UNKNOWN
    why: str
    seeds: tuple[float, ...] = ()  # the difference (or figure) of each seed by itself


def needs(sentence: str, tables: Mapping[str, np.ndarray], names: Sequence[str], what: str = "people") -> Claim | None:
    """The claim as one that cannot be said, for want of a policy or of people (axis 1); None if it can.

    People without a dialogue of which all these policies have every figure decide nothing, and do not count.
    """
    missing = [name for name in names if name not in tables]
    if missing:
        return Claim(sentence, UNKNOWN, f"no policy named {', '.join(missing)}")
    lost_SU = _lost(*(tables[name] for name in names))
    users = int((~lost_SU).any(axis=0).sum())
    if users < LEAST_USERS:
        of = f" of {lost_SU.shape[1]}, those with all figures," if lost_SU.any() else ""
        return Claim(sentence, UNKNOWN, f"{users} {what}{of} are too few: at least {LEAST_USERS}")
    return None


def above(
    sentence: str, tables: Mapping[str, np.ndarray], more: str, less: str, figure: Callable[[np.ndarray], Any] = np.mean, unit: float = 100.0
) -> Claim:
    """Is ``figure`` of ``more`` above that of ``less``: over seeds and users together, and in each seed for itself?

    A dialogue that a failure cut short for one is left out of both, or those who did not talk would make the difference.
    """
    if lacking := needs(sentence, tables, (more, less)):
        return lacking
    ours, theirs = (unit * tables[name] for name in (more, less))
    lost_SU = _lost(ours, theirs)
    ours[lost_SU] = theirs[lost_SU] = np.nan
    (a, a_B), (b, b_B) = resampled(ours), resampled(theirs)
    gaps_B = np.array([float(figure(x)) - float(figure(y)) for x, y in zip(a_B, b_B, strict=True)])
    gap = interval(float(figure(a)) - float(figure(b)), gaps_B)
    alone = [
        float(figure(resampled(one[None], 1)[0])) - float(figure(resampled(other[None], 1)[0])) for one, other in zip(ours, theirs, strict=True)
    ]
    return decided(sentence, gap, alone)


def _lost(*tables_SUX: np.ndarray) -> np.ndarray:
    """[S, U]: dialogues of which one of these has not all figures."""
    return np.logical_or.reduce([np.isnan(values).any(axis=tuple(range(2, values.ndim))) for values in tables_SUX])


def decided(sentence: str, gap: Estimate, alone: Sequence[float]) -> Claim:
    """Held: the interval is above 0 and so is every seed. A tie, or another order in one seed, does not hold."""
    text = f"{gap.value:+.1f} [{gap.low:+.1f}, {gap.high:+.1f}]"
    if any(map(math.isnan, (gap.value, *alone))):
        return Claim(sentence, UNKNOWN, _LACKING, tuple(alone))
    if gap.low > 0 and min(alone) > 0:
        return Claim(sentence, HELD, text, tuple(alone))
    if gap.low > 0:
        return Claim(sentence, NOT, f"{text}, but not in every seed for itself", tuple(alone))
    return Claim(sentence, NOT, f"{text}: {'the other way round' if gap.high < 0 else 'a tie, the interval covers 0'}", tuple(alone))


def reaches(sentence: str, found: Estimate, bound: float, text: str, alone: Sequence[float] = (), what: str = "the bound") -> Claim:
    """For "as good as": held where the whole interval and every seed reach the bound, not where all of it is below, open in between."""
    if any(map(math.isnan, (found.value, *alone))):
        return Claim(sentence, UNKNOWN, _LACKING, tuple(alone))
    if found.low < bound <= found.high:
        return Claim(sentence, UNKNOWN, f"{text}: the interval holds {what}", tuple(alone))
    if found.low >= bound and min(alone, default=bound) < bound:
        return Claim(sentence, NOT, f"{text}, but not in every seed for itself", tuple(alone))
    return Claim(sentence, HELD if found.low >= bound else NOT, text, tuple(alone))


def grows(sentence: str, tables: Mapping[str, np.ndarray], name: str) -> Claim:
    """Does a row rise by more than chance: N-IR and N-R² above the null band, N-IR's interval above 0, and each seed's N-IR above its own band?"""
    if lacking := needs(sentence, tables, (name,)):
        return lacking
    whole = tables[name].copy()
    whole[_lost(whole)] = np.nan
    alone = tuple(improvement(resampled(al_UK[None], 1)[0].tolist())[0] for al_UK in whole)
    if any(map(math.isnan, alone)):
        return Claim(sentence, UNKNOWN, _LACKING, alone)
    figures = alignment_figures(whole)
    slope, fit, chance = figures["n_ir"], figures["n_r2"].value, figures["null"]
    text = f"N-IR {slope.value:.3f} [{slope.low:.3f}, {slope.high:.3f}], N-R² {fit:.2f}; chance gives up to {chance.n_ir:.3f} and {chance.n_r2:.2f}"
    if not (beyond_chance(figures) and slope.low > 0):
        return Claim(sentence, NOT, text, alone)
    bands = [band(whole.shape[1], _level(avg), draws=2000).n_ir for avg in figures["avg_by_seed"]]
    if all(own > most for own, most in zip(alone, bands, strict=True)):
        return Claim(sentence, HELD, text, alone)
    return Claim(sentence, NOT, f"{text}, but not in every seed for itself", alone)


def print_claims(claims: Sequence[Claim], console: Console | None = None) -> list[dict[str, Any]]:
    """Print what held; the same as plain data."""
    shown = Table("claim", "here", "difference or figure, 95 % over seeds and users", "each seed", title="claims")
    for claim in claims:
        shown.add_row(claim.sentence, claim.outcome, claim.why, "  ".join(f"{value:+.2f}" for value in claim.seeds))
    (console or Console(width=WIDTH)).print(shown)
    return [asdict(claim) for claim in claims]


def plain(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Estimates and bands as JSON-able data."""
    return {key: value._asdict() if hasattr(value, "_asdict") else [v._asdict() if hasattr(v, "_asdict") else v for v in value] if isinstance(value, list) else value for key, value in figures.items()}
