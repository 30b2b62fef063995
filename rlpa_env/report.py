"""Runs -> one HTML file that needs nothing else: leaderboard, alignment by turn, training curves, dialogues.

Everything that runs say is text to the page: it travels as JSON in which nothing can end a script element, is put on the
page as text and never as markup, and the page's policy lets no script run but its own.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import zip_longest
from pathlib import Path
from typing import Any

from rlpa_env.errors import ConfigError
from rlpa_env.runs import Run, read_runs
from rlpa_env.standings import Entry, Standing, episode, standings
from rlpa_env.transcript import last_words, turns_of
from rlpa_env.types import CRITERIA

DIALOGUES = 200  # how many a page holds unless told otherwise: about 10 kB each
COLUMNS = (  # key of the row, heading, digits, what it is
    ("return", "return", 2, "Sum of the turn rewards of an episode, mean over people"),
    ("normalised", "normalised", 2, "0 is the agent prior, 1 is the agent oracle, on the same people"),
    ("normalised_profile", "… profile", 2, "The same, of the profile reward alone"),
    ("normalised_response", "… response", 2, "The same, of the response reward alone"),
    ("profile_f1", "profile F1", 3, "Mean over turns: how well the listed points fit the truth"),
    ("profile_grounded_f1", "grounded F1", 3, "The same, where only points that had been told count as hits"),
    ("avg", "AL AVG", 1, "Share of replies that pass the judge who knows the true profile, in percent, mean over turns"),
)
PANELS = (  # key of metrics.jsonl, key of validation.jsonl, heading, what it is
    ("return", "return", "Return", "turn rewards of a dialogue, summed"),
    ("reward/profile", "", "Profile reward", "mean over turns"),
    ("reward/response", "response", "Response reward", "mean over turns"),
    ("profile/grounded_f1", "profile_grounded_f1", "Grounded F1", "hits count only if told before"),
    ("kl_per_turn", "", "KL to the start", "nats per turn"),
    ("left_early", "", "People who left", "share of dialogues"),
)
_SCRIPTS = ("base.js", "board.js", "charts.js", "dialogue.js", "browser.js", "main.js")
_UNSAFE = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


@dataclass(frozen=True)
class Written:
    """What `write_report` has done."""

    path: Path
    bytes: int
    dialogues: int  # on the page
    of: int  # in the runs
    notes: tuple[str, ...]


def write_report(paths: Sequence[str | Path], out: str | Path, dialogues: int = DIALOGUES) -> Written:
    """Read the runs and write the page.

    Args:
        paths: folders with episodes.jsonl, results.json or metrics.jsonl, there or below; or such files.
        dialogues: the most that the page holds; the same people for every agent.

    Raises:
        ConfigError: a path does not exist or holds no run, or ``dialogues`` is negative.
        RLPAError: a file is of another kind.
    """
    if dialogues < 0:
        raise ConfigError(f"dialogues: expected a number >= 0; got {dialogues}.")
    target = Path(out)
    if target.is_dir():
        raise ConfigError(f"out: expected the name of a file to write, such as {target / 'report.html'}; {target} is a folder.")
    runs = read_runs([Path(path) for path in paths])
    data = report_data(runs, dialogues)
    text = page(data)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8", newline="\n")
    return Written(target, target.stat().st_size, len(data["dialogues"]), data["played"], tuple(data["notes"]))


def report_data(runs: Sequence[Run], dialogues: int = DIALOGUES) -> dict[str, Any]:
    """Everything that the page shows, as plain JSON values."""
    boards = standings(runs)
    chosen = _chosen(boards, dialogues)
    return {
        "title": " · ".join(run.name for run in runs)[:200],
        "criteria": list(CRITERIA),
        "columns": [{"key": key, "label": label, "digits": digits, "help": text} for key, label, digits, text in COLUMNS],
        "boards": [_board(standing) for standing in boards],
        "training": [_training(run) for run in runs if run.metrics],
        "panels": [{"label": label, "help": text} for _, _, label, text in PANELS],
        "dialogues": [_dialogue(number, entry, record) for number, entry, record in chosen],
        "played": sum(len(entry.records) for standing in boards for entry in standing.entries),
        "notes": [note for run in runs for note in run.notes],
    }


def _board(standing: Standing) -> dict[str, Any]:
    entries = standing.entries
    return {
        "env": standing.env,
        "split": standing.split,
        "detail": standing.detail,
        "entries": [
            {
                "agent": entry.agent,
                "rank": entry.rank,
                "tied": list(entry.tied),
                "note": entry.note,
                "users": entry.row.get("users"),
                "episodes": entry.row.get("episodes"),
                "scores": {key: _triple(entry.row, key) for key, *_ in COLUMNS},
                "al": [entry.row.get(key) for key in ("al", "al_lo", "al_hi")],
            }
            for entry in entries
        ],
        "differences": [[standing.differences.get((a.agent, b.agent)) for b in entries] for a in entries],
    }


def _triple(row: Mapping[str, Any], key: str) -> list[float] | None:
    values = [row.get(name) for name in (key, f"{key}_lo", f"{key}_hi")]
    known = all(isinstance(value, (int, float)) and math.isfinite(value) for value in values)
    return values if known else None  # type: ignore[return-value]


def _training(run: Run) -> dict[str, Any]:
    """The curves of one run, iteration by iteration; a figure that an iteration lacks is None."""
    series = [
        {"y": [_number(line, key) for line in run.metrics], "watched": [_number(line, watched) for line in run.validation]}
        for key, watched, _, _ in PANELS
    ]
    health = [(line["iteration"], str(line["health"])) for line in run.metrics if line.get("health", "ok") != "ok"]
    return {
        "name": run.name,
        "x": [line["iteration"] for line in run.metrics],
        "watched_x": [line["iteration"] for line in run.validation],
        "series": series,
        "health": health[-1:],
        "troubled": len(health),
    }


def _number(line: Mapping[str, Any], key: str) -> float | None:
    value = line.get(key)
    return float(f"{value:.5g}") if isinstance(value, (int, float)) and math.isfinite(value) else None


def _chosen(boards: Sequence[Standing], most: int) -> list[tuple[int, Entry, Mapping[str, Any]]]:
    """(number of the board, agent, episode) of the dialogues shown: person by person, the boards in turn."""
    by_board = []
    for number, standing in enumerate(boards):
        people: dict[Any, list[tuple[int, Entry, Mapping[str, Any]]]] = {}
        for entry in standing.entries:
            for record in entry.records:
                people.setdefault(episode(record), []).append((number, entry, record))
        by_board.append(list(people.values()))
    in_turn = [one for group in zip_longest(*by_board, fillvalue=[]) for together in group for one in together]
    return in_turn[:most]


def _dialogue(board: int, entry: Entry, record: Mapping[str, Any]) -> dict[str, Any]:
    turns = turns_of(record)
    truths = list(dict.fromkeys(turn.truth for turn in turns))
    return {
        "board": board,
        "agent": entry.agent,
        "user": record["profile"],
        "seed": record["seed"],
        "limit": record["limit"],
        "end": record["stop_reason"],
        "error": record["error"],
        "last": last_words(record),
        "truths": truths,
        "turns": [
            {
                "user": turn.user,
                "reply": turn.reply,
                "raw": turn.raw,
                "guesses": turn.guesses,
                "truth": truths.index(turn.truth),
                "states": turn.states,
                "verdicts": turn.verdicts,
                "reasons": {str(k): str(v) for k, v in turn.figures.get("reasons", {}).items()},
                "malformed": turn.figures["parse_error"],
                **{key: _rounded(turn.figures.get(key)) for key in ("reward", "profile", "response", "f1", "grounded_f1", "al", "patience")},
                "valid": turn.figures["valid"],
            }
            for turn in turns
        ],
    }


def _rounded(value: Any) -> float | None:
    return round(float(value), 4) if isinstance(value, (int, float)) else None


def embedded(data: Any) -> str:
    """JSON that may stand inside a script element: ASCII, with nothing in it that HTML could read as markup.

    >>> embedded("</script>\\u2028")
    '"\\\\u003c/script\\\\u003e\\\\u2028"'
    """
    return json.dumps(_finite(data), ensure_ascii=True, separators=(",", ":"), allow_nan=False).translate(_UNSAFE)


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {str(key): _finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    return data


def page(data: Mapping[str, Any]) -> str:
    """The whole page."""
    folder = files("rlpa_env") / "page"

    def read(name: str) -> str:
        return (folder / name).read_text(encoding="utf-8").replace("\r\n", "\n")

    style = read("page.css")
    script = '(() => {\n"use strict";\n' + "\n".join(map(read, _SCRIPTS)) + "})();\n"
    policy = f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'; base-uri 'none'; form-action 'none'"
    parts = {"POLICY": html.escape(policy), "STYLE": style, "SCRIPT": script, "DATA": embedded(data)}
    return re.sub(r"@(POLICY|STYLE|SCRIPT|DATA)@", lambda match: parts[match.group(1)], read("page.html"))


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

