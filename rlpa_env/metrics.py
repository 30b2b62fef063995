"""The paper's figures over turns, AL(k), its mean and the normalised improvement; and how alike replies are. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

_ROUNDING = 1e-9  # what means of the same number differ by, relative to it


def alignment(passed_UK: Sequence[Sequence[float]]) -> list[float]:
    """AL(k) = 100 · mean over users of the 0/1 verdict at turn k. Shape [users, turns] -> [turns], in percent."""
    return (100.0 * np.asarray(passed_UK, dtype=float).mean(axis=0)).tolist()


def improvement(al: Sequence[float]) -> tuple[float, float]:
    """(N-IR, N-R²): slope and R² of the least-squares line through (k, z_k), k = 1 … K.

    z = (AL − min AL) / (max AL − min AL). A flat row has no shape to fit: (0.0, 0.0). Checked against every published row
    of arXiv 2505.15456, tables 2, 4 and 5 (docs/paper_audit.md).

    >>> n_ir, n_r2 = improvement([0.0, 10.0, 20.0, 30.0])
    >>> round(n_ir, 4), round(n_r2, 4)
    (0.3333, 1.0)
    """
    values = np.asarray(al, dtype=float)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"improvement: expected AL at two or more turns; got shape {values.shape}.")
    spread = values.max() - values.min()
    if spread <= _ROUNDING * max(1.0, np.abs(values).max()):
        return 0.0, 0.0
    z = (values - values.min()) / spread
    k = np.arange(1, len(z) + 1, dtype=float)
    k -= k.mean()
    slope = float(k @ z / (k @ k))
    residual = z - z.mean() - slope * k
    return slope, float(1.0 - residual @ residual / ((z - z.mean()) @ (z - z.mean())))


def sameness(dialogues: Sequence[Sequence[str]]) -> dict[str, float]:
    """Two shares that tell of an agent that has found one safe reply, from the replies of each dialogue in order; 0 where there are none.

    ``most_common_reply``: of the replies after the first of a dialogue, how many are the one said most often. The first message is
    always "Hello", and one answer to it may well be the best; later ones should differ. ``distinct_2``: different pairs of
    neighbouring words over all pairs. It falls with the number of dialogues, so only equally many compare.

    >>> sameness([["hi you", "so it is"], ["hi you", "so it was", "so it is"]])
    {'most_common_reply': 0.6666666666666666, 'distinct_2': 0.5}
    """
    later = Counter(reply for replies in dialogues for reply in replies[1:])
    pairs = [pair for replies in dialogues for reply in replies for pair in zip(reply.split(), reply.split()[1:])]
    return {"most_common_reply": max(later.values(), default=0) / max(1, later.total()), "distinct_2": len(set(pairs)) / max(1, len(pairs))}
