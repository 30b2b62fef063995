"""Would one more line have been right? Where a policy ends its profile although something told in so many words is missing, it is made to go on.

    rlpa-agent eval --policy shipped benchmarks/checkpoints/rlpa-0 --split vanilla/val --out runs/val
    python benchmarks/told/one_more.py runs/val start=shipped rlpa-0=benchmarks/checkpoints/rlpa-0 [--out benchmarks/results/told]

If most of these lines were right, the policy would know more than it says, and more training by reward should bring it out. If they are
wrong, or said already, it ends where it should: it cannot tell what is still missing. *pays from* is the share of right lines from which on one more
line earns something in the tiny preset (5 times what F1 gains, less 0.1 a line). Lines are greedy; shares with a 95 % interval over people.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import finish

from rlpa_agent.cli import policy_path
from rlpa_agent.config import PRESETS
from rlpa_agent.generation import decoder
from rlpa_agent.policy import Policy
from rlpa_agent.warm_start import greedy_lines
from rlpa_env import LexicalMatcher, Point, parse_action
from rlpa_env.errors import RLPAError
from rlpa_env.matching import match_points
from rlpa_env.results import interval, weights
from rlpa_env.rewards import f1
from rlpa_env.runs import read_runs
from rlpa_env.transcript import HIT, LUCKY, MISSED, turns_of
from rlpa_env.voicing import names

RIGHT, SAID, WRONG = "right", "said already", "wrong"
ROWS = 64  # decoded at once


@dataclass(frozen=True)
class End:
    """A turn in which a policy ended its profile although something named was missing."""

    person: str
    history: tuple[Mapping[str, str], ...]
    block: str  # what it had written of it
    missing: tuple[Point, ...]  # named, and not listed
    listed: tuple[Point, ...]  # true, and listed
    pays_from: float  # share of right lines


def pays_from(hits: int, guesses: int, truths: int) -> float:
    """From which probability of being right on one more line pays in the tiny preset: 0 if it always does, 1 if never.

    >>> round(pays_from(2, 3, 15), 2)
    0.3
    """
    preset = PRESETS["tiny"]
    before, weight, cost = f1(hits, guesses, truths), preset.rollout.profile_weight, preset.ppo.line_cost
    right, wrong = (weight * (f1(hits + more, guesses + 1, truths) - before) - cost for more in (1, 0))
    return min(1.0, max(0.0, -wrong / (right - wrong)))


def ends(record: Mapping[str, Any]) -> list[End]:
    """Every such turn of one dialogue."""
    found: list[End] = []
    messages = [message for message in record["messages"] if message["role"] != "system"]
    answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    said: list[str] = []
    for at, turn in zip(answers, turns_of(record), strict=True):
        said.append(turn.user)
        missing, listed = (tuple(point for point, state in zip(turn.truth, turn.states, strict=True) if state in kinds) for kinds in ((MISSED,), (HIT, LUCKY)))
        missing = tuple(point for point in missing if any(names(text, point.value) for text in said))
        block, closed, _ = messages[at]["content"].partition("</profile>")
        if missing and closed and not turn.raw:
            guesses = len(parse_action(messages[at]["content"]).profile)
            found.append(End(record["profile"], tuple(messages[:at]), block, missing, listed, pays_from(len(listed), guesses, len(turn.truth))))
    return found


@torch.no_grad()
def one_more(policy: Policy, wanted: Sequence[End]) -> list[tuple[str, float]]:
    """Of each end: what the next line is, made to write one, and how probable one was."""
    encode, head = policy.tokenizer.encode, policy.lm.get_output_embeddings().weight
    dash = encode("- Age: 30", add_special_tokens=False)[:1]
    found = []
    for start in track(range(0, len(wanted), ROWS), "one more line", transient=True):
        part = wanted[start : start + ROWS]
        cache = decoder(policy.lm, len(part), policy.context_limit)
        chunks = [np.concatenate([policy.chat.opening(end.history), encode(end.block, add_special_tokens=False)]) for end in part]
        chances = (cache.prefill(range(len(part)), chunks) @ head.T).float().softmax(-1)[:, dash[0]].tolist()
        lines = greedy_lines(policy, cache, list(range(len(part))), [np.asarray(dash)] * len(part))
        found += [("-" + policy.tokenizer.decode(line), chance) for line, chance in zip(lines, chances, strict=True)]
    return found


def kind_of(line: str, end: End) -> str:
    """Whether a line lists something that was missing, only what is listed already, or neither.

    >>> end = End("p", (), "", (Point("Age", "30"),), (Point("Location", "Oslo"),), 0.3)
    >>> [kind_of(line, end) for line in ("- Age: 30", "- Location: Oslo", "- Age: 31", "- nothing")]
    ['right', 'said already', 'wrong', 'wrong']
    """
    points = parse_action(f"<profile>\n{line.strip()}\n</profile>\n<response>\nx\n</response>").profile
    if match_points(LexicalMatcher(), points, end.missing):
        return RIGHT
    return SAID if match_points(LexicalMatcher(), points, end.listed) else WRONG


def figures_of(wanted: Sequence[End], lines: Sequence[tuple[str, float]]) -> dict[str, Any]:
    """Shares of the three kinds, with intervals over people, the mean probability of another line, and of being right from which on it pays."""
    people = list(dict.fromkeys(end.person for end in wanted))
    counts = {kind: np.zeros(len(people)) for kind in (RIGHT, SAID, WRONG)}
    for end, (line, _) in zip(wanted, lines, strict=True):
        counts[kind_of(line, end)][people.index(end.person)] += 1
    total, drawn_BU = np.sum(list(counts.values()), axis=0), weights(len(people))
    shares = {kind: interval(own.sum() / total.sum(), (drawn_BU @ own) / (drawn_BU @ total)) for kind, own in counts.items()}
    return {
        "ends": len(wanted), "people": len(people), **{kind: dict(zip(("share", "low", "high"), three, strict=True)) for kind, three in shares.items()},
        "probability of a line": float(np.mean([chance for _, chance in lines])), "pays from": float(np.mean([end.pays_from for end in wanted])),
    }  # fmt: skip


def spread(wanted: Iterable[End], most: int) -> list[End]:
    """At most so many of them, evenly over all."""
    wanted = list(wanted)
    return [wanted[i] for i in np.linspace(0, len(wanted) - 1, min(most, len(wanted))).round().astype(int)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Decode, count, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("episodes", type=Path, help="folder of an evaluation, or its episodes.jsonl")
    parser.add_argument("policies", nargs="+", metavar="NAME=POLICY", help="name of an agent there, and where its policy is")
    parser.add_argument("--ends", type=int, default=1000, help="of each policy, at most, evenly over all")
    parser.add_argument("--out", type=Path, help="folder for the result as JSON")
    args = parser.parse_args(arguments)
    named = dict(text.split("=", 1) for text in args.policies if "=" in text)
    try:
        records = [record for run in read_runs([args.episodes]) for record in run.episodes if not record["error"]]
        there = sorted({record["agent"] for record in records})
        if len(named) < len(args.policies) or set(named) - set(there):
            parser.error(f"expected NAME=POLICY with agents of {args.episodes}: {', '.join(there)}; got {' '.join(args.policies)}")
        figures = {}
        for name, where in named.items():
            wanted = spread((end for record in records if record["agent"] == name for end in ends(record)), args.ends)
            if not wanted:
                parser.error(f"{name}: expected turns that end with something missing; there are none")
            figures[name] = figures_of(wanted, one_more(Policy.from_pretrained(policy_path(where), reference=False), wanted))
    except RLPAError as error:
        raise SystemExit(str(error)) from None
    columns = (RIGHT, SAID, WRONG)
    table = Table("policy", "turns", *columns, "pays from", "probability of a line", title="one more line, where something named is missing")
    for name, row in figures.items():
        cells = (f"{row[kind]['share']:.0%} [{row[kind]['low']:.0%}, {row[kind]['high']:.0%}]" for kind in columns)
        table.add_row(name, str(row["ends"]), *cells, f"{row['pays from']:.0%}", f"{row['probability of a line']:.0%}")
    Console(width=140).print(table)
    finish("one_more", figures, [0], args.out)


if __name__ == "__main__":
    main()
