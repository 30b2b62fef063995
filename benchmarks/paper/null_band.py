"""What N-IR and N-R² are by chance: rows of AL(k) whose true alignment is the same at every turn.

    python benchmarks/paper/null_band.py [--users 74] [--seeds 0] [--smoke] [--out benchmarks/results/paper]

Three kinds of flat rows: every verdict on its own; people of whom some are easier to please throughout; people whose verdict
tends to repeat the last one. Min-max normalisation takes out how many users there are, so the first two bands are nearly
the same everywhere; persistence makes the curve drift, and the band wider. Beside it: every published row.
"""

from __future__ import annotations

import argparse
import sys
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import finish
from published import checks, rows

from rlpa_env.metrics import improvement

KINDS = ("independent", "people differ", "persistent")
TURNS = 10
_EASE = 2.0  # strength of the Beta distribution of people's ease: its standard deviation is √(p(1−p)/3)
_REPEAT = 0.5  # chance that a persistent verdict is the last one again


class Band(NamedTuple):
    """What 95 of 100 flat rows stay within."""

    n_ir: float  # |N-IR| at most
    n_r2: float  # N-R² at most
    point: float  # |AL(k) − truth| at most, percentage points


def flat_rows(kind: str, users: int, level: float, draws: int, rng: np.random.Generator, turns: int = TURNS) -> np.ndarray:
    """AL [draws, turns] in percent of ``users`` people who pass with probability ``level`` at every turn."""
    if kind == "people differ":
        ease = rng.beta(_EASE * level, _EASE * (1 - level), size=(draws, users, 1))
        return 100 * (rng.random((draws, users, turns)) < ease).mean(axis=1)
    if kind == "independent":
        return 100 * rng.binomial(users, level, size=(draws, turns)) / users
    verdicts = rng.random((draws, users, turns)) < level
    again = rng.random((draws, users, turns)) < _REPEAT
    for turn in range(1, turns):
        verdicts[..., turn] = np.where(again[..., turn], verdicts[..., turn - 1], verdicts[..., turn])
    return 100 * verdicts.mean(axis=1)


@cache
def band(users: int, level: float = 0.5, kind: str = "persistent", draws: int = 4000, seed: int = 0) -> Band:
    """The null band of rows over ``users`` dialogues with true alignment ``level`` in (0, 1).

    The widest kind unless asked otherwise: a person's verdicts come from one dialogue, and no row tells that they do not persist.
    The rate of a row that is all passes or none has no chance in it: its band is 0.
    """
    if not 0 < level < 1:
        return Band(0.0, 0.0, 0.0)
    al = flat_rows(kind, users, level, draws, np.random.default_rng(seed))
    fits = np.array([improvement(row) for row in al.tolist()])
    point = float(np.quantile(abs(al - 100 * level), 0.95))
    return Band(float(np.quantile(abs(fits[:, 0]), 0.95)), float(np.quantile(fits[:, 1], 0.95)), point)


def main() -> None:
    """Simulate, print beside the published rows, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=74)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--draws", type=int, default=4000, help="flat rows of each kind")
    parser.add_argument("--smoke", action="store_true", help="200 rows of each kind, to see that it runs")
    parser.add_argument("--out", type=Path, help="folder for null_band.json")
    args = parser.parse_args()
    draws = 200 if args.smoke else args.draws
    shown = Table("flat rows", "alignment", "|N-IR| ≤", "N-R² ≤", "a point within ±", title=f"95 % of flat rows, {args.users} users, {TURNS} turns")
    figures: dict[str, Any] = {"users": args.users, "turns": TURNS, "draws": draws, "bands": []}
    for kind in KINDS:
        for level in (0.1, 0.5, 0.75):
            found = np.mean([band(args.users, level, kind, draws, seed) for seed in args.seeds], axis=0)
            figures["bands"].append({"kind": kind, "level": level, **dict(zip(Band._fields, map(float, found), strict=True))})
            shown.add_row(kind, f"{level:.0%}", f"{found[0]:.3f}", f"{found[1]:.2f}", f"{found[2]:.1f}")
    Console(width=110).print(shown)
    first = figures["bands"][1]
    beside = Table("published row", "N-IR", "N-R²", "N-IR recomputed", "N-R² recomputed", "by chance?", title="the paper's figures")
    figures["within"] = []
    for row in rows():
        check = checks(row)
        n_ir, n_r2 = check["n_ir"].recomputed, check["n_r2"].recomputed
        inside = abs(n_ir) <= first["n_ir"] or n_r2 <= first["n_r2"]
        figures["within"] += [row.name] * inside
        beside.add_row(row.name, f"{row.n_ir:.3f}", f"{row.n_r2:.3f}", f"{n_ir:.3f}", f"{n_r2:.3f}", "within the band" if inside else "")
    Console(width=110).print(beside)
    finish("null_band", figures, args.seeds, args.out)


if __name__ == "__main__":
    main()
