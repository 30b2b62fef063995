"""Tables 4 and 5: AL(1) … AL(10) of every method on Vanilla and Extended people, each above the published row.

    python benchmarks/paper/table4_5/run.py --model start=tiny rlpa=runs/ppo-{seed} sft=DIR dpo=DIR [--users 74] [--seeds 0 1 2]

What the published rows show and the claims ask for: RLPA is ahead at the first turn already and at the last, and does not fall
back in the later turns (mean of turns 8–10 against 3–5).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
import claims as say
import study
from published import Row, checks, rows

PAPER = {"start": "Base", "base": "Base", "reminder": "Reminder", "self-critic": "Self-Critic", "cot": "CoT", "rag": "RAG", "sft": "SFT",
         "dpo": "DPO", "rlpa": "RLPA"}  # fmt: skip
SPLITS = {"vanilla": study.VANILLA, "extended": study.EXTENDED}
OTHERS = ("start", "sft", "dpo")
MARGIN = 5.0  # points; a smaller fall is none


def published_line(row: Row) -> list[str]:
    """A printed row; the single figures are as printed."""
    mean = checks(row)["avg"]
    marked = f"{row.avg:.1f}" + ("" if mean.follows else f"† ({mean.recomputed:.1f})")
    return [f"[dim]paper: {row.model} {row.method}[/]", *(f"[dim]{value:.1f}[/]" for value in row.al), marked]


def holds_up(sentence: str, tables: dict[str, np.ndarray]) -> say.Claim:
    """Turns 8–10 of rlpa no more than MARGIN points below turns 3–5, together and in every seed."""
    if lacking := say.needs(sentence, tables, ("rlpa",)):
        return lacking
    al = tables["rlpa"]
    found, alone = say.change(100 * (al[..., 7:10].mean(axis=-1) - al[..., 2:5].mean(axis=-1)))
    return say.reaches(sentence, found, -MARGIN, f"{found.value:+.1f} [{found.low:+.1f}, {found.high:+.1f}]", alone, f"−{MARGIN:g}")


def main() -> None:
    """Hold the dialogues, print, write."""
    args = study.read(study.parser(__doc__, trained=("rlpa", "sft", "dpo")))
    figures: dict[str, Any] = {}
    said = []
    for split, task in SPLITS.items():
        tables = {name: study.by_turn(seeds, "al") for name, seeds in study.hold(args, task).items()}
        found = {name: say.alignment_figures(al) for name, al in tables.items()}
        shown = Table("method", *map(str, range(1, 11)), "AVG", title=f"{split}: AL(k), {args.users} people, seeds {args.seeds}")
        left = {row.method: row for row in rows(split) if row.model == "Qwen2.5-3B"}
        for name, own in found.items():
            shown.add_row(name, *(value.text(0) for value in own["al"]), own["avg"].text(1))
            if PAPER.get(name) in left:
                shown.add_row(*published_line(left.pop(PAPER[name])))
        shown.add_section()
        for row in rows(split):
            if row.model != "Qwen2.5-3B" or row.method in left:
                shown.add_row(*published_line(row))
        Console(width=say.WIDTH + 30).print(shown)
        point = say.band(74).point
        print(f"one value of AL(k) at 74 people and 50 % is within ±{point:.1f} of the truth in 95 of 100 cases")
        figures[split] = {name: say.plain(own) for name, own in found.items()}
        for turn, words in ((0, "first"), (9, "last")):
            for other in OTHERS:
                said.append(say.above(f"{split}: at the {words} turn rlpa above {other}", tables, "rlpa", other, lambda al, k=turn: al[k]))
        said.append(holds_up(f"{split}: rlpa does not fall back by {MARGIN:g} points in later turns", tables))
    print(say.FOOT)
    study.conclude("table4_5", figures | {"claims": say.print_claims(said)}, args)


if __name__ == "__main__":
    main()
