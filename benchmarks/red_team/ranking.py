"""Agents between the cheats and the oracle, and the ranks that two evaluators give."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from evaluator import Encoder, baselines, evaluate_episode
from scipy.stats import rankdata
from tricks import Messages

from rlpa_env import Agent, Point
from rlpa_env.agents import Composed, frequencies
from rlpa_env.attentive import answer, listed
from rlpa_env.results import by_user, returns, weights

ABOVE = 3  # ranks that the reward may place an agent above the evaluator's place


def _turn(messages: Messages) -> int:
    return sum(message["role"] == "assistant" for message in messages)


def _unluckily(share: float, *key: object) -> bool:
    """True for this share of keys, the same in every process."""
    return zlib.crc32(" ".join(map(str, key)).encode()) % 1000 < 1000 * share


def _half(messages: Messages) -> Sequence[Point]:
    return listed(messages)[::2]


def _late(messages: Messages) -> Sequence[Point]:
    return listed(messages) if _turn(messages) >= 5 else ()


def _forgets(messages: Messages) -> Sequence[Point]:
    """Remembers the last three messages of the user."""
    return listed([message for message in messages if message["role"] == "user"][-3:])


def _misread(messages: Messages) -> Sequence[Point]:
    """Every third point is taken for another of its slot."""
    found = []
    for point in listed(messages):
        others = [other for other in frequencies("vanilla/train") if other.slot == point.slot and other != point]
        wrong = _unluckily(1 / 3, point) and others
        found.append(others[zlib.crc32(point.value.encode()) % len(others)] if wrong else point)
    return found


def _off(messages: Messages) -> str:
    """What attentive would have said to the message before."""
    return answer(messages) if len(messages) < 4 else answer(messages[:-2])


def _only_react(messages: Messages) -> str:
    return answer(messages).rsplit(". ", 1)[0] + "."


def _tired(messages: Messages) -> str:
    """Every second reply is a nod."""
    nods = ("I see.", "Okay, sure.", "Right, fair enough.", "Hm, alright.", "Good to know.")
    return nods[_turn(messages) % len(nods)] if _turn(messages) % 2 else answer(messages)


DEGRADED: dict[str, Callable[[], Agent]] = {
    "lists half": lambda: Composed(_half, answer),
    "lists late": lambda: Composed(_late, answer),
    "forgets": lambda: Composed(_forgets, answer),
    "misreads a third": lambda: Composed(_misread, answer),
    "a turn behind": lambda: Composed(listed, _off),
    "asks nothing": lambda: Composed(listed, _only_react),
    "nods every other turn": lambda: Composed(listed, _tired),
    "misreads, a turn behind": lambda: Composed(_misread, _off),
}


def _places(scores: Sequence[float]) -> np.ndarray:
    """1 for the best; equal scores share the mean of their places."""
    return rankdata(-np.asarray(scores, dtype=float))


def _agreement(ours_AU: np.ndarray, theirs_AU: np.ndarray, seed: int, repeats: int) -> dict[str, float]:
    """Spearman's rho over agents of the means over users, with its 95 % bootstrap interval over users."""
    draws_UB = weights(ours_AU.shape[1], seed, repeats).T
    low, high = np.percentile(spearman(ours_AU @ draws_UB, theirs_AU @ draws_UB), [2.5, 97.5])
    (rho,) = spearman(ours_AU.mean(1, keepdims=True), theirs_AU.mean(1, keepdims=True))
    return {"rho": float(rho), "lo": float(low), "hi": float(high)}


def spearman(ours_AB: np.ndarray, theirs_AB: np.ndarray) -> np.ndarray:
    """Rank correlation over the agents of each column, ties at the mean of their places. Both must differ between agents."""
    ours, theirs = (places - places.mean(0) for places in (rankdata(ours_AB, axis=0), rankdata(theirs_AB, axis=0)))
    return (ours * theirs).sum(0) / np.sqrt((ours**2).sum(0) * (theirs**2).sum(0))


def compared(ours_AU: Mapping[str, np.ndarray], theirs_AU: Mapping[str, np.ndarray], seed: int = 0, repeats: int = 1000) -> dict[str, Any]:
    """How alike reward and evaluator rank the agents.

    Args:
        ours_AU, theirs_AU: agent -> score of each user; same agents, same users.

    Returns:
        ``rho`` with ``lo`` and ``hi``, and ``agents``: name -> both means, both places (1 the best), and ``above``, the places that
        the reward puts it above the evaluator's place.
    """
    names = list(ours_AU)
    if len(names) < 3:
        raise ValueError(f"compared: expected three or more agents; got {len(names)}.")
    ours, theirs = (np.stack([found[name] for name in names]) for found in (ours_AU, theirs_AU))
    our_places, their_places = _places(ours.mean(1)), _places(theirs.mean(1))
    agents = {
        name: {
            "reward": float(ours[i].mean()), "evaluator": float(theirs[i].mean()), "reward_place": float(our_places[i]),
            "evaluator_place": float(their_places[i]), "above": float(their_places[i] - our_places[i]),
        }
        for i, name in enumerate(names)
    }  # fmt: skip
    above = sorted((name for name in names if agents[name]["above"] > ABOVE), key=lambda name: -agents[name]["above"])
    return _agreement(ours, theirs, seed, repeats) | {"agents": agents, "too_high": above}


def by_embeddings(records: Mapping[str, Sequence[Mapping[str, Any]]], encode: Encoder) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Sums over turns of (profile, reply) of every episode by evaluator.py, name -> [episodes, 2], and the cosines it counts as 0."""
    base = baselines([record for found in records.values() for record in found], encode)
    return {name: np.array([evaluate_episode(record, encode, base) for record in found]) for name, found in records.items()}, base._asdict()


def rank(records: Mapping[str, Sequence[Mapping[str, Any]]], scores: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The comparison over all agents, over those that keep the format in most turns, and of each part by itself.

    The reward of a malformed turn is 0 by contract; an evaluator reads it as it was meant, so that there they must differ.

    Args:
        scores: what the evaluator gives for (profile, reply), name -> [episodes, 2].
    """
    theirs = {name: {"profile": by_user(records[name], table[:, 0]), "response": by_user(records[name], table[:, 1])} for name, table in scores.items()}
    ours = {name: {part: by_user(found, returns(found, part)) for part in ("reward", "profile", "response")} for name, found in records.items()}
    whole = compared({n: s["reward"] for n, s in ours.items()}, {n: s["profile"] + s["response"] for n, s in theirs.items()})
    for name, row in whole["agents"].items():
        row |= {f"reward_{part}": float(ours[name][part].mean()) for part in ("profile", "response")}
        row |= {f"evaluator_{part}": float(theirs[name][part].mean()) for part in ("profile", "response")}
    formed = [name for name, found in records.items() if _malformed(found) < 0.5]
    read = compared({n: ours[n]["reward"] for n in formed}, {n: theirs[n]["profile"] + theirs[n]["response"] for n in formed})
    parts = {part: compared({n: s[part] for n, s in ours.items()}, {n: s[part] for n, s in theirs.items()}) for part in ("profile", "response")}
    slim = {part: {key: found[key] for key in ("rho", "lo", "hi", "too_high")} for part, found in parts.items()}
    return whole | {"well_formed": read, "parts": slim}


def _malformed(records: Sequence[Mapping[str, Any]]) -> float:
    """Share of turns that do not keep the format."""
    turns = [turn for record in records for turn in record["turns"]]
    return sum(bool(turn["parse_error"]) for turn in turns) / len(turns)
