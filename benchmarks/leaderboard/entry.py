"""One result on the board: a JSON file that says what was measured, by which command, on which commit and machine, at what cost.

`checked` refuses an entry that is not whole or cannot be true, and says what was expected. An entry is data: nothing in it is
run. `return` is bounded by its parts, AVG is the mean of `al`, and every interval holds its figure (but for N-IR and N-R²).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import gymnasium as gym

import rlpa_env  # noqa: F401 - registers the ids
from rlpa_env import ConfigError
from rlpa_env.population import SPLIT_SIZES

FORMAT = 1
KINDS = ("rules", "policy", "prompted", "person")
INTERVALS = {  # score -> (least, most); the board shows each with its 95 % interval
    "return": (0.0, math.inf),
    "normalised": (-math.inf, math.inf),
    "profile_f1": (0.0, 1.0),
    "profile_grounded_f1": (0.0, 1.0),
    "response": (0.0, 1.0),
    "avg": (0.0, 100.0),
    "n_ir": (-1.0, 1.0),
    "n_r2": (0.0, 1.0),
}
PLAIN = {"tokens_per_turn": (0.0, math.inf), "left_early": (0.0, 1.0), "malformed": (0.0, 1.0), "failures": (0, 0)}
_FITS = ("n_ir", "n_r2")  # a resampled row fits a line worse than the row itself: their intervals need not hold the figure
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+()-]{0,39}")
_SLACK = 1e-6
_RETURN_SLACK = 1e-3  # of a mean of ten turns, rounded by whoever wrote the entry


def _text(most: int) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        fine = isinstance(value, str) and 0 < len(value.strip()) <= most and value.isprintable()
        return "" if fine else f"one line of 1 to {most} characters"

    return check


def _name(value: Any) -> str:
    fine = isinstance(value, str) and _NAME.fullmatch(value)
    return "" if fine else "1 to 40 letters, digits, spaces and ._+()-, beginning with a letter or digit"


def _commit(value: Any) -> str:
    fine = isinstance(value, str) and re.fullmatch(r"[0-9a-f]{7,40}", value)
    return "" if fine else 'a commit of 7 to 40 hexadecimal digits, of a tree without changes ("+" marks one with changes: commit first, then measure)'


def _seeds(value: Any) -> str:
    fine = isinstance(value, list) and value and all(type(seed) is int and seed >= 0 for seed in value) and len(set(value)) == len(value)
    return "" if fine else "a list of distinct whole numbers, such as [0]"


def _number(least: float = 0.0, most: float = math.inf) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        fine = type(value) in (int, float) and math.isfinite(value) and least <= value <= most
        return "" if fine else f"a number from {least:g} to {most:g}"

    return check


def _one_of(*choices: Any) -> Callable[[Any], str]:
    return lambda value: "" if any(type(value) is type(choice) and value == choice for choice in choices) else f"one of {', '.join(map(repr, choices))}"


def _interval(least: float, most: float, holds: bool) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        fine = isinstance(value, list) and len(value) == 3 and not any(_number(least - _SLACK, most + _SLACK)(part) for part in value)
        fine = fine and value[1] <= value[2] and (not holds or value[1] - _SLACK <= value[0] <= value[2] + _SLACK)
        return "" if fine else f"[figure, lower, upper] from {least:g} to {most:g}, lower <= {'figure <= ' * holds}upper"

    return check


def _list_of(check: Callable[[Any], str], what: str) -> Callable[[Any], str]:
    return lambda value: "" if isinstance(value, list) and value and not any(map(check, value)) else f"a list of {what}"


SCHEMA: dict[str, Any] = {
    "format": _one_of(FORMAT),
    "agent": _name,
    "kind": _one_of(*KINDS),
    "description": _text(200),
    "environment": _one_of("RLPA-v0", "RLPA-Extended-v0", "RLPA-Shift-v0", "RLPA-Long-v0"),
    "split": _one_of("vanilla/test", "extended/test"),
    "users": _number(1),
    "seeds": _seeds,
    "command": _text(500),
    "commit": _commit,
    "machine": {"cores": _number(1), "cpu": _text(120), "flags": lambda value: "" if isinstance(value, list) else "a list", "python": _text(20)},
    "cost": {"training_minutes": _number(), "usd": _number()},
    "scores": {
        **{name: _interval(*bounds, name not in _FITS) for name, bounds in INTERVALS.items()},
        **{name: _number(*bounds) for name, bounds in PLAIN.items()},
        "al": _list_of(_number(0, 100), "percentages, one a turn"),
    },
}
OPTIONAL = {"returns_by_user": _list_of(_number(), "returns, one a person in the order of the split's file")}


def _against(data: Any, schema: Mapping[str, Any], optional: Mapping[str, Any], where: str) -> list[str]:
    """What is wrong with ``data``, a line each."""
    if not isinstance(data, dict):
        return [f"{where or 'the entry'}: expected an object with {', '.join(schema)}; got {_short(data)}."]
    problems = []
    for name in data:
        if name not in schema and name not in optional:
            near = get_close_matches(name, [*schema, *optional], 1)
            problems.append(f"{where}{name}: expected no such field{f'; did you mean {near[0]!r}?' if near else '.'}")
    for name, check in {**schema, **optional}.items():
        if name not in data:
            if name in schema:
                wanted = "an object" if isinstance(check, Mapping) else check(None)
                problems.append(f"{where}{name}: expected {wanted}; it is missing.")
        elif isinstance(check, Mapping):
            problems += _against(data[name], check, {}, f"{where}{name}.")
        elif wanted := check(data[name]):
            problems.append(f"{where}{name}: expected {wanted}; got {_short(data[name])}.")
    return problems


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _cannot_be(entry: Mapping[str, Any]) -> list[str]:
    """What contradicts itself in an entry whose fields are all well-formed."""
    problems, scores = [], entry["scores"]
    size, turns = SPLIT_SIZES[entry["split"]], gym.spec(entry["environment"]).max_episode_steps
    if entry["users"] != size:
        problems.append(f"users: expected all {size} people of {entry['split']}; got {entry['users']}. Leave --users out.")
    family = "extended/test" if entry["environment"] == "RLPA-Extended-v0" else "vanilla/test"
    if entry["split"] != family:
        problems.append(f"split: expected {family} with {entry['environment']}; got {entry['split']}.")
    if len(scores["al"]) != turns:
        problems.append(f"scores.al: expected {turns} turns of {entry['environment']}; got {len(scores['al'])}.")
    mean = sum(scores["al"]) / len(scores["al"])
    if abs(mean - scores["avg"][0]) > 0.01:
        problems.append(f"scores.avg: expected the mean of al, {mean:.2f}; got {scores['avg'][0]:.2f}.")
    most = turns * (scores["profile_f1"][0] + scores["response"][0])
    least = most if scores["malformed"] == 0 else 0.0
    if not least - _RETURN_SLACK <= scores["return"][0] <= most + _RETURN_SLACK:
        told = f"{turns} turns of profile F1 + response, {most:.3f}" + ("" if least else " at most")
        problems.append(f"scores.return: expected {told}; got {scores['return'][0]:.3f}.")
    if scores["profile_grounded_f1"][0] > scores["profile_f1"][0] + _SLACK:
        problems.append("scores.profile_grounded_f1: expected no more than profile_f1, of whose hits it counts some; got more.")
    returns = entry.get("returns_by_user")
    if returns is not None and (len(returns) != entry["users"] or abs(sum(returns) / len(returns) - scores["return"][0]) > _RETURN_SLACK):
        problems.append(f"returns_by_user: expected {entry['users']} numbers with the mean {scores['return'][0]:.3f}; got {len(returns)} with another.")
    return problems


def checked(entry: Any, where: str) -> dict[str, Any]:
    """The entry, if it is one. Raises ConfigError with a line for each problem otherwise.

    Args:
        where: the file, for the message.
    """
    problems = _against(entry, SCHEMA, OPTIONAL, "") or _cannot_be(entry)
    if problems:
        raise ConfigError("\n".join(f"{where}: {problem}" for problem in problems))
    return entry


def read_entry(path: Path) -> dict[str, Any]:
    """The entry in a file. Raises ConfigError if it is none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path.name}: expected JSON; {error}. benchmarks/leaderboard/add.py writes it.") from error
    return checked(data, path.name)


def setting_of(entry: Mapping[str, Any]) -> tuple[str, str, tuple[int, ...]]:
    """What entries must share to be ranked together."""
    return entry["environment"], entry["split"], tuple(entry["seeds"])
