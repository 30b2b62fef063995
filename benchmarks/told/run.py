"""Of what people have told, what is listed? And of what is listed, what is true? From the dialogues that an evaluation kept.

    rlpa-agent eval --policy shipped benchmarks/checkpoints/rlpa-0 --agent attentive --split vanilla/val --out runs/val
    python benchmarks/told/run.py runs/val [--out benchmarks/results/told]

Grounded F1 is low for many reasons that look alike in one figure. Here each true point counts once for every turn before which it had been
told: *named*, if its words stand in what the person said, or only *hinted* at. A named point is listed *at once*, in the first block after it
was named (apart: where the block before had at most one line, or more), *kept*, if the block before had it, or *made up for*. Each line of a profile counts as true and told, true
by luck, *wrong* (something said supports it: a distractor, another person's trait, half a value) or *invented* (nothing does: a garbled
copy, too). Shares with a 95 % interval, bootstrapped over people.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import finish

from rlpa_env import Point
from rlpa_env.errors import RLPAError
from rlpa_env.results import interval, weights
from rlpa_env.runs import read_runs
from rlpa_env.transcript import HIT, INVENTED, LUCKY, MISSED, WRONG, turns_of
from rlpa_env.voicing import names

WHEN = ("at once", "kept", "made up for")
AT_ONCE = ("at once, up to 1 line", "at once, 2 lines or more")
SHARES = {  # name -> (counted, of)
    "named, listed": (("named", HIT), (("named", HIT), ("named", MISSED))),
    "hinted, listed": (("hinted", HIT), (("hinted", HIT), ("hinted", MISSED))),
    **{f"lines {kind}": (("line", kind), tuple(("line", each) for each in (HIT, LUCKY, WRONG, INVENTED))) for kind in (HIT, LUCKY, WRONG, INVENTED)},
    "told, only hinted": (("told", "hinted"), (("told", "named"), ("told", "hinted"))),
    **{when: ((when, HIT), ((when, HIT), (when, MISSED))) for when in (*WHEN, *AT_ONCE)},
}
Counts = dict[tuple[str, str], int]


def counts(record: Mapping[str, Any]) -> Counts:
    """What became of every told point and every line, over the turns of one dialogue."""
    found: Counts = defaultdict(int)
    said: list[str] = []
    before: dict[Point, str] = {}  # named point -> what became of it in the block before
    lines = 0  # of that block
    for turn in turns_of(record):
        said.append(turn.user)
        for point, state in zip(turn.truth, turn.states, strict=True):
            if state in (HIT, MISSED):
                how = "named" if any(names(text, point.value) for text in said) else "hinted"
                found[how, state] += 1
                found["told", how] += 1
                if how == "named":
                    when = "at once" if point not in before else "kept" if before[point] == HIT else "made up for"
                    found[when, state] += 1
                    if when == "at once":
                        found[AT_ONCE[lines > 1], state] += 1
                    before[point] = state
        for guess in turn.guesses:
            found["line", guess.kind] += 1
        lines = len(turn.guesses)
    return found


def shares(people: Sequence[Counts]) -> dict[str, dict[str, Any]]:
    """Pooled shares, and their intervals over people; None where nothing is counted."""
    drawn_BU = weights(len(people))
    figures = {}
    for name, (counted, of) in SHARES.items():
        parts_U, wholes_U = (np.array([sum(person.get(key, 0) for key in keys) for person in people]) for keys in ((counted,), of))
        with np.errstate(invalid="ignore"):  # 0 / 0: nothing is counted
            share, low, high = interval(parts_U.sum() / wholes_U.sum(), (drawn_BU @ parts_U) / (drawn_BU @ wholes_U))
        figures[name] = {key: None if np.isnan(value) else value for key, value in (("share", share), ("low", low), ("high", high))}
        figures[name]["of"] = int(wholes_U.sum())
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    """Count, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("episodes", type=Path, nargs="+", help="folders of evaluations, or episodes.jsonl")
    parser.add_argument("--out", type=Path, help="folder for the result as JSON")
    args = parser.parse_args(arguments)
    people: dict[str, dict[str, Counts]] = defaultdict(lambda: defaultdict(lambda: defaultdict(int)))
    try:
        runs = read_runs(args.episodes)
    except RLPAError as error:
        raise SystemExit(str(error)) from None
    for note in (note for run in runs for note in run.notes):
        print(note, file=sys.stderr)
    for record in (record for run in runs for record in run.episodes if not record["error"]):
        own = people[record["agent"]][record["profile"]]  # also of whom nothing is told
        for key, count in counts(record).items():
            own[key] += count
    figures = {agent: {"people": len(each), **shares(list(each.values()))} for agent, each in people.items()}
    table = Table("agent", *SHARES, title="of what was told, and of what was listed")
    for agent, found in figures.items():
        cells = (found[name] for name in SHARES)
        table.add_row(agent, *("–" if cell["share"] is None else f"{cell['share']:.0%} [{cell['low']:.0%}, {cell['high']:.0%}]" for cell in cells))
    Console(width=240).print(table)
    finish("told", figures, [0], args.out)


if __name__ == "__main__":
    main()
