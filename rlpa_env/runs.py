"""What runs leave on disk, read back: evaluation episodes, recorded episodes, result rows, training metrics."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import gymnasium as gym

from rlpa_env.errors import ConfigError, RLPAError
from rlpa_env.types import CRITERIA
from rlpa_env.wrappers import digest, read_episodes

EPISODES, RESULTS, METRICS, VALIDATION = "episodes.jsonl", "results.json", "metrics.jsonl", "validation.jsonl"
UNFINISHED = "unfinished"  # stop_reason of a recorded episode that was left before its end
_FIGURES = ("reward", "profile", "response", "f1", "grounded_f1", "precision", "recall", "ceiling", "invented")
_RECORDED = {  # key of an evaluation's turn -> key of info, as RecordEpisodes keeps it
    "reward": "reward", "valid": "reward/valid", "profile": "reward/profile", "response": "reward/response",
    "f1": "profile/f1", "grounded_f1": "profile/grounded_f1", "precision": "profile/precision", "recall": "profile/recall",
    "ceiling": "profile/ceiling", "revealed": "profile/revealed", "invented": "profile/invented", "patience": "user/patience",
    "parse_error": "parse_error", **{criterion: f"judge/{criterion}" for criterion in CRITERIA},
}  # fmt: skip
_KEPT = ("hits", "told", "points")  # the same in both


@dataclass(frozen=True)
class Run:
    """One folder, or one file, of a run."""

    name: str  # the end of its path, as long as it takes to be the only one of that name
    episodes: tuple[dict[str, Any], ...] = ()  # in the form of an evaluation's records
    rows: tuple[dict[str, Any], ...] = ()  # of results.json
    metrics: tuple[dict[str, Any], ...] = ()  # an iteration each
    validation: tuple[dict[str, Any], ...] = ()  # every so many iterations
    notes: tuple[str, ...] = ()  # what was skipped, and why


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Read every run in the folders and files named; folders are searched with all that is in them.

    Raises ConfigError for a path that does not exist or holds nothing of a run, RLPAError for a file of another kind.
    """
    if not paths:
        raise ConfigError("report: expected one or more run folders, or files of episodes; got none.")
    found: dict[Path, Path] = {}  # resolved -> as named
    for path in map(Path, paths):
        if not path.exists():
            names = [other.name for other in path.parent.glob("*")] if path.parent.is_dir() else []
            near = get_close_matches(path.name, names, n=1)
            raise ConfigError(f"{path}: expected a run folder or a file; there is none." + (f" Did you mean {path.parent / near[0]}?" if near else ""))
        places = _places(path)
        if not places:
            raise ConfigError(
                f"{path}: expected {EPISODES}, {RESULTS} or {METRICS} in it or in a folder below; there is none. "
                f"Write one with: rlpa-env eval --out {path}"
            )
        for place in places:
            found.setdefault(place.resolve(), place)
    names = _short_names(list(found))
    runs = [_read(place, name) for place, name in zip(found.values(), names, strict=True)]
    if not any(run.episodes or run.rows or run.metrics for run in runs):
        notes = [note for run in runs for note in run.notes]
        raise RLPAError(f"{', '.join(map(str, paths))}: expected at least one episode, result or iteration; got none. {' '.join(notes)}".strip())
    return runs


def _places(path: Path) -> list[Path]:
    """The file itself, or every folder below that holds a file of a run; hidden ones are left alone."""
    if path.is_file():
        return [path]
    hits = [hit for name in (EPISODES, RESULTS, METRICS) for hit in path.rglob(name) if hit.is_file()]
    return sorted({hit.parent for hit in hits if not any(part.startswith(".") for part in hit.relative_to(path).parts)})


def _short_names(paths: Sequence[Path]) -> list[str]:
    names = []
    for path in paths:
        parts = 1
        while parts < len(path.parts) and sum(other.parts[-parts:] == path.parts[-parts:] for other in paths) > 1:
            parts += 1
        names.append("/".join(path.parts[-parts:]))
    return names


def _read(place: Path, name: str) -> Run:
    notes: tuple[str, ...] = ()
    if place.is_file():
        if place.suffix == ".json":
            rows, notes = _rows(place)
            return Run(name, rows=rows, notes=notes)
        lines, notes = _lines(place)
        if lines and "iteration" in lines[0]:
            return Run(name, metrics=_iterations(lines), notes=notes)
        episodes, more = _records(lines, place, place.stem)
        return Run(name, episodes=episodes, notes=(*notes, *more))
    parts: dict[str, tuple[dict[str, Any], ...]] = {}
    for key, file in (("episodes", EPISODES), ("metrics", METRICS), ("validation", VALIDATION)):
        if (place / file).is_file():
            lines, more = _lines(place / file)
            notes += more
            if key == "episodes":
                parts[key], more = _records(lines, place / file, name)
                notes += more
            else:
                parts[key] = _iterations(lines)
    if not parts.get("episodes") and (place / RESULTS).is_file():
        parts["rows"], more = _rows(place / RESULTS)
        notes += more
    return Run(name, notes=notes, **parts)


def _iterations(lines: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    return tuple(line for line in lines if isinstance(line.get("iteration"), int))


def _lines(path: Path) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        lines = read_episodes(path)
    notes = tuple(str(warning.message) for warning in caught)
    return lines, notes if lines else (*notes, f"{path}: empty.")


def _rows(path: Path) -> tuple[tuple[dict[str, Any], ...], tuple[str, ...]]:
    """The rows of a results.json that `evaluate` wrote; anything else of that name is passed over with a note."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        data = None
    if isinstance(data, list) and data and all(isinstance(row, dict) and {"agent", "env", "split"} <= set(row) and ("return" in row or row.get("ranked") is False) for row in data):
        return tuple(data), ()
    return (), (f"{path}: passed over; it is no list of result rows as rlpa-env eval writes it.",)


def _records(lines: Iterable[Mapping[str, Any]], path: Path, name: str) -> tuple[tuple[dict[str, Any], ...], tuple[str, ...]]:
    """The episodes among the lines, checked; the newest of those with the same agent, person and seed."""
    kept: dict[Any, dict[str, Any]] = {}
    wrong: list[str] = []
    total = 0
    for number, line in enumerate(lines, 1):
        total += 1
        try:
            record = evaluation_form(line, name, number)
            _check(record)
        except (RLPAError, KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
            wrong.append(f"record {number}: {what}")
            continue
        kept[(*(record[key] for key in ("env", "split", "setting", "agent", "profile", "seed")), json.dumps(record.get("identity"), sort_keys=True))] = record
    if wrong and not kept:
        raise RLPAError(f"{path}: expected recorded episodes, one a line; {wrong[0]}. Is this a file of rlpa-env eval or RecordEpisodes?")
    notes = [f"{path}: {len(wrong)} of {total} lines are no episodes and were skipped (first: {wrong[0]})."] if wrong else []
    if total - len(wrong) > len(kept):
        notes.append(f"{path}: {total - len(wrong) - len(kept)} episodes stand there twice; the last of each counts.")
    return tuple(_told_apart(kept.values())), tuple(notes)


def _told_apart(records: Iterable[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    """Where different agents have one name, each gets its model behind it, or a digest of what it is."""
    records = list(records)
    kinds: dict[str, dict[str, Any]] = {}  # name -> text of an identity -> the identity
    for record in records:
        kinds.setdefault(record["agent"], {})[json.dumps(record.get("identity"), sort_keys=True)] = record.get("identity")
    for record in records:
        own, others = record.get("identity"), kinds[record["agent"]].values()
        if len(others) > 1 and own is not None:
            models = [model_of(other) for other in others]
            label = model_of(own) if model_of(own) and models.count(model_of(own)) == 1 else digest(own)[:6]
            yield {**record, "agent": f"{record['agent']} ({label})"}
        else:
            yield record


def model_of(identity: Any) -> str:
    """The model under ``llm`` of an agent's identity, or of an environment's arguments; "" if there is none."""
    llm = identity.get("llm") if isinstance(identity, Mapping) else None
    return str(llm.get("model", "")) if isinstance(llm, Mapping) else ""


def evaluation_form(raw: Mapping[str, Any], name: str, number: int) -> dict[str, Any]:
    """An episode in the form of an evaluation's record, whoever wrote it; ``name`` stands for an agent without one."""
    if "agent" in raw:
        return {**raw, "setting": raw.get("setting", "")}
    last = raw["turns"][-1]
    if raw.get("finished", True):
        stop = last.get("stop_reason") or ("user_left" if raw.get("terminated") else "turn_limit")
    else:
        stop = UNFINISHED
    said = [message["content"] for message in raw["messages"] if message["role"] == "assistant"]
    turns = [
        {key: turn[old] for key, old in _RECORDED.items() if old in turn}
        | {key: turn[key] for key in _KEPT if key in turn}
        | {"tokens": len(text.split())}
        for turn, text in zip(raw["turns"], said, strict=True)
    ]
    spec = gym.registry.get(raw["env"])
    return {
        "agent": name,
        "setting": digest([raw["env"], raw.get("kwargs", {})]),
        "env": raw["env"],
        "split": str(raw.get("kwargs", {}).get("split", "")),
        "profile": raw["profile"]["id"],
        "seed": raw["seed"] if isinstance(raw.get("seed"), int) else f"episode {number}",
        "limit": max(len(turns), raw.get("limit") or raw.get("kwargs", {}).get("max_turns") or (spec.max_episode_steps if spec else 0) or 0),
        "left": bool(raw.get("terminated")),
        "stop_reason": stop,
        "error": str(last.get("error", "")),
        "truth": raw["profile"]["slots"],
        "messages": raw["messages"],
        "turns": turns,
    }


def _check(record: Mapping[str, Any]) -> None:
    """Raise RLPAError, KeyError or TypeError where a record lacks what scores and transcripts are made from."""
    texts = (record["agent"], record["env"], record["split"], record["profile"], record["stop_reason"], record["error"], record["setting"])
    if not all(isinstance(text, str) for text in texts):
        raise RLPAError("expected agent, env, split, profile, stop_reason and error to be texts")
    if not record["turns"] or not isinstance(record["truth"], Mapping):
        raise RLPAError("expected at least one turn and a true profile")
    if not isinstance(record["seed"], (int, str)) or not isinstance(record["limit"], int) or record["limit"] < len(record["turns"]):
        raise RLPAError("expected a seed and a limit of at least as many turns as there are")
    spoken = [message["role"] for message in record["messages"] if isinstance(message["content"], str)]
    if len(spoken) != len(record["messages"]) or spoken.count("assistant") != len(record["turns"]):
        raise RLPAError("expected as many completions among the messages as there are turns")
    for turn in record["turns"]:
        figures = [turn[key] for key in _FIGURES] + [turn[key] for key in ("al", "tokens") if key in turn]
        if not all(isinstance(figure, (int, float)) and math.isfinite(figure) for figure in figures):
            raise RLPAError("expected finite numbers as figures of a turn")
        flags = [turn["valid"], *(turn[criterion] for criterion in CRITERIA)]
        if not all(isinstance(flag, bool) for flag in flags) or not isinstance(turn["parse_error"], str):
            raise RLPAError("expected truth values as verdicts and a text as parse_error")
    record["left"], record["turns"][0]["tokens"]
