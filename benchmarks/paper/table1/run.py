"""Table 1: AVG, N-IR and N-R² of every method on Vanilla and Extended people, beside the published ones.

    python benchmarks/paper/table1/run.py --model start=tiny rlpa=runs/ppo-{seed} sft=DIR dpo=DIR [--users 74] [--seeds 0 1 2]

Claims: RLPA above start, SFT, DPO and the prompted Self-Critic; SFT and DPO above the start; RLPA's alignment grows by more
than chance. All of it on both sets of people. Not the paper's claim: RLPA above `official`, a policy whose every turn was a
sample of its own, at equal action tokens.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
import claims as say
import study
from published import rows

PAPER = {
    "start": "Base", "base": "Base", "reminder": "Reminder", "self-critic": "Self-Critic", "cot": "CoT", "rag": "RAG", "sft": "SFT",
    "dpo": "DPO", "rlpa": "RLPA",
}  # fmt: skip
PAIRS = (("rlpa", "start"), ("rlpa", "sft"), ("rlpa", "dpo"), ("rlpa", "self-critic"), ("sft", "start"), ("dpo", "start"), ("rlpa", "official"))
SPLITS = {"vanilla": study.VANILLA, "extended": study.EXTENDED}


def noise_floor(found: dict[str, dict[str, Any]], contestants: dict[str, str]) -> dict[str, dict[str, Any]]:
    """AVG by seed, and greatest − least, of those who are one agent for all seeds: a difference that is none is as large."""
    avg = {name: found[name]["avg_by_seed"] for name, source in contestants.items() if "{seed}" not in source}
    return {name: {"avg_by_seed": values, "spread": max(values) - min(values)} for name, values in avg.items() if len(values) > 1}


def main() -> None:
    """Hold the dialogues, print, write."""
    args = study.read(study.parser(__doc__, trained=("rlpa", "sft", "dpo", "official")))
    tables = {split: {n: study.by_turn(r, "al") for n, r in study.hold(args, task).items()} for split, task in SPLITS.items()}
    figures: dict[str, Any] = {}
    said = []
    for split, by_name in tables.items():
        shown = Table("method", "AVG", "N-IR", "N-R²", "null band", "paper: AVG", "N-IR", "N-R²", title=f"{split}: {args.users} people, seeds {args.seeds}")
        paper = {row.method: row for row in rows(split) if row.model == "Qwen2.5-3B"}
        found = {name: say.alignment_figures(al) for name, al in by_name.items()}
        for name, own in found.items():
            numbers = (own["avg"].text(2), own["n_ir"].text(3), own["n_r2"].text(2), say.band_text(own["null"]))
            shown.add_row(name, *numbers, *say.published_cells(paper.get(PAPER.get(name, ""))))
        shown.add_section()
        for row in rows(split):
            if row.model != "Qwen2.5-3B" or row.method not in {PAPER.get(name) for name in found}:
                shown.add_row(f"[dim]{row.model} {row.method}[/]", "", "", "", say.band_text(say.band(74)), *say.published_cells(row))
        Console(width=say.WIDTH).print(shown)
        floor = noise_floor(found, args.contestants)
        for name, own in floor.items():
            print(f"{split}: noise floor, the same {name} under each seed: AVG {', '.join(f'{avg:.1f}' for avg in own['avg_by_seed'])}, spread {own['spread']:.1f}")
        figures[split] = {name: say.plain(own) | ({"noise_floor": floor[name]} if name in floor else {}) for name, own in found.items()}
        said += [say.above(f"{split}: AVG of {more} above {less}", by_name, more, less) for more, less in PAIRS]
        said.append(say.grows(f"{split}: rlpa aligns better turn by turn", by_name, "rlpa"))
    print(say.FOOT)
    study.conclude("table1", figures | {"claims": say.print_claims(said)}, args)


if __name__ == "__main__":
    main()
