"""A dry run counts as a run does, and leaves no trace."""

from __future__ import annotations

from functools import partial

import pytest
import tiny_models
import torch
from tiny_models import Script
from toy import toy_config

from rlpa_agent import cli, dry_run
from rlpa_agent.dry_run import _Costs, _Talk, predict
from rlpa_agent.lora import LoraSettings
from rlpa_agent.policy import Policy
from rlpa_agent.trainer import Trainer

torch.set_num_threads(1)

NOTHING = {"step": 0.0, "row": 0.0, "token": 0.0, "prefill": 0.0, "prefill_token": 0.0, "turn": 0.0}
ONE = [[(10, 3), (5, 2)]]
TWO = [[(4, 2)], [(4, 1)]]


@pytest.mark.parametrize(
    ("talks", "rows", "costs", "seconds"),
    [
        (ONE, 1, {"prefill": 100.0, "prefill_token": 1.0}, 100 + 10 + 100 + 5),
        (ONE, 1, {"step": 1.0, "turn": 1000.0}, 5 + 2000),
        (TWO, 2, {"prefill": 100.0, "prefill_token": 1.0}, 100 + 8),  # both in one call
        (TWO, 2, {"row": 10.0}, 2 * 10 + 10),  # the row of the shorter one is gone in the second step
        (TWO, 2, {"token": 1.0}, 2 * 4 + 5),
        ([[(4, 1), (1, 1)], [(4, 2)]], 2, {"step": 1.0}, 2),  # the first goes on while the second speaks
        (TWO, 1, {"step": 1.0, "prefill": 100.0}, 3 + 200),  # one after the other
    ],
)
def test_a_rollout_is_played_through_by_the_rule_of_the_real_one(talks, rows, costs, seconds):
    assert _Costs(**(NOTHING | costs)).play(talks, rows) == seconds


def test_later_turns_are_like_the_last_one_seen_and_people_leave_as_they_did():
    import numpy as np

    talk = _Talk(sampled=[[3], [7]], fed=[[50], [9]], leaving=[0.0, 0.0])
    assert talk.draw(2, 4, np.random.default_rng(0)) == [[(50, 3), (9, 7), (9, 7), (9, 7)]] * 2
    leaving = _Talk(sampled=[[3], [7]], fed=[[50], [9]], leaving=[0.0, 1.0])
    assert leaving.draw(1, 4, np.random.default_rng(0)) == [[(50, 3), (9, 7)]]


@pytest.mark.parametrize("adapters", [False, True])
def test_a_forecast_counts_what_an_iteration_has_and_leaves_no_trace(tmp_path, adapters):
    policy = tiny_models.policy(context=1024, max_user_tokens=96)
    if adapters:
        policy.save(tmp_path / "base")
        options = {"lora": LoraSettings(rank=4), "rollout_dtype": torch.bfloat16, "gradient_checkpointing": True}
        policy = Policy.from_pretrained(tmp_path / "base", max_user_tokens=96, **options)
    rollout = {"dialogues": 12, "concurrent": 6, "max_new_tokens": 20, "max_turns": 3}
    config = toy_config(tmp_path, 3, rollout=rollout, ppo={"critic_steps": 2})
    trainer = Trainer(config, policy, lambda: Script(("Well, I bake.", "No."), turns=3), quiet=True)
    state = [p.clone() for p in (*policy.lm.parameters(), *policy.parameters_value())]
    forecast = predict(trainer, 1.0)
    assert all(torch.equal(a, b) for a, b in zip(state, (*policy.lm.parameters(), *policy.parameters_value()), strict=True))
    assert not any(optimizer.state for optimizer in trainer.learner.optimizers.values())
    assert trainer.learner.optimizers["policy"].param_groups[0]["lr"] == config.optim.policy_lr
    assert not config.out.exists()
    assert forecast.trainable == (4096 if adapters else sum(p.numel() for p in policy.lm.parameters())) + 32 * 32 + 32 + 33 + 21
    assert forecast.parameters == sum(p.numel() for p in state)
    trajectories, counts = trainer.gather()
    rows = sum(len(t.turns[-1].context_ids) + len(t.turns[-1].action_ids) for t in trajectories)
    assert forecast.action_tokens == pytest.approx(counts.action_tokens, rel=0.25)
    assert forecast.row_tokens == pytest.approx(rows, rel=0.15)
    assert forecast.seconds == forecast.rollout_seconds + forecast.update_seconds > 0


def test_the_command_line_prints_it_and_writes_nothing(tmp_path, capsys, monkeypatch):
    start = tmp_path / "start"
    tiny_models.policy(context=2048).save(start)
    monkeypatch.setattr(dry_run, "predict", partial(predict, seconds=1.0))
    options = ["train", "tiny", "--model", str(start), "--out", str(tmp_path / "run"), "--rollout.dialogues", "2"]
    cli.main([*options, "--rollout.max-turns", "2", "--rollout.max-new-tokens", "8", "--dry-run"])
    shown = capsys.readouterr().out
    for label in ("trainable", "peak memory", "seconds an iteration"):
        assert label in shown
    assert not (tmp_path / "run").exists()
