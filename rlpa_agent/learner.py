"""One iteration on one rollout: score, estimate advantages, update. Knows no environment and no file.

Axes as in `batch`: A action tokens of all chains, C chains.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlpa_agent.advantages import estimate_advantages, explained_variance, token_rewards, whiten
from rlpa_agent.batch import Batch, MicroBatch, micro_batches, split_rows
from rlpa_agent.config import GROUP_ALGOS, TrainConfig
from rlpa_agent.estimates import Estimates, UpdateStats
from rlpa_agent.loading import held_dtype, name_of, update_dtype
from rlpa_agent.policy import Policy, Scored
from rlpa_agent.ppo import approximate_kl, kl_loss, policy_loss, value_loss
from rlpa_agent.sharding import clip_gradients
from rlpa_agent.world import ALONE, World
from rlpa_env.errors import ConfigError

CRITIC_TOKENS = 4096
"""Tokens of one step of the critic's head alone."""


@dataclass
class Normaliser:
    """Running mean and deviation of returns; they change only between rollouts."""

    mean: float = 0.0
    std: float = 1.0
    seen: int = 0  # rollouts

    def updated(self, returns_A: Tensor, rate: float = 0.2) -> Normaliser:
        """The figures after one more rollout: those of the first, then an exponential average."""
        mean, square = float(returns_A.double().mean()), float((returns_A.double() ** 2).mean())
        if self.seen:
            old_square = self.std**2 + self.mean**2
            mean = (1 - rate) * self.mean + rate * mean
            square = (1 - rate) * old_square + rate * square
        return Normaliser(mean, math.sqrt(max(square - mean**2, 1e-4)), self.seen + 1)


def keeps_states(config: TrainConfig) -> bool:
    """Whether rollouts keep the hidden states that tokens were drawn from: for a critic that reads no others."""
    return config.has_critic and config.ppo.old_logp == "sampled"


class Learner:
    """Holds the policy's two optimizers and the value normaliser. The `protocols.Learner` that comes with the package.

    ``sampled_elsewhere``: a generator that computes a little differently drew the tokens, so each is weighed (`importance_cap`).
    """

    def __init__(self, policy: Policy, config: TrainConfig, world: World = ALONE, sampled_elsewhere: bool = False) -> None:
        self.policy, self.config, self.world = policy, config, world
        self.sampled_elsewhere = sampled_elsewhere or config.rollout.server is not None
        optim = config.optim
        common: dict[str, Any] = {"betas": (optim.beta1, optim.beta2), "eps": optim.eps, "weight_decay": 0.0}
        self.policy_parameters = list(policy.parameters_policy())
        self.value_parameters = list(policy.parameters_value())
        # Layers that are spread and embeddings that are not: torch cannot take both at once in one operation.
        together: dict[str, Any] = {"fused": True} if policy.shards is None else {"foreach": False}
        self.optimizers = {
            "policy": torch.optim.AdamW(self.policy_parameters, lr=optim.policy_lr, **together, **common),
            "critic": torch.optim.AdamW(self.value_parameters, lr=optim.critic_lr, **together, **common),
        }
        self.normaliser = Normaliser(*policy.value_head.units)  # a head that has learned elsewhere keeps its meaning
        self.failures_running = 0
        sampled, self.update_dtype = config.ppo.old_logp == "sampled", config.model.update_dtype
        if self.update_dtype == "auto":
            self.update_dtype = "float32" if sampled else world.agreed(update_dtype(policy.device, policy.lm.config.hidden_size))
        used = {"update_dtype": self.update_dtype, "rollout_dtype": name_of(policy.rollout_dtype), "base_dtype": held_dtype(policy.lm)}
        other = [f"{name} {value}" for name, value in used.items() if value != "float32"]
        other += ["a generator elsewhere"] if self.sampled_elsewhere else []
        if sampled and other:
            raise ConfigError(
                f"ppo.old_logp: expected 'scored' unless sampling and updates compute alike, both here and in float32; got 'sampled' with {', '.join(other)}."
            )

    def state(self) -> dict[str, Any]:
        """What a resumed run needs beside the tensors: plain JSON-able data."""
        normaliser = [self.normaliser.mean, self.normaliser.std, self.normaliser.seen]
        return {"normaliser": normaliser, "failures_running": self.failures_running, "update_dtype": self.update_dtype}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Undo `state`."""
        self.normaliser = Normaliser(*state["normaliser"])
        self.policy.value_head.units = (self.normaliser.mean, self.normaliser.std)
        self.failures_running, self.update_dtype = state["failures_running"], state["update_dtype"]

    def _autocast(self) -> AbstractContextManager[None]:
        # The cache would hold every layer in bf16 till the end of a pass, though each is read once.
        kept = self.policy.shards is None
        return torch.autocast(self.policy.device.type, dtype=torch.bfloat16, enabled=self.update_dtype == "bfloat16", cache_enabled=kept)

    def plan(self, batch: Batch, iteration: int, epoch: int) -> list[list[int]]:
        """Minibatches of rows for an epoch: a function of (seed, iteration, epoch)."""
        rng = np.random.default_rng([self.config.seed, iteration, epoch, 7])
        return split_rows(batch, self.config.ppo.minibatches, rng.permutation(len(batch.rows)).tolist())

    def _micro(self, batch: Batch, rows: list[int]) -> list[MicroBatch]:
        """This process's share of the micro-batches; as many as every other's where all gather the layers together."""
        pad_id = self.policy.chat.pad_id
        idle = None if self.policy.shards is None else MicroBatch.idle(pad_id)
        return self.world.share(micro_batches(batch, rows, self.config.optim.token_budget, pad_id), idle)

    @torch.no_grad()
    def estimate(self, batch: Batch, iteration: int) -> Estimates:
        """Old and reference logp, values, advantages and returns.

        The old logp is computed here, with the first epoch's partition and precision, and not taken from generation:
        so the first minibatch has importance ratios of exactly 1. Under ``ppo.old_logp="sampled"`` only the reference's is.
        """
        if self.config.ppo.old_logp == "sampled":
            return self._estimate_sampled(batch)
        size, critic = batch.tokens, self.config.has_critic
        logp, ref, value = (torch.zeros(size) for _ in range(3))
        need: tuple[str, ...] = ("logp", "value") if critic else ("logp",)
        hidden = None
        if critic and self.config.ppo.critic_steps:
            need, hidden = (*need, "hidden"), torch.zeros(size, self.policy.lm.config.hidden_size)
        tau = self.config.rollout.temperature
        for rows in self.plan(batch, iteration, 0):
            for micro in self._micro(batch, rows):
                with self._autocast():
                    place = (micro.input_ids_BL, micro.lengths_B, micro.rows_A, micro.pos_A)
                    fraction = batch.fraction_A[micro.index_A]
                    scored = self.policy.score(*place, fraction, temperature=tau, need=need)
                    logp[micro.index_A] = scored.logp  # type: ignore[assignment]
                    if critic:
                        value[micro.index_A] = scored.value  # type: ignore[assignment]
                    if hidden is not None:
                        hidden[micro.index_A] = scored.hidden  # type: ignore[assignment]
                    if self.policy.reference is not None:
                        ref[micro.index_A] = self.policy.reference_logp(*place, temperature=tau)
        logp, ref, value = (self.world.summed(part) for part in (logp, ref, value))
        hidden = None if hidden is None else self.world.summed(hidden)
        if self.policy.reference is None:
            ref = logp.clone()
        values = self.normaliser.mean + self.normaliser.std * value if critic else None
        return self.conclude(batch, logp, ref, values, self._bootstrap(batch) if critic else None, hidden)

    @torch.no_grad()
    def _estimate_sampled(self, batch: Batch) -> Estimates:
        """`estimate` from the logp and the states that generation has left."""
        logp, states = batch.logp_old_A, batch.states_AH
        ref = torch.zeros_like(logp)
        rows = [] if self.policy.reference is None else split_rows(batch, 1)[0]  # those with something to score
        for micro in self._micro(batch, rows):
            place = (micro.input_ids_BL, micro.lengths_B, micro.rows_A, micro.pos_A)
            ref[micro.index_A] = self.policy.reference_logp(*place, temperature=self.config.rollout.temperature)
        ref = logp.clone() if self.policy.reference is None else self.world.summed(ref)
        if not self.config.has_critic:
            return self.conclude(batch, logp, ref, None, None)
        if states is None:
            raise ValueError("states: expected those that the tokens were drawn from (collect with keep_states) under ppo.old_logp='sampled'; got none.")
        values = self.normaliser.mean + self.normaliser.std * self.policy.value_of(states, batch.fraction_A)
        return self.conclude(batch, logp, ref, values, self._bootstrap(batch), states if self.config.ppo.critic_steps else None)

    def conclude(
        self,
        batch: Batch,
        logp: Tensor,
        ref: Tensor,
        values: Tensor | None,
        boot: Tensor | None,
        hidden: Tensor | None = None,
    ) -> Estimates:
        """From scores [A] and the values behind the chains [C] to advantages: everything that the model is not asked."""
        ppo = self.config.ppo
        kl = logp - ref if self.config.kl_in == "reward" else None
        estimated = partial(
            estimate_advantages,
            self.config.algo,
            token_rewards(batch.reward_A, kl, ppo.beta),
            batch.segment_A,
            batch.starts_C,
            values_A=values,
            bootstrap_C=boot,
            group_C=batch.group_C,
            baseline=ppo.baseline,
            gamma_token=ppo.gamma_token,
            gamma_turn=ppo.gamma_turn,
        )
        raw, returns = estimated(lam_token=ppo.lam_token, lam_turn=ppo.lam_turn)
        if values is not None and ppo.lam_critic is not None:
            _, returns = estimated(lam_token=ppo.lam_critic, lam_turn=ppo.lam_critic)
        used = raw if self.config.algo in GROUP_ALGOS else whiten(raw)
        return Estimates(logp, ref, values, raw, used, returns, boot, self._importance(logp, batch.logp_old_A), hidden)

    def _bootstrap(self, batch: Batch) -> Tensor:
        """De-normalised value of the state behind each chain; 0 where the episode is over."""
        boot_C = torch.zeros(len(batch.starts_C))
        chains = torch.nonzero(batch.bootstrapped_C)[:, 0].tolist()
        for chain in self.world.share(chains, None if self.policy.shards is None else len(boot_C)):
            here = slice(chain, chain + 1)  # none, of the filler
            ids = torch.from_numpy(batch.rows[int(batch.boot_row_C[chain]) if chain < len(boot_C) else 0])[None]
            place = (ids, torch.tensor([ids.shape[1]]), torch.zeros_like(batch.boot_pos_C[here]), batch.boot_pos_C[here])
            with self._autocast():
                value = self.policy.value_at(*place, batch.boot_fraction_C[here])
            boot_C[here] = self.normaliser.mean + self.normaliser.std * value.float()
        return self.world.summed(boot_C)

    def _rescale(self, returns_A: Tensor) -> None:
        """Let the normaliser take in a rollout; de-normalised predictions stay what they were.

        Not one with a return that is no number: it would make none of the head and of all later returns.
        """
        if not bool(torch.isfinite(returns_A).all()):
            return
        new = self.normaliser.updated(returns_A)
        self.policy.value_head.rescale((self.normaliser.mean, self.normaliser.std), (new.mean, new.std))
        self.normaliser = new

    def _set_rates(self, iterations: float, done: float) -> None:
        """Linear warm-up, step by step, then as ``optim.schedule`` says. ``iterations``: learned from when the next step is done.

        The policy's begins when the policy begins to learn: Adam's first steps move every weight by the full rate,
        whatever the gradient says, and have carried rare tokens ten nats away.
        """
        optim, ppo = self.config.optim, self.config.ppo
        late = ppo.critic_warmup if self.config.has_critic else 0
        for name, rate, since in (("policy", optim.policy_lr, late), ("critic", optim.critic_lr, 0)):
            share = max(0.0, iterations - since) / optim.warmup_iterations if optim.warmup_iterations else 1.0
            for group in self.optimizers[name].param_groups:
                group["lr"] = rate * min(1.0, share) * (1.0 - done if name == "policy" and optim.schedule == "linear" else 1.0)

    def update(self, batch: Batch, iteration: int, done: float = 0.0) -> tuple[Estimates, UpdateStats]:
        """Epochs of minibatches on one rollout. ``done``: the share of the run that is over."""
        began = time.perf_counter()
        estimates, stats = self.estimate(batch, iteration), UpdateStats()
        if estimates.values_A is not None:
            stats.figures["explained_variance"] = explained_variance(estimates.values_A, estimates.returns_A)
            self._rescale(estimates.returns_A)
        critic_only = self.config.has_critic and iteration < self.config.ppo.critic_warmup
        passes = self.config.ppo.epochs
        for epoch in range(passes):
            plan = self.plan(batch, iteration, epoch)
            for number, rows in enumerate(plan):
                self._set_rates(iteration + (epoch + (number + 1) / len(plan)) / passes, done)
                ok = self._step(batch, rows, estimates, stats, critic_only, first=epoch == number == 0)
                self.failures_running = 0 if ok else self.failures_running + 1
                if not ok and self.failures_running >= 3:
                    raise FloatingPointError("three optimizer steps running had a non-finite loss or gradient")
                if stats.stopped_by_kl:
                    break
            if stats.stopped_by_kl:
                break
        stats.skipped += self._fit_critic(batch, estimates, iteration)
        stats.seconds = time.perf_counter() - began
        return estimates, stats

    def _fit_critic(self, batch: Batch, estimates: Estimates, iteration: int) -> int:
        """Further steps of the critic's head alone, on random tokens of the rollout: a function of (seed, iteration).

        Returns how many were skipped for a gradient that is not finite.
        """
        skipped = 0
        if estimates.hidden_AH is None:
            return skipped
        rng = np.random.default_rng([self.config.seed, iteration, 11])
        size = min(CRITIC_TOKENS, batch.tokens)
        target_A = (estimates.returns_A - self.normaliser.mean) / self.normaliser.std
        for _ in range(self.config.ppo.critic_steps):
            index = torch.from_numpy(rng.choice(batch.tokens, size, replace=False))
            value = self.policy.value_of(estimates.hidden_AH[index], batch.fraction_A[index])
            self.optimizers["critic"].zero_grad(set_to_none=True)
            (value_loss(value, target_A[index]) / size).backward()
            norm = torch.nn.utils.clip_grad_norm_(self.value_parameters, self.config.optim.max_grad_norm)
            if bool(torch.isfinite(norm)):
                self.optimizers["critic"].step()
            else:
                skipped += 1
        return skipped

    def _step(
        self, batch: Batch, rows: list[int], estimates: Estimates, stats: UpdateStats, critic_only: bool, first: bool
    ) -> bool:
        """One optimizer step over micro-batches, none from beyond ``target_kl``; False if it was skipped for a non-finite loss or gradient."""
        tokens = int(torch.isin(batch.row_A, torch.tensor(rows)).sum())
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        sums = dict.fromkeys(("policy", "value", "kl", "clipped", "entropy"), 0.0)
        head_before = self.policy.head_positions
        for micro in self._micro(batch, rows):
            loss, parts = self.loss(batch, micro, estimates, tokens, critic_only)
            loss.backward()
            for name in sums:
                sums[name] += parts[name]
            if first:
                stats.first_ratio_error = max(stats.first_ratio_error, parts["ratio_error"])
            stats.policy_positions += 0 if critic_only else len(micro.pos_A)
            stats.padded_tokens += micro.input_ids_BL.numel() if micro.row_ids else 0
            stats.real_tokens += int(micro.lengths_B.sum()) if micro.row_ids else 0
        if first:
            stats.first_ratio_error = max(self.world.gathered([stats.first_ratio_error]))
        stats.head_positions += self.policy.head_positions - head_before
        stats.action_tokens += tokens
        totals = self.world.summed(torch.tensor(list(sums.values()), dtype=torch.float64)).tolist()
        sums = dict(zip(sums, totals, strict=True))
        target, stats.approx_kl = self.config.ppo.target_kl, sums["kl"] / tokens
        stats.stopped_by_kl = target is not None and target < stats.approx_kl < math.inf
        if stats.stopped_by_kl:
            return True
        if not self._apply(sums, stats, critic_only):
            return False
        stats.steps += 1
        stats.policy_loss += sums["policy"] / tokens
        stats.value_loss += sums["value"] / tokens
        stats.clip_fraction += sums["clipped"] / tokens
        stats.entropy += sums["entropy"] / tokens
        return True

    def _importance(self, logp_A: Tensor, sampled_logp_A: Tensor) -> Tensor | None:
        """Truncated ratios of what the trainer and what the generator gave each token when it was sampled; None: all 1."""
        if not self.sampled_elsewhere:
            return None
        return (logp_A - sampled_logp_A).exp().clamp(max=self.config.ppo.importance_cap)

    def _apply(self, sums: dict[str, float], stats: UpdateStats, critic_only: bool) -> bool:
        limit = self.config.optim.max_grad_norm
        self.world.add_gradients(self.value_parameters)
        if not critic_only:
            self.world.add_gradients(self.policy_parameters)
        norms = [torch.nn.utils.clip_grad_norm_(self.value_parameters, limit)]
        if not critic_only:
            norms.append(clip_gradients(self.policy_parameters, limit, self.world))
        if not all(math.isfinite(value) for value in (*sums.values(), *map(float, norms))):
            stats.skipped += 1
            return False
        self.optimizers["critic"].step()
        if not critic_only:
            self.optimizers["policy"].step()
            stats.grad_norm += float(norms[-1])
        return True

    def loss(
        self, batch: Batch, micro: MicroBatch, estimates: Estimates, tokens: int, critic_only: bool = False
    ) -> tuple[Tensor, dict[str, float]]:
        """Loss of one micro-batch, divided by the action tokens of the whole optimizer step."""
        need = ("value",) if critic_only else ("logp", "value", "entropy") if self.config.has_critic else ("logp", "entropy")
        with self._autocast():
            scored = self.policy.score(
                micro.input_ids_BL,
                micro.lengths_B,
                micro.rows_A,
                micro.pos_A,
                batch.fraction_A[micro.index_A],
                temperature=self.config.rollout.temperature,
                need=need,
                entropy_grad=self.config.ppo.entropy > 0,
            )
        return self.loss_of(scored, micro.index_A, estimates, tokens)

    def loss_of(self, scored: Scored, index: Tensor, estimates: Estimates, tokens: int) -> tuple[Tensor, dict[str, float]]:
        """The same from what the policy said of the tokens ``index``; without logp it is the critic's alone."""
        ppo = self.config.ppo
        v_loss = torch.zeros(())
        if scored.value is not None and estimates.values_A is not None:
            norm = self.normaliser
            target, before = ((values[index] - norm.mean) / norm.std for values in (estimates.returns_A, estimates.values_A))
            v_loss = value_loss(scored.value, target, before, clip=ppo.value_clip)
        parts = {"value": float(v_loss.detach()), "policy": 0.0, "kl": 0.0, "clipped": 0.0, "entropy": 0.0, "ratio_error": 0.0}
        if scored.logp is None:
            return v_loss / tokens, parts
        assert scored.entropy is not None
        old = estimates.logp_old_A[index]
        surrogate = policy_loss(
            scored.logp,
            old,
            estimates.advantages_A[index],
            clip_low=ppo.clip_low,
            clip_high=ppo.clip_high,
            dual_clip=ppo.dual_clip,
            weights_A=None if estimates.weights_A is None else estimates.weights_A[index],
        )
        # A detached value loss reaches the head alone, so its weight is the critic's learning rate.
        loss = surrogate.loss + (ppo.vf_coef if self.policy.value_grad == "shared" else 1.0) * v_loss
        if self.config.kl_in == "loss" and ppo.beta > 0:
            loss = loss + ppo.beta * kl_loss(scored.logp, estimates.logp_ref_A[index], old, ppo.kl_kind)
        if ppo.entropy > 0:
            loss = loss - ppo.entropy * scored.entropy.sum()
        parts |= {
            "policy": float(surrogate.loss.detach()),
            "kl": float(approximate_kl(scored.logp.detach(), old)),
            "clipped": float(surrogate.clipped),
            "entropy": float(scored.entropy.detach().sum()),
            "ratio_error": float((surrogate.ratio_A - 1).abs().max()) if len(index) else 0.0,
        }
        return loss / tokens, parts
