"""Figure 4a: the person changes at turn 6. Who notices? AL(k) against the profile that is true at each turn.

    python benchmarks/paper/fig4a_shift/run.py --model start=tiny rlpa=runs/ppo-{seed} sft=DIR dpo=DIR [--users 74] [--seeds 0 1 2]

The same people talk with the same agents without a change, too: the cost of the change is what turns 6–9 lose by it, paired.
Claims: the mean of turns 6–9 of RLPA is above that of SFT and of DPO; RLPA is back up by turn 9; DPO falls.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
import claims as say
import study
from published import published

SHIFT = ("RLPA-Shift-v0", "vanilla/test")


def after(al_K: np.ndarray) -> float:
    """Mean of turns 6 to 9."""
    return float(al_K[5:9].mean())


def cost(same: np.ndarray, changed: np.ndarray) -> say.Estimate:
    """Mean of turns 6 to 9 without the change − with it, in points, of the dialogues that are whole in both: [S, U, K] each."""
    gap = 100 * (same[..., 5:9] - changed[..., 5:9]).mean(axis=-1)
    return say.estimate(gap[..., None], lambda value: value[0])


def moves(sentence: str, tables: dict[str, np.ndarray], name: str, since: int, until: int, up: bool) -> say.Claim:
    """Does a policy rise (or fall) from one turn to another, clear of 0 and in every seed?

    Who has left counts 0 from then on, as everywhere in AL(k): to be left is to fall. Who was lost to a failure is missing in both turns.
    """
    if lacking := say.needs(sentence, tables, (name,)):
        return lacking
    gap = 100 * (tables[name][..., until - 1] - tables[name][..., since - 1])
    return say.decided(sentence, *say.change(gap if up else -gap))


def main() -> None:
    """Hold the dialogues, print, write."""
    args = study.read(study.parser(__doc__, trained=("rlpa", "sft", "dpo")))
    records = study.hold(args, SHIFT)
    same = {name: study.by_turn(seeds, "al") for name, seeds in study.hold(args, study.VANILLA).items()}  # the same but for the change
    tables = {name: study.by_turn(seeds, "al") for name, seeds in records.items()}
    shown = Table("policy", *map(str, range(1, 11)), "turns 6–9", "cost of the change", "F1 at 5", "F1 at 9", title=f"AL(k), the profile changes at turn 6: {args.users} people")
    figures = {}
    for name, al in tables.items():
        own = say.alignment_figures(al)
        later, lost = say.estimate(100 * al, after), cost(same[name], al)
        f1 = study.by_turn(records[name], "f1")
        before, end = (say.estimate(f1, lambda values, k=k: values[k]) for k in (4, 8))
        shown.add_row(name, *(value.text(0) for value in own["al"]), later.text(1), lost.text(1), before.text(2), end.text(2))
        figures[name] = say.plain(own) | {"turns_6_9": later._asdict(), "cost_of_change": lost._asdict(), "f1_turn_5": before._asdict(), "f1_turn_9": end._asdict()}
    Console(width=say.WIDTH + 20).print(shown)
    for name, values in published()["shift"]["al"].items():
        print(f"paper, {name}: " + ", ".join(f"{where} {value:.2f}" for where, value in values.items()))
    print(f"one value of AL(k) at 74 people and 50 % is within ±{say.band(74).point:.1f} of the truth in 95 of 100 cases, the paper's too")
    said = [say.above(f"mean of turns 6–9 of rlpa above {other}", tables, "rlpa", other, after) for other in ("sft", "dpo")]
    said.append(moves("rlpa is better again at turn 9 than at turn 6", tables, "rlpa", 6, 9, up=True))
    said.append(moves("dpo falls from turn 5 to turn 9", tables, "dpo", 5, 9, up=False))
    study.conclude("fig4a_shift", {"rows": figures, "claims": say.print_claims(said)}, args)


if __name__ == "__main__":
    main()
