"""Episode records -> one row of scores per agent, with bootstrap intervals over users. Pure.

Axes: U users (mean over their seeds first), K turns, B bootstrap draws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from rlpa_env.actions import parse_action
from rlpa_env.errors import ModelError
from rlpa_env.metrics import improvement, sameness

REPEATS = 2000
OFF_SCHEMA_LIMIT = 0.02  # above this share of turns that a model could not answer on schema an agent is not ranked
_MEANS = {  # result name -> per-turn figure of the record
    "profile_f1": "f1",
    "profile_grounded_f1": "grounded_f1",
    "profile_precision": "precision",
    "profile_recall": "recall",
    "ceiling": "ceiling",
    "response": "response",
}
_NORMALISED = {"normalised": "reward", "normalised_profile": "profile", "normalised_response": "response"}

Records = Sequence[Mapping[str, Any]]


def off_schema(record: Mapping[str, Any]) -> bool:
    """Whether an episode ended because a model's answers stayed off schema: what the agent said may have caused it."""
    return bool(record["error"].startswith("off schema"))


def budget_spent(error: str) -> bool:
    """Whether the error of an episode is that a budget was spent (`BudgetError`)."""
    return error.startswith("llm budget")


def as_zero(records: Records) -> list[dict[str, Any]]:
    """The records with turns off schema, and those that would have followed, counted as 0 instead of missing."""
    dropped = {"valid": True, "reward": 0.0, "profile": 0.0, "response": 0.0, "al": 0.0}
    dropped |= dict.fromkeys(_MEANS.values(), 0.0)
    return [
        {**record, "stop_reason": "", "error": "", "turns": [*record["turns"][:-1], {**record["turns"][-1], **dropped}]} if off_schema(record) else dict(record)
        for record in records
    ]


def per_turn(records: Records, key: str) -> np.ndarray:
    """Array [episodes, K] of one per-turn figure.

    Turns after the user left count 0; the turn of a failure and all after it are NaN (missing, never 0).
    """
    limit = max(record["limit"] for record in records)
    table = np.zeros((len(records), limit))
    for row, record in enumerate(records):
        for column, turn in enumerate(record["turns"]):
            table[row, column] = turn[key] if turn["valid"] else np.nan
        if record["stop_reason"] == "failure":
            table[row, len(record["turns"]) - 1 :] = np.nan
    return table


def by_user(records: Records, values: np.ndarray) -> np.ndarray:
    """Mean over the episodes of each user, missing values left out: [episodes, …] -> [U, …], in order of appearance."""
    users = list(dict.fromkeys(record["profile"] for record in records))
    rows = [[i for i, record in enumerate(records) if record["profile"] == user] for user in users]
    return np.stack([_nanmean(values[row]) for row in rows])


def _nanmean(values: np.ndarray) -> np.ndarray:
    known = ~np.isnan(values)
    count = known.sum(axis=0)
    return np.where(count > 0, np.where(known, values, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan)


def weights(users: int, seed: int = 0, repeats: int = REPEATS) -> np.ndarray:
    """Bootstrap weights [B, U]: how often each user is in each resample, divided by U."""
    rng = np.random.default_rng(seed)
    draws = rng.integers(users, size=(repeats, users))
    counts = np.zeros((repeats, users))
    np.add.at(counts, (np.arange(repeats)[:, None], draws), 1.0)
    return counts / users


def _weighted(weights_BU: np.ndarray, values_U: np.ndarray) -> np.ndarray:
    """Mean of each resample over the users that are known; NaN for one that holds none of them."""
    known = ~np.isnan(values_U)
    total = weights_BU @ known.astype(float)
    sums = weights_BU @ np.where(known, values_U, 0.0)
    return np.where(total > 0, sums / np.maximum(total, 1e-12), np.nan)


def interval(point: float, draws: np.ndarray) -> tuple[float, float, float]:
    """(estimate, lower, upper) of a 95 % percentile interval; draws that are NaN are left out, and without any it is NaN."""
    if np.isnan(draws).all():
        return float(point), np.nan, np.nan
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return float(point), float(low), float(high)


def returns(records: Records, key: str = "reward") -> np.ndarray:
    """Undiscounted sum of turn rewards of each episode; NaN for one that a failure cut short."""
    whole = [record["stop_reason"] != "failure" for record in records]
    return np.array([sum(turn[key] for turn in r["turns"]) if ok else np.nan for r, ok in zip(records, whole, strict=True)])


def means(records: Records, key: str) -> np.ndarray:
    """Mean over the turns of each episode of one per-turn figure; NaN for one that a failure cut short, as in `returns`.

    Its early turns alone are no mean: guesses get better as people tell more.
    """
    table = per_turn(records, key)
    return np.where(np.isnan(table).any(axis=1), np.nan, _nanmean(table.T))


def paired_difference(a: Records, b: Records, key: str = "return", seed: int = 0) -> tuple[float, float, float]:
    """Mean of a − b over the same users and seeds with its 95 % interval. ``key``: "return" or a per-turn figure.

    An episode that a failure cut short for one is left out of both. NaN, NaN, NaN if that leaves none: nothing is known then.
    """
    _check_paired("paired_difference", a, b)
    ours, theirs = _common(*(returns(records) if key == "return" else means(records, key) for records in (a, b)))
    difference = by_user(a, ours) - by_user(b, theirs)
    return interval(float(_nanmean(difference)), _weighted(weights(len(difference), seed), difference))


def _check_paired(who: str, *several: Records) -> None:
    if any([(r["profile"], r["seed"]) for r in own] != [(r["profile"], r["seed"]) for r in several[0]] for own in several):
        raise ValueError(f"{who}: expected the same users and seeds, in the same order, of everybody; they differ.")


def _common(*episodes: np.ndarray) -> list[np.ndarray]:
    """The figures of several agents on the same episodes, where one of them has none as NaN in all."""
    missing = np.isnan(episodes).any(axis=0)
    return [np.where(missing, np.nan, values) for values in episodes]


def ties(records: Mapping[str, Records]) -> list[tuple[str, str]]:
    """Pairs of agents, the one with the larger return first, whose paired 95 % interval covers 0: not to be told apart.

    Of one user in common every pair is a tie, since nothing says how much users differ. Agents without a return are in no pair,
    nor are two whose failures leave no user in common: nothing is known of their difference.
    """
    found = {name: float(_nanmean(returns(own))) for name, own in records.items()}
    ranked = sorted((name for name in found if not np.isnan(found[name])), key=lambda name: -found[name])
    tied = []
    for better, worse in combinations(ranked, 2):
        _, low, high = paired_difference(records[better], records[worse])
        if low <= 0 <= high or _users_in_common(records[better], records[worse]) == 1:
            tied.append((better, worse))
    return tied


def _users_in_common(a: Records, b: Records) -> int:
    both = ~np.isnan(sum(map(returns, (a, b))))
    return len({record["profile"] for record, whole in zip(a, both, strict=True) if whole})


def normalised(
    records: Records, prior: Records, oracle: Records, key: str = "reward", seed: int = 0
) -> tuple[float, float, float]:
    """(R − R_prior) / (R_oracle − R_prior), a ratio of means over the same episodes, bootstrapped jointly over users."""
    return paired_normalised(records, prior, prior, oracle, key, seed)


def paired_normalised(
    a: Records, b: Records, prior: Records, oracle: Records, key: str = "reward", seed: int = 0
) -> tuple[float, float, float]:
    """Normalised score of a − that of b, (R_a − R_b) / (R_oracle − R_prior), with its 95 % interval.

    All four over the same users and seeds, and resampled together: the scale is as uncertain as the difference. An episode that a
    failure cut short for one is left out of all.
    """
    four = (a, b, prior, oracle)
    _check_paired("normalised", *four)
    ours, theirs, floor, top = map(by_user, four, _common(*(returns(r, key) for r in four)))
    weights_BU = weights(len(ours), seed)

    def ratio(mean: Callable[[np.ndarray], Any]) -> Any:
        return (mean(ours) - mean(theirs)) / (mean(top) - mean(floor))

    return interval(ratio(np.nanmean), ratio(lambda values: _weighted(weights_BU, values)))


def summarise(
    name: str, records: Records, prior: Records | None, oracle: Records | None, seeds: Sequence[int], boot_seed: int = 0
) -> dict[str, Any]:
    """One result row; every score also with ``_lo`` and ``_hi`` (95 %, over users). A score that cannot be had is absent.

    Without ``prior`` or ``oracle`` (the same users and seeds) the row has no normalised scores, and no alignment for records
    that were not judged with the true profile. Failures are missing, not 0. ``off_schema_as_0`` holds the scores with off-schema turns as 0; where they are more than
    `OFF_SCHEMA_LIMIT` of an agent's turns, or no episode is whole, ``ranked`` is False: how good it is nobody can say. An agent
    without a whole episode has no other scores than these.

    Raises:
        ModelError: no episode is whole or ended off schema: every one was cut short by a failure from outside.
    """
    whole = any(record["stop_reason"] != "failure" for record in records)
    if not whole and not any(map(off_schema, records)):
        raise ModelError(f"{name}: expected at least one episode without a failure; the first failed with: {records[0]['error']}")
    row: dict[str, Any] = {
        "agent": name,
        "env": records[0]["env"],
        "split": records[0]["split"],
        "users": len({record["profile"] for record in records}),
        "seed": list(seeds),
    }
    if whole:
        row |= _scores(records, prior, oracle, boot_seed)
    row |= _counts(records)
    row["ranked"] = bool(whole and row["off_schema"] <= OFF_SCHEMA_LIMIT * sum(len(record["turns"]) for record in records))
    row["off_schema_as_0"] = {}
    if row["off_schema"]:
        zeroed = summarise(name, as_zero(records), prior, oracle, seeds, boot_seed)
        row["off_schema_as_0"] = {key: zeroed[key] for key in (*_MEANS, "return", "normalised", "avg") if key in zeroed}
    return row


def result_rows(records: Mapping[str, Records], seeds: Sequence[int]) -> tuple[list[dict[str, Any]], list[ModelError]]:
    """A row for each agent, normalised by those named prior and oracle, with ``tied_with``; an error in place of a row without any score."""
    rows, errors = [], []
    for name, own in records.items():
        try:
            row = summarise(name, own, records.get("prior"), records.get("oracle"), seeds)
        except ModelError as error:
            errors.append(error)
            continue
        rows.append(row)
    tied = ties({row["agent"]: records[row["agent"]] for row in rows if row["ranked"]})
    for row in rows:
        row["tied_with"] = [b if a == row["agent"] else a for a, b in tied if row["agent"] in (a, b)]
    return rows, errors


def _scores(records: Records, prior: Records | None, oracle: Records | None, boot_seed: int) -> dict[str, Any]:
    """Every score of a row; those that are not finite, as where the floor is the scale, are left out: JSON has no word for them."""
    row: dict[str, Any] = {}
    weights_BU = weights(len({record["profile"] for record in records}), boot_seed)

    def put(key: str, triple: tuple[float, float, float]) -> None:
        if np.isfinite(triple).all():
            row[key], row[f"{key}_lo"], row[f"{key}_hi"] = triple

    def mean_of(values_U: np.ndarray) -> tuple[float, float, float]:
        return interval(float(np.nanmean(values_U)), _weighted(weights_BU, values_U))

    put("return", mean_of(by_user(records, returns(records))))
    if prior is not None and oracle is not None:
        for key, part in _NORMALISED.items():
            put(key, normalised(records, prior, oracle, part, boot_seed))
    for key, figure in _MEANS.items():
        put(key, mean_of(by_user(records, means(records, figure))))
    put("profile_f1_final", mean_of(by_user(records, per_turn(records, "f1")[:, -1])))
    if all("al" in turn for record in records for turn in record["turns"]):
        al_UK = by_user(records, per_turn(records, "al"))
        al_BK = np.stack([_weighted(weights_BU, column) for column in al_UK.T], axis=1)
        al = 100.0 * np.nanmean(al_UK, axis=0)
        low, high = 100.0 * np.nanpercentile(al_BK, [2.5, 97.5], axis=0)
        row |= {"al": al.tolist(), "al_lo": low.tolist(), "al_hi": high.tolist()}
        put("avg", interval(float(np.mean(al)), 100.0 * al_BK.mean(axis=1)))
        if len(al) > 1:  # one turn has no slope
            slopes = np.array([improvement(line.tolist()) for line in 100.0 * np.vstack([al / 100.0, al_BK])])
            put("n_ir", interval(slopes[0, 0], slopes[1:, 0]))
            put("n_r2", interval(slopes[0, 1], slopes[1:, 1]))
    return row


def _counts(records: Records) -> dict[str, Any]:
    turns = [turn for record in records for turn in record["turns"]]
    spent = [turn["tokens"] for turn in turns if turn["valid"]]
    return {
        **({"tokens_per_turn": float(np.mean(spent))} if spent else {}),
        "left_early": float(np.mean([bool(record["left"]) for record in records])),
        "failures": sum(record["stop_reason"] == "failure" for record in records),
        "off_schema": sum(map(off_schema, records)),
        "context_stops": sum(record["stop_reason"] == "context" for record in records),
        "malformed": float(np.mean([bool(turn["parse_error"]) for turn in turns])),
        **(sameness([_replies(record) for record in records]) if all("messages" in record for record in records) else {}),
    }


def _replies(record: Mapping[str, Any]) -> list[str]:
    """What the user heard, without the turn of a failure, which may have been the agent's own."""
    said = [parse_action(message["content"]).reply for message in record["messages"] if message["role"] == "assistant"]
    return said[:-1] if record["stop_reason"] == "failure" else said
