"""Draw what `run.py` has kept: each seed's training, and start, trained policy and references turn by turn.

    python benchmarks/tiny_ppo/picture.py [--runs runs/tiny_ppo] [--seeds 0 1 2] [--out docs/learning.png]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlpa_env.results import by_user, per_turn

SHOWN = {"start": "tab:gray", "trained": "tab:blue", "attentive": "tab:green"}
PARTS = {"response": "response reward by turn", "grounded_f1": "grounded F1 by turn"}


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The records of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]  # not splitlines(): a message may hold U+2028


def line_of(records: Sequence[dict[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean by turn over people, and the half width of its 95 % interval.

    A person's seeds are averaged first: three dialogues with one are not three people.
    """
    scores_UK = by_user(records, per_turn(records, key))
    return scores_UK.mean(axis=0), 1.96 * scores_UK.std(axis=0) / np.sqrt(len(scores_UK))


def draw(runs: Path, seeds: Sequence[int], out: Path) -> None:
    """Training on the left, held-out people by turn beside it; bands are 95 % of the mean over people."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, *others) = pyplot.subplots(1, 3, figsize=(13, 3.8), constrained_layout=True)
    for seed in seeds:
        lines = lines_of(runs / f"rlpa-{seed}" / "metrics.jsonl")
        for key, colour in (("reward/response", "tab:orange"), ("profile/grounded_f1", "tab:purple")):
            label = {"reward/response": "response reward", "profile/grounded_f1": "grounded F1"}[key] if seed == seeds[0] else None
            left.plot([line["dialogues"] for line in lines], [line[key] for line in lines], color=colour, alpha=0.8, label=label)
    left.set(title=f"while training, {len(seeds)} seeds", xlabel="dialogues", ylim=(0, 1))
    left.legend(fontsize=8)
    records = [record for seed in seeds for record in lines_of(runs / f"rlpa-{seed}-eval" / "episodes.jsonl")]
    for axes, (key, title) in zip(others, PARTS.items(), strict=True):
        for name, colour in SHOWN.items():
            mean, spread = line_of([record for record in records if record["agent"] == name], key)
            turns = np.arange(1, len(mean) + 1)
            axes.plot(turns, mean, color=colour, label=name, linewidth=2.5 if name in ("start", "trained") else 1)
            axes.fill_between(turns, mean - spread, mean + spread, color=colour, alpha=0.12)
        axes.set(title=f"{title}, held-out people", xlabel="turn", ylim=(0, 1.02 if key == "response" else 0.6))
        axes.legend(fontsize=8, loc="lower left" if key == "response" else "upper left")
    figure.savefig(out, dpi=120)


def main() -> None:
    """Read, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/tiny_ppo"))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("docs/learning.png"))
    args = parser.parse_args()
    draw(args.runs, args.seeds, args.out)


if __name__ == "__main__":
    main()
