"""What is refused, and said, before a run begins and when it ends."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import tiny_models
import torch
from transformers import AutoModelForCausalLM, Phi3Config, Qwen2Config

from rlpa_agent import Policy, TrainConfig, Trainer
from rlpa_agent.batch import make_batch
from rlpa_agent.checkpoint import CheckpointError
from rlpa_agent.checks import unread_settings, why_ended
from rlpa_agent.cli import main, parse_preset
from rlpa_agent.config import EvalConfig, ModelConfig, OptimConfig, PPOConfig, RolloutConfig
from rlpa_agent.lora import LoraSettings
from rlpa_agent.progress import health
from rlpa_agent.tasks import build_trainer
from rlpa_agent.trajectory import Trajectory, Turn
from rlpa_env.errors import ConfigError


class Chatter:
    """Two turns, paid alike."""

    def reset(self, *, seed=None, options=None):
        self.turn = 0
        return "Hello there", {}

    def step(self, text):
        self.turn += 1
        return "Go on", 1.0, self.turn >= 2, False, {}


def config_of(out, model=None, ppo=None, **changes):
    plain = TrainConfig(
        model=ModelConfig(**(model or {})), ppo=PPOConfig(**({"critic_steps": 0} | (ppo or {}))),
        rollout=RolloutConfig(dialogues=2, max_turns=2, max_new_tokens=6), eval=EvalConfig(every=0), iterations=1, out=out,
    )  # fmt: skip
    return dataclasses.replace(plain, **changes)


@pytest.mark.parametrize(
    ("model", "made", "told"),
    [
        ({"value_grad": "shared"}, {}, r"model\.value_grad: expected 'detach', that of the policy; got 'shared'"),
        ({}, {"value_grad": "shared"}, r"model\.value_grad: expected 'shared'"),
        ({"gradient_checkpointing": True}, {}, r"model\.gradient_checkpointing: expected False"),
        ({"lora_rank": 4}, {}, r"model\.lora_rank: expected 0, that of the policy; got 4"),
    ],
)
def test_a_setting_that_the_policy_was_not_made_with_is_refused(tmp_path, model, made, told):
    with pytest.raises(ConfigError, match=told):
        Trainer(config_of(tmp_path, model), tiny_models.policy(**made), Chatter, quiet=True)
    assert not list(tmp_path.iterdir())


def test_a_policy_that_was_made_as_the_run_says_is_taken_and_so_is_an_adapter_that_it_says_nothing_of(tmp_path):
    tiny_models.policy().save(tmp_path / "start")
    settings = {"value_grad": "shared", "gradient_checkpointing": True}
    adapted = Policy.from_pretrained(tmp_path / "start", lora=LoraSettings(4, 8), **settings)
    for model in (settings, settings | {"lora_rank": 4}):
        assert Trainer(config_of(tmp_path / "run", model), adapted, Chatter, quiet=True).policy is adapted


@pytest.mark.parametrize(("ppo", "told"), [({"beta": 0.1, "max_kl": None}, "ppo.beta=0.1"), ({"beta": 0.0, "max_kl": 5.0}, "ppo.max_kl=5.0")])
def test_a_kl_to_the_start_needs_a_start(tmp_path, ppo, told):
    policy = tiny_models.policy()
    policy.reference = None
    with pytest.raises(ConfigError, match=f"expected a frozen reference, for {told}; got none"):
        Trainer(config_of(tmp_path, ppo=ppo), policy, Chatter, quiet=True)
    Trainer(config_of(tmp_path, ppo={"beta": 0.0, "max_kl": None}), policy, Chatter, quiet=True).run()


def test_checkpointing_and_dropout_do_not_go_together():
    with pytest.raises(ConfigError, match=r"expected a model without dropout; its config has \{'attention_dropout': 0\.1\}"):
        Policy(AutoModelForCausalLM.from_config(Qwen2Config(**SMALL, attention_dropout=0.1)), tiny_models.tokenizer(), gradient_checkpointing=True)


SMALL = {"vocab_size": 520, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 64}


def test_a_model_that_chooses_its_rotary_frequencies_by_the_pass_has_room_for_those_it_was_made_with():
    """Beyond them a log-probability would hang on what follows, and on the rows beside it."""
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8, "long_factor": [9.0] * 8, "original_max_position_embeddings": 128}
    config = Phi3Config(**SMALL, max_position_embeddings=512, original_max_position_embeddings=128, rope_parameters=rope, pad_token_id=0, initializer_range=0.3)
    policy = Policy.from_config(config, tiny_models.tokenizer())
    assert policy.context_limit == 128
    assert tiny_models.policy(context=512).context_limit == 512

    def logp(width):
        ids = torch.zeros(2, width + 1, dtype=torch.int64)  # the last token is told from the ``width`` before it
        ids[:, :40] = torch.arange(40) + 300
        place = (ids, torch.tensor([40, width + 1]), torch.tensor([0, 1]), torch.tensor([39, width]), torch.zeros(2))
        return float(policy.score(*place, temperature=1.0, need=("logp",)).logp[0].detach())

    assert logp(policy.context_limit) == pytest.approx(logp(40), abs=1e-4)
    assert abs(logp(129) - logp(40)) > 0.01  # what the limit is for


def test_minutes_or_tokens_alone_are_not_cut_short_by_the_iterations_of_a_preset():
    def ends(*words):
        config = parse_preset("train", ["tiny", *words]).config
        return config.iterations, config.minutes, config.action_tokens

    assert ends() == (60, None, None)
    assert ends("--minutes", "5") == (None, 5.0, None)
    assert ends("--minutes=5") == (None, 5.0, None)
    assert ends("--action-tokens", "9000") == ends("--action_tokens", "9000") == (None, None, 9000)
    assert ends("--minutes", "5", "--iterations", "60") == (60, 5.0, None)


def test_a_run_says_what_ended_it(tmp_path, capsys, monkeypatch):
    config = config_of(tmp_path, ppo={"max_kl": 5.0})
    assert why_ended(config, {"iteration": 1, "stop": False}) == "its 1 iterations are over (--iterations)"
    assert why_ended(config, {"iteration": 1, "stop": True}) == "the KL to the start passed ppo.max_kl=5"
    for ends, told in (({"minutes": 2.0}, "its 2 minutes are"), ({"action_tokens": 9000, "minutes": 0.5}, "its 0.5 minutes or 9,000 action tokens are")):
        assert why_ended(dataclasses.replace(config, iterations=None, **ends), {"iteration": 7, "stop": False}) == f"{told} used up"
    both = dataclasses.replace(config, iterations=60, minutes=2.0)
    assert why_ended(both, {"iteration": 7, "stop": False}) == "its 2 minutes are used up"
    monkeypatch.setattr("rlpa_agent.cli.run_training", lambda *_, **__: {"iteration": 60, "stop": False, "return": 1.0, "health": "ok"})
    main(["train", "tiny", "--out", str(tmp_path)])
    assert "ended: its 60 iterations are over" in capsys.readouterr().out


def test_a_word_that_is_no_verb_is_answered_with_all_of_them():
    with pytest.raises(SystemExit, match=r"verb: expected one of .*train.*; got 'trian'.*train"):
        main(["trian", "tiny"])


def test_a_run_that_does_not_go_on_names_the_settings_that_differ(tmp_path):
    Trainer(config_of(tmp_path), tiny_models.policy(), Chatter, quiet=True).run()
    other = config_of(tmp_path, ppo={"beta": 0.25}, seed=3, iterations=9)
    with pytest.raises(CheckpointError, match=r"of this configuration; seed was 0 and is 3; ppo\.beta was .* and is 0\.25\. Resume"):
        Trainer(other, tiny_models.policy(), Chatter, quiet=True).resume()
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match="their hashes are"):
        Trainer(other, tiny_models.policy(), Chatter, quiet=True).resume()


def test_a_folder_that_holds_the_best_of_a_run_is_not_a_new_one(tmp_path):
    trainer = Trainer(config_of(tmp_path), tiny_models.policy(), Chatter, quiet=True)
    trainer.save(tmp_path / "best")
    with pytest.raises(ConfigError, match="expected a new folder; it holds a run"):
        trainer.run()
    with pytest.raises(ConfigError, match="expected a new folder; it holds a run"):
        build_trainer(trainer.config, quiet=True)
    assert json.loads((tmp_path / "best" / "state.json").read_text())["iteration"] == 0


def test_few_replies_are_no_collapse_unless_two_are_alike():
    assert health({"most_common_reply": 1 / 8, "replies": 8}) == "ok"
    assert "collapse" in health({"most_common_reply": 2 / 8, "replies": 8})
    assert health({"most_common_reply": 1 / 20, "replies": 20}) == "ok"


@pytest.mark.parametrize("verb", ["train", "sft", "dpo"])
@pytest.mark.parametrize("people", ["vanilla/test", "people-test.jsonl"])
def test_test_users_teach_nobody(verb, people, tmp_path, monkeypatch):
    monkeypatch.setattr("rlpa_agent.baselines.require_trl", lambda: None)
    for module in ("cli", "tasks"):
        monkeypatch.setattr(f"rlpa_agent.{module}.load_policy", lambda *_: pytest.fail("the policy was loaded"))
    with pytest.raises(SystemExit, match=f"expected people to train on; got '{people}'"):
        main([verb, "tiny", "--split", people, "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", [["eval", "--env", "CartPole-v1", "--split", "vanilla/test", "--users", "1"], ["train", "tiny", "--rollout.env-id", "CartPole-v1"]])
def test_an_environment_without_people_is_refused_in_a_line(command, tmp_path):
    with pytest.raises(SystemExit, match=r"env id 'CartPole-v1': expected an environment of people, made with .*split"):
        main([*command, "--out", str(tmp_path / "run")])


def test_a_policy_that_is_not_there_is_not_looked_for_at_the_root_of_everything():
    with pytest.raises(SystemExit, match=r"policy: expected a folder; /nope does not exist"):
        main(["eval", "--policy", "/nope", "--users", "1"])


def test_a_trainer_that_runs_again_goes_on_in_its_files(tmp_path):
    config = config_of(tmp_path)
    judged = []
    trainer = Trainer(config, tiny_models.policy(), Chatter, lambda _: judged.append(1) or {"return": 1.0}, quiet=True)
    for iterations in (1, 2):
        trainer.config = trainer.learner.config = dataclasses.replace(config, iterations=iterations, eval=EvalConfig(every=1, users=1))
        trainer.run()
    lines = {name: [json.loads(line)["iteration"] for line in (tmp_path / name).read_text().splitlines()] for name in ("metrics.jsonl", "validation.jsonl")}
    assert lines == {"metrics.jsonl": [1, 2], "validation.jsonl": [0, 1, 2]}
    assert len(judged) == 3


def test_a_trainer_that_was_interrupted_can_run_again(tmp_path):
    class Impatient(Chatter):
        calls = 0

        def reset(self, *, seed=None, options=None):
            Impatient.calls += 1
            if Impatient.calls == 3:  # in the second iteration
                os.kill(os.getpid(), signal.SIGINT)
            return super().reset(seed=seed, options=options)

    trainer = Trainer(config_of(tmp_path, iterations=2), tiny_models.policy(), Impatient, quiet=True)
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert trainer.iteration == 1
    trainer.run()
    assert [json.loads(line)["iteration"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1, 2]


def talk(stop_reason, turns=2):
    ids = np.array([1, 2])
    made = tuple(Turn(ids, ids, np.zeros(2, np.float32), 1.0) for _ in range(turns))
    return Trajectory(made, np.array([1, 2, 1, 2]), terminated=False, truncated=True, stop_reason=stop_reason)


def test_the_environments_own_turn_limit_is_an_end_and_a_full_context_is_none():
    batch = make_batch([talk("turn_limit"), talk("context"), talk("turn_limit", 10)], max_turns=10)
    assert batch.bootstrapped_C.tolist() == [False, True, False]
    assert make_batch([talk("turn_limit")], max_turns=10, horizon="truncate").bootstrapped_C.tolist() == [True]


def test_without_a_critic_a_dialogue_that_outgrew_its_context_is_left_out():
    assert make_batch([talk("context"), talk("turn_limit")], max_turns=10, cut=False).episode_C == (1,)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"algo": "grpo", "ppo": PPOConfig(profile_paid="block")}, "ppo.profile_paid='block' does nothing with algo='grpo'"),
        ({"algo": "reinforce", "optim": OptimConfig(critic_lr=0.5)}, "optim.critic_lr=0.5 does nothing with algo='reinforce'"),
        ({"optim": OptimConfig(schedule_iterations=5)}, "optim.schedule_iterations=5 does nothing with schedule='constant'"),
        ({"ppo": PPOConfig(kl_kind="k2")}, "ppo.kl_kind='k2' does nothing with the KL in the reward"),
        ({"ppo": PPOConfig(gamma_turn=0.0, lam_turn=0.5)}, "ppo.lam_turn=0.5 does nothing with gamma_turn=0"),
        ({"ppo": PPOConfig(gamma_turn=0.0, horizon="truncate")}, "ppo.horizon='truncate' does nothing with gamma_turn=0"),
        ({"model": ModelConfig(value_grad="shared"), "algo": "rloo", "ppo": PPOConfig(vf_coef=0.3)}, "ppo.vf_coef=0.3 does nothing with algo='rloo'"),
        ({"model": ModelConfig(lora_alpha=7)}, "model.lora_alpha=7 does nothing without LoRA"),
    ],
)
def test_a_setting_that_nothing_reads_is_told(changes, told):
    assert any(line.startswith(told) for line in unread_settings(TrainConfig(**changes)))
    assert not [line for line in unread_settings(TrainConfig()) if line.startswith(told.split("=")[0])]


def test_sampling_in_a_type_or_in_shares_that_the_policy_has_not_is_refused(tmp_path):
    for model, told in (({"rollout_dtype": "bfloat16"}, "expected 'float32', that of the policy; got 'bfloat16'"), ({"shard": True}, "expected a policy that is shared out")):
        with pytest.raises(ConfigError, match=told):
            Trainer(config_of(tmp_path, model), tiny_models.policy(), Chatter, quiet=True)


def test_a_validation_colder_than_greedy_is_refused():
    with pytest.raises(ConfigError, match=r"eval\.temperature: expected at least 0; got -1"):
        EvalConfig(temperature=-1.0)


def test_the_command_line_answers_before_torch_is_loaded():
    code = "import sys, rlpa_agent.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
