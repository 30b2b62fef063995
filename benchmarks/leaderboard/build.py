"""The leaderboard page from the entries, all of which are checked first.

    python benchmarks/leaderboard/build.py [--check] [--entries benchmarks/leaderboard/entries] [--page docs/leaderboard.md]

An agent's rank is one more than the number of competitors of its setting that are clearly better (prior, oracle and tricks are none): by return, with the paired 95 % interval of the
difference over people clear of 0; where an entry holds no single returns, with intervals that do not overlap. --check writes nothing and fails where the page is out of date.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from entry import read_entry, setting_of

from rlpa_env import ConfigError
from rlpa_env.results import weights

ROOT = Path(__file__).parents[2]
HEAD = """# Leaderboard

Who gets to know people best, on held-out people, by return (profile F1 + response reward, summed over turns). Made by
`python benchmarks/leaderboard/build.py` from [the entries](../benchmarks/leaderboard/entries), which hold command, commit, machine
and seeds; [how to add yours](your_agent_on_the_board.md). Brackets are 95 % intervals over people. A rank is one
more than the number of competitors whose paired difference in return to this one is clear of 0, so that several may share it. Without a
rank are `prior`, which never listens (normalised 0), `oracle`, which sees the hidden person (normalised 1), and *tricks*, cheats that show what
the rewards let through. N-IR within ±0.09 and N-R² up to 0.67 are what chance gives where half of a person's verdicts repeat the last one, ±0.07 and
0.42 where each stands on its own ([the audit](paper_audit.md)).
"""
COLUMNS = ("", "agent", "kind", "return", "normalised", "profile F1", "grounded F1", "response", "AL AVG", "N-IR · N-R²", "tokens a turn", "trained", "USD", "commit")
_NORMALISED_SLACK = 0.005


def read_all(folder: Path) -> list[dict[str, Any]]:
    """All entries of a folder. Raises ConfigError with every problem of every file."""
    found, problems = [], []
    for path in sorted(folder.glob("*.json")):
        try:
            found.append(read_entry(path))
        except ConfigError as error:
            problems.append(str(error))
    if not found and not problems:
        problems.append(f"{folder}: expected at least one entry; there is none. benchmarks/leaderboard/add.py makes one.")
    for group in settings(found).values():
        problems += _against_the_scale(group)
    if problems:
        raise ConfigError("\n".join(problems))
    return found


def settings(entries: Sequence[dict[str, Any]]) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    """Setting -> its entries, best return first."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for entry in sorted(entries, key=lambda entry: (-entry["scores"]["return"][0], entry["agent"])):
        groups[setting_of(entry)].append(entry)
    return dict(sorted(groups.items()))


def _against_the_scale(group: Sequence[dict[str, Any]]) -> list[str]:
    """Two of one name, and normalised scores that the board's own prior and oracle contradict."""
    problems, named = [], {}
    for entry in group:
        if entry["agent"] in named:
            problems.append(f"{entry['agent']}: expected one entry in {entry['environment']}; there are two.")
        named[entry["agent"]] = entry
    if missing := {"prior", "oracle"} - set(named):
        return [*problems, f"{setting_of(group[0])}: expected entries of prior and oracle, the ends of the scale; missing: {', '.join(sorted(missing))}."]
    low, high = (named[name]["scores"]["return"][0] for name in ("prior", "oracle"))
    for entry in group:
        wanted = (entry["scores"]["return"][0] - low) / (high - low)
        if abs(wanted - entry["scores"]["normalised"][0]) > _NORMALISED_SLACK:
            problems.append(
                f"{entry['agent']}: scores.normalised: expected {wanted:.3f}, from its return and those of prior and oracle on the board; "
                f"got {entry['scores']['normalised'][0]:.3f}. It was measured on another version: measure again."
            )
    return problems


def clearly_better(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether the return of one is above that of the other by more than people differ."""
    ours, theirs = one.get("returns_by_user"), other.get("returns_by_user")
    if ours and theirs:
        draws = weights(len(ours)) @ (np.array(ours) - np.array(theirs))
        return bool(np.percentile(draws, 2.5) > 0)
    return bool(one["scores"]["return"][1] > other["scores"]["return"][2])


def competes(entry: dict[str, Any]) -> bool:
    """Whether it is an agent in earnest: neither an end of the scale nor a cheat."""
    return entry["agent"] not in ("prior", "oracle") and not entry["description"].lower().startswith("trick:")


def ranks(group: Sequence[dict[str, Any]]) -> list[int | None]:
    """Rank of each: one more than the number of competitors that are clearly better; None for what does not compete."""
    rivals = [entry for entry in group if competes(entry)]
    return [1 + sum(clearly_better(other, entry) for other in rivals if other is not entry) if competes(entry) else None for entry in group]


def _line(rank: int | None, entry: dict[str, Any]) -> str:
    scores = entry["scores"]

    def cell(name: str, digits: int) -> str:
        value, low, high = scores[name]
        return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"

    cost = entry["cost"]
    cells = (
        str(rank or "–"), _escaped(entry["agent"]), entry["kind"], cell("return", 2), f"{scores['normalised'][0]:.2f}", cell("profile_f1", 3),
        f"{scores['profile_grounded_f1'][0]:.3f}", cell("response", 2), f"{scores['avg'][0]:.1f}",
        f"{scores['n_ir'][0]:.3f} · {scores['n_r2'][0]:.2f}", f"{scores['tokens_per_turn']:.0f}",
        f"{cost['training_minutes']:g} min" if cost["training_minutes"] else "–", f"{cost['usd']:g}" if cost["usd"] else "–", entry["commit"][:10],
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _escaped(text: str) -> str:
    """As plain text in Markdown."""
    for sign in "\\`*_[]<>|":
        text = text.replace(sign, f"&#{ord(sign)};")
    return text


def page(entries: Sequence[dict[str, Any]]) -> str:
    """The page as Markdown."""
    parts = [HEAD]
    for (environment, split, seeds), group in settings(entries).items():
        parts.append(f"\n## {environment} · {split} · {group[0]['users']} people · seeds {', '.join(map(str, seeds))}\n")
        parts += ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
        parts += [_line(rank, entry) for rank, entry in zip(ranks(group), group, strict=True)]
        parts.append("")
        parts += [f"- **{_escaped(entry['agent'])}**: {_escaped(entry['description'])}" for entry in group]
    return "\n".join(parts) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Check, build, write or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=Path, default=Path(__file__).with_name("entries"))
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "leaderboard.md")
    parser.add_argument("--check", action="store_true", help="fail if the page is not what the entries give")
    args = parser.parse_args(arguments)
    try:
        text = page(read_all(args.entries))
    except ConfigError as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from error
    if args.check:
        if not args.page.is_file() or args.page.read_text(encoding="utf-8") != text:
            raise SystemExit(f"{args.page}: expected what the entries give; it is out of date. Run python benchmarks/leaderboard/build.py")
        print(f"{args.page.name}: up to date")
        return
    args.page.write_text(text, encoding="utf-8")
    print(f"written: {args.page}")


if __name__ == "__main__":
    main()
