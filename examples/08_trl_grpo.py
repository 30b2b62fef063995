"""Another library's algorithm on our dialogues: TRL's GRPOTrainer, whole dialogues as completions, the user's words masked.

    pip install '.[agent,baselines]'
    python examples/08_trl_grpo.py [--steps 60] [--smoke]

`rlpa_agent.rollout.collect` holds the dialogues with TRL's model, each turn decoded over the cache of those before. A
completion is all that follows the opening; `env_mask` says which of its tokens the policy sampled. The four dialogues of a
group are held with the same person from the same seed, so what GRPO compares is the policy's doing.
"""

import argparse
import os
import tempfile

import gymnasium as gym
import torch
from datasets import Dataset, disable_progress_bars
from transformers import PrinterCallback
from trl import GRPOConfig, GRPOTrainer

import rlpa_env  # noqa: F401
from rlpa_agent import Policy
from rlpa_agent.config import shipped_start
from rlpa_agent.rollout import collect

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # ``rollout_func`` is experimental in TRL
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--steps", type=int, default=60, help="of the optimizer, each on 8 people, 4 dialogues with each")
parser.add_argument("--smoke", action="store_true", help="two small steps, to see that it runs")
args = parser.parse_args()
steps, people, group, turns = (2, 1, 2, 2) if args.smoke else (args.steps, 8, 4, 10)

policy = Policy.from_pretrained(shipped_start(), reference=False)
envs = [gym.make("RLPA-v0") for _ in range(people * group)]
returns = []


def dialogue(trajectory):
    """Opening ids, all ids behind it, and which of those were sampled."""
    *_, last = trajectory.turns
    ids, opening = [*last.context_ids, *last.action_ids], len(trajectory.turns[0].context_ids)
    sampled = [0] * len(ids)
    for turn in trajectory.turns:
        start = len(turn.context_ids)
        sampled[start : start + len(turn.action_ids)] = [1] * len(turn.action_ids)
    return list(map(int, ids[:opening])), list(map(int, ids[opening:])), sampled[opening:]


def rollout(prompts, trainer):
    """A dialogue for each prompt, which is no more than the seed of its person."""
    policy.lm = trainer.accelerator.unwrap_model(trainer.model)
    stream = trainer.state.global_step
    seeds = [int(prompt) for prompt in prompts]
    held = collect(policy, envs, seeds=seeds, sample_seed=stream, temperature=1.0, max_turns=turns)
    earned = [sum(turn.reward for turn in trajectory.turns) for trajectory in held]
    returns.append(sum(earned) / len(earned))
    print(f"step {stream}: mean return {returns[-1]:.2f}", flush=True)
    opening, rest, mask = map(list, zip(*map(dialogue, held), strict=True))
    return {"prompt_ids": opening, "completion_ids": rest, "logprobs": None, "env_mask": mask, "earned": earned}


disable_progress_bars()
config = GRPOConfig(
    output_dir=tempfile.mkdtemp(), max_steps=steps, num_generations=group, per_device_train_batch_size=people * group,
    max_completion_length=4096, learning_rate=1e-4, lr_scheduler_type="constant", beta=0.01, bf16=False, activation_checkpointing=False,
    model_init_kwargs={"dtype": torch.float32}, use_cpu=True, save_strategy="no", report_to="none", logging_steps=10**6, disable_tqdm=True,
)  # fmt: skip
trainer = GRPOTrainer(
    str(shipped_start()),
    reward_funcs=lambda earned, **_: earned,
    args=config,
    train_dataset=Dataset.from_list([{"prompt": str(seed)} for seed in range(steps * people)]),
    processing_class=policy.tokenizer,
    rollout_func=rollout,
)
trainer.remove_callback(PrinterCallback)
trainer.train()
tenth = max(1, len(returns) // 10)
print(f"mean return of the first tenth {sum(returns[:tenth]) / tenth:.2f}, of the last {sum(returns[-tenth:]) / tenth:.2f}")
