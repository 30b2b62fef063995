"""LoRA (Hu et al. 2021) through peft: what is trained is W + (α/r)·BA, with W frozen.

Adapters stand on the projections of attention and MLP, never on the LM head or the embeddings. They are put into the
model in place, so that the rest of the package sees an ordinary transformers model.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlpa_env.errors import ConfigError

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TRAINED, START = "default", "start"
"""Names inside peft: the adapter that learns, and a frozen copy of the one that training began with."""


@dataclass(frozen=True)
class LoraSettings:
    """Size of the adapters. Their sum is scaled by alpha / rank."""

    rank: int = 16
    alpha: int = 32

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha < 1:
            raise ConfigError(f"lora: expected rank and alpha of at least 1; got {self.rank} and {self.alpha}.")


class Adapter:
    """The LoRA layers of one language model, in fp32 whatever the base is held in."""

    def __init__(self, lm: Any, config: Any, *, seed: int = 0) -> None:
        """Puts layers after a peft ``LoraConfig`` into ``lm``; A is drawn from ``seed``, B is 0, so nothing changes yet."""
        from peft import get_peft_model

        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # peft asks by the old name
            torch.manual_seed(seed)
            try:
                self.model = get_peft_model(lm, config, adapter_name=TRAINED)
            except ValueError as error:
                raise ConfigError(f"lora: expected a model with linear layers {', '.join(TARGETS)}; {error}") from error

    @classmethod
    def fresh(cls, lm: Any, settings: LoraSettings, base: str, *, seed: int = 0) -> Adapter:
        """New adapters. ``base`` is the folder or id of the model, which other tools will read from the saved adapter."""
        from peft import LoraConfig

        found = {name.rpartition(".")[2] for name, _ in lm.named_modules()}
        missing = [name for name in TARGETS if name not in found]
        if missing:
            raise ConfigError(
                f"lora: expected a model with linear layers {', '.join(TARGETS)}; {type(lm).__name__} has no "
                f"{', '.join(missing)}. Use full fine-tuning (--model.lora-rank 0), or another model."
            )
        config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            target_modules=list(TARGETS),
            task_type="CAUSAL_LM",
            base_model_name_or_path=str(Path(base).resolve()) if Path(base).exists() else base,
        )
        return cls(lm, config, seed=seed)

    @classmethod
    def load(cls, lm: Any, folder: Path) -> Adapter:
        """Put the adapter of a folder, ours or another tool's, on its base."""
        from peft import LoraConfig, set_peft_model_state_dict
        from safetensors.torch import load_file

        config = LoraConfig.from_pretrained(str(folder))
        if config.peft_type != "LORA" or config.modules_to_save or config.bias != "none" or config.use_dora:
            raise ConfigError(
                f"{folder / CONFIG_FILE}: expected plain LoRA on linear layers; got {config.peft_type}, modules_to_save="
                f"{config.modules_to_save}, bias={config.bias!r}, use_dora={config.use_dora}. Merge it into its base first."
            )
        config.inference_mode, config.lora_dropout = False, 0.0
        made = cls(lm, config)
        report: Any = set_peft_model_state_dict(made.model, load_file(folder / WEIGHTS_FILE), adapter_name=TRAINED)
        lost = [key for key in report.missing_keys if "lora_" in key]
        if report.unexpected_keys or lost:
            raise ConfigError(
                f"{folder / WEIGHTS_FILE}: expected the weights that {CONFIG_FILE} describes; unexpected "
                f"{report.unexpected_keys[:3]}, missing {lost[:3]}. The folder is damaged or belongs to another base."
            )
        return made

    @property
    def rank(self) -> int:
        """Rank of the adapters."""
        return self.model.peft_config[TRAINED].r

    def save(self, folder: Path) -> None:
        """Write the adapter as peft does; peft, transformers and vLLM load it."""
        from safetensors.torch import save_file

        config = copy.deepcopy(self.model.peft_config[TRAINED])
        config.inference_mode = True
        if not isinstance(config.target_modules, str):  # a set, whose order would differ from run to run; else a regular expression
            config.target_modules = sorted(config.target_modules)
        config.save_pretrained(folder)
        save_file({key: tensor.cpu() for key, tensor in self._tensors(TRAINED).items()}, folder / WEIGHTS_FILE, metadata={"format": "pt"})

    def keep_start(self) -> None:
        """Make the adapter, as it is now, what ``reference`` switches to. One that does nothing yet needs no copy."""
        self.set_start(self._tensors(TRAINED) if self._does_something() else {})

    def start(self) -> dict[str, Tensor]:
        """Weights of the frozen start; empty where the start is the base itself."""
        return self._tensors(START) if START in self.model.peft_config else {}

    def set_start(self, tensors: Mapping[str, Tensor]) -> None:
        """Undo ``start``."""
        from peft import set_peft_model_state_dict

        if START in self.model.peft_config:
            self.model.delete_adapter(START)
        if tensors:
            with torch.random.fork_rng(devices=[]):
                self.model.add_adapter(START, copy.deepcopy(self.model.peft_config[TRAINED]))
            set_peft_model_state_dict(self.model, dict(tensors), adapter_name=START)
        self.model.set_adapter(TRAINED)  # which also freezes the other

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Inside, the model is the one that training began with; afterwards, whatever happens, the trained one."""
        if START not in self.model.peft_config:
            with self.model.disable_adapter():
                yield
            return
        self.model.set_adapter(START)
        try:
            yield
        finally:
            self.model.set_adapter(TRAINED)

    def _tensors(self, name: str) -> dict[str, Tensor]:
        from peft import get_peft_model_state_dict

        state = get_peft_model_state_dict(self.model, adapter_name=name, save_embedding_layers=False)
        return {key: tensor.detach().clone().contiguous() for key, tensor in state.items()}

    def _does_something(self) -> bool:
        return any(bool(tensor.any()) for key, tensor in self._tensors(TRAINED).items() if "lora_B" in key)


def base_of(folder: Path) -> str | None:
    """The model that the adapter in a folder stands on; None if the folder holds no adapter."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        return None
    base = json.loads(path.read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not base:
        raise ConfigError(f"{path}: expected base_model_name_or_path; there is none. Write the folder or id of the base there.")
    return base


def merged_weight(projection: Any, dtype: torch.dtype) -> Tensor:
    """Weight of a linear layer, an adapter that is on included: summed in fp32, then in ``dtype``."""
    base = getattr(projection, "base_layer", None)
    if base is None or projection.disable_adapters:
        return (projection if base is None else base).weight.detach().to(dtype)
    weight = base.weight.detach().float()
    for name in projection.active_adapters:
        weight = weight + projection.get_delta_weight(name).detach().float()
    return weight.to(dtype)


def merged(lm: Any, dtype: torch.dtype) -> Any:
    """A frozen copy without adapters that computes the same, in ``dtype``; ``lm`` itself is left as it is."""
    twin = copy.deepcopy(lm)
    for name, module in list(twin.named_modules()):
        if hasattr(module, "base_layer"):
            plain, (parent, _, leaf) = module.base_layer, name.rpartition(".")
            plain.weight.data = merged_weight(module, dtype)
            setattr(twin.get_submodule(parent), leaf, plain)
    for parameter in twin.parameters():  # no buffer: rotary frequencies stay in fp32, or far positions are wrong ones
        parameter.data = parameter.data.to(dtype)
    return twin.eval().requires_grad_(False)
