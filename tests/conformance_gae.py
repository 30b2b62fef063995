"""Does your GAE treat a multi-turn dialogue rightly? Run this file against it; it imports torch or numpy and nothing else.

    python tests/conformance_gae.py your_module:your_function [--numpy] [--path FOLDER]

An episode is a chain of *action tokens*. The user's tokens stand between turns: they belong to the environment and are no
step of the chain. The function to test has the signature

    f(rewards_T, values_T, turn_T, *, gamma_token, gamma_turn, lam_token, lam_turn, bootstrap=0.0)
        -> (advantages_T, returns_T)

with three 1-D tensors (float64, float64, int64; numpy arrays under --numpy) over the action tokens of one episode.
Between the last token of a turn and the first of the next, discount and trace are gamma_turn and lam_turn; elsewhere
gamma_token and lam_token. ``bootstrap`` is the value behind the last token, 0 where the episode is over.

A trainer that works on whole rows, user tokens included, is tested through an adapter that builds such a row, runs the
trainer on it and gathers the action tokens. If the adapter takes one more keyword, ``user_tokens``, it is told how many
tokens to put between turns and T3 varies their number; their values are the adapter's to choose, and must not matter.

Prints which claims hold and, for those that do not, what the function seems to get wrong. Exit code 0 iff all hold.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import random
import sys
from collections.abc import Callable, Sequence
from typing import Any

Gae = Callable[..., tuple[list[float], list[float]]]
"""The function behind plain lists, so that the claims below need no array library."""


def adapted(function: Callable[..., Any], as_numpy: bool = False) -> Gae:
    """``function`` on lists: makes the arrays, checks shape and type of what comes back."""
    if as_numpy:
        import numpy

        floats: Any = lambda values: numpy.array(values, dtype=numpy.float64)  # noqa: E731
        whole: Any = lambda values: numpy.array(values, dtype=numpy.int64)  # noqa: E731
    else:
        import torch

        floats = lambda values: torch.tensor(values, dtype=torch.float64)  # noqa: E731
        whole = lambda values: torch.tensor(values, dtype=torch.int64)  # noqa: E731

    def call(rewards: Sequence[float], values: Sequence[float], turns: Sequence[int], **options: Any) -> Any:
        made = function(floats(rewards), floats(values), whole(turns), **options)
        lists = tuple([float(x) for x in part] for part in made)
        if len(lists) != 2 or any(len(part) != len(rewards) for part in lists):
            raise ValueError(f"expected two sequences of {len(rewards)}; got {[len(part) for part in lists]}")
        return lists

    return call


def knobs(token: float, turn: float, lam_token: float, lam_turn: float) -> dict[str, float]:
    """Discounts and traces as keywords."""
    return {"gamma_token": token, "gamma_turn": turn, "lam_token": lam_token, "lam_turn": lam_turn}


def worst(got: Sequence[float], expected: Sequence[float]) -> float:
    """Largest difference; infinite where something is not a number."""
    gaps = [abs(a - b) for a, b in zip(got, expected, strict=True)]
    return max(gap if gap == gap else float("inf") for gap in gaps)


def brute_force(
    rewards: Sequence[float], values: Sequence[float], turns: Sequence[int], *, bootstrap: float = 0.0, **k: float
) -> list[float]:
    """Σ_s (Π of γλ from t to s) δ_s for every t: O(T²), from the definition."""
    size, out = len(rewards), []
    for t in range(size):
        total, factor = 0.0, 1.0
        for s in range(t, size):
            last = s + 1 == size or turns[s + 1] != turns[s]
            kind = "turn" if last else "token"
            after = values[s + 1] if s + 1 < size else bootstrap
            total += factor * (rewards[s] + k[f"gamma_{kind}"] * after - values[s])
            factor *= k[f"gamma_{kind}"] * k[f"lam_{kind}"]
        out.append(total)
    return out


FIXTURE = ([0.0, 1.0, 0.0, 1.0], [0.5, 0.4, 0.6, 0.7], [0, 0, 1, 1])
"""Rewards, values, turns of the action tokens of a row with mask 1 1 0 0 0 0 1 1; the episode is over after it."""


def claim_1(gae: Gae) -> tuple[bool, str]:
    """GAE equals the O(T²) sum on 200 random chains with random discounts; returns are advantages + values."""
    rng, gap = random.Random(0), 0.0
    for _ in range(200):
        turns = [k for k in range(rng.randint(1, 5)) for _ in range(rng.randint(1, 6))]
        rewards, values = ([rng.gauss(0, 1) for _ in turns] for _ in range(2))
        options = knobs(*(rng.random() for _ in range(4))) | {"bootstrap": rng.choice((0.0, rng.gauss(0, 1)))}
        advantages, returns = gae(rewards, values, turns, **options)
        gap = max(gap, worst(advantages, brute_force(rewards, values, turns, **options)))
        gap = max(gap, worst(returns, [a + v for a, v in zip(advantages, values, strict=True)]))
    return gap < 1e-10, f"largest error {gap:.2g}"


def claim_2(gae: Gae) -> tuple[bool, str]:
    """The fixture, by hand: (γ, λ) = (1, .95), (.99, .95), (1, 1)."""
    by_hand = {
        (1.0, 0.95): (1.3874625, 1.56575, 0.385, 0.3),
        (0.99, 0.95): (1.350792, 1.546829, 0.37515, 0.3),
        (1.0, 1.0): (1.5, 1.6, 0.4, 0.3),
    }
    gaps = [worst(gae(*FIXTURE, **knobs(g, g, lam, lam))[0], expected) for (g, lam), expected in by_hand.items()]
    return max(gaps) < 1e-6, f"largest error {max(gaps):.2g}"


def claim_3(gae: Gae, takes_user_tokens: bool) -> tuple[bool, str]:
    """0, 1 or 50 user tokens between the turns: the same advantages, bit for bit."""
    k = knobs(0.97, 0.9, 0.95, 0.8)
    if takes_user_tokens:
        found = [gae(*FIXTURE, **k, user_tokens=count)[0] for count in (0, 1, 50)]
        note = "varied by the adapter"
    else:
        found = [gae(*FIXTURE[:2], [0, 0, gap, gap], **k)[0] for gap in (1, 2, 51)]
        note = "the function sees action tokens only; turn numbers 1, 2, 51 apart"
    return found[0] == found[1] == found[2] and worst(found[0], brute_force(*FIXTURE, **k)) < 1e-9, note


def claim_4(gae: Gae) -> tuple[bool, str]:
    """V = 0, r = (1, 2), γ_turn .9: 2.8 2.8 2 2; V_boot .5: 3.205 3.205 2.45 2.45; γ_turn 0: 1 1 2 2."""
    chain = ([0.0, 1.0, 0.0, 2.0], [0.0] * 4, [0, 0, 1, 1])
    gaps = [
        worst(gae(*chain, **knobs(1, 0.9, 1, 1))[0], [2.8, 2.8, 2, 2]),
        worst(gae(*chain, **knobs(1, 0.9, 1, 1), bootstrap=0.5)[0], [3.205, 3.205, 2.45, 2.45]),
        worst(gae(*chain, **knobs(1, 0, 1, 1))[0], [1, 1, 2, 2]),
    ]
    return max(gaps) < 1e-9, f"errors {', '.join(f'{gap:.2g}' for gap in gaps)}"


def claim_5(gae: Gae) -> tuple[bool, str]:
    """With V constant within turns and γ_token = λ_token = 1 it is GAE over whole turns."""
    values, rewards, lengths = [0.3, -0.7, 1.1], [1.0, -2.0, 0.5], [3, 1, 4]
    turns = [k for k in range(3) for _ in range(lengths[k])]
    paid = [0.0] * len(turns)
    for k in range(3):
        paid[sum(lengths[: k + 1]) - 1] = rewards[k]
    found = gae(paid, [values[k] for k in turns], turns, **knobs(1, 0.9, 1, 0.8))[0]
    whole = brute_force(rewards, values, [0, 1, 2], **knobs(0.5, 0.9, 0.5, 0.8))
    gap = worst(found, [whole[k] for k in turns])
    return gap < 1e-9, f"error {gap:.2g}"


def diagnose(gae: Gae) -> list[str]:
    """What a function that fails seems to get wrong, by probes in which one mistake shows at a time."""
    found = []
    turns = [0, 0, 1, 1]
    late = gae([0.0, 0.0, 0.0, 1.0], [0.0] * 4, turns, **knobs(1, 1, 1, 1))[0]
    if abs(late[0]) < 1e-12 and abs(late[1]) < 1e-12:
        found.append("credit is cut at turns: a reward of turn 2 does not reach turn 1 although gamma_turn = lam_turn = 1")
    else:
        # Both turns are paid, so that a function that finds turns by their rewards finds them here.
        across = gae([0.0, 1.0, 0.0, 1.0], [0.0] * 4, turns, **knobs(1, 1, 0.5, 1))[0]
        if across[1] - 1.0 < across[2] - 1e-12:
            found.append(
                "decays across user tokens: from turn to turn the trace falls by lam_token as if user tokens were steps of "
                f"the policy ({across[1] - 1.0:.3g} where {across[2]:.3g} is due)"
            )
        linked = gae([0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0], turns, **knobs(1, 1, 0, 0))[0][1]
        if abs(linked - 2.0) > 1e-12:
            found.append(
                "the value after a turn is not that of the next turn's first action token: "
                f"δ is {linked:.3g} where 2 is due, so a user token's value was read"
            )
    end = gae([1.0, 1.0], [0.5, 0.25], [0, 0], **knobs(1, 1, 1, 1), bootstrap=0.0)[0][1]
    if abs(end - 0.75) > 1e-12:
        found.append(
            f"bootstraps where the episode is over: the last advantage is {end:.3g} where r − V = 0.75 is due with bootstrap = 0"
        )
    cut = gae([0.0], [0.0], [0], **knobs(1, 0.5, 1, 1), bootstrap=2.0)[0][0]
    if abs(cut - 1.0) > 1e-12:
        found.append(f"the bootstrap counts {cut:.3g} where gamma_turn · bootstrap = 1 is due")
    unpaid = gae([0.0, 0.0, 0.0, 1.0], [0.0] * 4, turns, **knobs(1, 0.5, 1, 1))[0]
    if abs(unpaid[2] - 1.0) < 1e-12 and abs(unpaid[0] - 1.0) < 1e-12:
        found.append("gamma_turn is not applied after a turn without reward: boundaries must come from turn numbers")
    advantages, returns = gae(*FIXTURE, **knobs(1, 1, 1, 1))
    if worst(returns, [a + v for a, v in zip(advantages, FIXTURE[1], strict=True)]) > 1e-9:
        found.append("returns are not advantages + values")
    return found or ["nothing that these probes know; compare with brute_force in this file"]


def check(function: Callable[..., Any], *, as_numpy: bool = False) -> tuple[dict[str, tuple[bool, str]], list[str]]:
    """Every claim with whether it holds and a note, and what seems wrong (nothing if all hold)."""
    parameters = inspect.signature(function).parameters
    gae = adapted(function, as_numpy)
    takes = "user_tokens" in parameters
    claims: dict[str, Callable[[], tuple[bool, str]]] = {
        "T1 equals the O(T²) sum": lambda: claim_1(gae),
        "T2 fixture by hand": lambda: claim_2(gae),
        "T3 user tokens change nothing": lambda: claim_3(gae, takes),
        "T4 discount between turns, bootstrap": lambda: claim_4(gae),
        "T5 turn-level GAE as a special case": lambda: claim_5(gae),
    }
    results = {name: claim() for name, claim in claims.items()}
    return results, [] if all(holds for holds, _ in results.values()) else diagnose(gae)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; see the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("function", help="module:function")
    parser.add_argument("--numpy", action="store_true", help="pass numpy arrays instead of torch tensors")
    parser.add_argument("--path", default=".", help="folder to import from")
    options = parser.parse_args(arguments)
    module, _, name = options.function.partition(":")
    if not name:
        parser.error(f"expected module:function; got {options.function!r}")
    sys.path.insert(0, options.path)
    results, wrong = check(getattr(importlib.import_module(module), name), as_numpy=options.numpy)
    for claim, (holds, note) in results.items():
        print(f"{'holds' if holds else 'FAILS'}  {claim}  ({note})")
    for mistake in wrong:
        print(f"wrong: {mistake}")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
