"""All estimators on the same kept dialogues: how noisy is each one's gradient, and where does it point?

The unit is what was drawn independently: a group of dialogues with the same person and seed, or one dialogue. Axes:
U units, D numbers of a sketch, P parameters.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from rlpa_agent.batch import Batch, micro_batches
from rlpa_agent.checkpoint import checkpointed_policy, load_tensors, read_state
from rlpa_agent.config import ALGOS, GROUP_ALGOS, TrainConfig
from rlpa_agent.learner import Estimates, Learner, Normaliser
from rlpa_agent.policy import Policy
from rlpa_agent.rollout_files import joined, kept_iterations, load_rollout
from rlpa_env import ConfigError

SKETCH = 2**17
"""Numbers kept of a gradient. Inner products are exact for models of no more parameters; beyond, their error is about
√(2/SKETCH) = 0.4 % of the product of the norms."""

DRAWS = 400
"""Random splits, and resamples."""


class Sketch:
    """A fixed linear map R^P -> R^D that keeps inner products: random signs, then folding (Charikar et al. 2002)."""

    def __init__(self, parameters: Sequence[Tensor], size: int = SKETCH, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.size = size
        self.signs = [
            (torch.randint(0, 2, (p.numel(),), generator=generator, dtype=torch.int8) * 2 - 1) for p in parameters
        ]

    def __call__(self, gradients: Sequence[Tensor | None]) -> Tensor:
        """[D], float32; a gradient of None is 0."""
        folded, at = torch.zeros(self.size), 0
        for gradient, sign in zip(gradients, self.signs, strict=True):
            behind = -(at + len(sign)) % self.size
            if gradient is not None:
                flat = gradient.detach().flatten().float().cpu() * sign
                folded += functional.pad(flat, (at, behind)).view(-1, self.size).sum(0)
            at = (at + len(sign)) % self.size
        return folded


def units_of(batch: Batch, group: int) -> list[list[int]]:
    """Rows of each group of dialogues, in order; of each dialogue where there are no groups."""
    rows: dict[int, set[int]] = {}
    episode_C = torch.tensor(batch.episode_C)
    for row, chain in zip(batch.row_A.tolist(), batch.chain_A.tolist(), strict=True):
        rows.setdefault(int(episode_C[chain]) // group, set()).add(row)
    return [sorted(rows[unit]) for unit in sorted(rows)]


def gradient_sketches(
    learners: dict[str, Learner], batch: Batch, estimates: dict[str, Estimates], units: Sequence[Sequence[int]]
) -> tuple[dict[str, Tensor], Tensor]:
    """Sketched gradients of the summed loss of every unit [U, D], by estimator, and action tokens of each unit [U].

    The policy runs forward once for all estimators. Ratios are taken to the log-probabilities at sampling time.
    """
    learner = next(iter(learners.values()))
    policy, parameters = learner.policy, learner.policy_parameters
    sketch = Sketch(parameters)
    made = {algo: torch.zeros(len(units), sketch.size) for algo in learners}
    tokens_U = torch.zeros(len(units), dtype=torch.int64)
    for unit, rows in enumerate(units):
        for micro in micro_batches(batch, rows, learner.config.optim.token_budget, policy.chat.pad_id):
            scored = policy.score(
                micro.input_ids_BL,
                micro.lengths_B,
                micro.rows_A,
                micro.pos_A,
                batch.fraction_A[micro.index_A],
                temperature=learner.config.rollout.temperature,
                need=("logp", "entropy"),
            )
            tokens_U[unit] += len(micro.index_A)
            for i, (algo, own) in enumerate(learners.items()):
                loss, _ = own.loss_of(scored, micro.index_A, estimates[algo], 1)
                more = i + 1 < len(learners)
                made[algo][unit] += sketch(torch.autograd.grad(loss, parameters, retain_graph=more, allow_unused=True))
    return made, tokens_U


def noise_figures(sketch_UD: Tensor, tokens_U: Tensor, seed: int = 0) -> dict[str, float]:
    """How sure a gradient is, from those of its units.

    ``norm``: of the gradient of all dialogues, per action token. ``relative_variance``: E|g* − g|² / |g|² over
    resamples g* of the units with replacement. ``cosine_halves``: between gradients of two disjoint halves.
    ``cosine_large``: of a random eighth of the dialogues (one unit at the least) to all others; with the deviation
    over splits.
    """
    count = len(sketch_UD)
    if count < 2:
        raise ConfigError(f"replay: expected at least two independent dialogues or groups; got {count}. Keep more of them.")
    gram_UU = (sketch_UD.double() @ sketch_UD.double().T).numpy()
    tokens = tokens_U.double().numpy()
    rng = np.random.default_rng(seed)

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        length = np.sqrt((a @ gram_UU @ a) * (b @ gram_UU @ b))
        return float(a @ gram_UU @ b / length) if length > 0 else 0.0

    def splits(size: int) -> list[float]:
        found = []
        for _ in range(DRAWS):
            chosen = np.zeros(count)
            chosen[rng.permutation(count)[:size]] = 1.0
            found.append(cosine(chosen, 1.0 - chosen))
        return found

    whole = np.ones(count) / tokens.sum()
    square = float(whole @ gram_UU @ whole)
    resampled = rng.multinomial(count, np.full(count, 1 / count), size=DRAWS)
    off = [weight / (weight @ tokens) - whole for weight in resampled]
    variance = float(np.mean([d @ gram_UU @ d for d in off]))
    halves, large = splits(count // 2), splits(max(1, count // 8))
    return {
        "norm": float(np.sqrt(square)),
        "relative_variance": variance / square if square > 0 else float("inf"),
        "cosine_halves": float(np.mean(halves)),
        "cosine_large": float(np.mean(large)),
        "cosine_large_std": float(np.std(large)),
    }


def one_objective(config: TrainConfig, algos: Sequence[str]) -> str:
    """Why ``algos`` would not be about one objective on what a run of ``config`` keeps; "" if they are.

    In mdp mode `GROUP_ALGOS` compare undiscounted returns of segments that all answers have, and the others discount
    between the run's own segments.
    """
    grouped, ppo = [algo for algo in algos if algo in GROUP_ALGOS], config.ppo
    if config.mode != "mdp" or not grouped:
        return ""
    discounts = (ppo.gamma_token, ppo.gamma_turn)
    if config.profile_paid == "line":
        return "this one pays profiles line by line, and the lines of two have nothing in common"
    if len(grouped) < len(algos) and discounts != (1.0, 1.0):
        return f"the others discount by gamma_token, gamma_turn = {discounts}"
    return ""


def _under(config: TrainConfig, algo: str) -> TrainConfig:
    """The run under another estimator. Its KL stays where it was; but in the loss under `GROUP_ALGOS`, which know no other place."""
    kl_in = "loss" if algo in GROUP_ALGOS else config.kl_in
    return dataclasses.replace(config, algo=algo, ppo=dataclasses.replace(config.ppo, kl_in=kl_in))


def compare(learner: Learner, batch: Batch, algos: Sequence[str] = ALGOS, *, seed: int = 0) -> dict[str, Any]:
    """Gradients of all ``algos`` on one batch, see `noise_figures`; cosines between their full gradients in ``between``.

    ``learner`` is that of the run that kept the batch, with its critic where it has one. Updates are computed in
    fp32, a frozen base in the type in which it is held.
    """
    config = learner.config
    if "ppo" in algos and not config.has_critic:
        raise ConfigError(f"replay: expected a run with a critic for ppo; this one was trained with {config.algo}.")
    apart = one_objective(config, algos)
    if apart:
        raise ConfigError(
            f"replay: expected one objective for {', '.join(algos)}. grpo and rloo compare whole returns at the same place of several "
            f"answers; {apart}. Leave them out, or train with --ppo.profile-paid turn --ppo.gamma-turn 1 --ppo.gamma-token 1."
        )
    fixed = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, update_dtype="float32"),
        rollout=dataclasses.replace(config.rollout, group=config.group, dialogues=config.group * len(batch.starts_C)),
        ppo=dataclasses.replace(config.ppo, critic_steps=0, old_logp="scored"),  # states are not kept, and the policy has moved on
    )
    scorer = Learner(learner.policy, fixed)
    learners = {algo: scorer if algo == config.algo else Learner(learner.policy, _under(fixed, algo)) for algo in algos}
    scorer.normaliser = learner.normaliser
    scored = scorer.estimate(batch, 0)
    estimates = {}
    for algo, own in learners.items():
        own.normaliser = learner.normaliser
        made = own.conclude(batch, scored.logp_old_A, scored.logp_ref_A, scored.values_A, scored.bootstrap_C)
        # Values were only needed for the advantages: the gradient compared is the policy's. Weights for what a server samples
        # a little differently would count twice: ratios are to its own log-probabilities here.
        estimates[algo] = dataclasses.replace(made, logp_old_A=batch.logp_old_A, values_A=None, weights_A=None)
    units = units_of(batch, config.group)
    sketches, tokens_U = gradient_sketches(learners, batch, estimates, units)
    rows = [
        {"algo": algo, "advantage_std": float(estimates[algo].raw_A.std(unbiased=False))}
        | noise_figures(sketches[algo], tokens_U, seed)
        for algo in algos
    ]
    full = {algo: sketches[algo].double().sum(0) for algo in algos}
    between = {a: {b: float(functional.cosine_similarity(full[a], full[b], dim=0)) for b in algos} for a in algos}
    return {
        "dialogues": len(set(batch.episode_C)),
        "units": len(units),
        "action_tokens": batch.tokens,
        "sampling_mismatch": float((scored.logp_old_A - batch.logp_old_A).abs().mean()),
        "rows": rows,
        "between": between,
    }


def open_run(run: Path, load: Callable[[TrainConfig, str], Policy]) -> Learner:
    """The learner of a run as its last checkpoint left it: policy, reference, critic and value normaliser.

    ``load`` reads a policy folder as training does, see `tasks.load_policy`.
    """
    config = TrainConfig.read(run)
    config = dataclasses.replace(config, ppo=dataclasses.replace(config.ppo, old_logp="scored"))  # nothing is sampled here
    policy = load(config, str(checkpointed_policy(run, "last")))
    load_tensors(run / "last", policy, {})
    learner = Learner(policy, config)
    learner.normaliser = Normaliser(*read_state(run / "last")["normaliser"])
    return learner


def replay(
    run: Path,
    load: Callable[[TrainConfig, str], Policy],
    algos: Sequence[str] = (),
    iterations: Sequence[int] = (),
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """`compare` on kept iterations of a run, at its last checkpoint; left in RUN/replay.json.

    By default all estimators that the run has a critic and groups for and that share the objective of its own, see
    `one_objective`; on the newest iteration.
    """
    learner = open_run(run, load)
    config = learner.config
    compared = config.rollout.samples if config.mode == "official" else config.group
    able = {"ppo": config.has_critic} | dict.fromkeys(GROUP_ALGOS, compared > 1)
    algos = algos or [algo for algo in ALGOS if able.get(algo, True) and not one_objective(config, [config.algo, algo])]
    chosen = list(iterations) or kept_iterations(run)[-1:]
    kept = [load_rollout(run, number) for number in chosen] or [load_rollout(run)]  # which says what is missing
    cut = [one.iteration for one in kept if not all(turn["valid"] for episode in one.episodes for turn in episode["turns"])]
    blind = [algo for algo in algos if algo != "ppo"]
    if cut and config.has_critic and config.mode == "mdp" and blind:
        raise ConfigError(
            f"replay: expected whole dialogues for {', '.join(blind)}, whose training leaves out those that a failure cut short; iterations "
            f"{cut} have kept such for the critic. Name others (--iteration), or ppo alone (--algo ppo)."
        )
    batch = joined([one.batch for one in kept], [len(one.episodes) for one in kept])
    found = {"iterations": chosen} | compare(learner, batch, algos, seed=seed)
    (run / "replay.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def replay_table(found: dict[str, Any]) -> Table:
    """The comparison for a terminal."""
    title = f"{found['dialogues']} dialogues, {found['units']} independent, {found['action_tokens']:,} action tokens"
    table = Table(title=title, caption=f"mean |logp now − at sampling| {found['sampling_mismatch']:.2g}")
    first = found["rows"][0]["algo"]
    names = ("estimator", "std of A", "|gradient|", "rel. variance", "cos halves", "cos to large batch", f"cos to {first}")
    for i, name in enumerate(names):
        table.add_column(name, justify="right" if i else "left")
    for row in found["rows"]:
        large = f"{row['cosine_large']:.3f} ± {row['cosine_large_std']:.3f}"
        cells = (f"{row['advantage_std']:.3g}", f"{row['norm']:.3g}", f"{row['relative_variance']:.3g}", f"{row['cosine_halves']:.3f}")
        table.add_row(row["algo"], *cells, large, f"{found['between'][first][row['algo']]:.3f}")
    return table
