"""Make an entry for the board from a result.

    python benchmarks/leaderboard/add.py runs/mine/results.json --agent "hobby hunter" --kind rules \\
        --description "asks about hobbies, lists what follows I love or I like" --command "python my_agent.py"

RESULTS is the results.json that `rlpa-env eval`, `rlpa-agent eval` or `evaluate(…, out=…)` wrote, or the result of
benchmarks/references. The machine and the commit are those of this checkout now (of a benchmark's result: its own). With
episodes.jsonl beside it, or returns_by_user in the row, the entry also holds every person's return, so that ranks on the board are paired.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import commit, machine
from entry import FORMAT, INTERVALS, KINDS, PLAIN, checked

from rlpa_env import ConfigError, read_episodes
from rlpa_env.results import by_user, returns

ENTRIES = Path(__file__).with_name("entries")


def rows_of(data: Any) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Agent -> result row, and what a benchmark's result says of command, commit and machine."""
    if isinstance(data, list):
        return {row["agent"]: row for row in data}, {}
    return data["figures"]["agents"], {key: data[key] for key in ("command", "commit", "machine")}


def entry_of(row: dict[str, Any], about: dict[str, Any], returns_by_user: list[float] | None) -> dict[str, Any]:
    """An entry from a result row; not yet checked."""
    scores: dict[str, Any] = {name: [round(row[f"{name}{end}"], 6) for end in ("", "_lo", "_hi")] for name in INTERVALS}
    scores |= {name: round(row[name], 6) for name in PLAIN} | {"al": [round(value, 6) for value in row["al"]]}
    first = {"format": FORMAT, "agent": row["agent"]}
    place = {"environment": row["env"], "split": row["split"], "users": row["users"], "seeds": row["seed"]}
    found = first | {key: about[key] for key in ("kind", "description")} | place | {key: about[key] for key in ("command", "commit", "machine", "cost")}
    return found | {"scores": scores} | ({"returns_by_user": returns_by_user} if returns_by_user else {})


def paired_returns(episodes: Path, row: dict[str, Any]) -> list[float] | None:
    """Each person's mean return over the seeds, from the episodes beside a result; None if they are not all there."""
    if not episodes.is_file():
        return None
    wanted = {seed * 1_000_003 + i for seed in row["seed"] for i in range(row["users"])}  # as Setting.episodes numbers them
    last = {  # one that a failure ended was played again, and stands further down
        record["seed"]: record
        for record in read_episodes(episodes)
        if all(record.get(key) == row.get(key) for key in ("agent", "env", "split", "identity")) and record["seed"] in wanted
    }
    if len(last) != len(wanted):
        print(f"{episodes}: expected {len(wanted)} episodes of {row['agent']}; got {len(last)}. The entry has no return of each person, and is ranked by its interval alone.")
        return None
    found = [last[seed] for seed in sorted(last)]
    return np.round(by_user(found, returns(found)), 6).tolist()


def path_of(entry: dict[str, Any]) -> Path:
    """One file for an agent in a setting."""
    words = [entry["environment"], entry["agent"], *(map(str, entry["seeds"]) if entry["seeds"] != [0] else ())]
    return ENTRIES / (re.sub(r"[^a-z0-9]+", "-", "-".join(words).lower()).strip("-") + ".json")


def _laid_out(entry: dict[str, Any]) -> str:
    """JSON with every list on one line."""
    text = json.dumps(entry, indent=1, ensure_ascii=False)
    return re.sub(r"\[\n[^\[\]{}\"]*\]", lambda found: re.sub(r"\s+", " ", found[0]).replace("[ ", "[").replace(" ]", "]"), text) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Read the result, check the entry, write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--agent", required=True, help="the row of the result that is entered")
    parser.add_argument("--name", help="on the board; that of the row if not given")
    parser.add_argument("--kind", required=True, choices=KINDS)
    parser.add_argument("--description", required=True, help="one line: what it does")
    parser.add_argument("--command", help="what anybody can run to measure it again; a benchmark's result has its own")
    parser.add_argument("--training-minutes", type=float, default=0.0, help="of all training that made it, on the machine named")
    parser.add_argument("--usd", type=float, default=0.0, help="paid to model providers for training and evaluation")
    parser.add_argument("--entries", type=Path, help="another folder than the board's")
    args = parser.parse_args(arguments)
    try:
        rows, measured = rows_of(json.loads(args.results.read_text(encoding="utf-8")))
        if args.agent not in rows:
            raise ConfigError(f"--agent: expected one of {', '.join(rows)}; got {args.agent!r}.")
        about = {"commit": commit(), "machine": machine(), "command": args.command or ""} | measured
        if args.command:
            about["command"] = args.command
        about |= {"kind": args.kind, "description": args.description, "cost": {"training_minutes": args.training_minutes, "usd": args.usd}}
        row = rows[args.agent]
        if missing := [name for name in ("return", "normalised") if name not in row]:
            raise ConfigError(f"{args.agent}: expected a row with scores, of an evaluation with prior and oracle beside it; it has no {' and no '.join(missing)}.")
        if asked := {key: row[key] for key in ("kwargs", "al_judge") if row.get(key, "rules") not in ("rules", {})}:
            raise ConfigError(f"{args.agent}: expected an evaluation of the environment as it is registered, with alignment judged by the rules; got {asked}.")
        single = row.get("returns_by_user") or paired_returns(args.results.with_name("episodes.jsonl"), row)
        entry = entry_of(row, about, single)
        entry = checked(entry | ({"agent": args.name} if args.name else {}), "the entry")
    except (OSError, ValueError, KeyError) as error:
        raise SystemExit(f"add: {error if isinstance(error, ConfigError) else f'{args.results}: expected results with rows of agents; {error!r}'}") from error
    path = (args.entries or ENTRIES) / path_of(entry).name
    if path.exists() and (there := json.loads(path.read_text(encoding="utf-8"))) and any(there[key] != entry[key] for key in ("agent", "environment", "seeds")):
        raise SystemExit(f"add: expected another name than {entry['agent']!r}: {path} holds {there['agent']!r}, seeds {there['seeds']}, of a name as good as equal.")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_laid_out(entry), encoding="utf-8")
    print(f"written: {path}; now python benchmarks/leaderboard/build.py")


if __name__ == "__main__":
    main()
