"""Faults that a reader from outside found in the agent: other architectures, settings that nothing took, files that could not be loaded."""

from __future__ import annotations

import datetime
import warnings

import numpy as np
import pytest
import tiny_models
import torch
from transformers import (
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    Phi3Config,
    Starcoder2Config,
)
from transformers.utils import chat_template_utils

from rlpa_agent import Policy, TrainConfig, Trainer
from rlpa_agent.batch import make_batch
from rlpa_agent.chat import Chat
from rlpa_agent.checks import unread_settings
from rlpa_agent.cli import main, policy_path
from rlpa_agent.config import EvalConfig, PPOConfig, RolloutConfig
from rlpa_agent.contexts import ContextKind
from rlpa_agent.generation import decoder
from rlpa_agent.lora import LoraSettings
from rlpa_agent.progress import rollout_figures
from rlpa_agent.rollout import collect
from rlpa_agent.tasks import environments
from rlpa_agent.trajectory import Trajectory, Turn
from rlpa_env.errors import ConfigError

SMALL = {"vocab_size": 520, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.3}
WIDE = SMALL | {"intermediate_size": 64, "num_key_value_heads": 2, "tie_word_embeddings": False}


class Chatter:
    """Three turns of the same words."""

    def reset(self, *, seed=None, options=None):
        self.turn = 0
        return "Will it rain tomorrow where you are, and what will you do?", {}

    def step(self, text):
        self.turn += 1
        return "Tell me more of it, please do.", 1.0, self.turn >= 3, False, {}


def sampled_and_scored(policy):
    """The largest difference between a log-probability as sampled and as scored, in one dialogue."""
    (trajectory,) = collect(policy, [Chatter()], seeds=[0], max_new_tokens=30, max_turns=3)
    batch = make_batch([trajectory], max_turns=3)
    ids = torch.from_numpy(batch.rows[0])[None]
    scored = policy.score(ids, torch.tensor([ids.shape[1]]), batch.row_A, batch.pos_A, batch.fraction_A, temperature=1.0, need=("logp",))
    return float((scored.logp.detach() - batch.logp_old_A).abs().max())


@pytest.mark.parametrize(
    "config",
    [
        GPT2Config(**SMALL), GPTNeoXConfig(**SMALL, intermediate_size=64), OPTConfig(**SMALL, ffn_dim=64, word_embed_proj_dim=32),
        MistralConfig(**WIDE, sliding_window=None), MistralConfig(**WIDE, sliding_window=512),
    ],
    ids=["gpt2", "neox", "opt", "mistral", "mistral with a window as long as its context"],
)  # fmt: skip
def test_what_is_sampled_is_what_is_scored_whatever_the_architecture(config):
    policy = Policy.from_config(config, tiny_models.tokenizer(), system_prompt="", reference=False)
    assert sampled_and_scored(policy) < 1e-4


@pytest.mark.parametrize("kind", [MistralConfig, Phi3Config, Starcoder2Config])
def test_a_sliding_window_is_refused_wherever_a_config_names_it(kind):
    extra = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1} if kind is Phi3Config else {}
    policy = Policy.from_config(kind(**WIDE, **extra, sliding_window=16), tiny_models.tokenizer(), system_prompt="", reference=False)
    with pytest.raises(ConfigError, match="full attention in every layer; got a sliding window of 16"):
        sampled_and_scored(policy)


def test_a_snapshot_in_bf16_knows_far_positions_as_well(tmp_path):
    """A Llama with LoRA on a bf16 base: its rotary frequencies stay in fp32, as they are where it is scored."""
    config = LlamaConfig(**{**WIDE, "hidden_size": 128, "max_position_embeddings": 2048, "initializer_range": 0.15})
    Policy.from_config(config, tiny_models.tokenizer(), system_prompt="", reference=False).save(tmp_path, dtype=torch.bfloat16)
    policy = Policy.from_pretrained(tmp_path, lora=LoraSettings(4, 8), dtype=torch.bfloat16, reference=False)
    ids = torch.randint(3, 500, (1200,), generator=torch.Generator().manual_seed(0))
    head = policy.lm.get_output_embeddings().weight.float().T
    with torch.no_grad():
        right = policy.lm.base_model(input_ids=ids[None], use_cache=False).last_hidden_state[0, -1]
        ours = decoder(policy.lm, 1, 1201, torch.bfloat16).prefill([0], [ids.numpy()])[0]
        right, ours = (torch.log_softmax(hidden.float() @ head, -1) for hidden in (right, ours))
    assert float((right - ours).abs().max()) < 0.02


def test_a_trainer_takes_contexts_and_sampling_from_its_config(tmp_path):
    rollout = RolloutConfig(context="window", window=1, dialogues=1, max_turns=4, max_user_tokens=8, max_new_tokens=12, temperature=0.7)
    policy = tiny_models.policy(context=2048)
    trainer = Trainer(TrainConfig(rollout=rollout, eval=EvalConfig(every=0), out=tmp_path / "run"), policy, environments(rollout), quiet=True)
    (trajectory,), _ = trainer.gather()
    assert policy.tokenizer.decode(trajectory.turns[-1].context_ids).count("<|im_start|>user") <= 2  # one exchange and the newest message
    trainer.save()
    assert Policy.load(trainer.last / "policy", reference=False).temperature == 0.7
    assert (policy.chat.kept, policy.chat.max_user_tokens) == (ContextKind("window", 1), 8)
    own = tiny_models.policy(context=2048, max_user_tokens=32)
    Trainer(TrainConfig(rollout=rollout, eval=EvalConfig(every=0), out=tmp_path / "own"), own, environments(rollout), quiet=True)
    assert own.chat.max_user_tokens == 32


@pytest.mark.parametrize(("env_id", "kind"), [("RLPA-Long-v0", "window"), ("rlpa_env:RLPA-Long-v0", "window"), ("rlpa_env:RLPA-v0", "append")])
def test_long_dialogues_have_a_window_by_any_name_of_their_id(env_id, kind):
    assert TrainConfig(rollout=RolloutConfig(env_id=env_id)).context.kind == kind


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # of peft
def test_an_adapter_for_layers_by_a_regular_expression_is_saved_as_it_was(tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    tiny_models.policy().save(tmp_path / "base")
    lm = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    wanted = LoraConfig(r=4, target_modules=r".*\.(q_proj|v_proj)", task_type="CAUSAL_LM", base_model_name_or_path=str(tmp_path / "base"))
    get_peft_model(lm, wanted).save_pretrained(tmp_path / "theirs")
    tiny_models.tokenizer().save_pretrained(tmp_path / "theirs")
    Policy.from_pretrained(tmp_path / "theirs", lora=LoraSettings(4), system_prompt="").save(tmp_path / "ours")
    again = Policy.load(tmp_path / "ours", system_prompt="")
    assert again.adapter.rank == 4
    assert next(iter(again.adapter.model.peft_config.values())).target_modules == r".*\.(q_proj|v_proj)"


def test_the_value_at_the_turn_limit_is_read_where_values_are_learned():
    context = np.array([5, 6, 7])
    turns = tuple(Turn(context, np.array([8, 9]), np.zeros(2, np.float32), 1.0) for _ in range(4))
    batch = make_batch([Trajectory(turns, context, False, True), Trajectory(turns[:2], context, False, True)], max_turns=4, horizon="truncate")
    assert batch.bootstrapped_C.tolist() == [True, True]
    assert batch.boot_fraction_C.tolist() == [0.75, 0.5]
    assert set(batch.fraction_A.tolist()) == {0.0, 0.25, 0.5, 0.75}


def test_a_horizon_that_reinforce_does_not_read_is_said():
    for algo in ("reinforce", "grpo", "rloo"):
        (said,) = [text for text in unread_settings(TrainConfig(algo=algo, ppo=PPOConfig(horizon="truncate"))) if "horizon" in text]
        assert algo in said
    assert unread_settings(TrainConfig(algo="ppo", ppo=PPOConfig(horizon="truncate"))) == []


DATED = (
    "{%- if messages[0].role=='system' -%}{%- set s=messages[0].content -%}{%- set messages=messages[1:] -%}{%- else -%}{%- set s='' -%}{%- endif -%}"
    "{%- if not date_string is defined -%}{%- set date_string = strftime_now('%d %b %Y') -%}{%- endif -%}"
    "{{'<|im_start|>system\\nToday Date: '+date_string+'\\n\\n'+s+'<|im_end|>\\n'}}"
    "{%- for m in messages -%}{{'<|im_start|>'+m.role+'\\n'+m.content+'<|im_end|>\\n'}}{%- endfor -%}{%- if add_generation_prompt -%}{{'<|im_start|>assistant\\n'}}{%- endif -%}"
)


def test_a_template_that_tells_the_date_tells_every_run_the_same(monkeypatch):
    class Later(datetime.datetime):
        @classmethod
        def now(cls, *_):
            return cls(2031, 1, 9)

    tokenizer = tiny_models.tokenizer()
    monkeypatch.setattr(tokenizer, "chat_template", DATED)
    now = Chat(tokenizer, "Be kind.").opening([("user", "Hello")])
    monkeypatch.setattr(chat_template_utils, "datetime", Later)
    assert tokenizer.decode(Chat(tokenizer, "Be kind.").opening([("user", "Hello")])) == tokenizer.decode(now)
    assert "26 Jul 2024" in tokenizer.decode(now)
    monkeypatch.setattr(tokenizer, "chat_template", DATED.replace("date_string", "today"))
    with pytest.warns(UserWarning, match="the same prompt every day"):
        Chat(tokenizer, "Be kind.")


def test_a_run_of_which_only_the_best_policy_is_left_is_a_run(tmp_path):
    tiny_models.policy().save(tmp_path / "best" / "policy")
    (tmp_path / "config.json").write_text("{}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert policy_path(str(tmp_path)) == str(tmp_path / "best" / "policy")


def test_a_run_that_begins_anew_leaves_one_that_is_there_alone(tmp_path):
    def trainer(seed):
        config = TrainConfig(
            rollout=RolloutConfig(dialogues=2, max_turns=2, max_new_tokens=6),
            eval=EvalConfig(every=0), iterations=1, seed=seed, out=tmp_path / "run",
        )  # fmt: skip
        return Trainer(config, tiny_models.policy(context=512), Chatter, quiet=True)

    first = trainer(0)
    first.run()
    kept = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match="expected a new folder; it holds a run"):
        trainer(1).run()
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == kept


@pytest.mark.parametrize(
    ("options", "told"),
    [(["--temperature", "-1"], "eval temperature"), (["--max-new-tokens", "0"], "eval max_new_tokens"), (["--agent", "scrpt"], "scrpt")],
)
def test_eval_says_what_is_wrong_before_a_policy_has_played(options, told, monkeypatch):
    monkeypatch.setattr("rlpa_agent.evaluate.policy_agent", lambda *_, **__: pytest.fail("the policy was loaded"))
    with pytest.raises(SystemExit, match=told):
        main(["eval", "--policy", "shipped", "--users", "1", *options])


def test_figures_end_at_the_first_turn_that_could_not_be_scored():
    one, none = np.array([1]), np.zeros(1, np.float32)
    turns = [Turn(one, one, none, reward, valid=reward != 20.0) for reward in (10.0, 20.0, 30.0)]
    figures = rollout_figures([Trajectory(tuple(turns), one, terminated=False, truncated=True)], max_turns=3)
    assert figures["by_turn/return"][1:] == [0.0, 0.0]
    assert figures["turns"] == 1.0


def test_no_minutes_are_no_run():
    with pytest.raises(ConfigError, match=r"train\.minutes: expected at least"):
        TrainConfig(minutes=0.0)
