"""Policy x environments -> trajectories.

All dialogues decode together, each at its own pace: a row whose turn ended steps its environment at once and
waits, masked, until a few rows have new text; that text is then prefilled for all of them in one pass. A row
whose episode ended takes the next one. Where token histories only grow, nothing is fed twice; a context that was
rewritten, and one that is answered once more, is read anew.
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
from rlpa_agent.served import Generator, Sampled
from rlpa_agent.trajectory import Trajectory, Turn
from rlpa_env import fork, restore
from rlpa_env.errors import ConfigError


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
    environment_seconds: float = 0.0
    prefill_seconds: float = 0.0
    seconds: float = 0.0


def added(counts: Sequence[RolloutCounts]) -> RolloutCounts:
    """The work of several processes; seconds are summed too."""
    return RolloutCounts(*(sum(values) for values in zip(*map(astuple, counts), strict=True)))


@dataclass(frozen=True)
class _Answered:
    """One sample of a turn, and the environment behind it."""

    turn: Turn
    env: Any
    terminated: bool
    truncated: bool
    info: Mapping[str, Any]


@dataclass
class _Row:
    """A dialogue in progress."""

    env: Any
    episode: int
    pieces: Pieces
    samples: list[_Answered] = field(default_factory=list)  # of the turn under way, when several are taken
    transcript: Transcript = field(default_factory=Transcript)
    turns: list[Turn] = field(default_factory=list)
    action: list[int] = field(default_factory=list)
    logp: list[float] = field(default_factory=list)
    anew: bool = False  # the cache must forget the row first
    unfed: list[int] = field(default_factory=list)  # ids that the cache has not seen yet
    live: bool = False  # sampling a turn now
    name: str = ""
    messages: tuple[tuple[str, str], ...] = ()


def collect(
    policy: Policy,
    envs: Sequence[Any],
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
    counts: RolloutCounts | None = None,
    on_episode: Callable[[int, Trajectory], None] | None = None,
    generator: Generator | None = None,
) -> list[Trajectory]:
    """Play one episode per seed, ``len(envs)`` at a time, and return them in the order of ``seeds``.

    ``envs`` follow Gymnasium's reset and step with texts and ``info["messages"]``; ``options[i]`` goes to reset.
    Episode i samples from the random stream ``streams[i]`` (default: (sample_seed, i)), so in fp32 it comes out the
    same alone or beside others. ``temperature`` defaults to the policy's; 0 is greedy. ``on_episode`` hears of each
    episode as it ends. Too little context left for a whole turn ends an episode as truncated, "context". With
    ``samples`` > 1 every turn is answered so often, each in a fork of its environment, and the dialogue goes on with the
    best paid; the rest are its turn's ``others``.
    ``generator`` samples outside of this process, all turns in flight together; without it the policy does, here.
    """
    if len(seeds) == 0 or len(envs) == 0:
        raise ConfigError(
            f"collect: expected at least one env and one seed; got {len(envs)} and {len(seeds)}"
        )
    job = _Job(
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
    )
    began = time.perf_counter()
    temperature = policy.temperature if temperature is None else temperature
    if generator is None:
        job.run(policy, list(envs[: len(seeds)]), temperature)
    else:
        job.run_outside(generator, list(envs[: len(seeds)]), temperature)
    job.counts.seconds += time.perf_counter() - began
    return [job.done[i] for i in range(len(seeds))]


@dataclass
class _Job:
    """The state of one ``collect``."""

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
    rows: list[_Row] = field(default_factory=list)
    done: dict[int, Trajectory] = field(default_factory=dict)
    started: int = 0

    def run(self, policy: Policy, envs: list[Any], temperature: float) -> None:
        """Decode until every episode is done."""
        dtype = policy.rollout_dtype
        self.cache = decoder(policy.lm, len(envs), self.limit, dtype)
        self.sampler = Sampler(policy.lm, policy.banned_V, len(envs), temperature, dtype)
        self.rows = [self._start(env) for env in envs]
        hidden_RH = torch.zeros(len(envs), policy.lm.config.hidden_size, dtype=self.cache.dtype)
        while self.rows:
            waiting = [row for row, state in enumerate(self.rows) if not state.live]
            # Few rows make a prefill as costly as a decoding step; many waiting rows waste the steps.
            if len(waiting) >= max(1, len(self.rows) // 8) or len(waiting) == len(self.rows):
                hidden_RH[waiting] = self._prefill(waiting)
            n = len(self.rows)
            live = [state.live for state in self.rows]
            ids_n, logp_n = self.sampler.draw(hidden_RH[:n], live)
            ended = self._record(ids_n.tolist(), logp_n.tolist())
            if any(state.live for state in self.rows):
                live_n = torch.tensor([state.live for state in self.rows])
                hidden_RH[:n] = self.cache.step(ids_n, live_n)
                self.counts.decode_steps += 1
                self.counts.decode_rows += n
            for row in reversed(
                ended
            ):  # from the back, so that a move never shifts a row still to be handled
                self._end_turn(row, hidden_RH)

    def run_outside(self, generator: Generator, envs: list[Any], temperature: float) -> None:
        """Have every turn sampled elsewhere, stepping each environment as its answer comes."""

        def ask(row: _Row) -> Future[Sampled]:
            self.counts.prefilled_tokens += len(row.unfed)
            row.unfed = []
            return generator.begin(row.transcript.ids, self._stream(row), self.max_new_tokens, temperature)

        waiting = {ask(row): row for row in map(self._start, envs)}
        while waiting:
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                row = waiting.pop(future)
                sampled = future.result()
                row.action, row.logp = list(sampled.ids), list(sampled.logp)
                trajectory = self._step(row)
                if trajectory is not None:
                    self.done[row.episode] = trajectory
                    if self.on_episode is not None:
                        self.on_episode(row.episode, trajectory)
                    if self.started == len(self.seeds):
                        continue
                    row = self._start(row.env)
                waiting[ask(row)] = row

    def _start(self, env: Any) -> _Row:
        """Reset an environment for the next episode."""
        i = self.started
        self.started += 1
        began = time.perf_counter()
        _, info = env.reset(seed=int(self.seeds[i]), options=self.options[i])
        self.counts.environment_seconds += time.perf_counter() - began
        profile = getattr(getattr(env, "unwrapped", env), "profile", None)
        name = f"{getattr(profile, 'id', type(env).__name__)}#{int(self.seeds[i])}"
        state = _Row(env, i, self.chat.begin(info["messages"]), name=name)
        opening = self.chat.context(state.pieces).tolist()
        if not self._has_room(len(opening)):
            raise ConfigError(
                f"context: expected room for the opening ({len(opening)} tokens) and a turn of {self.max_new_tokens}; "
                f"the model has {self.limit}. Shorten the system prompt or lower max_new_tokens."
            )
        self._feed(state, opening)
        return state

    def _feed(self, state: _Row, ids: list[int]) -> None:
        state.transcript.context(ids)
        state.unfed += ids
        self.counts.context_tokens += len(ids)

    def _has_room(self, context: int) -> bool:
        """Whether a whole turn, its end token and the next header fit behind ``context`` tokens."""
        return context + self.max_new_tokens + self.chat.glue_tokens() <= self.limit

    def _prefill(self, waiting: list[int]) -> torch.Tensor:
        began = time.perf_counter()
        for row in waiting:
            if self.rows[row].anew:
                self.cache.clear(row)
        chunks = [np.asarray(self.rows[row].unfed, dtype=np.int64) for row in waiting]
        hidden = self.cache.prefill(waiting, chunks)
        for row in waiting:
            state = self.rows[row]
            state.unfed, state.action, state.logp = [], [], []
            state.live, state.anew = True, False
            self.sampler.restart(row, self._stream(state))
        self.counts.prefilled_tokens += sum(map(len, chunks))
        self.counts.prefill_seconds += time.perf_counter() - began
        return hidden

    def _stream(self, state: _Row) -> tuple[int, ...]:
        """Key of the random stream of the next answer."""
        again = (len(state.samples),) if state.samples else ()
        return (*self.streams[state.episode], len(state.turns), *again)

    def _record(self, ids: list[int], logp: list[float]) -> list[int]:
        """Note the sampled token of every live row; rows whose turn it ended, which are no longer live."""
        ended = []
        for row, state in enumerate(self.rows):
            if not state.live:
                continue
            state.action.append(ids[row])
            state.logp.append(logp[row])
            if ids[row] in self.chat.end_ids or len(state.action) == self.max_new_tokens:
                state.live = False
                state.unfed = [ids[row]]  # sampled, but not in the cache: the next chunk begins with it
                ended.append(row)
        return ended

    def _end_turn(self, row: int, hidden_RH: torch.Tensor) -> None:
        """Step the environment with a finished turn; then the next turn, the next episode, or one row fewer."""
        state = self.rows[row]
        trajectory = self._step(state)
        if trajectory is None:
            return
        self.done[state.episode] = trajectory
        if self.on_episode is not None:
            self.on_episode(state.episode, trajectory)
        if self.started < len(self.seeds):
            self.cache.clear(row)
            self.rows[row] = self._start(state.env)
            return
        last = len(self.rows) - 1
        if row != last:
            self.cache.move(last, row)
            self.sampler.move(last, row)
            hidden_RH[row] = hidden_RH[last]
            self.rows[row] = self.rows[last]
        self.rows.pop()

    def _step(self, state: _Row) -> Trajectory | None:
        """Send the turn to the environment; the trajectory if the episode is over."""
        if self.samples == 1:
            return self._go_on(state, self._answer(state, state.env))
        state.samples.append(self._answer(state, fork(state.env)))
        if len(state.samples) < self.samples:
            state.unfed, state.anew = list(state.transcript.ids), True
            return None
        best = max(state.samples, key=lambda sample: (sample.turn.valid, sample.turn.reward))
        others = tuple(sample.turn for sample in state.samples if sample is not best)
        state.samples = []
        restore(state.env, best.env)
        return self._go_on(state, replace(best, turn=replace(best.turn, others=others)))

    def _answer(self, state: _Row, env: Any) -> _Answered:
        """What the sampled answer earns in ``env``."""
        action = state.action
        began = time.perf_counter()
        _, reward, terminated, truncated, info = env.step(self.chat.decode(action))
        self.counts.environment_seconds += time.perf_counter() - began
        stop = "eos" if action[-1] in self.chat.end_ids else "length"
        turn = Turn(
            context_ids=np.asarray(state.transcript.ids, dtype=np.int64),
            action_ids=np.asarray(action, dtype=np.int64),
            logp=np.asarray(state.logp, dtype=np.float32),
            reward=float(reward),
            parts=_parts(info),
            partial=tuple(info.get("profile/partial", ())),
            valid=bool(info.get("reward/valid", True)),
            stop=stop,
        )
        self.counts.action_tokens += len(action)
        self.counts.length_stops += stop == "length"
        return _Answered(turn, env, bool(terminated), bool(truncated), info)

    def _go_on(self, state: _Row, answered: _Answered) -> Trajectory | None:
        """Take an answer into the dialogue; the trajectory if the episode is over."""
        turn, info, truncated = answered.turn, answered.info, answered.truncated
        state.turns.append(turn)
        state.messages = tuple((message["role"], message["content"]) for message in info["messages"])
        self._continue(state, turn, state.messages[-1][1] if state.messages[-1][0] == "user" else "")
        reason = str(getattr(info.get("stop_reason", ""), "value", info.get("stop_reason", "")))
        if not (answered.terminated or truncated):
            if len(state.turns) >= self.max_turns:
                truncated, reason = True, reason or "turn_limit"
            elif not self._has_room(len(state.transcript.ids)):
                truncated, reason = True, "context"
                self.counts.context_stops += 1
        if not (answered.terminated or truncated):
            return None
        final = np.asarray(state.transcript.ids, dtype=np.int64)
        ending = (answered.terminated, truncated, reason, state.name, state.messages)
        return Trajectory(tuple(state.turns), final, *ending)

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
