"""Figure 4b: seventy turns with one person. Does the profile keep up with what has been told?

    python benchmarks/paper/fig4b_long/run.py --model start=tiny rlpa=runs/ppo-{seed} [--users 20] [--seeds 0 1 2] [--context latest]

A policy is fed everything said and its newest profile block ("latest"), or, where seventy turns do not fit its model, the newest
block and the last exchanges ("window"); --context fixes it for all. Of c, the share of points told so far, no honest guess can make an F1 above 2c/(1+c): the ceiling. Claims: the score rises to
turn 50 and stays; the grounded F1 is within 10 % of the ceiling from turn 50 on. People who have left are not counted from
then on, neither their F1 nor their ceiling; how many are still there is printed beside it; fewer than 20 of them decide nothing.
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
from published import published

LONG = ("RLPA-Long-v0", "vanilla/test")
TURNS, FROM = 70, 50
SMOKE_TURNS = 11  # of the seventy, for --smoke


def shares(seeds: list[study.Records]) -> dict[str, np.ndarray]:
    """F1, grounded F1, its ceiling and presence: arrays [S, U, K], NaN (presence: 0) after the user left."""
    told = study.by_turn(seeds, "ceiling", gone=np.nan)
    found = {key: study.by_turn(seeds, key, gone=np.nan) for key in ("f1", "grounded_f1")}
    return found | {"ceiling": 2 * told / (1 + told), "there": (~np.isnan(told)).astype(float)}


def kept_up(own: dict[str, np.ndarray], since: int) -> tuple[say.Estimate, list[float]]:
    """Grounded F1 as a share of its ceiling over the turns from ``since`` on, together and for each seed.

    The sum of one over the sum of the other: every turn of every dialogue that got there counts once.
    """
    both = np.stack([np.nansum(own[key][..., since - 1 :], axis=-1) for key in ("grounded_f1", "ceiling")], axis=-1)

    def ratio(sums: np.ndarray) -> float:
        return float(sums[0] / sums[1]) if sums[1] > 0 else np.nan

    return say.estimate(both, ratio), [ratio(one.mean(axis=0)) for one in both]


def lacks(sentence: str, tables: dict[str, dict[str, np.ndarray]], name: str, turn: int) -> say.Claim | None:
    """The claim as one that cannot be said: no such policy, too few people, or too few of them still there."""
    if lacking := say.needs(sentence, {n: own["there"] for n, own in tables.items()}, (name,)):
        return lacking
    there = int(tables[name]["there"][..., turn - 1].any(axis=0).sum())
    if there < say.LEAST_USERS:
        return say.Claim(sentence, say.UNKNOWN, f"{there} people were still there at turn {turn}: at least {say.LEAST_USERS}")
    return None


def keeps_up(sentence: str, tables: dict[str, dict[str, np.ndarray]], name: str, since: int) -> say.Claim:
    """Within 10 % of the ceiling."""
    if lacking := lacks(sentence, tables, name, since):
        return lacking
    found, alone = kept_up(tables[name], since)
    text = f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}] of the ceiling"
    return say.reaches(sentence, found, 0.9, text, alone, "0.90")


def main() -> None:
    """Hold the dialogues, print, write."""
    parser = study.parser(__doc__, trained=("rlpa",))
    parser.add_argument("--context", choices=("latest", "window", "append"), help="what local policies are fed; default: latest where it fits, else window")
    parser.set_defaults(users=20)
    args = study.read(parser)
    turns = SMOKE_TURNS if args.smoke else TURNS
    shorter = {"max_turns": turns, "max_episode_steps": turns} if args.smoke else {}
    records = study.hold(args, LONG, turns, **shorter)
    tables = {name: shares(seeds) for name, seeds in records.items()}
    marks = [1, *range(10, turns + 1, 10)]
    shown = Table("policy", "", *map(str, marks), f"from {min(FROM, turns)} on", title=f"profile F1 · 100 by turn, {args.users} people")
    figures: dict[str, Any] = {}
    mute: dict[str, float] = {}  # share of turns without a word: the context was full
    for name, own in tables.items():
        ratio, alone = kept_up(own, min(FROM, turns))
        context = study.source_of(args.contestants[name], args.seeds[0], args, turns).context
        mute[name] = float(np.mean([not turn["tokens"] for part in records[name] for record in part for turn in record["turns"]]))
        figures[name] = {"context": context, "mute": mute[name], "of_ceiling": ratio._asdict(), "of_ceiling_by_seed": alone, "turns": marks}
        for key in ("f1", "grounded_f1", "ceiling"):
            point, draws = say.resampled(100 * own[key])
            line = [say.interval(float(point[k - 1]), draws[:, k - 1]) for k in marks]
            figures[name][key] = [value._asdict() for value in line]
            shown.add_row(name if key == "f1" else "", key.replace("_", " "), *(value.text(1) for value in line), ratio.text(2) if key == "grounded_f1" else "")
        there = [float(own["there"][..., k - 1].mean()) for k in marks]
        figures[name]["still_there"] = there
        shown.add_row(f"[dim]{context}[/]", "still there", *(f"{share:.0%}" for share in there), f"[red]{mute[name]:.0%} mute[/]" if mute[name] else "")
    score = published()["long"]["profile_score"]
    shown.add_row("[dim]paper, RLPA[/]", "score", *(f"{score[str(k)]:.1f}" if str(k) in score else "" for k in marks), "")
    Console(width=say.WIDTH).print(shown)
    whole = {name: own for name, own in tables.items() if not mute[name]} if turns == TURNS else {}
    said = [
        keeps_up(f"from turn {FROM} on grounded F1 of rlpa within 10 % of its ceiling", whole, "rlpa", FROM),
        _rises("the score of rlpa rises from turn 1 to turn 50", whole, 1, FROM, share=1.0),
        _rises("and stays: at turn 70 no more than a tenth below turn 50", whole, FROM, TURNS, share=0.9),
    ]
    if any(mute.values()):
        print("a policy that was mute at some turns (its context was full) takes part in no claim: --context window")
    study.conclude("fig4b_long", {"rows": figures, "claims": say.print_claims(said)}, args)


def _rises(sentence: str, tables: dict[str, dict[str, np.ndarray]], since: int, until: int, share: float) -> say.Claim:
    """The score at one turn above that at another, with those who are there at both; of a ``share`` below 1, not below that share of it."""
    if lacking := lacks(sentence, tables, "rlpa", until):
        return lacking
    f1 = 100 * tables["rlpa"]["f1"]
    found, alone = say.change(f1[..., until - 1] - share * f1[..., since - 1])
    if share < 1:
        return say.reaches(sentence, found, 0.0, f"{found.value:+.1f} [{found.low:+.1f}, {found.high:+.1f}]", alone, "0")
    return say.decided(sentence, found, alone)


if __name__ == "__main__":
    main()
