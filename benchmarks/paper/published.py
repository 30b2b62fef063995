"""The figures that arXiv 2505.15456 prints (published.json), and what follows from them once rounding is allowed for.

A printed value v with d decimals stands for anything in [v − 10⁻ᵈ/2, v + 10⁻ᵈ/2]. `bounds` carries that through the mean,
the slope and R², so a printed AVG, N-IR or N-R² either can follow from the printed turns or cannot: no tolerance is set by
hand. Axes: K turns.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from rlpa_env.metrics import improvement

PATH = Path(__file__).with_name("published.json")
FIGURES = ("avg", "n_ir", "n_r2")
_EPSILON = 1e-9  # of floating point


@dataclass(frozen=True)
class Row:
    """One printed row."""

    table: str  # "vanilla", "extended" or "ablation"
    model: str
    method: str
    al: tuple[float, ...]  # percent
    avg: float  # percent
    n_ir: float  # a turn
    n_r2: float  # in [0, 1]

    @property
    def name(self) -> str:
        """How an erratum is named."""
        return f"{self.table}: {self.model} {self.method}"


@dataclass(frozen=True)
class Check:
    """One printed figure beside what follows from the printed turns."""

    printed: float
    recomputed: float
    low: float  # least and most that can follow when every value was rounded
    high: float

    @property
    def follows(self) -> bool:
        """Whether the printed figure can be the rounding of a figure of these turns."""
        return self.low - _EPSILON <= self.printed <= self.high + _EPSILON


@cache
def published() -> dict[str, Any]:
    """The whole file."""
    return json.loads(PATH.read_text(encoding="utf-8"))


@cache
def rows(table: str | None = None) -> tuple[Row, ...]:
    """The printed rows of one table, or of all three."""
    tables = published()["tables"]
    chosen = tables if table is None else {table: tables[table]}
    return tuple(
        Row(name, row["model"], row["method"], tuple(row["al"]), row["avg"], row["n_ir"], row["n_r2"])
        for name, content in chosen.items()
        for row in content["rows"]
    )


def bounds(al_K: np.ndarray, half: float) -> dict[str, tuple[float, float]]:
    """Least and most of AVG, N-IR and N-R² over all rows within ``half`` of ``al_K`` in every turn (or wider).

    AVG moves by at most ``half``. N-IR = Σ c_k·AL_k / (Σ c_k² · spread) with c the centred turns: the numerator moves by at
    most half·Σ|c_k|, the spread by 2·half. N-R² = cos² of the angle between c and the centred AL, which turns by at most
    arcsin(half·√K / |AL centred|).
    """
    centred_K = np.arange(len(al_K)) - (len(al_K) - 1) / 2
    square = float(centred_K @ centred_K)
    top, spread = float(centred_K @ al_K), float(al_K.max() - al_K.min())
    if spread <= 2 * half:
        raise ValueError(f"bounds: expected a row that rounding cannot make flat; its spread is {spread} with ±{half} a turn.")
    slip = half * float(abs(centred_K).sum())
    slopes = [(top + sign * slip) / (square * (spread + wide)) for sign in (-1, 1) for wide in (-2 * half, 2 * half)]
    rest_K = al_K - al_K.mean()
    length = float(np.linalg.norm(rest_K))
    angle = np.arccos(min(1.0, abs(top) / (np.sqrt(square) * length)))
    turned = np.arcsin(min(1.0, half * np.sqrt(len(al_K)) / length))
    r2 = np.cos(min(np.pi / 2, angle + turned)) ** 2, np.cos(max(0.0, angle - turned)) ** 2
    mean = float(al_K.mean())
    return {"avg": (mean - half, mean + half), "n_ir": (min(slopes), max(slopes)), "n_r2": (float(r2[0]), float(r2[1]))}


def checks(row: Row) -> dict[str, Check]:
    """AVG, N-IR and N-R² of a row, recomputed; bounds include the rounding of the printed figure itself."""
    decimals = published()["decimals"]
    al_K = np.asarray(row.al)
    possible = bounds(al_K, half_unit(decimals["al"]))
    exact = (float(al_K.mean()), *improvement(row.al))
    found = {}
    for name, value in zip(FIGURES, exact, strict=True):
        own = half_unit(decimals[name])
        low, high = possible[name]
        found[name] = Check(getattr(row, name), value, low - own, high + own)
    return found


def half_unit(decimals: int) -> float:
    """How far a value printed with so many decimals may be from the one meant."""
    return 0.5 * 10.0**-decimals


def users_of(row: Row, candidates: range = range(2, 1001)) -> int | None:
    """The least number of users of whom every turn of the row is a share, as printed; None if there is none."""
    al_K = np.asarray(row.al)
    half = half_unit(published()["decimals"]["al"]) + _EPSILON
    for users in candidates:
        if (abs(100 * np.round(al_K * users / 100) / users - al_K) <= half).all():
            return users
    return None


def errata() -> dict[str, dict[str, Check]]:
    """Row name -> the printed figures of it that cannot follow from its turns."""
    found = {}
    for row in rows():
        wrong = {name: check for name, check in checks(row).items() if not check.follows}
        if wrong:
            found[row.name] = wrong
    return found
