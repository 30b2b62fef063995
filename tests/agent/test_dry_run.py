"""A dry run counts as a run does, and leaves no trace."""

from __future__ import annotations

import copy
import dataclasses
import re
from functools import partial

import pytest
import tiny_models
import torch
from tiny_models import Script
from toy import toy_config

from rlpa_agent import cli, dry_run
from rlpa_agent.batch import make_batch, micro_batches
from rlpa_agent.contexts import ContextKind
from rlpa_agent.dry_run import _Costs, _Talk, predict
from rlpa_agent.lora import LoraSettings
from rlpa_agent.policy import Policy
from rlpa_agent.pool import GymPool
from rlpa_agent.rollout import collect
from rlpa_agent.trainer import Trainer
from rlpa_agent.trajectory import Trajectory, Turn
from rlpa_env import ConfigError

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
        (ONE, 1, {"step": 1.0, "away": 1000.0}, 5 + 2000),
        (TWO, 2, {"step": 1.0, "away": 1000.0}, 2 + 1000),  # both are away together
        (TWO, 1, {"step": 1.0, "away": 1000.0}, 3 + 2000),  # the next person comes when the last word is heard
        ([[(4, 1), (1, 1)], [(4, 9)]], 2, {"step": 1.0, "away": 5.0}, 9 + 5),  # one is away and back while the other speaks
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


def test_contexts_that_are_read_anew_are_fed_whole_and_open_rows():
    import numpy as np

    rng = np.random.default_rng(0)
    anew = {"prefill_token": 1.0, "token": 1.0}
    latest = _Talk(sampled=[[3]], fed=[[50], [9]], leaving=[0.0, 0.0], kept=ContextKind("latest"))
    twice = _Talk([[3], [7]], [[50], [9]], [0.0, 0.0], ContextKind("latest"), samples=2)
    # Contexts of 50, 59 and 68: the second goes on from the first, whose answer and 7 more tokens it holds.
    (talk,) = dataclasses.replace(latest, sampled=[[3], [3]]).draw(1, 3, rng)
    assert talk == [(50, 3), (7, 3), (68, 3)]
    assert latest.rows(talk) == [63, 71]
    assert _Costs(**(NOTHING | {"prefill_token": 1.0})).play([talk], 1, latest.anew_from) == 125
    assert _Costs(**(NOTHING | anew)).play([talk], 1, latest.anew_from) == 125 + (50 + 51 + 52) + (60 + 61 + 62) + (68 + 69 + 70)
    (talk,) = twice.draw(1, 3, rng)
    assert talk == [(50, 3), (50, 3), (59, 7), (59, 7), (68, 7), (68, 7)]
    assert twice.rows(talk) == [53, 66, 66, 75, 75]  # the first answer's row is gone on with
    assert dataclasses.replace(twice, kept=ContextKind()).rows(talk) == [53, 66, 75, 75]
    window = _Talk([[3], [3]], [[50], [9]], [0.0, 0.0], ContextKind("window", 2))
    assert window.draw(1, 5, rng) == [[(50, 3), (7, 3), (68, 3), (68, 3), (68, 3)]]


class Copied(GymPool):
    """Slots of environments that branch by being copied whole."""

    def attempt(self, slot, text):
        twin = copy.deepcopy(self.envs[slot])
        return self._begin(slot, twin, text, lambda step: (step, (twin, step.messages)))

    def settle(self, slot, attempted):
        self.envs[slot], self._said[slot] = attempted


@pytest.mark.parametrize("kind", ["latest", "window", "append"])
def test_a_forecast_counts_all_answers_of_official_mode(tmp_path, kind, monkeypatch):
    policy = tiny_models.policy(context=1024, max_user_tokens=96)
    policy.chat.kept = ContextKind(kind, 1)
    rollout = {"dialogues": 6, "concurrent": 3, "max_new_tokens": 12, "max_turns": 4, "samples": 3, "context": kind}
    rollout |= {"window": 1} if kind == "window" else {}
    config = toy_config(tmp_path, 4, rollout=rollout, mode="official")
    trainer = Trainer(config, policy, Copied([Script(("Well, I bake.", "No."), turns=4) for _ in range(3)]), quiet=True)
    asked = []
    monkeypatch.setattr(dry_run, "collect", lambda *a, **options: asked.append(options["samples"]) or collect(*a, **options))
    forecast = predict(trainer, 1.0)
    assert set(asked) == {3}  # else it times a rollout that is never held
    trajectories, counts = trainer.gather()
    assert all(len(turn.others) == 2 for t in trajectories for turn in t.turns)
    batch = make_batch(trajectories, max_turns=4, per_turn=True)
    assert forecast.action_tokens == pytest.approx(counts.action_tokens, rel=0.1)
    if kind == "append":  # a policy that writes no blocks: other contexts would go on in their rows here
        assert forecast.row_tokens == pytest.approx(sum(map(len, batch.rows)), rel=0.15)
    else:
        assert sum(map(len, batch.rows)) * 0.85 < forecast.row_tokens < sum(map(len, batch.rows)) * 1.4


def test_environments_that_are_away_are_not_waited_for_one_after_the_other(tmp_path, monkeypatch):
    def listened(*arguments, counts, **options):
        held = collect(*arguments, counts=counts, **options)
        counts.seconds = counts.environment_seconds = 0.3 * max(len(t.turns) for t in held)  # all were away together, 0.3 s a turn
        counts.awaited_seconds = 0.3 * sum(len(t.turns) for t in held)
        return held

    monkeypatch.setattr(dry_run, "collect", listened)
    monkeypatch.setattr(dry_run, "_decoding", lambda trainer, opening, final, usual, turn, budget: _Costs(**(NOTHING | {"turn": turn})))
    config = toy_config(tmp_path, 4, rollout={"dialogues": 24, "concurrent": 24, "max_new_tokens": 6, "max_turns": 4})
    policy = tiny_models.policy(context=1024, max_user_tokens=96)
    trainer = Trainer(config, policy, lambda: Script(("Well, I bake.", "No."), turns=4), quiet=True)
    assert predict(trainer, 1.0).rollout_seconds == pytest.approx(4 * 0.3)


def test_rollouts_from_a_server_are_not_foretold(tmp_path):
    trainer = Trainer(toy_config(tmp_path, 2), tiny_models.policy(), lambda: Script(("No.",), turns=2), quiet=True)
    trainer.config = dataclasses.replace(trainer.config, rollout=dataclasses.replace(trainer.config.rollout, server="http://127.0.0.1:9"))
    with pytest.raises(ConfigError, match=r"dry run: expected rollouts that are sampled here; got rollout\.server"):
        predict(trainer, 1.0)


def test_the_paper_preset_starts(tmp_path, capsys, monkeypatch):
    tiny_models.policy(context=32_768, system_prompt=None).save(tmp_path / "start")
    monkeypatch.setattr(dry_run, "predict", partial(predict, seconds=1.0))
    few = ["--rollout.dialogues", "2", "--rollout.concurrent", "2", "--rollout.max-turns", "2", "--rollout.max-new-tokens", "8"]
    cli.main(["train", "qwen2.5-3b-paper", "--model", str(tmp_path / "start"), "--out", str(tmp_path / "run"), *few, "--dry-run"])
    shown = capsys.readouterr().out
    assert "seconds an iteration" in shown
    sampled = float(re.search(r"tokens sampled\D*([\d,.]+)", shown).group(1).replace(",", ""))
    assert sampled > 2 * 4 * 8 / 2  # four answers a turn


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


def test_states_that_rollouts_keep_are_foreseen(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(dry_run, "collect", lambda *a, **options: asked.append(options["keep_states"]) or collect(*a, **options))
    monkeypatch.setattr(dry_run, "peak_memory_mb", lambda: 0.0)
    for algo, old, steps, copies in (("ppo", "sampled", 0, 2), ("ppo", "scored", 5, 1), ("ppo", "scored", 0, 0), ("rloo", "sampled", 0, 0)):
        config = toy_config(tmp_path, 2, algo=algo, ppo={"old_logp": old, "critic_steps": steps}, rollout={"dialogues": 4, "concurrent": 2, "max_new_tokens": 6})
        policy = tiny_models.policy(context=512, max_user_tokens=96)
        forecast = predict(Trainer(config, policy, lambda: Script(("No.",), turns=2), quiet=True), 0.5)
        assert set(asked) == {copies == 2}
        assert forecast.memory_mb == pytest.approx(copies * forecast.action_tokens * 32 * 4 / 2**20)
        asked.clear()


def test_padding_is_counted_as_micro_batches_pad():
    import numpy as np

    lengths = [10, 4, 3, 4]
    assert dry_run.padded(lengths, 1, 12, np.random.default_rng(0)) == 10 + 3 * 4
    assert dry_run.padded(lengths, 1, 1, np.random.default_rng(0)) == sum(lengths)  # a row each
    assert dry_run.padded(lengths, 9, 100, np.random.default_rng(0)) == sum(lengths)  # a step each
    rows = [Trajectory((Turn(np.arange(n - 1), np.arange(1), np.zeros(1, np.float32), 0.0),), np.arange(n), True, False) for n in lengths]
    batch = make_batch(rows, max_turns=1)
    fed = sum(micro.input_ids_BL.numel() for micro in micro_batches(batch, range(4), 12))
    assert fed == dry_run.padded(lengths, 1, 12, np.random.default_rng(0))
