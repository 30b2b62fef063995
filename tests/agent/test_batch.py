"""Rows of a micro-batch: each once, within the budget, of like length, and the tokens that were sampled where they say."""

from __future__ import annotations

import numpy as np
import pytest

from rlpa_agent.batch import make_batch, micro_batches, split_rows
from rlpa_agent.trajectory import Trajectory, Turn


def batch_of(*lengths):
    """Rows of so many tokens, the last two of each sampled."""
    made = []
    for i, length in enumerate(lengths):
        context, action = np.arange(length - 2), np.array([100 + i, 200 + i])
        made.append(Trajectory((Turn(context, action, np.zeros(2, np.float32), 1.0),), context, True, False))
    return make_batch(made, max_turns=1)


@pytest.mark.parametrize(
    ("budget", "expected"),
    [(20, [(0, 2), (3, 1)]), (19, [(0,), (2, 3), (1,)]), (1, [(0,), (2,), (3,), (1,)]), (1000, [(0, 2, 3, 1)])],
)
def test_micro_batches_keep_to_the_budget_and_hold_rows_of_like_length(budget, expected):
    batch = batch_of(10, 3, 9, 4)
    made = list(micro_batches(batch, range(4), budget, pad_id=7))
    assert [micro.row_ids for micro in made] == expected
    assert all(micro.input_ids_BL.numel() <= budget or len(micro.row_ids) == 1 for micro in made)
    assert sorted(i for micro in made for i in micro.index_A.tolist()) == list(range(8))
    for micro in made:
        for i, row in enumerate(micro.row_ids):
            length = len(batch.rows[row])
            assert micro.input_ids_BL[i, :length].tolist() == batch.rows[row].tolist()
            assert set(micro.input_ids_BL[i, length:].tolist()) <= {7}
        chosen = micro.input_ids_BL[micro.rows_A, micro.pos_A].tolist()
        assert chosen == [token for row in micro.row_ids for token in (100 + row, 200 + row)]


def test_rows_behind_the_last_turn_hold_nothing_and_are_in_no_minibatch():
    """A rewritten final context is read for its value alone."""
    turn = Turn(np.arange(3), np.array([100, 200]), np.zeros(2, np.float32), 1.0)
    batch = make_batch([Trajectory((turn,), np.array([9, 9, 9]), False, True, "context")], max_turns=1)
    assert (len(batch.rows), batch.boot_row_C.tolist()) == (2, [1])
    assert split_rows(batch, 1) == [[0]]
    assert split_rows(batch, 4) == [[0]]
