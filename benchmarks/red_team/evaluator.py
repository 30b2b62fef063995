"""An evaluator that shares no code with judge, matcher or parser: sentence embeddings, and nothing it was tuned on.

Its definition, fixed before any rank was looked at. cos is the cosine of two texts; a cosine is rescaled by what a wrong
text gets, r(c, b) = clip((c − b) / (1 − b), 0, 1), with b measured on texts of different people:

- profile of a turn: lines and truth as "slot: value"; S = r(cos, b_lines); P = 2·ΣS / (listed + true) over the one-to-one
  assignment of largest ΣS.
- reply of a turn: take-up T = (m + p) / 2 with m = r(cos(reply, newest message), b_message) and
  p = r(max over true values cos(reply, value), b_person); copying k = the largest cosine of the reply with the newest
  message or an earlier reply of the dialogue; Q = clip(4·T·(1 − k), 0, 1), so that parroting, repeating and not
  listening all lose. No words: 0.
- an episode: Σ over turns (P + Q), in [0, 2·turns]; turns after the person left count 0, as in the reward.

What it cannot see: whether a question was answered, a claim is true, a reply reads like a person or keeps the format.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from detectors import parts_of
from scipy.optimize import linear_sum_assignment

Encoder = Callable[[Sequence[str]], np.ndarray]  # texts -> unit vectors [texts, d]
_PAIRS = 300  # of different people, for the cosines that a wrong text gets


class Baselines(NamedTuple):
    """Cosines that a text gets from somebody else's: what 0 is."""

    lines: float  # of assigned lines of two people
    message: float  # of two people's messages
    person: float  # of a message with the nearest value of another person


class Scores(NamedTuple):
    """Sums over the turns of one episode, each turn in [0, 1]."""

    profile: float
    reply: float


def _rescaled(cosine: np.ndarray | float, base: float) -> np.ndarray:
    return np.clip((np.asarray(cosine, dtype=float) - base) / (1.0 - base), 0.0, 1.0)


def _lines(slots: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(slot, str(value)) for slot, values in slots.items() for value in (values if isinstance(values, (list, tuple)) else [values])]


def _texts(pairs: Sequence[tuple[str, str]]) -> list[str]:
    return [f"{slot}: {value}" if slot else value for slot, value in pairs]


def _assigned(scores_GT: np.ndarray) -> np.ndarray:
    rows, columns = linear_sum_assignment(scores_GT, maximize=True)
    return scores_GT[rows, columns]


def soft_f1(scores_GT: np.ndarray) -> float:
    """2·ΣS / (guesses + truths) over the best one-to-one assignment, in [0, 1]."""
    guesses, truths = scores_GT.shape
    return float(2.0 * _assigned(scores_GT).sum() / (guesses + truths)) if guesses and truths else 0.0


def baselines(records: Sequence[Mapping[str, Any]], encode: Encoder, seed: int = 0) -> Baselines:
    """Measured on pairs of different people, each in the first record of theirs. Raises ValueError if there is one person only."""
    people = {record["profile"]: record for record in reversed(records)}
    names = sorted(people)
    if len(names) < 2:
        raise ValueError(f"baselines: expected records of two or more people; got {len(names)}.")
    rng = np.random.default_rng(seed)
    found: list[tuple[float, float, float]] = []
    for _ in range(_PAIRS):
        one, other = (people[names[i]] for i in rng.choice(len(names), 2, replace=False))
        ours, theirs = (_lines(record["truth"]) for record in (one, other))
        mine, yours = ([m["content"] for m in record["messages"] if m["role"] == "user"] for record in (one, other))
        message = mine[rng.integers(len(mine))]
        vector = encode([message])[0]
        found.append((
            float(_assigned(encode(_texts(ours)) @ encode(_texts(theirs)).T).mean()),
            float(vector @ encode([yours[rng.integers(len(yours))]])[0]),
            float((encode([value for _, value in theirs]) @ vector).max()),
        ))  # fmt: skip
    return Baselines(*np.mean(found, axis=0).tolist())


def reply_score(reply: str, message: str, earlier: Sequence[str], values: Sequence[str], encode: Encoder, base: Baselines) -> float:
    """Q of one reply, in [0, 1]; see the module's docstring."""
    if not any(map(str.isalnum, reply)):
        return 0.0
    vector = encode([reply])[0]
    taken = float(encode([message])[0] @ vector)
    person = float((encode(values) @ vector).max())
    copied = max([taken, *(encode(earlier) @ vector if earlier else ())])
    take_up = float(_rescaled(taken, base.message) + _rescaled(person, base.person)) / 2
    return min(1.0, max(0.0, 4.0 * take_up * (1.0 - copied)))


def evaluate_episode(record: Mapping[str, Any], encode: Encoder, base: Baselines) -> Scores:
    """Both sums of one episode record."""
    truth = _lines(record["truth"])
    true_T, values = encode(_texts(truth)), [value for _, value in truth]
    profile = reply = 0.0
    earlier: list[str] = []
    message = ""
    for said in record["messages"]:
        if said["role"] == "user":
            message = said["content"]
        elif said["role"] == "assistant":
            pairs, text = parts_of(said["content"])
            listed = list(dict.fromkeys(_texts(pairs)))
            if listed:
                profile += soft_f1(_rescaled(encode(listed) @ true_T.T, base.lines))
            reply += reply_score(text, message, earlier, values, encode, base)
            earlier.append(text)
    return Scores(profile, reply)
