"""collect -> batch -> advantages -> update -> log -> save. Nothing numerical happens here."""

from __future__ import annotations

import json
import signal
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

from rlpa_agent import learner as learning
from rlpa_agent.batch import Batch, make_batch, valid_turns
from rlpa_agent.checkpoint import (
    CheckpointError,
    check_machine,
    drawn_again,
    load_tensors,
    machine,
    random_state,
    read_state,
    recovered,
    restore_random,
    save_checkpoint,
    settle,
    undisturbed,
)
from rlpa_agent.checks import another_end, check_new, check_policy, holds_run, other_run, unread_settings
from rlpa_agent.config import TrainConfig
from rlpa_agent.credit import profile_payments
from rlpa_agent.loading import held_dtype
from rlpa_agent.policy import Policy
from rlpa_agent.pool import GymPool
from rlpa_agent.progress import (
    RunLog,
    health,
    records_until,
    rollout_figures,
    trim,
    update_figures,
    work_figures,
)
from rlpa_agent.protocols import EnvPool, Generator, Learner, TextEnv
from rlpa_agent.rollout import RolloutCounts, added, collect
from rlpa_agent.rollout_files import drop_later, save_rollout
from rlpa_agent.sharding import local
from rlpa_agent.trajectory import Trajectory
from rlpa_agent.world import ALONE, World
from rlpa_env import RLPAError

Evaluate = Callable[[Policy], Mapping[str, float]]


class DivergedError(RLPAError, FloatingPointError):
    """Losses or gradients are not finite, step after step."""


class NothingScoredError(RLPAError):
    """The environment could not score a single turn of a whole rollout."""


class _Stopped(BaseException):
    """A signal came while dialogues were being held; nothing has been learned from them. No failure that an environment may handle."""


class Trainer:
    """Runs PPO. Environments are reseeded every iteration from (seed, iteration).

    Args:
        config: the run.
        policy: the model to train; its frozen reference is the KL anchor.
        envs: a pool, or what makes one environment (`protocols.TextEnv`), called so often as dialogues are held at once.
        evaluate: figures on held-out users, with ``"return"``, called every ``config.eval.every`` iterations.
        quiet: no progress bar.
        generator: samples the rollouts outside of this process, with the weights that it is handed every iteration.
        world: the processes that train together; each holds its share of the dialogues, the first writes the files.
        learner: learns from the rollouts; None: `learner.Learner`, with the config's ``algo``.
    """

    def __init__(
        self,
        config: TrainConfig,
        policy: Policy,
        envs: EnvPool | Callable[[], TextEnv],
        evaluate: Evaluate | None = None,
        quiet: bool = False,
        world: World = ALONE,
        generator: Generator | None = None,
        learner: Learner | None = None,
    ) -> None:
        self.config, self.policy, self.evaluate, self.quiet = config, policy, evaluate, quiet or not world.first
        self.world, self.generator = world, generator
        for text in unread_settings(config, generator is not None):
            warnings.warn(text, stacklevel=2)
        policy.take_on(config)
        if learner is None:
            check_policy(policy, config)
        self.learner = learning.Learner(policy, config, world, sampled_elsewhere=generator is not None) if learner is None else learner
        at_once = min(config.rollout.concurrent, len(world.share(range(config.rollout.dialogues))))
        self.envs = envs if isinstance(envs, EnvPool) else GymPool([envs() for _ in range(at_once)])
        self.iteration = 0
        self.best = -np.inf
        self.training_seconds = 0.0  # of all iterations, those before a resume included
        self.last_seconds = 0.0  # of the newest of them
        self.dialogues = 0
        self.action_tokens = 0  # sampled, and learned from
        self._terminated, self._holding, self._resumed = 0, False, False  # the first: a signal that ends the run

    @property
    def last(self) -> Path:
        """Folder of the newest checkpoint."""
        return self.config.out / "last"

    def run(self, spent: float | None = None) -> dict[str, Any]:
        """Train until the iterations, minutes or action tokens are over; returns the figures of the last iteration.

        ``spent``: seconds of the config's minutes that are used up; None: those of the iterations resumed from. SIGTERM and
        ctrl-C drop the dialogues that are being held, let an update end, and save; a second ctrl-C stops at once. One that is ignored, as a script's background job does, stays so.
        """
        check_new(self.config.out, self.world.any(not (self._resumed or self.iteration) and holds_run(self.config.out)))
        previous = {n: signal.signal(n, self._on_signal) for n in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(n) is not signal.SIG_IGN}
        log, self._terminated = self._open(), 0
        spent = self.training_seconds if spent is None else spent
        figures: dict[str, Any] = {}
        over = self._over(spent)  # a run that is resumed may have been, and lack its last validation
        try:
            # Good by definition, should the policy run away before the next. `any` also waits until all have seen the folder empty.
            if not self.world.any(self._resumed) and self.config.ppo.max_kl is not None:
                self.save()
            self._validate(log, ended=over)
            while not over:
                began = time.perf_counter()
                figures = self.one_iteration(log, self._done(spent))
                spent += time.perf_counter() - began
                if self.world.first:  # the rollout came from the weights that were saved last, if any were since the one before
                    settle(self.last, good=not figures["stop"])
                if figures["stop"]:
                    break
                stop = self.world.any(bool(self._terminated))
                over = self._over(spent)
                if self.iteration % self.config.save_every == 0 or stop or over:
                    self.save()
                if not stop:
                    self._validate(log, ended=over)
                if stop:
                    break
        except _Stopped:
            pass
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            if log is not None:
                log.close()
        if not figures.get("stop"):
            self.save()
        if self._terminated:
            raise KeyboardInterrupt if self._terminated == signal.SIGINT else SystemExit(0)
        if self.world.first:
            settle(self.last, good=True)  # nobody will hold another rollout to judge it by
        return figures

    def _open(self) -> RunLog | None:
        """The run's log, and the files beside it, without what came after the iteration that we go on from."""
        if not self.world.first:
            return None
        out, keep = self.config.out, self.iteration if self._resumed or self.iteration else -1
        log = RunLog(out, self.config.iterations, self.quiet, keep)
        (out / "config.json").write_text(json.dumps(self.config.as_dict(), indent=1) + "\n")
        trim(out / "validation.jsonl", keep)
        drop_later(out, self.iteration)
        return log

    def _over(self, spent: float) -> bool:
        """Whether iterations or action tokens are used up, or fewer minutes are left than the newest iteration took."""
        iterations, minutes, tokens = self.config.iterations, self.config.minutes, self.config.action_tokens
        late = minutes is not None and self.world.agreed(spent + self.last_seconds) > 60.0 * minutes
        return late or (tokens is not None and self.action_tokens >= tokens) or (iterations is not None and self.iteration >= iterations)

    def _done(self, spent: float) -> float:
        """Share of the run that is over: of its iterations or, if more, of its action tokens or its minutes.

        Where there are schedule_iterations it is the share of these, and nothing else matters.
        """
        if self.config.optim.schedule_iterations is not None:
            return min(1.0, self.iteration / self.config.optim.schedule_iterations)
        iterations, minutes, tokens = self.config.iterations, self.config.minutes, self.config.action_tokens
        share = 0.0 if iterations is None else self.iteration / iterations
        share = share if tokens is None else max(share, min(1.0, self.action_tokens / tokens))
        return share if minutes is None else max(share, self.world.agreed(min(1.0, spent / (60.0 * minutes))))

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if signum == self._terminated == signal.SIGINT:
            raise KeyboardInterrupt
        self._terminated = signum
        if self._holding:
            raise _Stopped

    def _seeds(self, purpose: int) -> list[int]:
        rng = np.random.default_rng([self.config.seed, self.iteration, purpose])
        return rng.integers(2**31, size=self.config.rollout.dialogues).tolist()

    def _people(self) -> list[int]:
        """Seeds of this iteration's dialogues; those of a group are equal."""
        return np.repeat(self._seeds(1)[:: self.config.group], self.config.group).tolist()

    def gather(self, log: RunLog | None = None) -> tuple[list[Trajectory], RolloutCounts]:
        """Hold this iteration's dialogues."""
        rollout, counts, done = self.config.rollout, RolloutCounts(), 0

        def heard(_: int, __: Trajectory) -> None:
            nonlocal done
            done += 1
            if log is not None:
                log.dialogues(done, rollout.dialogues)
            if self._terminated and self._holding:  # what the handler raised was swallowed by somebody's code
                raise _Stopped

        share, policy = self.world.share(range(rollout.dialogues)), self.policy.whole()
        seeds, stream = self._people(), self._seeds(2)[0]
        if not share:
            return self.world.gathered([]), added(self.world.gathered([counts]))
        if self.generator is not None:
            self.generator.update(policy)
        self._holding = self.world.size == 1  # several processes stop together, after the iteration
        try:
            if self._terminated and self._holding:  # it came between two rollouts
                raise _Stopped
            trajectories = collect(
                policy,
                self.envs,
                seeds=[seeds[i] for i in share],
                streams=[(stream, i) for i in share],
                temperature=rollout.temperature,
                max_new_tokens=rollout.max_new_tokens,
                max_turns=rollout.max_turns,
                samples=rollout.samples,
                keep_states=learning.keeps_states(self.config),
                counts=counts,
                on_episode=heard,
                generator=self.generator,
            )
        finally:
            self._holding = False
        return self.world.gathered(trajectories), added(self.world.gathered([counts]))

    def one_iteration(self, log: RunLog | None = None, done: float = 0.0) -> dict[str, Any]:
        """Collect, update, log. ``done``: see `protocols.Learner.update`."""
        began = time.perf_counter()
        try:
            with drawn_again():
                trajectories, counts = self.gather(log)
        except Exception:  # a server is down, say, or an environment's own; of several processes the others hear nothing of it
            if self.iteration and self.world.size == 1:
                self.save()
            raise
        rollout_seconds = time.perf_counter() - began
        cut = self.config.has_critic or self.config.mode == "official"
        if not any(valid_turns(trajectory, cut) for trajectory in trajectories):
            raise self._nothing_scored(trajectories)
        figures = rollout_figures(trajectories, self.config.rollout.max_turns)
        if self.config.rollout.shuffle_rewards:
            trajectories = shuffled_rewards(trajectories, self._seeds(3)[0])
        payments = profile_payments(self.policy.chat, self.config.profile_paid, self.config.ppo.line_cost)
        batch = make_batch(
            trajectories,
            max_turns=self.config.rollout.max_turns,
            horizon=self.config.ppo.horizon,
            payments=payments,
            group=self.config.group,
            per_turn=self.config.mode == "official",
            cut=cut,
        )
        try:
            estimates, stats = self.learner.update(batch, self.iteration, done)
        except FloatingPointError as error:
            raise self._diverged(batch, error) from error
        self.iteration += 1
        if self.config.keep_rollouts and self.world.first:
            save_rollout(self.config.out, self.iteration, batch, estimates, trajectories)
        self.dialogues, self.action_tokens = self.dialogues + len(trajectories), self.action_tokens + counts.action_tokens
        seconds = time.perf_counter() - began
        self.training_seconds, self.last_seconds = self.training_seconds + seconds, seconds
        figures |= update_figures(batch, estimates, stats) | work_figures(counts, stats, rollout_seconds)
        figures |= {"iteration": self.iteration, "seconds": seconds, "dialogues": self.dialogues}
        limit = self.config.ppo.max_kl
        figures["stop"] = bool(limit is not None and figures["kl_per_turn"] > limit)
        figures["health"] = f"KL to the start above max_kl={limit}: stopped" if figures["stop"] else health(figures)
        if log is not None:
            log.iteration(figures)
        return figures

    def _diverged(self, batch: Batch, error: FloatingPointError) -> DivergedError:
        """Keep the batch, which all processes hold alike, and what is sound of the weights; the error to raise."""
        path = self.config.out / "bad_batch.pt"
        if self.world.first:
            torch.save({"rows": batch.rows, "reward_A": batch.reward_A}, path)
        self.save()
        return DivergedError(
            f"iteration {self.iteration + 1}: expected finite losses and gradients; {error}. Its batch is in {path} (torch.load with "
            f"weights_only=False): look for rewards in reward_A that are no numbers. If there are none, choose lower rates "
            f"(--optim.policy-lr, --optim.critic-lr) and another --out. {self.last} holds the newest weights that are finite."
        )

    def _nothing_scored(self, trajectories: list[Trajectory]) -> NothingScoredError:
        """Nothing can be learned from a rollout without a reward: keep the weights; the error to raise."""
        self.save()
        why = " / ".join(sorted({t.stop_reason or "unknown" for t in trajectories}))
        return NothingScoredError(
            f"iteration {self.iteration + 1}: expected at least one scored turn in {len(trajectories)} dialogues; the first turn of each failed "
            f"(stop reason: {why}). Is the model behind user, judge or matcher up? Then go on with --resume; {self.last} holds the weights."
        )

    def _validate(self, log: RunLog | None, ended: bool = False) -> None:
        """Figures on held-out users, if it is time for them and a run that was killed has not left them. The first process has them.

        ``ended``: the run is over, so that its end competes for ``best`` whenever it came.
        """
        every, path = self.config.eval.every, self.config.out / "validation.jsonl"
        due = self.evaluate is not None and bool(every) and (ended or self.iteration % every == 0)
        done = due and any(record["iteration"] == self.iteration for record in records_until(path, self.iteration))
        if not self.world.agreed(due and not done):
            return
        policy, figures = self.policy.whole(), {}
        if self.evaluate is not None and log is not None:
            with undisturbed():  # a run that is resumed behind a validation does not repeat it
                figures = dict(self.evaluate(policy))
        better = self.world.agreed(bool(figures) and figures["return"] > self.best)
        if better:
            self.best = figures.get("return", self.best)
            self.save(self.config.out / "best")
        if log is not None:
            log.validation(path, self.iteration, figures)

    def _finite(self) -> bool:
        weights = (*self.policy.parameters_policy(), *self.policy.parameters_value())
        return not self.world.any(not all(bool(torch.isfinite(local(weight)).all()) for weight in weights))

    def save(self, folder: Path | None = None) -> None:
        """Write a checkpoint, ``last`` by default. All processes call it, the first writes. Weights that are not finite replace none that are."""
        if not self._finite():
            return
        state = {
            **self.learner.state(),
            "iteration": self.iteration,
            "dialogues": self.dialogues,
            "action_tokens": self.action_tokens,
            "best": None if np.isinf(self.best) else float(self.best),
            "config_hash": self.config.hash(),
            "base_dtype": held_dtype(self.policy.lm),
            "machine": machine(),
            "random": self.world.gathered([random_state()]),
        }
        # Whether these weights have run away shows in the rollout that they hold next.
        on_trial = folder is None and self.config.ppo.max_kl is not None
        what: dict[str, Any] = {"policy": self.policy, "optimizers": self.learner.optimizers, "state": state}
        save_checkpoint(folder or self.last, **what, on_trial=on_trial, write=self.world.first)

    def resume(self) -> None:
        """Go on from ``last``. Call it on a trainer whose policy was loaded from there (see `checkpointed_policy`).

        Raises CheckpointError if the checkpoint belongs to a run with another configuration.
        """
        state = read_state(self.last)
        if state["config_hash"] != self.config.hash():
            raise CheckpointError(other_run(self.config, state["config_hash"]))
        check_machine(self.last, state)
        if (text := another_end(self.config)) is not None:
            warnings.warn(text, stacklevel=2)
        load_tensors(self.last, self.policy, self.learner.optimizers)
        self.iteration, self.dialogues = state["iteration"], state["dialogues"]
        self.action_tokens = state.get("action_tokens", 0)  # not in checkpoints from before they could end a run
        self.best = -np.inf if state["best"] is None else state["best"]
        best = recovered(self.config.out / "best")
        if self.world.first and best.exists():  # it may be newer than ``last``
            self.best = max(self.best, read_state(best)["best"])
        taken = [record["seconds"] for record in records_until(self.config.out / "metrics.jsonl", self.iteration)]
        self.training_seconds, self.last_seconds = sum(taken), taken[-1] if taken else 0.0
        self.learner.load_state(state)
        restore_random(state["random"], self.world.rank)
        self._resumed = True


def shuffled_rewards(trajectories: list[Trajectory], seed: int) -> list[Trajectory]:
    """The same dialogues with whole reward sequences swapped between episodes, cut or padded by 0: a control."""
    order = np.random.default_rng(seed).permutation(len(trajectories))
    mixed = []
    for own, other in zip(trajectories, order, strict=True):
        paid = [(turn.reward, turn.parts) for turn in trajectories[int(other)].turns]
        paid += [(0.0, {})] * (len(own.turns) - len(paid))
        # What each line of its own added would tell; so all is paid at the block.
        turns = tuple(replace(turn, reward=reward, parts=parts, partial=()) for turn, (reward, parts) in zip(own.turns, paid))
        mixed.append(replace(own, turns=turns))
    return mixed
