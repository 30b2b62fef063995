"""How much of a policy gradient is signal: by the trace of the advantages, and for profiles and replies apart.

    python benchmarks/gradient_noise/run.py --policy RUN [--dialogues 96] [--seed 0] [--out benchmarks/results/gradient_noise]

RUN is a training run of the preset tiny with its critic. New dialogues are held with its last policy, and each one's gradient
is taken apart (in a sketch that keeps inner products). From products of *different* dialogues, whose noise is independent:

    sure      cosine that the gradient of 32 dialogues can be expected to have with its own mean over infinitely many
    unbiased  cosine of that mean with the one of lam_token = 1, which no critic can bend
    useful    of the two together: cosine of the gradient of 32 dialogues with the unbiased mean

± is the standard error of a jackknife over twelfths of the dialogues. The KL to the start takes no part. --line-cost 0 leaves out
the price of a line too, and shows where the bare reward pulls.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import finish

from rlpa_agent.batch import Batch, make_batch
from rlpa_agent.checkpoint import read_state
from rlpa_agent.cli import environments, load_policy
from rlpa_agent.credit import profile_payments
from rlpa_agent.replay import gradient_sketches, open_run, units_of
from rlpa_agent.rollout import collect

TRACES = (1.0, 0.98, 0.95, 0.9, 0.8)
DIALOGUES = 32  # of an iteration
FOLDS = 12


def replies(batch: Batch) -> torch.Tensor:
    """Action tokens [A] of replies: those of the last segment of each turn."""
    turn_A = batch.chain_A * (int(batch.turn_A.max()) + 1) + batch.turn_A
    last = torch.full((int(turn_A.max()) + 1,), -1, dtype=batch.segment_A.dtype)
    last.scatter_reduce_(0, turn_A, batch.segment_A, "amax")
    return batch.segment_A == last[turn_A]


def product(gram_UU: np.ndarray, here: np.ndarray) -> float:
    """Of the means of two kinds of gradients, from pairs of different units ``here``."""
    part = gram_UU[np.ix_(here, here)]
    count = len(here)
    return float((part.sum() - np.trace(part)) / (count * (count - 1)))


def figures_of(own_UU: np.ndarray, cross_UU: np.ndarray, true_UU: np.ndarray, here: np.ndarray) -> dict[str, float]:
    """See the top. Products of a kind of gradient with itself, with the unbiased one, and of that with itself."""
    mean, along, true = (product(each_UU, here) for each_UU in (own_UU, cross_UU, true_UU))
    whole = mean + (float(np.diag(own_UU)[here].mean()) - mean) / DIALOGUES  # E|g|² of a batch
    mean, whole, true = max(mean, 0.0), max(whole, 0.0), max(true, 0.0)  # few dialogues may say that noise is all there is

    def ratio(top: float, bottom: float) -> float:
        return top / bottom if bottom > 0 else 0.0

    return {
        "sure": ratio(np.sqrt(mean), np.sqrt(whole)),
        "unbiased": ratio(along, np.sqrt(mean * true)),
        "useful": ratio(along, np.sqrt(whole * true)),
    }


def with_errors(own_UU: np.ndarray, cross_UU: np.ndarray, true_UU: np.ndarray) -> dict[str, float]:
    """`figures_of` all units, and NAME_se by leaving out one fold at a time."""
    units = np.arange(len(own_UU))
    found = figures_of(own_UU, cross_UU, true_UU, units)
    folds = min(FOLDS, len(units) // 2)
    left_out = [figures_of(own_UU, cross_UU, true_UU, units[units % folds != fold]) for fold in range(folds)]
    for name in list(found):
        values = np.array([each[name] for each in left_out])
        found[f"{name}_se"] = float(np.sqrt((folds - 1) * values.var()))
    return found


def main() -> None:
    """Hold the dialogues, take the gradients, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", type=Path, required=True, help="a training run with a critic")
    parser.add_argument("--dialogues", type=int, default=96)
    parser.add_argument("--line-cost", type=float, help="price of a line of the profile; that of the run if not given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="four short dialogues, to see that it runs")
    parser.add_argument("--out", type=Path, help="folder for the result as JSON")
    args = parser.parse_args()
    learner = open_run(args.policy, load_policy)
    config, policy = learner.config, learner.policy
    if not config.has_critic:
        parser.error(f"--policy: expected a run with a critic; {args.policy} was trained with {config.algo}")
    if config.profile_paid == "turn":
        parser.error(f"--policy: expected profiles paid at block or line, apart from replies; {args.policy} was trained with them paid at the turn")
    count, turns = (4, 2) if args.smoke else (args.dialogues, config.rollout.max_turns)
    rollout = dataclasses.replace(config.rollout, max_turns=turns)
    make = environments(rollout)
    dialogues = collect(
        policy, [make() for _ in range(min(count, rollout.concurrent))], seeds=np.random.default_rng([args.seed, 5]).integers(2**31, size=count).tolist(),
        sample_seed=args.seed, temperature=rollout.temperature, max_new_tokens=rollout.max_new_tokens, max_turns=turns,
    )  # fmt: skip
    cost = config.ppo.line_cost if args.line_cost is None else args.line_cost
    payments = profile_payments(policy.chat, config.profile_paid, cost)
    batch = make_batch(dialogues, max_turns=turns, payments=payments)
    own = dataclasses.replace(config.ppo, beta=0.0, critic_steps=0)
    learner.config = dataclasses.replace(config, ppo=own)
    scored = learner.estimate(batch, 0)
    reply_A = replies(batch)
    parts = {"all": torch.ones_like(reply_A), "profile": ~reply_A, "reply": reply_A}
    estimates: dict[str, Any] = {}
    for trace in TRACES:
        learner.config = dataclasses.replace(config, ppo=dataclasses.replace(own, lam_token=trace))
        made = learner.conclude(batch, scored.logp_old_A, scored.logp_ref_A, scored.values_A, scored.bootstrap_C)
        for part, mask_A in parts.items():
            kept = made.advantages_A * mask_A
            estimates[f"{part}, {trace:g}"] = dataclasses.replace(made, advantages_A=kept, logp_old_A=batch.logp_old_A, values_A=None)
    learner.config = dataclasses.replace(config, ppo=own)
    sketches, _ = gradient_sketches(dict.fromkeys(estimates, learner), batch, estimates, units_of(batch, 1))
    figures: dict[str, Any] = {"iteration": read_state(args.policy / "last")["iteration"], "dialogues": count, "line_cost": cost, "rows": {}}
    table = Table("gradient of", "λ", "sure", "unbiased", "useful", title=f"cosines, {count} dialogues, {DIALOGUES} a gradient")
    for name, sketch_UD in sketches.items():
        part, trace = name.split(", ")
        true_UD = sketches[f"{part}, 1"].double()
        mine_UD = sketch_UD.double()
        found = with_errors(*(product_UU.numpy() for product_UU in (mine_UD @ mine_UD.T, mine_UD @ true_UD.T, true_UD @ true_UD.T)))
        figures["rows"][name] = found
        table.add_row(part, trace, *(f"{found[key]:.2f} ± {found[key + '_se']:.2f}" for key in ("sure", "unbiased", "useful")))
    Console().print(table)
    finish("gradient_noise", figures, [args.seed], args.out)


if __name__ == "__main__":
    main()
