"""SFT and DPO on the same start and in the same world as PPO: `answers` of our own, TRL's trainers.

SFT learns the best answers, DPO prefers the best to the worst. TRL is handed token ids, never text, so it trains on exactly what
the policy was fed and sampled. This module is the only one that knows TRL.
"""

from __future__ import annotations

import copy
import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlpa_agent.answers import Ids, Pair, Report, best_and_worst, best_rows, held_answers, weights_key
from rlpa_agent.baseline_config import DPO, SFT, FitConfig
from rlpa_agent.chat import Transcript
from rlpa_agent.contexts import save_context
from rlpa_env.errors import ConfigError, require

if TYPE_CHECKING:
    from rlpa_agent.policy import Policy
    from rlpa_agent.protocols import TextEnv

COLLECTING = 0.5  # share of --minutes, at most
IGNORED = -100  # label of a token that no loss is taken of


def as_labels(row: Transcript) -> dict[str, Ids]:
    """A row as TRL's SFTTrainer takes it, tokenised: the label of a token that is not learned is -100."""
    return {"input_ids": list(row.ids), "labels": [i if own else IGNORED for i, own in zip(row.ids, row.mask, strict=True)]}


def sft_trainer(policy: Policy, rows: Sequence[Transcript], fit: FitConfig, out: Path, *, seed: int = 0) -> Any:
    """TRL's SFTTrainer on the policy's language model, in place. Only while it is `lent`."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    args = SFTConfig(**_arguments(fit, out, seed))
    return SFTTrainer(policy.lm, args, train_dataset=Dataset.from_list([as_labels(row) for row in rows]), processing_class=_tokenizer(policy))


def dpo_trainer(policy: Policy, pairs: Sequence[Pair], fit: FitConfig, out: Path, *, beta: float, seed: int = 0) -> Any:
    """TRL's DPOTrainer on the policy's language model, in place; the reference is the policy as it is now.

    Its log-probabilities of all answers are computed at once, here, so no second model is held. Only while it is `lent`.
    """
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    class OnIds(DPOTrainer):
        """Takes ids as they are: TRL would only take text, whose ids are not those that were sampled."""

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    rows = [{"prompt_ids": pair.prompt_ids, "chosen_ids": pair.chosen_ids, "rejected_ids": pair.rejected_ids} for pair in pairs]
    args = DPOConfig(**_arguments(fit, out, seed), beta=beta, precompute_ref_log_probs=True)
    return OnIds(policy.lm, args=args, train_dataset=Dataset.from_list(rows), processing_class=_tokenizer(policy))


def require_trl() -> None:
    """Raise NotInstalledError, naming the extra, where TRL is missing."""
    require("trl", "baselines", "sft and dpo")


def _arguments(fit: FitConfig, out: Path, seed: int) -> dict[str, Any]:
    from transformers import TrainingArguments

    known = TrainingArguments.__dataclass_fields__
    checkpointing = "activation_checkpointing" if "activation_checkpointing" in known else "gradient_checkpointing"  # its older name
    return {
        "output_dir": str(out),
        "learning_rate": fit.lr,
        "lr_scheduler_type": fit.schedule,
        "num_train_epochs": fit.epochs,
        "max_steps": fit.steps or -1,
        "per_device_train_batch_size": fit.micro_batch,
        "gradient_accumulation_steps": fit.batch // fit.micro_batch,
        "max_grad_norm": fit.max_grad_norm,
        "bf16": fit.bf16,
        checkpointing: fit.gradient_checkpointing,
        "max_length": None,  # nothing is cut: contexts that were fed fit the model
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "seed": seed,
    }


def _tokenizer(policy: Policy) -> Any:
    """A copy that pads with our padding token; TRL writes to it."""
    tokenizer = copy.deepcopy(policy.tokenizer)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(policy.chat.pad_id)
    return tokenizer


@contextmanager
def lent(policy: Policy) -> Iterator[None]:
    """Inside, TRL may build a trainer on the policy and run it; afterwards nothing is left of it but the weights."""
    require_trl()
    import datasets

    lm, generation = policy.lm, copy.deepcopy(policy.lm.generation_config)
    config, bars = copy.deepcopy(vars(lm.config)), datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # TRL uses names that transformers has renamed
            yield
    finally:
        # TRL and accelerate hang their own forward on the model; a copy of it would then compute with the original.
        for name in ("forward", "_original_forward"):
            vars(lm).pop(name, None)
        vars(lm.config).clear()  # in place, for the layers hold it too: ids of padding and end, the cache
        vars(lm.config).update(config)
        lm.generation_config = generation
        lm.zero_grad(set_to_none=True)
        lm.eval()
        if not bars:
            datasets.enable_progress_bars()


def run_trainer(trainer: Any, out: Path, deadline: float = float("inf"), report: Report | None = None) -> list[dict[str, float]]:
    """Train, to the end or the deadline; TRL's figures of every step, which metrics.jsonl holds too."""
    from transformers import PrinterCallback, TrainerCallback

    logged: list[dict[str, float]] = []
    metrics = out / "metrics.jsonl"
    metrics.unlink(missing_ok=True)

    class Watch(TrainerCallback):
        """Keeps the figures and the time."""

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop |= time.perf_counter() > deadline

        def on_log(self, args: Any, state: Any, control: Any, **also: Any) -> None:
            logs: dict[str, float] = also["logs"]
            if "loss" not in logs:  # the summary at the end
                return
            logged.append({"step": state.global_step, **logs})
            with metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps(logged[-1]) + "\n")
            if report is not None:
                report(f"step {state.global_step} of {state.max_steps}: loss {float(logs['loss']):.4f}")

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Watch())
    trainer.train()
    return logged


def run_baseline(config: SFT | DPO, policy: Policy, make_env: Callable[[], TextEnv], report: Report | None = None) -> dict[str, Any]:
    """Everything between the start policy and OUT/last/policy; returns what baseline.json says."""
    require_trl()
    out = config.out
    if (out / "last").exists():
        raise ConfigError(f"{out}: expected a new folder, or that of a stopped run; it holds a finished one. Choose another --out.")
    began = time.perf_counter()
    seconds = float("inf") if config.minutes is None else 60.0 * config.minutes
    policy.reference = None  # PPO's; a second model that nothing here needs
    held = held_answers(policy, make_env, config, config.answers or out, began + COLLECTING * seconds, report)
    collected = time.perf_counter()
    figures: dict[str, Any] = {"method": type(config).__name__.lower(), "dialogues": len(held), "start": weights_key(policy)}
    out.mkdir(parents=True, exist_ok=True)
    if isinstance(config, SFT):
        rows, left_out = best_rows(held)
        figures |= {"answers": sum(len(t.turns) for t in held.values()) - left_out, "left_out": left_out, "rows": len(rows)}
        _need(rows, f"an answer that earned something; all {left_out} earned nothing")
        build = partial(sft_trainer, policy, rows, config.fit, out, seed=config.seed)
    else:
        pairs, dropped = best_and_worst(held, config.margin)
        figures |= {"pairs": len(pairs), "dropped": dropped}
        _need(pairs, f"a turn with answers whose rewards differ by more than margin={config.margin:g}; dropped {dropped}")
        build = partial(dpo_trainer, policy, pairs, config.fit, out, beta=config.beta, seed=config.seed)
    if report is not None:
        report(", ".join(f"{name} {value}" for name, value in figures.items() if isinstance(value, int)))
    with lent(policy):
        logged = run_trainer(build(), out, began + seconds, report)
    figures |= {"steps": len(logged), "first": logged[0], "last": logged[-1]}
    figures |= {"collect_seconds": round(collected - began, 1), "train_seconds": round(time.perf_counter() - collected, 1)}
    _save(policy, config, figures)
    return figures


def _need(found: Sequence[Any], what: str) -> None:
    if not found:
        raise ConfigError(f"answers: expected {what}. Raise --samples or --dialogues, or start from a policy that knows the format.")


def _save(policy: Policy, config: SFT | DPO, figures: Mapping[str, Any]) -> None:
    """The policy folder, whole or not at all, and what made it."""
    fresh = config.out / "saving"
    policy.save(fresh / "policy")
    save_context(fresh / "policy", policy.chat.kept)
    plain = json.loads(json.dumps(asdict(config), default=str))
    text = json.dumps({"config": plain, **figures}, indent=1)
    (config.out / "baseline.json").write_text(text + "\n", encoding="utf-8")
    fresh.replace(config.out / "last")
