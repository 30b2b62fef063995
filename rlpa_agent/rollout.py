"""Policy x environments -> trajectories.

All dialogues decode together, each at its own pace: a row whose turn ended asks its environment at once and
waits, masked, while the others go on, until its environment has answered and a few rows have new text; that text is
then prefilled for all of them in one pass. A row whose episode ended takes the next one. Where token histories only
grow, nothing is fed twice; a context that was rewritten, and one that is answered once more, is read anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import astuple, dataclass, field, replace
from typing import Any

import numpy as np
import torch

from rlpa_agent.chat import Chat, Transcript
from rlpa_agent.contexts import Pieces
from rlpa_agent.generation import Sampler, decoder
from rlpa_agent.policy import Policy
from rlpa_agent.pool import as_pool
from rlpa_agent.protocols import BranchingPool, EnvPool, Generator, Step, TextEnv
from rlpa_agent.trajectory import Trajectory, Turn
from rlpa_env.errors import ConfigError

PROFILE_TOKENS = "tokens/profile"
"""Among the parts of a turn of the RLPA format: how many of its tokens are its profile block."""


@dataclass
class RolloutCounts:
    """Work done by ``collect``, for the metrics. Pass one in; it is added to."""

    action_tokens: int = 0  # sampled
    context_tokens: int = 0  # new context: openings, glue and user text
    prefilled_tokens: int = 0  # fed by prefill; above context_tokens by the last sampled token of each turn
    decode_steps: int = 0
    decode_rows: int = 0  # rows computed in those steps, waiting ones included
    length_stops: int = 0  # turns cut at max_new_tokens
    context_stops: int = 0  # episodes that outgrew the context
    environment_seconds: float = 0.0  # in which nothing was decoded
    awaited_seconds: float = 0.0  # of all dialogues, from asking an environment that takes its time to hearing it
    prefill_seconds: float = 0.0
    seconds: float = 0.0


def added(counts: Sequence[RolloutCounts]) -> RolloutCounts:
    """The work of several processes; seconds are summed too."""
    return RolloutCounts(*(sum(values) for values in zip(*map(astuple, counts), strict=True)))


@dataclass(frozen=True)
class _Answered:
    """One sample of a turn, and what came of it."""

    turn: Turn
    step: Step
    attempted: Any = None  # the copy of the environment behind it, when several samples are taken


@dataclass(eq=False)
class _Row:
    """A dialogue in progress."""

    slot: int  # of the pool
    episode: int
    pieces: Pieces
    samples: list[_Answered] = field(default_factory=list)  # of the turn under way, when several are taken
    transcript: Transcript = field(default_factory=Transcript)
    turns: list[Turn] = field(default_factory=list)
    action: list[int] = field(default_factory=list)
    logp: list[float] = field(default_factory=list)
    states: list[np.ndarray] = field(default_factory=list)  # [H] each, if they are kept
    anew: bool = False  # the cache must forget the row first
    unfed: list[int] = field(default_factory=list)  # ids that the cache has not seen yet
    live: bool = False  # sampling a turn now
    asked: Future[Any] | None = None  # what its environment will say of the turn; the `Step`, and with several samples the copy
    asked_at: float | None = None  # of an environment that did not answer at once
    name: str = ""
    messages: tuple[tuple[str, str], ...] = ()


def collect(
    policy: Policy,
    envs: EnvPool | Sequence[TextEnv],
    chat: Chat | None = None,
    *,
    seeds: Sequence[int],
    sample_seed: int = 0,
    options: Sequence[Mapping[str, Any] | None] | None = None,
    streams: Sequence[Sequence[int]] | None = None,
    temperature: float | None = None,
    max_new_tokens: int = 160,
    max_turns: int = 10,
    samples: int = 1,
    keep_states: bool = False,
    counts: RolloutCounts | None = None,
    on_episode: Callable[[int, Trajectory], None] | None = None,
    generator: Generator | None = None,
) -> list[Trajectory]:
    """Play one episode per seed, ``len(envs)`` at a time, and return them in the order of ``seeds``.

    ``envs`` is a pool, or environments as Gymnasium has them (`protocols.TextEnv`); ``options[i]`` goes to reset.
    Episode i samples from the random stream ``streams[i]`` (default: (sample_seed, i)), so in fp32 it comes out the
    same alone or beside others. ``temperature`` defaults to the policy's; 0 is greedy. ``on_episode`` hears of each
    episode as it ends. Too little context left for a whole turn ends an episode as truncated, "context". With
    ``samples`` > 1 every turn is answered so often, each in a copy of its environment, and the dialogue goes on with the
    best paid; the rest are its turn's ``others``. That needs a `protocols.BranchingPool`.
    ``keep_states``: turns hold the hidden states that their tokens were drawn from, which a critic can learn on.
    ``generator`` samples outside of this process, all turns in flight together; without it the policy does, here.
    """
    pool = as_pool(envs)
    if samples > 1 and not isinstance(pool, BranchingPool):
        raise ConfigError(f"samples: expected 1 of a {type(pool).__name__}, which cannot branch (attempt, settle); got {samples}.")
    if len(seeds) == 0 or len(pool) == 0:
        raise ConfigError(f"collect: expected at least one env and one seed; got {len(pool)} and {len(seeds)}")
    job = _Job(
        pool,
        chat or policy.chat,
        seeds,
        options or [None] * len(seeds),
        streams or [(sample_seed, i) for i in range(len(seeds))],
        max_new_tokens,
        max_turns,
        policy.context_limit,
        counts or RolloutCounts(),
        on_episode,
        samples,
        keep_states,
    )
    began = time.perf_counter()
    temperature = policy.temperature if temperature is None else temperature
    if generator is None:
        job.run(policy, temperature)
    else:
        job.run_outside(generator, temperature)
    job.counts.seconds += time.perf_counter() - began
    return [job.done[i] for i in range(len(seeds))]


@dataclass
class _Job:
    """The state of one ``collect``."""

    pool: EnvPool
    chat: Chat
    seeds: Sequence[int]
    options: Sequence[Mapping[str, Any] | None]
    streams: Sequence[Sequence[int]]
    max_new_tokens: int
    max_turns: int
    limit: int
    counts: RolloutCounts
    on_episode: Callable[[int, Trajectory], None] | None
    samples: int = 1
    keep_states: bool = False
    rows: list[_Row] = field(default_factory=list)
    done: dict[int, Trajectory] = field(default_factory=dict)
    started: int = 0

    @property
    def slots(self) -> range:
        """Slots of the pool that are used."""
        return range(min(len(self.pool), len(self.seeds)))

    def run(self, policy: Policy, temperature: float) -> None:
        """Decode until every episode is done."""
        dtype, size = policy.rollout_dtype, len(self.slots)
        self.cache = decoder(policy.lm, size, self.limit, dtype)
        self.sampler = Sampler(policy.lm, policy.banned_V, size, temperature, dtype)
        self.rows = [self._start(slot) for slot in self.slots]
        hidden_RH = torch.zeros(size, policy.lm.config.hidden_size, dtype=self.cache.dtype, device=policy.device)
        while self.rows:
            self._hear(hidden_RH)
            waiting = [row for row, state in enumerate(self.rows) if not state.live and state.asked is None]
            n, live = len(self.rows), [state.live for state in self.rows]
            # Few rows make a prefill as costly as a decoding step; many waiting rows waste the steps.
            if waiting and (len(waiting) >= max(1, n // 8) or not any(live)):
                hidden_RH[waiting] = self._prefill(waiting)
                live = [state.live for state in self.rows]
            if not any(live):  # all have asked, or all is over
                continue
            ids_n, logp_n = self.sampler.draw(hidden_RH[:n], live)
            ended = self._record(ids_n.tolist(), logp_n.tolist(), hidden_RH[:n].float().cpu().numpy().copy() if self.keep_states else None)
            for row in reversed(ended):
                self._ask(self.rows[row])
            if any(state.live for state in self.rows):
                live_n = torch.tensor([state.live for state in self.rows])
                hidden_RH[:n] = self.cache.step(ids_n, live_n)
                self.counts.decode_steps += 1
                self.counts.decode_rows += n

    def _hear(self, hidden_RH: torch.Tensor) -> None:
        """Take in what environments have answered; where nothing else can be done, wait until one has."""
        asked = {state.asked: state for state in self.rows if state.asked is not None}
        began = time.perf_counter()
        done = wait(asked, None if len(asked) == len(self.rows) else 0.0, FIRST_COMPLETED).done
        self.counts.environment_seconds += time.perf_counter() - began
        for future, state in reversed(asked.items()):  # from the back, as they were asked
            if future in done and (trajectory := self._answered(state)) is not None:
                self._end_episode(self.rows.index(state), trajectory, hidden_RH)

    def run_outside(self, generator: Generator, temperature: float) -> None:
        """Have every turn sampled elsewhere; as soon as a sample or the answer to one comes, that dialogue goes on."""
        under_way: dict[Future[Any], _Row] = {}

        def sample(row: _Row) -> None:
            self.counts.prefilled_tokens += len(row.unfed)
            row.unfed = []
            under_way[generator.begin(row.transcript.ids, self._stream(row), self.max_new_tokens, temperature)] = row

        for slot in self.slots:
            sample(self._start(slot))
        while under_way:
            sampling, began = any(row.asked is None for row in under_way.values()), time.perf_counter()
            done = wait(under_way, return_when=FIRST_COMPLETED).done
            self.counts.environment_seconds += 0.0 if sampling else time.perf_counter() - began
            for future in done:
                row = under_way.pop(future)
                if row.asked is None:
                    row.action, row.logp = list(future.result().ids), list(future.result().logp)
                    under_way[self._ask(row)] = row
                    continue
                if (trajectory := self._answered(row)) is not None:
                    self._note(row, trajectory)
                    if self.started == len(self.seeds):
                        continue
                    row = self._start(row.slot)
                sample(row)

    def _start(self, slot: int) -> _Row:
        """Begin the next episode in a slot."""
        i, began = self.started, time.perf_counter()
        self.started += 1
        opened = self.pool.reset(slot, int(self.seeds[i]), self.options[i])
        self.counts.environment_seconds += time.perf_counter() - began
        state = _Row(slot, i, self.chat.begin(opened.messages), name=opened.name)
        opening = self.chat.context(state.pieces).tolist()
        if not self._has_room(len(opening)):
            wanted = f"room for the opening ({len(opening)} tokens) and a turn of {self.max_new_tokens}"
            raise ConfigError(f"context: expected {wanted}; the model has {self.limit}. Shorten the system prompt or lower max_new_tokens.")
        self._feed(state, opening)
        return state

    def _feed(self, state: _Row, ids: list[int]) -> None:
        state.transcript.context(ids)
        state.unfed += ids
        self.counts.context_tokens += len(ids)

    def _has_room(self, context: int) -> bool:
        return self.chat.has_room(context, self.limit, self.max_new_tokens)

    def _prefill(self, waiting: list[int]) -> torch.Tensor:
        began = time.perf_counter()
        for row in waiting:
            if self.rows[row].anew:
                self.cache.clear(row)
        chunks = [np.asarray(self.rows[row].unfed, dtype=np.int64) for row in waiting]
        hidden = self.cache.prefill(waiting, chunks)
        for row in waiting:
            state = self.rows[row]
            state.unfed, state.action, state.logp, state.states = [], [], [], []
            state.live, state.anew = True, False
            self.sampler.restart(row, self._stream(state))
        self.counts.prefilled_tokens += sum(map(len, chunks))
        self.counts.prefill_seconds += time.perf_counter() - began
        return hidden

    def _stream(self, state: _Row) -> tuple[int, ...]:
        """Key of the random stream of the next answer."""
        return (*self.streams[state.episode], len(state.turns), *((len(state.samples),) if state.samples else ()))

    def _record(self, ids: list[int], logp: list[float], states: np.ndarray | None) -> list[int]:
        """Note the sampled token of every live row; rows whose turn it ended, which are no longer live."""
        ended = []
        for row, state in enumerate(self.rows):
            if not state.live:
                continue
            state.action.append(ids[row])
            state.logp.append(logp[row])
            if states is not None:
                state.states.append(states[row])
            if ids[row] in self.chat.end_ids or len(state.action) == self.max_new_tokens:
                state.live = False
                state.unfed = [ids[row]]  # sampled, but not in the cache: the next chunk begins with it
                ended.append(row)
        return ended

    def _note(self, state: _Row, trajectory: Trajectory) -> None:
        self.done[state.episode] = trajectory
        if self.on_episode is not None:
            self.on_episode(state.episode, trajectory)

    def _end_episode(self, row: int, trajectory: Trajectory, hidden_RH: torch.Tensor) -> None:
        """The next episode in a row whose own is over, or one row fewer."""
        state = self.rows[row]
        self._note(state, trajectory)
        if self.started < len(self.seeds):
            self.cache.clear(row)
            self.rows[row] = self._start(state.slot)
            return
        moved, last = self.rows.pop(), len(self.rows)
        if row != last:
            self.cache.move(last, row)
            self.sampler.move(last, row)
            hidden_RH[row] = hidden_RH[last]
            self.rows[row] = moved

    def _ask(self, row: _Row) -> Future[Any]:
        """Send a finished turn to the row's environment."""
        text, began = self.chat.decode(row.action), time.perf_counter()
        ask = self.pool.attempt if self.samples > 1 else self.pool.begin  # type: ignore[attr-defined]  # `collect` has seen to it
        asked: Future[Any] = ask(row.slot, text)
        row.asked, row.asked_at = asked, None if asked.done() else time.perf_counter()
        self.counts.environment_seconds += time.perf_counter() - began
        return asked

    def _answered(self, row: _Row) -> Trajectory | None:
        """Go on with what the environment has said of the turn; the trajectory if the episode is over."""
        assert row.asked is not None
        outcome, row.asked = row.asked.result(), None
        self.counts.awaited_seconds += 0.0 if row.asked_at is None else time.perf_counter() - row.asked_at
        step, copy = outcome if self.samples > 1 else (outcome, None)
        answered = _Answered(self._turn(row, step), step, copy)
        return self._go_on(row, answered) if self.samples == 1 else self._choose(row, answered)

    def _choose(self, state: _Row, answered: _Answered) -> Trajectory | None:
        """Keep a sample of the turn under way; with the last one, go on from the best paid."""
        state.samples.append(answered)
        if len(state.samples) < self.samples:
            state.unfed, state.anew = list(state.transcript.ids), True
            return None
        best = max(state.samples, key=lambda sample: (sample.turn.valid, sample.turn.reward))
        state.samples, others = [], tuple(sample.turn for sample in state.samples if sample is not best)
        self.pool.settle(state.slot, best.attempted)  # type: ignore[attr-defined]
        return self._go_on(state, replace(best, turn=replace(best.turn, others=others)))

    def _turn(self, state: _Row, step: Step) -> Turn:
        """The record of a sampled answer."""
        action = state.action
        stop = "eos" if action[-1] in self.chat.end_ids else "length"
        self.counts.action_tokens += len(action)
        self.counts.length_stops += stop == "length"
        return Turn(
            context_ids=np.asarray(state.transcript.ids, dtype=np.int64),
            action_ids=np.asarray(action, dtype=np.int64),
            logp=np.asarray(state.logp, dtype=np.float32),
            states=np.stack(state.states) if state.states else None,
            reward=step.reward,
            parts=_parts(step.info) | ({PROFILE_TOKENS: float(self.chat.block_tokens(action))} if "reward/profile" in step.info else {}),
            partial=tuple(step.info.get("profile/partial") or ()),
            valid=bool(step.info.get("reward/valid", True)),
            stop=stop,
        )

    def _go_on(self, state: _Row, answered: _Answered) -> Trajectory | None:
        """Take an answer into the dialogue; the trajectory if the episode is over."""
        turn, step = answered.turn, answered.step
        state.turns.append(turn)
        state.messages = step.messages
        self._continue(state, turn, state.messages[-1][1] if state.messages[-1][0] == "user" else "")
        stopped = step.info.get("stop_reason") or ""
        truncated, reason = step.truncated, str(getattr(stopped, "value", stopped))
        if not (step.terminated or truncated):
            if len(state.turns) >= self.max_turns:
                truncated, reason = True, reason or "turn_limit"
            elif not self._has_room(len(state.transcript.ids)):
                truncated, reason = True, "context"
                self.counts.context_stops += 1
        if not (step.terminated or truncated):
            return None
        final = np.asarray(state.transcript.ids, dtype=np.int64)
        return Trajectory(tuple(state.turns), final, step.terminated, truncated, reason, state.name, state.messages)

    def _continue(self, state: _Row, turn: Turn, said: str) -> None:
        """Make the next context; a user's text is cut where the model's context would end."""
        action, header = turn.action_ids.tolist(), len(self.chat.glue.header)
        self.chat.extend(state.pieces, action, said)
        context = self.chat.context(state.pieces).tolist()
        excess = max(0, len(context) - self.limit)
        context = context[: len(context) - header - excess] + context[len(context) - header :]
        state.transcript.action(action)
        fed = state.transcript.ids
        grows = context[: len(fed)] == fed
        if grows and self.samples == 1:  # else the cache holds another sample of the turn
            self._feed(state, context[len(fed) :])
            return
        self.counts.context_tokens += len(self.chat.follow(action, said))
        state.transcript, state.unfed, state.anew = Transcript(), context, True
        state.transcript.context(context)


def _parts(info: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among an environment's infos."""
    numbers = (bool, int, float, np.bool_, np.integer, np.floating)
    return {name: float(value) for name, value in info.items() if isinstance(value, numbers)}
