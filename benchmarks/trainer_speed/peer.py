"""The other side: TRL's GRPOTrainer on the same model and prompts, and a rollout that reads every turn's history anew."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from workload import Size, paid, said

from rlpa_agent.chat import Chat
from rlpa_agent.loading import faster_dtype


def exactly(tokens: int, pad_id: int) -> dict[str, Any]:
    """Options of ``generate`` for answers of so many tokens from the whole distribution."""
    plain = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "pad_token_id": pad_id}
    return {"min_new_tokens": tokens, "max_new_tokens": tokens, **plain}


@torch.no_grad()
def reprefilled(lm: Any, chat: Chat, openings: Sequence[Sequence[int]], turns: int, tokens: int) -> tuple[list[list[int]], list[list[int]]]:
    """Dialogues by ``generate`` on the whole history of every turn; what follows each opening, and its mask.

    Openings are equally long, and so is everything else: nothing is padded.
    """
    ids, mask = [list(opening) for opening in openings], [[] for _ in openings]
    for turn in range(turns):
        batch = torch.tensor(ids)
        answers = lm.generate(batch, attention_mask=torch.ones_like(batch), **exactly(tokens, chat.pad_id))[:, batch.shape[1] :]
        if answers.shape[1] != tokens:
            raise RuntimeError(f"expected {tokens} tokens of generate; got {answers.shape[1]}")
        for i, answer in enumerate(answers.tolist()):
            follows = chat.follow(answer, said(i, turn + 1)).tolist() if turn + 1 < turns else []
            ids[i] += answer + follows
            mask[i] += [1] * tokens + [0] * len(follows)
    return [own[len(opening) :] for own, opening in zip(ids, openings, strict=True)], mask


def pays(completions: Sequence[Any], **_: Any) -> list[float]:
    """A reward function as TRL calls it."""
    return [paid(completion[0]["content"]) for completion in completions]


class Peer:
    """TRL's trainer. ``same``: our precision, β, optimizer, clipping, epochs and minibatches; else its defaults, which are for
    processors that are fast in bf16: on others it too computes in fp32.
    """

    def __init__(self, folder: Path, size: Size, chat: Chat, out: Path, *, turns: int = 1, same: bool = True, seed: int = 0) -> None:
        from datasets import Dataset, disable_progress_bars
        from trl import GRPOConfig, GRPOTrainer

        disable_progress_bars()
        self.size, self.rounds = size, size.repeats + 1
        dialogues, minibatches, epochs = size.dialogues, 4, 2
        tokens = size.tokens if turns == 1 else size.dialogue_tokens
        chosen: dict[str, Any] = {"per_device_train_batch_size": dialogues, "bf16": faster_dtype(size.hidden) == "bfloat16"}
        self.steps = 1
        if same:
            chosen = {
                "per_device_train_batch_size": dialogues // minibatches,
                "steps_per_generation": minibatches,
                "num_iterations": epochs,
                "beta": 0.01,
                "bf16": False,
                "gradient_checkpointing": False,
                "learning_rate": 1e-4,
                "lr_scheduler_type": "constant",
                "adam_beta1": 0.9,
                "adam_beta2": 0.95,
                "max_grad_norm": 1.0,
                "model_init_kwargs": {"dtype": torch.float32},
            }
            self.steps = minibatches * epochs
        config = GRPOConfig(
            output_dir=str(out),
            num_generations=size.completions,
            max_completion_length=tokens if turns == 1 else 4096,
            generation_kwargs=exactly(tokens, chat.pad_id),
            max_steps=self.steps * self.rounds,
            save_strategy="no",
            report_to="none",
            logging_steps=10**6,
            disable_tqdm=True,
            use_cpu=True,
            seed=seed,
            **chosen,
        )
        texts = [chat.tokenizer.decode(chat.encode_user(said(i, 0))) for i in range(size.prompts * self.rounds)]
        data = Dataset.from_list([{"prompt": [{"role": "user", "content": text}]} for text in texts])

        def rollout(prompts: list[Any], trainer: Any) -> dict[str, Any]:
            openings = [chat.opening(prompt).tolist() for prompt in prompts]
            shortest = min(map(len, openings))  # a message that was cut may encode to a token more than it had
            openings = [ids[-shortest:] for ids in openings]
            lm = trainer.accelerator.unwrap_model(trainer.model)
            done, mask = reprefilled(lm, chat, openings, turns, tokens)
            return {"prompt_ids": openings, "completion_ids": done, "logprobs": None, "env_mask": mask}

        self.bf16 = bool(config.bf16)
        self.trainer = GRPOTrainer(
            str(folder),
            reward_funcs=pays,
            args=config,
            train_dataset=data,
            processing_class=chat.tokenizer,
            rollout_func=rollout if turns > 1 else None,
        )

    def run(self, others: Callable[[], None]) -> list[float]:
        """Seconds of every round of rollout and update but the first; ``others`` runs after each round, not counted."""
        from transformers import PrinterCallback, TrainerCallback

        taken: list[float] = []
        steps = self.steps

        class Clock(TrainerCallback):
            """Times rounds; a round is as many optimizer steps as one batch of dialogues is used for."""

            def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                self.began = time.perf_counter()

            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                if state.global_step % steps == 0:
                    taken.append(time.perf_counter() - self.began)
                    others()
                    self.began = time.perf_counter()

        self.trainer.remove_callback(PrinterCallback)
        self.trainer.add_callback(Clock())
        self.trainer.train()
        if len(taken) != self.rounds:
            raise RuntimeError(f"expected {self.rounds} rounds of TRL; got {len(taken)}")
        return taken[1:]
