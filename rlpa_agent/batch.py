"""Trajectories -> flat action arrays and padded rows. Every shape decision is here.

Axes: R rows, A action tokens of all chains one after another, C chains (one an episode), B rows of a micro-batch,
L its padded length. A chain is an episode's action tokens in time order, wherever its rows begin and end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rlpa_agent.trajectory import Trajectory, Turn


@dataclass(frozen=True)
class Batch:
    """A rollout as arrays. Flat arrays [A] run chain by chain in time order; their tensors are on the CPU."""

    rows: tuple[np.ndarray, ...]  # int64 token ids of each row, true length
    row_A: Tensor  # int64; which row
    pos_A: Tensor  # int64; position of the token in its row
    turn_A: Tensor  # int64; 0-based turn
    segment_A: Tensor  # int64; what advantages take for a turn: the turn, or the stretch of it that was paid by itself
    chain_A: Tensor  # int64
    fraction_A: Tensor  # float32; turn / turn limit, in [0, 1)
    logp_old_A: Tensor  # float32; at sampling time
    reward_A: Tensor  # float32; r_k at the last token of turn k, or spread over those of its segments; else 0
    starts_C: Tensor  # int64; offset of each chain in the flat arrays
    boot_row_C: Tensor  # int64; row of the state whose value continues the chain
    boot_pos_C: Tensor  # int64; its position (value is read *at* it)
    boot_fraction_C: Tensor  # float32
    bootstrapped_C: Tensor  # bool; False: the value after the chain is 0
    episode_C: tuple[int, ...]  # index of the trajectory behind each chain
    group_C: Tensor  # int64; equal for chains that began alike and are compared with each other
    states_AH: Tensor | None = None  # float32; hidden states that the tokens were drawn from, where rollouts keep them

    @property
    def tokens(self) -> int:
        """Number of action tokens."""
        return len(self.row_A)


def valid_turns(trajectory: Trajectory, cut: bool = True) -> tuple[Turn, ...]:
    """The turns before the first that could not be scored; with ``cut=False`` none of a trajectory that has such a turn, or outgrew its context."""
    for index, turn in enumerate(trajectory.turns):
        if not turn.valid:
            return trajectory.turns[:index] if cut else ()
    return trajectory.turns if cut or trajectory.stop_reason != "context" else ()


Payments = Callable[[Turn], Sequence[tuple[int, float]]]
"""((n, r), …) of a turn, n never falling and at last its length: r was decided by its first n tokens and falls due at the
n-th, or at the last where n is 0: this segment is empty. Together they are what the turn is paid."""


def make_batch(
    trajectories: Sequence[Trajectory],
    *,
    max_turns: int,
    horizon: str = "terminal",
    payments: Payments | None = None,
    group: int = 1,
    per_turn: bool = False,
    row_per_turn: bool = False,
    cut: bool = True,
) -> Batch:
    """Lay trajectories out in rows and chains.

    Turn k + 1 goes on in the row of turn k iff its context begins with that turn's context and action; else it opens
    a row of its own, so that append-only and rewritten contexts need no flag.

    Args:
        max_turns: turn limit K; the value head sees turn / K.
        horizon: at the turn limit the value beyond is 0 (``terminal``: the objective is a finite sum) or that of the
            final context (``truncate``). A context overflow and an invalid turn always bootstrap.
        payments: cuts each turn into segments, paid at their ends; None: a turn is one, paid at its last token. Segments
            of one place in two turns k have one number in ``segment_A``.
        group: so many trajectories running began alike, see `advantages.group_advantages`.
        per_turn: every turn is a chain that ends with it, further samples of the turn too, and those of a turn are a
            group (official mode); ``horizon`` and ``group`` then say nothing.
        row_per_turn: open a row for every turn (the same numbers at a higher price; for tests).
        cut: keep what came before an invalid turn, whose value is then taken for the rest. Estimators without a critic have no such
            value and would take the rest for nothing earned: for them (False) the whole trajectory is left out, and one that outgrew its context too.

    Raises:
        ValueError: an empty turn, or no valid turn in any trajectory.
    """
    if horizon not in ("terminal", "truncate"):
        raise ValueError(f"horizon: expected 'terminal' or 'truncate'; got {horizon!r}.")
    made = _Layout(max_turns, row_per_turn, payments)
    for index, trajectory in enumerate(trajectories):
        turns = valid_turns(trajectory, cut)
        if not turns:
            continue
        if per_turn:
            made.turns(index, turns)
            continue
        if len(turns) < len(trajectory.turns):
            final, boot = trajectory.turns[len(turns)].context_ids, True
        elif trajectory.terminated:
            final, boot = trajectory.final_context_ids, False
        else:
            # The environment's own limit may come before ours; a value beyond it is never learned either.
            at_limit = trajectory.stop_reason == "turn_limit" or (trajectory.stop_reason != "context" and len(turns) >= max_turns)
            final, boot = trajectory.final_context_ids, not (at_limit and horizon == "terminal")
        made.chain(index, turns, np.asarray(final), boot, group=(index // group, -1))
    if not made.starts:
        raise ValueError(f"make_batch: expected at least one valid turn in {len(trajectories)} trajectories; got none.")
    return made.batch()


_SEGMENTS = 1 << 10  # segments of a turn are fewer


class _Layout:
    """Rows and flat arrays while they grow."""

    def __init__(self, max_turns: int, row_per_turn: bool, payments: Payments | None) -> None:
        self.max_turns, self.row_per_turn, self.payments = max_turns, row_per_turn, payments
        self.rows: list[np.ndarray] = []
        self.flat: dict[str, list[np.ndarray]] = {
            name: [] for name in ("row", "pos", "turn", "segment", "chain", "fraction", "logp", "reward")
        }
        self.states: list[np.ndarray | None] = []
        self.starts: list[int] = []
        self.boot: list[tuple[int, int, float, bool]] = []
        self.episodes: list[int] = []
        self.groups: dict[tuple[int, int], int] = {}  # numbers of groups in the order of their first chain
        self.group_C: list[int] = []
        self.count = 0

    def turns(self, episode: int, turns: Sequence[Turn]) -> None:
        """A chain for every turn, then one for every further sample, which no row goes on from."""
        for k, turn in enumerate(turns):
            self.chain(episode, [turn], turn.context_ids, False, group=(episode, k), first=k, new=k == 0)
        for k, turn in enumerate(turns):
            for other in turn.others:
                if other.valid:
                    self.chain(episode, [other], other.context_ids, False, group=(episode, k), first=k)

    def chain(
        self,
        episode: int,
        turns: Sequence[Turn],
        final: np.ndarray,
        boot: bool,
        *,
        group: tuple[int, int],
        first: int = 0,
        new: bool = True,
    ) -> None:
        """Turns from number ``first`` on, in a row of their own unless ``new`` is False and they go on from the last."""
        self.group_C.append(self.groups.setdefault(group, len(self.groups)))
        self.starts.append(self.count)
        self.episodes.append(episode)
        for k, turn in enumerate(turns, first):
            size = len(turn.action_ids)
            if size == 0:
                raise ValueError(f"make_batch: turn {k} of episode {episode} has no action token; expected at least one.")
            row = self._row(turn.context_ids, new=(new and k == first) or self.row_per_turn)
            self.rows[row] = np.concatenate([self.rows[row], turn.action_ids])
            paid = self.payments(turn) if self.payments is not None else ((size, turn.reward),)
            reward = np.zeros(size, np.float32)
            for tokens, part in paid:
                reward[tokens - 1] += part
            segment = k * _SEGMENTS + np.searchsorted([tokens for tokens, _ in paid], np.arange(size), side="right")
            start = len(turn.context_ids)
            self._add(row, np.arange(start, start + size), k, segment, reward, turn.logp)
            self.states.append(turn.states)
        row = self._row(final, new=False) if boot else len(self.rows) - 1
        place = min(first + len(turns), self.max_turns - 1) / self.max_turns  # beyond the limit no value is ever learned
        self.boot.append((row, len(self.rows[row]) - 1, place, boot))

    def _row(self, context: np.ndarray, new: bool) -> int:
        """The row that ends with ``context``: the newest one if it is a prefix, else a new one."""
        context = np.asarray(context, dtype=np.int64)
        last = self.rows[-1] if self.rows and not new else None
        if last is not None and len(last) <= len(context) and np.array_equal(context[: len(last)], last):
            self.rows[-1] = context
        else:
            self.rows.append(context)
        return len(self.rows) - 1

    def _add(
        self, row: int, positions: np.ndarray, turn: int, segment: int | np.ndarray, reward: np.ndarray, logp: np.ndarray
    ) -> None:
        size = len(positions)
        chain = len(self.starts) - 1
        columns = {"row": row, "turn": turn, "chain": chain, "fraction": turn / self.max_turns}
        for name, value in columns.items():
            self.flat[name].append(np.full(size, value))
        segment = np.broadcast_to(segment, size)
        for name, values in (("pos", positions), ("segment", segment), ("reward", reward), ("logp", logp)):
            self.flat[name].append(np.asarray(values))
        self.count += size

    def batch(self) -> Batch:
        def flat(name: str, dtype: torch.dtype) -> Tensor:
            return torch.from_numpy(np.concatenate(self.flat[name])).to(dtype)

        states = [part for part in self.states if part is not None]
        rows, positions, fractions, boots = zip(*self.boot)
        return Batch(
            rows=tuple(self.rows),
            row_A=flat("row", torch.int64),
            pos_A=flat("pos", torch.int64),
            turn_A=flat("turn", torch.int64),
            segment_A=torch.unique(flat("segment", torch.int64), return_inverse=True)[1],  # numbered without gaps
            chain_A=flat("chain", torch.int64),
            fraction_A=flat("fraction", torch.float32),
            logp_old_A=flat("logp", torch.float32),
            states_AH=torch.from_numpy(np.concatenate(states)) if len(states) == len(self.states) else None,
            reward_A=flat("reward", torch.float32),
            starts_C=torch.tensor(self.starts),
            boot_row_C=torch.tensor(rows),
            boot_pos_C=torch.tensor(positions),
            boot_fraction_C=torch.tensor(fractions, dtype=torch.float32),
            bootstrapped_C=torch.tensor(boots),
            episode_C=tuple(self.episodes),
            group_C=torch.tensor(self.group_C),
        )


@dataclass(frozen=True)
class MicroBatch:
    """Rows padded on the right for one forward pass, and the action tokens in them."""

    input_ids_BL: Tensor  # int64, pad_id behind each row
    lengths_B: Tensor  # int64
    rows_A: Tensor  # int64; row within the micro-batch of each of its action tokens
    pos_A: Tensor  # int64
    index_A: Tensor  # int64; where these action tokens stand in the flat arrays of the batch
    row_ids: tuple[int, ...]  # rows of the batch

    @classmethod
    def idle(cls, pad_id: int) -> MicroBatch:
        """A row of padding with no action token in it: a pass through the model that changes nothing."""
        none = torch.zeros(0, dtype=torch.int64)
        return cls(torch.full((1, 1), pad_id), torch.ones(1, dtype=torch.int64), none, none, none, ())


def split_rows(batch: Batch, parts: int, order: Sequence[int] | None = None) -> list[list[int]]:
    """Cut the rows, in ``order``, into at most ``parts`` minibatches of about equal numbers of action tokens."""
    count_R = torch.bincount(batch.row_A, minlength=len(batch.rows)).tolist()
    chosen = [row for row in (order if order is not None else range(len(batch.rows))) if count_R[row]]
    target = sum(count_R[row] for row in chosen) / parts
    groups: list[list[int]] = [[]]
    held = 0.0
    for row in chosen:
        if held >= target * len(groups) - 1e-9 and len(groups) < parts and groups[-1]:
            groups.append([])
        groups[-1].append(row)
        held += count_R[row]
    return groups


def pack(rows: Sequence[int], length_R: Sequence[int], token_budget: int) -> list[list[int]]:
    """Rows in groups, the longest first, that padded to their first row stay within ``token_budget`` (one row at the least).

    >>> pack([0, 1, 2], [3, 8, 4], token_budget=8)
    [[1], [2, 0]]
    """
    ordered = sorted(rows, key=lambda row: (-length_R[row], row))
    groups: list[list[int]] = []
    while ordered:
        count = max(1, token_budget // length_R[ordered[0]])
        groups.append(ordered[:count])
        ordered = ordered[count:]
    return groups


def micro_batches(batch: Batch, rows: Sequence[int], token_budget: int, pad_id: int = 0) -> Iterator[MicroBatch]:
    """Group rows of similar length so that padded tokens stay within ``token_budget`` (one row at the least)."""
    index_R: dict[int, Tensor] = {}
    sorted_rows, sorted_index = torch.sort(batch.row_A, stable=True)
    for row in rows:
        low, high = torch.searchsorted(sorted_rows, torch.tensor([row, row + 1])).tolist()
        index_R[row] = sorted_index[low:high]
    for group in pack(rows, [len(ids) for ids in batch.rows], token_budget):
        ids = np.full((len(group), len(batch.rows[group[0]])), pad_id, dtype=np.int64)
        for i, row in enumerate(group):
            ids[i, : len(batch.rows[row])] = batch.rows[row]
        index = torch.cat([index_R[row] for row in group])
        yield MicroBatch(
            input_ids_BL=torch.from_numpy(ids),
            lengths_B=torch.tensor([len(batch.rows[row]) for row in group]),
            rows_A=torch.cat([torch.full((len(index_R[row]),), i, dtype=torch.int64) for i, row in enumerate(group)]),
            pos_A=batch.pos_A[index],
            index_A=index,
            row_ids=tuple(group),
        )


