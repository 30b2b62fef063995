"""Table 2: what each of the two rewards is for. Policies trained with both, with one alone, beside the published ones.

    python benchmarks/paper/table2/run.py --model both=DIR profile-only=DIR response-only=DIR [--users 74] [--seeds 0 1 2]

A policy named rlpa is the one with both. `benchmarks/paper/train.py` trains all three.
"""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
import claims as say
import study
from published import rows

PAPER = {"both": "both rewards", "rlpa": "both rewards", "profile-only": "profile reward only", "response-only": "response reward only"}
PAIRS = (("both", "response-only"), ("both", "profile-only"), ("response-only", "profile-only"))
F1_PAIRS = (*PAIRS[:2], ("profile-only", "start"), ("response-only", "start"))
"""Not the paper's: does either reward help what the other one pays for?"""


def main() -> None:
    """Hold the dialogues, print, write."""
    args = study.read(study.parser(__doc__, trained=("rlpa", "profile-only", "response-only")))
    records = study.hold(args, study.VANILLA)
    if "rlpa" in records and "both" not in records:
        records["both"] = records.pop("rlpa")
    tables = {name: study.by_turn(seeds, "al") for name, seeds in records.items()}
    shown = Table("rewards", "AVG", "N-IR", "N-R²", "null band", "profile F1", "paper: AVG", "N-IR", "N-R²", title=f"vanilla: {args.users} people")
    paper = {row.method: row for row in rows("ablation")}
    figures = {}
    known = {name: study.by_turn(seeds, "f1") for name, seeds in records.items()}
    for name, al in tables.items():
        own = say.alignment_figures(al)
        f1 = say.estimate(known[name], lambda values: values.mean())
        numbers = (own["avg"].text(2), own["n_ir"].text(3), own["n_r2"].text(2), say.band_text(own["null"]), f1.text(3))
        shown.add_row(name, *numbers, *say.published_cells(paper.get(PAPER.get(name, ""))))
        figures[name] = say.plain(own) | {"profile_f1": f1._asdict()}
    shown.add_section()
    for method in sorted(set(paper) - {PAPER.get(name) for name in tables}):
        shown.add_row(f"[dim]{method}[/]", "", "", "", say.band_text(say.band(74)), "", *say.published_cells(paper[method]))
    Console(width=say.WIDTH).print(shown)
    said = [say.above(f"AVG of {more} above {less}", tables, more, less) for more, less in PAIRS]
    said += [say.above(f"profile F1 · 100 of {more} above {less} (not the paper's)", known, more, less) for more, less in F1_PAIRS]
    study.conclude("table2", {"rows": figures, "claims": say.print_claims(said)}, args)


if __name__ == "__main__":
    main()
