"""Episodes of many runs -> one leaderboard a task, every score with its interval, agents that cannot be told apart as ties."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from typing import Any

import numpy as np

from rlpa_env.errors import ModelError
from rlpa_env.results import paired_difference, summarise
from rlpa_env.runs import UNFINISHED, Run, model_of

Record = Mapping[str, Any]
Triple = tuple[float, float, float]  # estimate, lower and upper end of the 95 % interval
REFERENCES = ("prior", "oracle")
BY_RULES = "AL by rules"


@dataclass(frozen=True)
class Entry:
    """An agent on a leaderboard."""

    agent: str  # its name, with that of the run where two runs have different agents of one name
    row: Mapping[str, Any]  # as `summarise` gives it; empty if every episode failed
    records: tuple[Record, ...] = ()  # () if only its row is known
    rank: int | None = None  # 1 + the number of agents that are clearly better; None: not ranked
    tied: tuple[str, ...] = ()  # agents whose paired difference in return covers 0
    note: str = ""


@dataclass(frozen=True)
class Standing:
    """The agents that were measured on one task, best return first."""

    env: str
    split: str
    detail: str  # what else tells this task from another of the same env and split; "" where nothing needs to
    entries: tuple[Entry, ...]
    differences: Mapping[tuple[str, str], Triple | None]  # return of one − other on their common episodes; None: fewer than 2 people


def standings(runs: Sequence[Run]) -> list[Standing]:
    """One standing a task, in order of appearance; those of runs that left only result rows come last.

    Where somebody other than the rules judges alignment, all tasks of that environment and split say who does.
    """
    tasks: dict[tuple[str, str, str], dict[str, dict[str, list[Record]]]] = {}
    judges: dict[tuple[str, str, str], str] = {}
    for run in runs:
        for record in run.episodes:
            key = record["env"], record["split"], record["setting"]
            judges.setdefault(key, judge_words(record) if "al" in record["turns"][0] else "")
            task = tasks.setdefault(key, {})
            task.setdefault(record["agent"], {}).setdefault(run.name, []).append(record)
    names, judged = [key[:2] for key in tasks], {key[:2] for key, who in judges.items() if who not in ("", BY_RULES)}
    found = []
    for key, agents in tasks.items():
        told = [judges[key]] * (key[:2] in judged) + [f"setting {key[2]}"] * (names.count(key[:2]) > 1)
        found.append(_standing(key[0], key[1], " · ".join(filter(None, told)), agents))
    return found + [_of_rows(run) for run in runs if run.rows]


def judge_words(record: Record) -> str:
    """Who judges alignment in an episode or a result row, as `Setting.named` left it there.

    >>> judge_words({"al_judge": "llm", "kwargs": {"llm": {"model": "qwen"}}})
    'AL by llm qwen'
    """
    judge, model = record.get("al_judge", "rules"), model_of(record.get("kwargs"))
    if isinstance(judge, Mapping):  # an object: its class, or what it calls itself, and the model of its client
        model = next((part["model"] for part in (judge, *judge.values()) if isinstance(part, Mapping) and "model" in part), "")
        name = str(judge.get("class") or judge.get("name") or "another judge").rsplit(".", 1)[-1]
        return f"AL by {name} {model}".rstrip()
    return f"AL by {judge} {model if judge == 'llm' else ''}".rstrip()


def _standing(env: str, split: str, detail: str, agents: Mapping[str, Mapping[str, Sequence[Record]]]) -> Standing:
    whole = dict(_merged(agents))
    everything = {name: tuple(records) for name, records in whole.items()}
    finished = {name: [r for r in records if r["stop_reason"] != UNFINISHED] for name, records in whole.items()}
    rows, notes = {}, {}
    for name, records in finished.items():
        rows[name], notes[name] = _row(name, records, finished)
    differences: dict[tuple[str, str], Triple | None] = {}
    for a, b in combinations(finished, 2):
        triple = paired(finished[a], finished[b])
        differences[a, b] = triple
        differences[b, a] = triple and (-triple[0], -triple[2], -triple[1])
    ranked = [name for name in rows if rows[name].get("ranked")]
    entries = []
    for name in sorted(rows, key=lambda name: (name not in ranked, -rows[name].get("return", -np.inf))):
        others = [(other, differences[name, other]) for other in ranked if other != name and name in ranked]
        better = [other for other, triple in others if triple and triple[2] < 0]
        tied = [other for other, triple in others if triple and triple[1] <= 0 <= triple[2]]
        rank = 1 + len(better) if name in ranked else None
        entries.append(Entry(name, rows[name], everything[name], rank, tuple(tied), notes[name]))
    return Standing(env, split, detail, tuple(entries), differences)


def _merged(agents: Mapping[str, Mapping[str, Sequence[Record]]]) -> Iterable[tuple[str, list[Record]]]:
    """Agents of one name from several runs: one agent if neither its identity nor an episode tells them apart, else each with its run's name."""
    for name, by_run in agents.items():
        if len(by_run) == 1 or _agree(by_run.values()):
            yield name, list({episode(r): r for records in by_run.values() for r in records}.values())
        else:
            for run, records in by_run.items():
                yield f"{name} ({run})", list(records)


def episode(record: Record) -> tuple[str, Any]:
    """What pairs the episodes of two agents: the person and the seed."""
    return record["profile"], record["seed"]


def _agree(several: Iterable[Sequence[Record]]) -> bool:
    seen: dict[tuple[str, Any], Any] = {}
    identities = set()
    for record in chain.from_iterable(several):
        identities.add(json.dumps(record.get("identity"), sort_keys=True))
        own = record["messages"], [turn["reward"] for turn in record["turns"]]
        if len(identities) > 1 or seen.setdefault(episode(record), own) != own:
            return False
    return True


def paired(a: Sequence[Record], b: Sequence[Record]) -> Triple | None:
    """Return of a − b on the episodes that both have played; None if those are of fewer than two people."""
    ours, theirs = ({episode(r): r for r in records if r["stop_reason"] != "failure"} for records in (a, b))
    common = [key for key in ours if key in theirs]
    if len({profile for profile, _ in common}) < 2:
        return None
    return paired_difference([ours[key] for key in common], [theirs[key] for key in common])


def _row(name: str, records: Sequence[Record], everybody: Mapping[str, Sequence[Record]]) -> tuple[dict[str, Any], str]:
    """The agent's scores and what is to be said about them."""
    if not records:
        return {}, "no finished episode"
    keys = [episode(record) for record in records]
    played = [{episode(r): r for r in everybody.get(reference, ())} for reference in REFERENCES]
    missing = sum(any(key not in known for known in played) for key in keys)
    prior, oracle = ([known[key] for key in keys] if not missing else None for known in played)
    several = [reference for reference in REFERENCES if reference not in everybody and any(other.startswith(f"{reference} (") for other in everybody)]
    why = f"the runs have each another {' and '.join(several)}; report them one by one" if several else f"prior and oracle have not played {missing} of its {len(keys)} episodes"
    notes = [f"no normalised score: {why}"] if missing else []
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore", RuntimeWarning)  # a floor that is the ceiling gives NaN, which is left out
            row = summarise(name, records, prior, oracle, seeds=())
    except ModelError as error:
        return {}, str(error)
    row["episodes"] = len(records)
    if row["failures"]:
        notes.append(f"{row['failures']} episodes cut short by failures, left out of the scores")
    if not row["ranked"]:
        notes.append(f"not ranked: {row['off_schema']} turns off schema")
    return row, "; ".join(notes)


def _of_rows(run: Run) -> Standing:
    """A results.json without its episodes: scores as they stand there; who is tied with whom only if it says so."""
    rows = sorted(run.rows, key=lambda row: -row.get("return", -np.inf))
    notes = ["" if row.get("ranked", True) else f"not ranked: {row['off_schema']} turns off schema" for row in rows]
    entries = tuple(Entry(str(row["agent"]), row, tied=tuple(map(str, row.get("tied_with", ()))), note=note) for row, note in zip(rows, notes, strict=True))
    who = judge_words(rows[0])
    detail = f"{who} · " * (who != BY_RULES) + f"results of {run.name}, without episodes"
    return Standing(str(rows[0]["env"]), str(rows[0]["split"]), detail, entries, {})
