"""How a run stops and goes on: SIGTERM, a policy that ran away, rewards that are no numbers, damage; and what is left of it then."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_models
import torch
from tiny_models import Script
from toy import toy_config

from rlpa_agent import cli
from rlpa_agent.checkpoint import (
    CheckpointError,
    checkpointed_policy,
    load_tensors,
    read_state,
    save_checkpoint,
    seed_random,
    settle,
)
from rlpa_agent.checks import another_end, unread_settings
from rlpa_agent.config import PRESETS, EvalConfig
from rlpa_agent.policy import Policy
from rlpa_agent.progress import RunLog
from rlpa_agent.trainer import DivergedError, Trainer
from rlpa_env import ConfigError, RLPAError

TURNS = 3
FILES = ("policy/model.safetensors", "policy/value_head.weights", "state.safetensors", "state.json")


def paid(text, turn):
    """Something that a random model earns more or less of."""
    return len(text) % 3


def trainer_of(tmp_path, *, resume=False, pay=paid, evaluate=None, every=0, save_every=1, **changes):
    rollout = {"dialogues": 2, "concurrent": 2, "max_new_tokens": 6}
    config = toy_config(tmp_path, TURNS, rollout=rollout, **({"iterations": 6} | changes))
    fields = {name: getattr(config, name) for name in config.__dataclass_fields__}
    config = type(config)(**fields | {"save_every": save_every, "eval": EvalConfig(every=every, users=1)})
    if resume:
        policy = Policy.load(checkpointed_policy(config.out), max_user_tokens=96)
    else:
        policy = tiny_models.policy(seed=0, context=1024, max_user_tokens=96)
    trainer = Trainer(config, policy, lambda: Script(("Well.",), turns=TURNS, pay=pay), evaluate, quiet=True)
    if resume:
        trainer.resume()
    return trainer


def after_iteration(trainer, number, do):
    """Have ``do(figures)`` happen at the end of an iteration."""
    iterate = trainer.one_iteration

    def iterated(*arguments):
        figures = iterate(*arguments)
        if trainer.iteration == number:
            do(figures)
        return figures

    trainer.one_iteration = iterated
    return trainer


def terminate(figures):
    os.kill(os.getpid(), signal.SIGTERM)


def run_away(figures):
    figures["stop"] = True


def log_of(trainer, name="metrics.jsonl"):
    return [json.loads(line) for line in (trainer.config.out / name).read_text().splitlines()]


@pytest.mark.parametrize(("save_every", "kept"), [(1, 2), (2, 2), (3, 0), (50, 0)])
def test_a_policy_that_ran_away_does_not_replace_the_last_good_one(tmp_path, save_every, kept):
    """The fourth iteration's dialogues show that the third left a policy too far from the start."""
    trainer, weights = trainer_of(tmp_path, save_every=save_every, ppo={"max_kl": 1e6}), {}
    start = trainer.policy.lm.get_output_embeddings().weight
    weights[0] = start.detach().clone()
    for number in (1, 2, 3):
        after_iteration(trainer, number, lambda _, number=number: weights.update({number: start.detach().clone()}))
    assert after_iteration(trainer, 4, run_away).run()["stop"]
    assert read_state(trainer.last)["iteration"] == kept
    stored = Policy.load(checkpointed_policy(trainer.config.out)).lm.get_output_embeddings().weight
    assert torch.equal(stored, weights[kept])
    assert not torch.equal(weights[2], weights[3])
    assert sorted(path.name for path in trainer.config.out.glob("last*")) == ["last"]
    assert log_of(trainer)[-1]["iteration"] == 4


def test_a_policy_that_was_saved_by_sigterm_and_then_proves_to_have_run_away_is_not_kept_either(tmp_path):
    options = {"save_every": 2, "ppo": {"max_kl": 1e6}}
    with pytest.raises(SystemExit):
        after_iteration(trainer_of(tmp_path, **options), 3, terminate).run()
    second = trainer_of(tmp_path, resume=True, **options)
    assert second.iteration == 3
    after_iteration(second, 4, run_away).run()
    assert read_state(second.last)["iteration"] == 2


def test_the_kl_of_real_dialogues_decides_what_is_kept(tmp_path):
    optim = {"policy_lr": 1e-2, "warmup_iterations": 0}
    trainer = trainer_of(tmp_path, iterations=50, ppo={"max_kl": 1e-4}, optim=optim)
    trainer.run()
    kl = [line["kl_per_turn"] for line in log_of(trainer)]
    assert kl[-1] > 1e-4 >= max(kl[:-1])
    assert read_state(trainer.last)["iteration"] == len(kl) - 2  # whose dialogues were the last to be near the start
    whole = trainer_of(tmp_path / "whole", iterations=2, ppo={"max_kl": 1e6})
    whole.run()
    assert sorted(path.name for path in whole.config.out.glob("last*")) == ["last"]  # nothing is left over of an ordinary run


def test_a_checkpoint_on_trial_is_dropped_or_kept_whole(tmp_path):
    policy, folder = tiny_models.policy(), tmp_path / "last"

    def save(number):
        save_checkpoint(folder, policy=policy, optimizers={}, state={"number": number}, on_trial=True)

    for number in (1, 2, 3):  # 1 is the last that was found good
        save(number)
    settle(folder, good=False)
    assert read_state(folder)["number"] == 1
    save(4)
    settle(folder, good=True)
    settle(folder, good=False)  # no trial, no verdict
    assert read_state(folder)["number"] == 4
    folder.rename(tmp_path / "last.old")  # a kill between the two renames
    settle(folder, good=True)
    assert read_state(folder)["number"] == 4
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_rewards_that_are_no_numbers_stop_the_run_with_the_batch_and_sound_weights(tmp_path):
    trainer = trainer_of(tmp_path, pay=lambda text, turn: float("nan"), ppo={"epochs": 4})
    with pytest.raises(DivergedError, match=r"iteration 1: expected finite .* three optimizer steps .*bad_batch\.pt.*policy-lr") as caught:
        trainer.run()
    assert isinstance(caught.value, RLPAError)
    assert torch.load(trainer.config.out / "bad_batch.pt", weights_only=False)["reward_A"].isnan().any()
    stored = Policy.load(checkpointed_policy(trainer.config.out))
    assert all(bool(weight.isfinite().all()) for weight in (*stored.lm.parameters(), *stored.value_head.parameters()))
    assert read_state(trainer.last)["normaliser"] == [0.0, 1.0, 0]


def test_weights_that_are_not_finite_replace_no_checkpoint(tmp_path):
    trainer = trainer_of(tmp_path, iterations=1)
    trainer.run()
    before = (trainer.last / "policy" / "value_head.weights").read_bytes()
    for weight in (next(trainer.policy.parameters_value()), next(trainer.policy.parameters_policy())):
        kept = weight.detach().clone()
        with torch.no_grad():
            weight.flatten()[0] = float("inf")
        trainer.save()
        with torch.no_grad():
            weight.copy_(kept)
    assert (trainer.last / "policy" / "value_head.weights").read_bytes() == before
    stored = Policy.load(checkpointed_policy(trainer.config.out))
    assert all(bool(weight.isfinite().all()) for weight in stored.lm.parameters())


@pytest.mark.parametrize("stopped", ["by SIGTERM", "by its iterations"])
def test_T11_six_iterations_are_three_and_three_under_a_falling_rate(tmp_path, stopped):
    """The same command after SIGTERM; or two commands, where schedule_iterations says when the rate is 0."""
    optim = {"schedule": "linear", "schedule_iterations": None if stopped == "by SIGTERM" else 6}
    whole = trainer_of(tmp_path / "whole", optim=optim)
    whole.run()
    if stopped == "by SIGTERM":
        with pytest.raises(SystemExit):
            after_iteration(trainer_of(tmp_path / "parts", optim=optim), 3, terminate).run()
    else:
        trainer_of(tmp_path / "parts", optim=optim, iterations=3).run()
    second = trainer_of(tmp_path / "parts", resume=True, optim=optim)
    assert second.iteration == 3
    second.run()
    for name in FILES:
        assert (whole.last / name).read_bytes() == (second.last / name).read_bytes(), name
    assert log_of(whole)[-1]["kl"] == log_of(second)[-1]["kl"] != 0.0


def test_T11_another_process_goes_on_bit_for_bit(tmp_path):
    """Parameters, optimizers, every figure that is no time or memory, and every dialogue with its estimates."""
    trainer_of(tmp_path / "whole", keep_rollouts=True).run()
    trainer_of(tmp_path / "parts", keep_rollouts=True, iterations=3).run()
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(here), str(here.parents[1])])}
    subprocess.run([sys.executable, __file__, str(tmp_path / "parts"), str(torch.get_num_threads())], env=environment, check=True, timeout=240)
    whole, parts = (tmp_path / name / "run" for name in ("whole", "parts"))
    for name in FILES:
        assert (whole / "last" / name).read_bytes() == (parts / "last" / name).read_bytes(), name
    logs = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (whole, parts)]
    assert [line["iteration"] for line in logs[1]] == [1, 2, 3, 4, 5, 6]
    assert len({line["kl"] for line in logs[0]}) > 4
    for one, other in zip(*logs, strict=True):
        names = [name for name in one if not re.search("second|memory", name)]
        assert len(names) > 30
        assert {name: one[name] for name in names} == {name: other[name] for name in names}
    kept = sorted(path.name for path in (whole / "rollouts").iterdir())
    assert len(kept) == 12
    for name in kept:
        assert (whole / "rollouts" / name).read_bytes() == (parts / "rollouts" / name).read_bytes(), name


def test_another_machine_version_or_number_of_threads_is_told(tmp_path, monkeypatch):
    trainer = trainer_of(tmp_path)
    trainer.save()
    known = read_state(trainer.last)["machine"]
    assert known["threads"] == torch.get_num_threads()
    assert known["torch"] == torch.__version__
    trainer.resume()  # a warning would be an error here
    monkeypatch.setattr("rlpa_agent.checkpoint.machine", lambda: known | {"threads": 99})
    with pytest.warns(UserWarning, match=rf"written with threads {known['threads']} \(here 99\); the run goes on, but not bit for bit"):
        trainer.resume()


def test_schedule_iterations_are_all_that_its_schedule_depends_on(tmp_path):
    trainer = trainer_of(tmp_path, iterations=4, minutes=1.0, optim={"schedule": "linear", "schedule_iterations": 8})
    trainer.iteration = 2
    assert trainer._done(59.0) == 0.25
    trainer.iteration = 9
    assert trainer._done(0.0) == 1.0


def test_a_resumed_run_has_only_the_minutes_that_are_left(tmp_path):
    first = trainer_of(tmp_path, iterations=2)
    first.run()
    line = log_of(first)[-1]
    records = [line | {"iteration": i, "seconds": seconds} for i, seconds in ((1, 599.9999), (2, 1e-5), (3, 1e6))]  # the third has been lost by a kill
    (first.config.out / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    second = trainer_of(tmp_path, resume=True, iterations=50, minutes=10.0)
    assert second.training_seconds == pytest.approx(599.99991)
    second.run()
    assert second.iteration == 3


@pytest.mark.parametrize("budget", ["action_tokens", "minutes", "iterations"])
def test_a_run_whose_budget_is_used_up_learns_nothing_when_it_is_resumed(tmp_path, budget):
    """A kill has prevented its last validation, which comes at an iteration at which nobody looks otherwise: that is made up for."""
    limits = {"iterations": None, budget: 1e-6 if budget == "minutes" else 1}
    first = trainer_of(tmp_path, every=2, evaluate=judge_of([1.0, KeyboardInterrupt()]), **limits)
    with pytest.raises(KeyboardInterrupt):
        first.run()
    before = {name: (first.last / name).read_bytes() for name in FILES}
    second = trainer_of(tmp_path, resume=True, every=2, evaluate=judge_of([5.0]), **limits)
    assert second.run() == {}
    assert second.iteration == 1
    assert [(line["iteration"], line["return"]) for line in log_of(second, "validation.jsonl")] == [(0, 1.0), (1, 5.0)]
    assert all((second.last / name).read_bytes() == content for name, content in before.items() if name != "state.json")  # which says what is best
    assert trainer_of(tmp_path, resume=True, every=2, evaluate=judge_of([]), **limits).run() == {}  # and only once


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "value_head.weights"])
def test_weights_of_best_never_stand_in_for_damaged_ones_of_last(tmp_path, name):
    trainer = trainer_of(tmp_path, iterations=1, every=1, evaluate=lambda policy: {"return": 1.0})
    trainer.run()
    assert checkpointed_policy(trainer.config.out, "best").parts[-2:] == ("best", "policy")
    (trainer.last / "policy" / name).unlink()
    with pytest.raises(CheckpointError, match=r"last.policy: expected a model.*damaged"):
        checkpointed_policy(trainer.config.out)


def test_sigterm_does_not_wait_for_a_dialogue_to_end(tmp_path):
    turns = []

    def pay(text, turn):
        turns.append(turn)
        if len(turns) == 1:
            terminate({})
        return 0.0

    trainer = trainer_of(tmp_path, pay=pay)
    with pytest.raises(SystemExit) as caught:
        trainer.run()
    assert caught.value.code == 0
    assert turns == [0]
    assert read_state(trainer.last)["iteration"] == 0


def test_sigterm_that_an_environment_swallowed_or_that_came_between_rollouts_is_not_forgotten(tmp_path):
    turns = []

    def pay(text, turn):
        turns.append(turn)
        try:
            if len(turns) == 1:
                terminate({})
        except BaseException:  # as an environment might
            return 0.0
        return 0.0

    trainer = trainer_of(tmp_path, pay=pay)
    with pytest.raises(SystemExit):
        trainer.run()
    assert 1 < len(turns) <= 2 * TURNS
    assert read_state(trainer.last)["iteration"] == 0
    turns.clear()
    again = trainer_of(tmp_path / "again", pay=pay, every=1, evaluate=lambda policy: terminate({}) or {"return": 1.0})
    with pytest.raises(SystemExit):
        again.run()
    assert turns == []


def judge_of(returns):
    """Returns by iteration, in their order; an exception is raised, as if the process was killed there."""
    left = list(returns)

    def judged(policy):
        value = left.pop(0)
        if isinstance(value, BaseException):
            raise value
        return {"return": value}

    return judged


def test_best_is_not_replaced_by_a_worse_policy_after_a_kill(tmp_path):
    """``last`` was saved before the validation of its iteration, so it knows nothing of the 5 that ``best`` earned."""

    def die(figures):
        raise KeyboardInterrupt

    first = trainer_of(tmp_path, every=1, evaluate=judge_of([1.0, 5.0]), iterations=2)
    with pytest.raises(KeyboardInterrupt):
        after_iteration(first, 2, die).run()
    assert read_state(first.last)["best"] == 1.0
    with (first.config.out / "validation.jsonl").open("a") as file:
        file.write('{"iteration": 2, "return": 9.0}\n{"iterat')  # of an iteration that is lost
    second = trainer_of(tmp_path, resume=True, every=1, evaluate=judge_of([3.0]), iterations=2)
    second.run()
    assert read_state(second.config.out / "best")["iteration"] == 1
    assert [(line["iteration"], line["return"]) for line in log_of(second, "validation.jsonl")] == [(0, 1.0), (1, 5.0), (2, 3.0)]


def test_a_validation_that_a_kill_prevented_is_made_up_for(tmp_path):
    first = trainer_of(tmp_path, every=1, evaluate=judge_of([1.0, KeyboardInterrupt()]), iterations=2)
    with pytest.raises(KeyboardInterrupt):
        first.run()
    second = trainer_of(tmp_path, resume=True, every=1, evaluate=judge_of([5.0, 3.0]), iterations=2)
    second.run()
    assert [(line["iteration"], line["return"]) for line in log_of(second, "validation.jsonl")] == [(0, 1.0), (1, 5.0), (2, 3.0)]
    assert read_state(second.config.out / "best")["iteration"] == 1


def test_lines_of_another_run_that_never_saved_are_not_taken_for_its_own(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "validation.jsonl").write_text('{"iteration": 0, "return": 99.0}\n')
    trainer = trainer_of(tmp_path, every=1, evaluate=judge_of([1.0, 2.0]), iterations=1)
    trainer.run()
    assert [line["return"] for line in log_of(trainer, "validation.jsonl")] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"algo": "rloo", "rollout": {"group": 2}, "ppo": {"lam_turn": 0.5}}, "lam_turn=0.5 does nothing with algo='rloo'"),
        ({"algo": "grpo", "rollout": {"group": 2}, "ppo": {"critic_steps": 7}}, "critic_steps=7 does nothing"),
        ({"algo": "rloo", "rollout": {"group": 2}, "ppo": {"baseline": "turn"}}, "baseline='turn' does nothing.*grpo's"),
        ({"rollout": {"window": 2}}, "window=2 does nothing with context='append'"),
        ({"algo": "reinforce", "ppo": {"lam_token": 0.5}}, "lam_token=0.5 does nothing with algo='reinforce', which has no critic"),
        ({"algo": "grpo", "rollout": {"group": 2}, "ppo": {"horizon": "truncate"}}, "horizon='truncate' does nothing with algo='grpo'"),
        ({"mode": "official", "ppo": {"gamma_turn": 0.5}}, "gamma_turn=0.5 does nothing with mode='official'"),
        ({"ppo": {"importance_cap": 7.0}}, "importance_cap=7.0 does nothing with rollouts that are sampled in this process"),
        ({"ppo": {"vf_coef": 0.3}}, "vf_coef=0.3 does nothing with model.value_grad='detach'"),
    ],
)
def test_settings_that_nothing_reads_are_told(tmp_path, changes, said):
    config = toy_config(tmp_path, TURNS, **changes)
    with pytest.warns(UserWarning, match=said):
        Trainer(config, tiny_models.policy(), lambda: Script(("Well.",)), quiet=True)


def test_a_rate_that_falls_over_the_run_tells_of_another_end(tmp_path):
    config = toy_config(tmp_path, TURNS, iterations=3, optim={"schedule": "linear"})
    assert another_end(config) is None  # it has not begun
    config.out.mkdir(parents=True)
    (config.out / "config.json").write_text(json.dumps(config.as_dict()))
    assert another_end(config) is None
    longer = dataclasses.replace(config, iterations=6)
    assert "was {'iterations': 3} and is {'iterations': 6} from now on" in another_end(longer)
    for optim in ({"schedule": "constant"}, {"schedule": "linear", "schedule_iterations": 3}):
        assert another_end(dataclasses.replace(longer, optim=dataclasses.replace(longer.optim, **optim))) is None


def test_settings_that_are_read_are_not_told(tmp_path):
    grouped = toy_config(tmp_path, TURNS, algo="grpo", rollout={"group": 2, "context": "window", "window": 2}, ppo={"baseline": "turn"})
    assert unread_settings(grouped) == []
    Trainer(grouped, tiny_models.policy(), lambda: Script(("Well.",)), quiet=True)  # a warning would be an error here
    capped = toy_config(tmp_path, TURNS, ppo={"importance_cap": 7.0})
    assert unread_settings(capped, sampled_elsewhere=True) == []
    Trainer(capped, tiny_models.policy(), lambda: Script(("Well.",)), quiet=True, generator=SimpleNamespace())
    with pytest.warns(UserWarning, match="importance_cap"):
        Trainer(capped, tiny_models.policy(), lambda: Script(("Well.",)), quiet=True)


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[2]))
    trainer_of(Path(sys.argv[1]), resume=True, keep_rollouts=True).run()


def test_validation_tells_how_much_better_profiles_of_training_people_are_and_goes_on_with_it_when_resumed(tmp_path):
    for keep, gained in ((-1, 0.0), (1, 0.125)):  # resumed behind the first iteration, whose validation a kill has prevented
        log = RunLog(tmp_path, 3, quiet=True, keep=keep)
        log.validation(tmp_path / "validation.jsonl", max(0, keep), {"return": 1.0, "profile_f1": 0.25 + gained})
        log.iteration({"iteration": 1, "return": 1.0, "kl_per_turn": 0.0, "profile/f1": 0.75, "health": "ok"})
        log.close()
    lines = [json.loads(line) for line in (tmp_path / "validation.jsonl").read_text().splitlines()]
    assert [line.get("f1_gap") for line in lines] == [None, 0.375]


def test_tensorboard_shows_no_iteration_that_a_kill_has_lost(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for keep, held in ((-1, {1: 10.0, 2: 20.0, 3: 30.0}), (1, {2: 21.0})):
        log = RunLog(tmp_path, 3, quiet=True, keep=keep)
        for iteration, value in held.items():
            log.iteration({"iteration": iteration, "return": value, "kl_per_turn": 0.0, "health": "ok"})
        log.close()
    shown = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("return")
    assert [(event.step, event.value) for event in shown] == [(1, 10.0), (2, 21.0)]


@pytest.mark.parametrize("when", ["while dialogues are held", "while learning"])
def test_ctrl_c_saves_what_was_learned_and_says_so_to_who_called(tmp_path, when):
    trainer = trainer_of(tmp_path, iterations=50, save_every=50)
    interrupt = partial(os.kill, os.getpid(), signal.SIGINT)
    if when == "while learning":
        after_iteration(trainer, 2, lambda _: interrupt())
    else:
        after_iteration(trainer, 2, lambda _: setattr(trainer.envs, "begin", lambda *_: interrupt()))
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert read_state(trainer.last)["iteration"] == 2
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_job_in_the_background_goes_on_ignoring_ctrl_c(tmp_path, monkeypatch):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        trainer = after_iteration(trainer_of(tmp_path, iterations=3), 2, lambda _: os.kill(os.getpid(), signal.SIGINT))
        trainer.run()
    finally:
        signal.signal(signal.SIGINT, before)
    assert read_state(trainer.last)["iteration"] == 3


def test_a_second_ctrl_c_does_not_wait(tmp_path):
    trainer = trainer_of(tmp_path, iterations=50, save_every=50)

    def twice(_):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the second did not stop it")

    with pytest.raises(KeyboardInterrupt):
        after_iteration(trainer, 2, twice).run()
    assert not trainer.last.exists()


def test_the_command_says_how_to_go_on_after_ctrl_c(monkeypatch, capsys):
    monkeypatch.setattr(cli, "_train", lambda _: signal.raise_signal(signal.SIGINT))
    with pytest.raises(SystemExit) as caught:
        cli.main(["train", "tiny"])
    assert (caught.value.code, capsys.readouterr().err) == (130, "rlpa-agent: interrupted; --resume goes on.\n")


@pytest.mark.parametrize("way", ["SIGTERM", "RLPAError", "an environment's own"])
def test_what_an_environment_draws_from_global_generators_is_drawn_again_after_a_stop_within_a_rollout(tmp_path, way):
    drawn, stop_at = [], None

    def pay(text, turn):
        drawn.append(random.random())
        if len(drawn) == stop_at:
            terminate({}) if way == "SIGTERM" else lost()
        return drawn[-1]

    def lost():
        raise RLPAError("the server is down") if way == "RLPAError" else ConnectionError("the game is down")

    def returns(folder):
        (metrics,) = folder.rglob("metrics.jsonl")
        return [json.loads(line)["return"] for line in metrics.read_text().splitlines()]

    seed_random(0, 0)
    trainer_of(tmp_path / "whole", pay=pay, iterations=3).run()
    stop_at = len(drawn) + 2 * TURNS + 3  # in the second of two dialogues' turns, second iteration
    seed_random(0, 0)
    with pytest.raises((SystemExit, RLPAError, ConnectionError)):
        trainer_of(tmp_path / "stopped", pay=pay, iterations=3, save_every=50).run()
    assert len(returns(tmp_path / "stopped")) == 1
    random.seed(99)  # another process has another state
    trainer_of(tmp_path / "stopped", pay=pay, iterations=3, resume=True).run()
    assert returns(tmp_path / "stopped") == returns(tmp_path / "whole")


def test_a_kill_while_the_checkpoint_before_is_deleted_leaves_one_of_the_name(tmp_path, monkeypatch):
    small, last = tiny_models.policy(seed=0, context=256), tmp_path / "last"
    for iteration in (1, 2):
        save_checkpoint(last, policy=small, optimizers={}, state={"iteration": iteration}, on_trial=True)
    rmtree = shutil.rmtree

    def killed(folder, **options):
        if Path(folder).name == "last.gone" and Path(folder).exists():
            raise KeyboardInterrupt
        rmtree(folder, **options)

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(last, policy=small, optimizers={}, state={"iteration": 3}, on_trial=True)
    assert read_state(last)["iteration"] == 3
    assert read_state(last.with_name("last.old"))["iteration"] == 1


def test_a_run_of_which_a_kill_left_only_the_checkpoint_before_is_a_run(tmp_path):
    trainer_of(tmp_path, iterations=1).run()
    out = next(path.parent for path in tmp_path.rglob("last"))
    (out / "last").rename(out / "last.old")
    assert cli.policy_path(str(out)) == str(out / "last.old/policy")
    with pytest.raises(ConfigError, match="holds a run"):
        cli.build_trainer(dataclasses.replace(PRESETS["tiny"], out=out))


@pytest.mark.parametrize("names", [("policy", "policy.heads"), ("a.b", "a.c")])
def test_optimizers_of_ones_own_may_have_any_name(tmp_path, names):
    small = tiny_models.policy(seed=0, context=256)
    weights = {name: torch.nn.Parameter(torch.ones(2)) for name in names}
    optimizers = {name: torch.optim.AdamW([weight]) for name, weight in weights.items()}
    for number, (name, optimizer) in enumerate(optimizers.items(), 1):
        weights[name].grad = torch.full((2,), float(number))
        optimizer.step()
    save_checkpoint(tmp_path / "last", policy=small, optimizers=optimizers, state={"format": "mine", "iteration": 1})
    assert read_state(tmp_path / "last")["iteration"] == 1
    fresh = {name: torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))]) for name in names}
    load_tensors(tmp_path / "last", small, fresh)
    for name in names:
        assert [e["exp_avg"].tolist() for e in fresh[name].state.values()] == [e["exp_avg"].tolist() for e in optimizers[name].state.values()]
