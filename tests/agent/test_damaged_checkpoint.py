"""Damaged checkpoints, at random: a named error that says which file, or nothing was lost."""

from __future__ import annotations

import shutil

import pytest
import tiny_models
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlpa_agent.checkpoint import (
    CheckpointError,
    checkpointed_policy,
    load_tensors,
    read_state,
    save_checkpoint,
)
from rlpa_agent.policy import Policy

FILES = ("state.json", "state.safetensors", "policy/model.safetensors", "policy/value_head.weights")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint") / "last"
    small = tiny_models.policy(seed=0, context=256)
    save_checkpoint(folder, policy=small, optimizers={}, state={"iteration": 3, "best": 1.5})

    def read(where):  # as --resume does
        policy = Policy.load(checkpointed_policy(where.parent))
        load_tensors(where, policy, {})
        return read_state(where)

    return folder, read


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_that_still_loads_is_named(tmp_path, checkpoint, name):
    folder, read = checkpoint
    shutil.copytree(folder, tmp_path / "last")
    content = bytearray((folder / name).read_bytes())
    content[-3] ^= 1  # of a number: in a weight, or a counter
    (tmp_path / "last" / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{name}: .*corrupt"):
        read(tmp_path / "last")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_bit_of_a_checkpoint_that_is_flipped_or_an_end_that_is_lost(tmp_path, checkpoint, data):
    folder, read = checkpoint
    whole = read(folder)
    assert whole["iteration"] == 3
    damaged = tmp_path / "last"
    shutil.rmtree(damaged, ignore_errors=True)
    shutil.copytree(folder, damaged)
    name = data.draw(st.sampled_from(FILES))
    content = bytearray((damaged / name).read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[at:]
    (damaged / name).write_bytes(content)
    try:
        state = read(damaged)
    except CheckpointError as error:
        assert "corrupt" in str(error) or "this is something else" in str(error)  # noqa: PT017
        assert name in str(error)  # noqa: PT017 -- the undamaged one is read
    else:
        assert (state, name) == (whole, "state.json")  # white space, which says nothing


def test_no_flipped_bit_of_the_state_goes_unnoticed(tmp_path, checkpoint):
    folder, read = checkpoint
    whole, content = read(folder), (folder / "state.json").read_bytes()
    for bit in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        (tmp_path / "state.json").write_bytes(damaged)
        try:
            assert read_state(tmp_path) == whole  # white space, which says nothing
        except CheckpointError:
            continue
