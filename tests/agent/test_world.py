"""Several processes give the steps of one: the same dialogues, gradients, figures and parameters."""

from __future__ import annotations

import atexit
import dataclasses
import json
import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
from safetensors.torch import load_file, save_file
from tiny_models import Script
from toy import toy_config

from rlpa_agent.batch import make_batch
from rlpa_agent.checkpoint import read_state
from rlpa_agent.estimates import UpdateStats
from rlpa_agent.learner import Learner
from rlpa_agent.trajectory import Trajectory, Turn
from rlpa_agent.world import ALONE, World

HERE = Path(__file__).parent


class Second(World):
    """The second of two processes whose partner has nothing to add."""

    def __init__(self):
        super().__init__(1, 2)

    def summed(self, values):
        return values


def launch(size, *arguments, script=__file__):
    """Run the ``main`` of this file, or of another, in as many processes as a launcher would; their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size), "OMP_NUM_THREADS": "1"}
    paths = os.pathsep.join([str(HERE), str(HERE.parents[1])])
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), *map(str, arguments)],
            env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONPATH": paths},
        )
        for rank in range(size)
    ]
    return [process.wait(timeout=400) for process in processes]


def nothing_is_left() -> None:
    """To be called last: that no thread of the process group outlives it, which could abort a process whose work is done."""
    left = [name for task in Path("/proc/self/task").glob("*/comm") if "gloo" in (name := task.read_text())]
    if left:
        print("threads of the process group are left:", *left, file=sys.stderr, flush=True)
        os._exit(70)


def main(out: str, iterations: str) -> None:
    """Train a little policy for some iterations; it is paid for the length of what it says."""
    from rlpa_agent.trainer import Trainer

    torch.set_num_threads(1)
    world = World.from_environment()
    found = fixture(Path(out), world)
    if world.first:
        Path(out).mkdir(parents=True, exist_ok=True)
        save_file(found, Path(out) / "fixture.safetensors")
    config = toy_config(
        Path(out),
        3,
        iterations=int(iterations),
        rollout={"dialogues": 2, "concurrent": 2, "max_new_tokens": 10},
        ppo={"minibatches": 1, "critic_steps": 2, "beta": 0.01},
        optim={"token_budget": 1},
    )
    lines = ("Well, I bake.", "No.", "My sister is the nurse in the family, you know")

    def make_env():
        return Script(lines, turns=3, pay=lambda text, turn: float(len(text) % 3))

    Trainer(config, little(), make_env, quiet=True, world=world).run()


def fixture(out: Path, world: World) -> dict[str, torch.Tensor]:
    """Loss and gradient of a step on rows of 1 and 3 action tokens, w = 1, A = (+1; −1 −1 −1) as given; a micro-batch each."""
    policy = little()
    context = policy.chat.opening([("user", "Hello")])
    rows = [np.array([40]), np.array([41, 42, 43])]
    batch = make_batch([Trajectory((Turn(context, ids, np.zeros(len(ids), np.float32), 0.0),), context, True, False) for ids in rows], max_turns=10)
    learner, stats = Learner(policy, toy_config(out, 10, optim={"token_budget": 1, "max_grad_norm": 1e9}), world), UpdateStats()
    estimates = dataclasses.replace(learner.estimate(batch, 0), advantages_A=torch.tensor([1.0, -1.0, -1.0, -1.0]))
    assert learner._step(batch, [0, 1], estimates, stats, critic_only=False, first=True)
    assert stats.first_ratio_error == 0.0
    return {"loss": torch.tensor(stats.policy_loss), "gradient": torch.cat([p.grad.flatten() for p in policy.parameters_policy()])}


def little():
    return tiny_models.policy(seed=0, context=1024, max_user_tokens=96)


def test_T9_three_processes_of_which_one_has_nothing_are_one(tmp_path):
    """Two dialogues, a micro-batch each: the third process only adds zeros."""
    main(str(tmp_path / "one"), "3")
    assert launch(3, tmp_path / "three", 3) == [0, 0, 0]
    one, three = (load_file(tmp_path / name / "fixture.safetensors") for name in ("one", "three"))
    assert float(one["loss"]) == pytest.approx(0.5, abs=1e-6)
    assert float(three["loss"]) == pytest.approx(0.5, abs=1e-6)
    assert float(one["gradient"].abs().max()) > 1e-3
    assert float((one["gradient"] - three["gradient"]).abs().max()) <= 1e-6
    lines = [[json.loads(line) for line in (tmp_path / name / "run" / "metrics.jsonl").read_text().splitlines()] for name in ("one", "three")]
    assert [line["iteration"] for line in lines[1]] == [1, 2, 3]
    for one, many in zip(*lines, strict=True):
        assert one["return"] == many["return"]  # the very same dialogues
        assert one["action_tokens"] == many["action_tokens"]
        for key in ("policy_loss", "value_loss", "approx_kl", "grad_norm", "kl", "explained_variance"):
            assert many[key] == pytest.approx(one[key], rel=1e-6 if one["iteration"] == 1 else 1e-4, abs=1e-6), key
    alone, together = (load_file(tmp_path / name / "run" / "last" / "policy" / "model.safetensors") for name in ("one", "three"))
    start = little().lm.state_dict()
    moved = max(float((alone[name] - start[name]).abs().max()) for name in alone)
    assert moved > 1e-4
    assert max(float((alone[name] - together[name]).abs().max()) for name in alone) < 0.01 * moved


def test_the_group_is_left_before_the_interpreter_ends(tmp_path):
    """Else a thread of it now and then aborts a finished process (one run in forty), and the launcher calls the run failed."""
    script = tmp_path / "leave.py"
    script.write_text("""
import atexit, os, pathlib, sys
from torch import distributed
from rlpa_agent.world import World

def last():  # what is registered first is called last
    pathlib.Path(sys.argv[1], os.environ["RANK"]).write_text(str(distributed.is_initialized()))

atexit.register(last)
world = World.from_environment()
assert distributed.is_initialized() and world.gathered([world.rank]) == [0, 1]
""")
    assert launch(2, tmp_path, script=script) == [0, 0]
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["False", "False"]


@pytest.mark.skipif(find_spec("accelerate") is None, reason="needs accelerate: pip install '.[agent]'")
def test_two_processes_of_accelerate_launch_hold_the_dialogues_of_one_run(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", str(port)]
    smallest = ["--rollout.dialogues", "3", "--rollout.max-turns", "1", "--rollout.max-new-tokens", "8", "--ppo.minibatches", "1", "--ppo.critic-steps", "0"]
    train = ["-m", "rlpa_agent.cli", "train", "tiny", *smallest, "--eval.every", "0", "--iterations", "1", "--out", str(tmp_path / "two")]
    env = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(HERE.parents[1])}
    done = subprocess.run([sys.executable, *launcher, *train], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (line,) = map(json.loads, (tmp_path / "two" / "metrics.jsonl").read_text().splitlines())
    assert line["dialogues"] == 3
    assert line["turns"] == 1.0
    assert len(read_state(tmp_path / "two" / "last")["random"]) == 2  # a random state for each process


def test_a_launcher_that_starts_one_process_of_several_is_told_of(monkeypatch):
    """What accelerate launch --cpu --num_processes 2 leaves: where the others would be met, and nothing of who we are."""
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert World.from_environment().size == 1  # with --num_processes 1 that is all
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.warns(UserWarning, match="expected several processes; it has started one"):
        assert World.from_environment().size == 1


def test_a_process_whose_partner_is_silent_takes_every_second_micro_batch(tmp_path):
    policy = tiny_models.policy()
    turns = [(Turn(np.arange(3), np.arange(5, 5 + n), np.zeros(n, np.float32), 1.0),) for n in (1, 2, 3, 4)]
    batch = make_batch([Trajectory(own, np.arange(4), True, False) for own in turns], max_turns=1)
    config = toy_config(tmp_path, 1, optim={"token_budget": 1})
    ours = [micro.row_ids for micro in Learner(policy, config, Second())._micro(batch, [0, 1, 2, 3])]
    everybodys = [micro.row_ids for micro in Learner(policy, config, ALONE)._micro(batch, [0, 1, 2, 3])]
    assert everybodys == [(3,), (2,), (1,), (0,)]
    assert ours == [(2,), (0,)]


def test_processes_meet_over_main_memory_where_there_is_a_gpu_too(monkeypatch):
    """Every tensor that is summed lies there; nccl would refuse it. They wait for as long as the first may validate."""
    from torch import distributed

    asked = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(distributed, "init_process_group", lambda backend, timeout: asked.append((backend, timeout.days)))
    monkeypatch.setattr(distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    assert World.from_environment().rank == 1
    assert asked == [("gloo", 7)]


def test_each_process_has_a_gpu_of_its_own_where_there_are_several(monkeypatch):
    from torch import distributed

    chosen = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(distributed, "init_process_group", lambda backend, **options: None)
    monkeypatch.setattr(distributed, "get_rank", lambda: 3)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 4)
    World.from_environment()
    assert chosen == [1]


def test_gradients_of_a_process_with_none_are_zeros():
    a, b = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(3))
    a.grad = torch.tensor([1.0, 2.0])
    Second().add_gradients([a, b])
    assert a.grad.tolist() == [1.0, 2.0]
    assert b.grad.tolist() == [0.0, 0.0, 0.0]


if __name__ == "__main__":
    atexit.register(nothing_is_left)  # the first that is registered is called last
    main(*sys.argv[1:])
