"""What a run will cost, before it is started: parameters, tokens, memory and seconds an iteration.

About 20 seconds of trying on the real model: a few dialogues of a few turns, decoding steps at the row counts and
context lengths to come, and one micro-batch forward and backward. From these, an iteration is played through on paper
with the rollout's own rule for when rows wait. A rewritten context is taken to be read anew, and to open a row, every turn
after the second. Nothing is kept: the policy is bitwise what it was.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.table import Table

from rlpa_agent.batch import make_batch, micro_batches, pack
from rlpa_agent.contexts import ContextKind
from rlpa_agent.generation import Sampler, decoder
from rlpa_agent.learner import CRITIC_TOKENS, keeps_states
from rlpa_agent.progress import peak_memory_mb
from rlpa_agent.rollout import RolloutCounts, collect
from rlpa_agent.trajectory import Trajectory, Turn
from rlpa_env import ConfigError

APPEND = ContextKind()
MANY = 32  # dialogues that show how long turns are, where time allows


@dataclass(frozen=True)
class Forecast:
    """Of one iteration, all epochs included: what `target_kl` may cut short is counted."""

    parameters: int  # of the language model and the value head
    trainable: int
    action_tokens: float  # sampled
    row_tokens: float  # fed to the update in one pass over the rows
    longest_row: float  # tokens of the longest row of a dialogue that nobody left, on average
    rollout_seconds: float
    update_seconds: float
    memory_mb: float  # largest resident set
    calibration_seconds: float
    turns_seen: int  # turns that the calibration's dialogues had; later ones are taken to be like the last of them

    @property
    def seconds(self) -> float:
        """Of an iteration."""
        return self.rollout_seconds + self.update_seconds


@dataclass(frozen=True)
class _Talk:
    """How dialogues go: tokens sampled and fed in each turn. A dialogue on paper is (fed, sampled) of every answer."""

    sampled: list[list[int]]  # [turn][any number of examples]
    fed: list[list[int]]  # [turn]; the opening, then the glue and user text before each turn; or by what contexts grew
    leaving: list[float]  # [turn]; share of dialogues that end with it
    kept: ContextKind = APPEND
    samples: int = 1  # answers a turn

    @property
    def anew_from(self) -> float:
        """Number of the first answer of a dialogue for which the whole context is read anew, as are all after it."""
        return 1 if self.samples > 1 else math.inf if self.kept.kind == "append" else 2

    def draw(self, dialogues: int, turns: int, rng: np.random.Generator) -> list[list[tuple[int, int]]]:
        """(fed, sampled) of every answer in some dialogues."""
        last = len(self.sampled) - 1
        drawn = []
        for _ in range(dialogues):
            talk: list[tuple[int, int]] = []
            context = 0
            for k in range(turns):
                seen = min(k, last)
                fed = self.fed[seen] if k == 0 or seen else self.fed[0][:1]
                full = self.kept.kind == "window" and k > max(last, self.kept.window)
                heard = 0 if full else int(rng.choice(fed))
                context = max(1, context + heard)
                for _ in range(self.samples):
                    new = context if len(talk) >= self.anew_from else heard
                    if 0 < len(talk) < self.anew_from < math.inf:  # growth holds the answer before it, which is in the cache
                        new = max(1, heard - talk[-1][1] + 1)
                    talk.append((new, int(rng.choice(self.sampled[seen]))))
                if rng.random() < self.leaving[seen]:
                    break
            drawn.append(talk)
        return drawn

    def held(self, trajectory: Trajectory) -> list[tuple[int, int]]:
        """The same of a dialogue that was really held."""
        talk: list[tuple[int, int]] = []
        known = 0
        for turn in trajectory.turns:
            for answer in (turn, *turn.others):
                context = len(turn.context_ids)
                talk.append((context if len(talk) >= self.anew_from else context - known, len(answer.action_ids)))
            known = len(turn.context_ids) + len(turn.action_ids)
        return talk

    def rows(self, talk: Sequence[tuple[int, int]]) -> list[int]:
        """Tokens of the rows that a dialogue takes in the update, see `batch.make_batch`."""
        ends: list[int] = []
        for number, (fed, said) in enumerate(talk):
            ends.append(fed + said + (ends[-1] if ends and number < self.anew_from else 0))
        appends = self.kept.kind == "append"
        into_next = {n for n in range(0, len(talk) - self.samples, self.samples) if appends or n == 0}
        return [end for number, end in enumerate(ends) if number not in into_next]


@dataclass(frozen=True)
class _Costs:
    """Seconds. A step of n rows, the longest of L tokens: step + n·(row + L·token)."""

    step: float
    row: float
    token: float
    prefill: float  # a call
    prefill_token: float
    turn: float  # of the environment, and of one more row in a prefill
    away: float = 0.0  # of an environment that takes its time: the others go on meanwhile

    def play(self, dialogues: Sequence[Sequence[tuple[int, int]]], rows: int, anew_from: float = math.inf) -> float:
        """Seconds of a rollout that holds ``rows`` of the dialogues at a time, after the rule of `rollout.collect`.

        Answers from number ``anew_from`` of a dialogue on begin with an empty cache.
        """
        left, at, length, ready = list(range(rows, len(dialogues))), [(i, 0, 0) for i in range(rows)], [0] * rows, [0.0] * rows
        seconds = 0.0
        while at:
            for i in reversed(range(len(at))):
                if at[i][1] < len(dialogues[at[i][0]]) or ready[i] > seconds:
                    continue
                if left:
                    at[i], length[i] = (left.pop(0), 0, 0), 0
                else:
                    del at[i], length[i], ready[i]
            waiting = [i for i, (_, _, todo) in enumerate(at) if todo == 0 and ready[i] <= seconds]
            speaking = any(todo for _, _, todo in at)
            if waiting and (len(waiting) >= max(1, len(at) // 8) or not speaking):
                fed = [dialogues[at[i][0]][at[i][1]][0] for i in waiting]
                seconds += self.prefill + self.prefill_token * sum(fed)
                for i, tokens in zip(waiting, fed, strict=True):
                    length[i] = tokens if at[i][1] >= anew_from else length[i] + tokens
                    at[i] = (at[i][0], at[i][1], dialogues[at[i][0]][at[i][1]][1])
            elif not speaking:  # all are away, or all is over
                seconds = min(ready, default=seconds)
                continue
            seconds += self.step + len(at) * (self.row + self.token * max(length))
            for i, (talk, turn, todo) in reversed(list(enumerate(at))):
                if todo == 0:
                    continue
                length[i] += 1
                at[i] = (talk, turn + (todo == 1), todo - 1)
                if todo == 1:
                    seconds += self.turn
                    ready[i] = seconds + self.away
        return seconds


def _timed(work: Callable[[], Any], budget: float) -> float:
    """Median seconds of up to seven calls that together take about ``budget``; the first is left out if there are more."""
    taken: list[float] = []
    while not taken or (len(taken) < 8 and sum(taken) + taken[-1] < budget):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return float(np.median(taken[1:] or taken))


def _listen(trainer: Any, budget: float) -> tuple[_Talk, RolloutCounts, list[Trajectory], int]:
    """Hold a few real dialogues, for as many turns as fit the budget."""
    rollout, few, turns = trainer.config.rollout, min(2, len(trainer.envs)), 1
    seeds = np.random.default_rng([trainer.config.seed, 13]).integers(2**31, size=MANY).tolist()

    def hold() -> tuple[list[Trajectory], RolloutCounts]:
        counts = RolloutCounts()
        held = collect(
            trainer.policy,
            trainer.envs,
            seeds=seeds[:few],
            temperature=rollout.temperature,
            max_new_tokens=rollout.max_new_tokens,
            max_turns=turns,
            samples=rollout.samples,
            keep_states=keeps_states(trainer.config),
            counts=counts,
        )
        return held, counts

    held, counts = hold()
    budget -= counts.seconds
    more = int(budget / (1.5 * counts.seconds))  # later turns are longer
    if more >= 2:
        turns = min(rollout.max_turns, more)
        held, counts = hold()
        budget -= counts.seconds
    more = min(MANY, len(trainer.envs), int(few * budget / counts.seconds))
    if turns == rollout.max_turns and more > few:
        few = more
        held, counts = hold()
    whole = rollout.samples > 1 or trainer.config.context.kind != "append"  # contexts are counted, and not what is new in them
    sampled, fed, leaving = [], [], []
    for k in range(max(len(t.turns) for t in held)):
        there = [t for t in held if len(t.turns) > k]
        sampled.append([len(answer.action_ids) for t in there for answer in (t.turns[k], *t.turns[k].others)])
        before = [_known(t.turns[k - 1], whole) if k else 0 for t in there]
        fed.append([len(t.turns[k].context_ids) - known for t, known in zip(there, before, strict=True)])
        leaving.append(float(np.mean([t.terminated and len(t.turns) == k + 1 for t in there])))
    if len(fed) == 1:  # what follows a first turn is known even where there is no second
        fed.append([len(t.final_context_ids) - _known(t.turns[0], whole) for t in held])
        sampled, leaving = sampled * 2, leaving * 2
    return _Talk(sampled, fed, leaving, trainer.config.context, rollout.samples), counts, held, turns


def _known(turn: Turn, whole: bool) -> int:
    """What the next context is counted from: this one, or all that is in the cache by then."""
    return len(turn.context_ids) + (0 if whole else len(turn.action_ids) - 1)


def _decoding(trainer: Any, opening: int, final: int, usual: float, turn_seconds: float, budget: float) -> _Costs:
    """Time steps at the first and last context length and with few rows, and prefills of a few and many tokens."""
    policy, rows = trainer.policy, len(trainer.envs)
    cache = decoder(policy.lm, rows, policy.context_limit, policy.rollout_dtype)
    sampler = Sampler(policy.lm, policy.banned_V, rows, trainer.config.rollout.temperature, policy.rollout_dtype)

    def step(n: int, length: int) -> float:
        for row in range(rows):
            sampler.restart(row, (row,))
        hidden = [torch.zeros(n, policy.lm.config.hidden_size, dtype=cache.dtype, device=policy.device)]

        def once() -> None:
            cache.pretend(length)
            ids, _ = sampler.draw(hidden[0], [True] * n)
            hidden[0] = cache.step(ids, torch.ones(n, dtype=torch.bool))

        return _timed(once, budget / 6)

    def prefill(n: int, tokens: int) -> float:
        chunks = [np.full(tokens, policy.chat.end_id, dtype=np.int64)] * n

        def once() -> None:
            cache.pretend(opening)
            cache.prefill(range(n), chunks)

        return _timed(once, budget / 6)

    few = max(1, rows // 4)
    long, short, narrow = step(rows, final), step(rows, opening), step(few, opening)
    token = max(0.0, long - short) / max(1, rows * (final - opening))
    row = max(0.0, (short - narrow) / max(1, rows - few) - token * opening)
    base = max(0.0, short - rows * (row + token * opening))
    small = max(1, min(int(usual), (cache.capacity - opening) // 2))
    large = min(max(256, 4 * small), cache.capacity - opening)
    one, several, much = prefill(1, small), prefill(few, small), prefill(1, large)
    each = max(0.0, much - one) / (large - small)
    beside = max(0.0, (several - one) / (few - 1) - small * each) if few > 1 else 0.0  # of every row in a call
    return _Costs(base, row, token, max(0.0, one - beside - small * each), each, turn_seconds + beside)


def _pretended(held: Sequence[Trajectory], rows: int, tokens: int, share: float, width: int = 0) -> list[Trajectory]:
    """Rows of one turn with the right number of tokens and share of actions; only the work on them is real. ``width``: of kept states."""
    said = np.concatenate([turn.action_ids for t in held for turn in t.turns])
    ids = np.resize(said, tokens)
    context = max(1, min(tokens - 1, round(tokens * (1 - share))))
    actions = ids[context:]
    states = np.zeros((len(actions), width), np.float32) if width else None
    turn = Turn(ids[:context], actions, np.zeros(len(actions), np.float32), 1.0, states=states)
    return [Trajectory((turn,), ids, True, False) for _ in range(rows)]


def padded(length_R: Sequence[int], minibatches: int, token_budget: int, rng: np.random.Generator) -> int:
    """Tokens that one pass over the rows is fed, with what fills the shorter rows of a micro-batch up."""
    parts = np.array_split(rng.permutation(len(length_R)), min(minibatches, len(length_R)))
    groups = [group for part in parts for group in pack(part.tolist(), length_R, token_budget)]
    return sum(len(group) * length_R[group[0]] for group in groups)


def _updating(trainer: Any, held: Sequence[Trajectory], length_R: Sequence[int], share: float, fed: int, budget: float) -> float:
    """Seconds of an update: one micro-batch is scored, differentiated and stepped at rate 0.

    ``share``: actions among the tokens of the rows; ``fed``: tokens of one pass over them, see `padded`.
    """
    rows, row = len(length_R), float(np.mean(length_R))
    learner, config = copy.copy(trainer.learner), trainer.config
    learner.config = dataclasses.replace(config, ppo=dataclasses.replace(config.ppo, minibatches=1, critic_steps=min(1, config.ppo.critic_steps)))
    head = copy.deepcopy(trainer.policy.value_head.state_dict())

    def one(count: int, tokens: int, limit: float) -> tuple[float, float, Any, Any]:
        width = trainer.policy.lm.config.hidden_size if keeps_states(config) else 0
        batch = make_batch(_pretended(held, count, tokens, share, width), max_turns=config.rollout.max_turns)
        estimates = learner.estimate(batch, 0)
        micro = next(micro_batches(batch, range(count), count * tokens, trainer.policy.chat.pad_id))
        scoring = _timed(lambda: learner.estimate(batch, 0), limit / 3)
        training = _timed(lambda: learner.loss(batch, micro, estimates, batch.tokens)[0].backward(), limit * 2 / 3)
        return scoring, training, batch, estimates

    tokens = int(min(row, 128))
    began = time.perf_counter()
    scoring, training, *_ = one(1, tokens, 0.0)
    budget -= time.perf_counter() - began
    affordable = budget / (2 * scoring + training) * tokens  # `one` scores twice
    count, tokens = max(1, min(rows, int(min(config.optim.token_budget, affordable) // row))), int(max(tokens, min(row, affordable)))
    scoring, training, batch, estimates = one(count, tokens, budget)
    stepping = _stepping(learner)
    fitting = _timed(lambda: learner._fit_critic(batch, estimates, 0), 1.0) if config.ppo.critic_steps else 0.0
    fitting *= config.ppo.critic_steps * min(CRITIC_TOKENS, rows * row * share) / min(CRITIC_TOKENS, batch.tokens)
    trainer.policy.value_head.load_state_dict(head)
    for optimizer in learner.optimizers.values():
        optimizer.state.clear()
        optimizer.zero_grad(set_to_none=True)
    passes = fed / (count * tokens)
    return passes * (scoring + config.ppo.epochs * training) + config.ppo.epochs * config.ppo.minibatches * stepping + fitting


def _stepping(learner: Any) -> float:
    """Seconds of a step of both optimizers. At rate 0 and without decay weights stay as they are."""
    rates = {name: optimizer.param_groups[0]["lr"] for name, optimizer in learner.optimizers.items()}

    def once() -> None:
        for optimizer in learner.optimizers.values():
            optimizer.step()

    for optimizer in learner.optimizers.values():
        optimizer.param_groups[0]["lr"] = 0.0
    seconds = _timed(once, 1.0)
    for name, optimizer in learner.optimizers.items():
        optimizer.param_groups[0]["lr"] = rates[name]
    return seconds


def predict(trainer: Any, seconds: float = 20.0) -> Forecast:
    """Measure for about ``seconds`` and work out an iteration of a `Trainer` that is not used afterwards."""
    began = time.perf_counter()
    policy, config = trainer.policy, trainer.config
    rollout, rng = config.rollout, np.random.default_rng([config.seed, 14])
    if policy.shards is not None:
        raise ConfigError("dry run: expected a model that one process holds; got model.shard=True. Leave --model.shard out to see one process's costs.")
    if rollout.server is not None:
        raise ConfigError(
            f"dry run: expected rollouts that are sampled here; got rollout.server={rollout.server!r}, whose speed it cannot foresee. "
            "Leave --rollout.server out to see the cost of sampling here, and of the update."
        )
    talk, counts, held, turns = _listen(trainer, 0.5 * seconds)
    talks = talk.draw(rollout.dialogues, rollout.max_turns, rng)
    sampled = float(sum(said for dialogue in talks for _, said in dialogue))
    rows = [talk.rows(dialogue) for dialogue in talks]
    row_tokens = float(sum(map(sum, rows)))
    longest = float(np.mean([max(own) for own, dialogue in zip(rows, talks, strict=True) if len(dialogue) == max(map(len, talks))]))
    opening = int(np.mean(talk.fed[0]))
    spoken = sum(len(talk.held(t)) for t in held)
    final = min(max(opening + 1, int(longest)), policy.context_limit - 1)
    usual = np.mean(talk.fed[-1]) if talk.anew_from == math.inf else np.mean([fed for dialogue in talks for fed, _ in dialogue])
    away = counts.awaited_seconds / spoken
    here = 0.0 if away else counts.environment_seconds / spoken  # else it is the time in which all were away
    costs = dataclasses.replace(_decoding(trainer, opening, final, float(usual), here, 0.2 * seconds), away=away)
    # What the paper play leaves out (bookkeeping, a busy machine) shows in the dialogues that were really held.
    really = counts.seconds / costs.play([talk.held(t) for t in held], len(held), talk.anew_from)
    rollout_seconds = costs.play(talks, min(len(trainer.envs), rollout.dialogues), talk.anew_from) * float(np.clip(really, 0.5, 2.0))
    lengths = [length for own in rows for length in own]
    fed = padded(lengths, config.ppo.minibatches, config.optim.token_budget, rng)
    update_seconds = _updating(trainer, held, lengths, sampled / row_tokens, fed, 0.3 * seconds)
    copies = 2 if keeps_states(config) else int(config.has_critic and config.ppo.critic_steps > 0)  # in turns and batch; of scores
    kept = copies * sampled * policy.lm.config.hidden_size * 4 / 2**20
    every = [*policy.lm.parameters(), *policy.parameters_value()]
    return Forecast(
        parameters=sum(p.numel() for p in every),
        trainable=sum(p.numel() for p in every if p.requires_grad),
        action_tokens=sampled,
        row_tokens=row_tokens,
        longest_row=longest,
        rollout_seconds=rollout_seconds,
        update_seconds=update_seconds,
        memory_mb=peak_memory_mb() + kept,
        calibration_seconds=time.perf_counter() - began,
        turns_seen=turns,
    )


def table(forecast: Forecast) -> Table:
    """What `rlpa-agent train PRESET --dry-run` prints."""
    made = Table(title=f"one iteration, predicted after {forecast.calibration_seconds:.0f} s of trying")
    made.add_column("")
    made.add_column("", justify="right")
    made.add_row("parameters", f"{forecast.parameters:,}")
    made.add_row("trainable", f"{forecast.trainable:,}")
    made.add_row("tokens sampled", f"{forecast.action_tokens:,.0f}")
    made.add_row("tokens in all rows", f"{forecast.row_tokens:,.0f}")
    made.add_row("tokens of a whole dialogue", f"{forecast.longest_row:,.0f}")
    made.add_row("peak memory", f"{forecast.memory_mb:,.0f} MB")
    made.add_row("seconds of rollout", f"{forecast.rollout_seconds:,.1f}")
    made.add_row("seconds of update", f"{forecast.update_seconds:,.1f}")
    made.add_row("seconds an iteration", f"{forecast.seconds:,.1f}")
    made.add_row("turns tried", str(forecast.turns_seen))
    return made
