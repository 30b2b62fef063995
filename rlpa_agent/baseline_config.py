"""Frozen configuration of the supervised and preference baselines, and their presets. The only home of their defaults."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from rlpa_agent.config import SHIPPED, ModelConfig, RolloutConfig, TrainConfig
from rlpa_agent.registered import OWN, settle_own
from rlpa_env import ConfigError

SCHEDULES = ("linear", "cosine", "constant")


def _least(name: str, value: float, least: float) -> None:
    if not value >= least:
        raise ConfigError(f"{name}: expected at least {least}; got {value!r}.")


def _above(name: str, value: float) -> None:
    if not value > 0:
        raise ConfigError(f"{name}: expected more than 0; got {value!r}.")


@dataclass(frozen=True)
class AnswersConfig:
    """The dialogues that the start policy holds, with several answers a turn. They depend on nothing else but the seed."""

    model: str = SHIPPED
    """The start: a run, a policy folder, or a Hugging Face folder or id; "shipped": the tiny start checkpoint."""
    split: str = OWN
    """A bundled split or the path of a JSONL file of profiles; by default that of env_id, for most vanilla/train."""
    env_id: str = "RLPA-v0"
    dialogues: int = 256
    concurrent: int = 32
    """Dialogues decoded at once."""
    samples: int = 4
    """Answers sampled a turn from the same state; the dialogue goes on with the best paid."""
    context: str = "append"
    """What each turn is fed: append, latest or window; see `rlpa-agent train`."""
    max_turns: int = OWN
    """By default that of env_id: 10, and 70 of RLPA-Long-v0."""
    max_new_tokens: int = 160
    max_user_tokens: int = 96
    """Longer user messages are cut."""
    temperature: float = 1.0
    """Of the sampling."""
    cues: str = OWN
    """How traits are told; by default that of env_id, as are the next two."""
    profile_weight: float = OWN
    """Of the profile reward, in what chooses the best answer."""
    response_weight: float = OWN

    def __post_init__(self) -> None:
        settle_own(self)
        if self.samples < 2:
            raise ConfigError(f"samples: expected at least 2, of which one is best; got {self.samples}.")
        _least("dialogues", self.dialogues, 1)


@dataclass(frozen=True)
class FitConfig:
    """What TRL's trainer is told. All it is not told here is its default; there is no warm-up of the rate."""

    lr: float = 1e-5
    """Of AdamW."""
    schedule: str = "linear"
    """Of the rate: linear or cosine, down to 0 at the end, or constant."""
    epochs: float = 1.0
    steps: int | None = None
    """Optimizer steps, instead of epochs."""
    batch: int = 32
    """Rows an optimizer step: dialogues (sft, context=append), turns (sft, other contexts) or pairs (dpo)."""
    micro_batch: int = 4
    """Rows in one pass through the model; divides batch."""
    max_grad_norm: float = 1.0
    bf16: bool = False
    """Autocast; weights that are trained stay float32."""
    gradient_checkpointing: bool = False
    lora_rank: int = 0
    """Rank of LoRA adapters, which alone are trained then; 0: all weights are."""
    lora_alpha: int = 32

    def __post_init__(self) -> None:
        _above("lr", self.lr)
        _above("epochs", self.epochs)
        _above("max_grad_norm", self.max_grad_norm)
        _least("steps", 1 if self.steps is None else self.steps, 1)
        if self.schedule not in SCHEDULES:
            raise ConfigError(f"schedule: expected one of {', '.join(SCHEDULES)}; got {self.schedule!r}.")
        if self.micro_batch < 1 or self.batch < 1 or self.batch % self.micro_batch:
            raise ConfigError(f"micro_batch: expected a divisor of batch={self.batch}; got {self.micro_batch}.")


@dataclass(frozen=True)
class SFT:
    """Fine-tune a policy on its own best answers, through TRL's SFTTrainer (extra `baselines`).

    The start policy talks with people of the training split; of several answers a turn the best paid goes on, and is what is
    learned. Leaves in OUT: answers.jsonl (a line a dialogue; a stopped run goes on with them), metrics.jsonl,
    baseline.json, and last/policy, which `rlpa-agent eval --policy OUT` and transformers load.

    Example: rlpa-agent sft tiny --seed 0 --out runs/sft
    """

    data: Annotated[AnswersConfig, tyro.conf.arg(name="")] = field(default_factory=AnswersConfig)
    fit: Annotated[FitConfig, tyro.conf.arg(name="")] = field(default_factory=FitConfig)
    seed: int = 0
    minutes: float | None = None
    """Minutes in all. Up to half of them collect dialogues, no more than --dialogues; the rest trains, to its end if that
    comes first."""
    answers: Path | None = None
    """Folder of answers.jsonl, to share it with another run; OUT if not given. What it lacks is collected."""
    out: Path = Path("runs/sft")

    def __post_init__(self) -> None:
        _above("minutes", 1.0 if self.minutes is None else self.minutes)


@dataclass(frozen=True)
class DPO:
    """Train a policy to prefer its best answer to its worst, through TRL's DPOTrainer (extra `baselines`).

    The start policy talks with people of the training split; of several answers a turn the best and the worst paid are a
    pair, and the dialogue goes on with the best. The reference is the start. Leaves in OUT what `rlpa-agent sft` does.

    Example: rlpa-agent dpo tiny --answers runs/sft --seed 0 --out runs/dpo
    """

    data: Annotated[AnswersConfig, tyro.conf.arg(name="")] = field(default_factory=AnswersConfig)
    fit: Annotated[FitConfig, tyro.conf.arg(name="")] = field(default_factory=FitConfig)
    beta: float = 0.01
    """How much is paid for leaving the reference: the loss is −log σ(β · (log-ratio of the best − that of the worst))."""
    margin: float = 0.0
    """Pairs whose rewards differ by no more are dropped."""
    seed: int = 0
    minutes: float | None = None
    """Minutes in all. Up to half of them collect dialogues, no more than --dialogues; the rest trains, to its end if that
    comes first."""
    answers: Path | None = None
    """Folder of answers.jsonl, to share it with another run; OUT if not given. What it lacks is collected."""
    out: Path = Path("runs/dpo")

    def __post_init__(self) -> None:
        _above("beta", self.beta)
        _least("margin", self.margin, 0.0)
        _above("minutes", 1.0 if self.minutes is None else self.minutes)


def as_training(config: SFT | DPO) -> TrainConfig:
    """The same start, environment and sampling in the words of `rlpa-agent train`, whose parts are used here."""
    data, fit = config.data, config.fit
    shared = {spec.name for spec in dataclasses.fields(RolloutConfig)} & {spec.name for spec in dataclasses.fields(AnswersConfig)}
    rollout: dict[str, Any] = {name: getattr(data, name) for name in shared}
    model = ModelConfig(path=data.model, lora_rank=fit.lora_rank, lora_alpha=fit.lora_alpha, device="cpu")  # where TRL is told to train
    return TrainConfig(model=model, rollout=RolloutConfig(**rollout), mode="official", seed=config.seed, out=config.out)


# The same people, turns and rewards as the preset "tiny" of `rlpa-agent train`, and as many answers as 28 iterations of it.
_TINY = AnswersConfig(dialogues=224, profile_weight=5.0)
# Of arXiv 2505.15456: as many dialogues as it has training profiles, and four answers a turn. Its 4,096 tokens an answer
# would not fit the model's 32,768 ten times over.
_PAPER = AnswersConfig(model="Qwen/Qwen2.5-3B-Instruct", dialogues=3821, max_new_tokens=1024, max_user_tokens=256)
_PAPER_FIT = FitConfig(epochs=1.0, batch=32, micro_batch=4, bf16=True, gradient_checkpointing=True)

BASELINES: dict[str, dict[str, Any]] = {
    "sft": {
        "tiny": SFT(_TINY, FitConfig(lr=3e-4, epochs=4.0, batch=16)),
        "paper": SFT(_PAPER, dataclasses.replace(_PAPER_FIT, lr=1e-5)),
    },
    "dpo": {
        "tiny": DPO(_TINY, FitConfig(lr=3e-5, epochs=1.0, batch=32, bf16=True), beta=0.1, margin=0.1),
        "paper": DPO(_PAPER, dataclasses.replace(_PAPER_FIT, lr=5e-6), beta=0.01),
    },
}
"""Presets by method and name; every field can be set on the command line."""
