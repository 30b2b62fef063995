"""Reading transformers models: from a folder or an id, without dropout, and only such as are scored rightly here."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from rlpa_agent.lora import CONFIG_FILE
from rlpa_env.errors import ConfigError, RLPAError


def holds_model(folder: Path) -> bool:
    """Whether a folder holds a model or an adapter, as opposed to a run."""
    return (folder / CONFIG_FILE).is_file() or ((folder / "config.json").is_file() and any(folder.glob("model*.safetensors*")))


def faster_dtype(width: int, rows: int = 1024, pairs: int = 5) -> str:
    """"bfloat16" or "float32": which multiplies [rows, width] by [width, 3 width] sooner here, by the median of pairs.

    Processors that claim bf16 differ: the same product took 0.3 to 140 times as long as in fp32. Two pairs that far apart are
    enough; one is not, for a busy machine may hold up either of the two.
    """
    seconds: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
    with torch.no_grad():
        for pair in range(pairs + 1):
            for dtype, taken in seconds.items():
                left, right = torch.ones(rows, width, dtype=dtype), torch.ones(3 * width, width, dtype=dtype)
                began = time.perf_counter()
                torch.nn.functional.linear(left, right)
                taken.append(time.perf_counter() - began)
            ratios = [bf16 / fp32 for fp32, bf16 in zip(*seconds.values(), strict=True)]
            if pair and (min(ratios) > 8 or max(ratios) < 1 / 8):
                break
    fp32, bf16 = (float(np.median(taken[1:])) for taken in seconds.values())  # the first pair warms up
    return "bfloat16" if bf16 < 0.9 * fp32 else "float32"


def device_named(name: str) -> torch.device:
    """The device of that name; "auto": a GPU where torch has one, else the processor."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device: expected auto, cpu, or one that torch can use here, such as cuda:0; got {name!r}: {error}") from error


def update_dtype(device: torch.device, width: int) -> str:
    """"bfloat16" or "float32" for scoring and updates: on a GPU bf16 where it has it, on a processor what is faster."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    return faster_dtype(width)


def frozen_dtype(device: torch.device) -> Any:
    """Of weights that are not trained: "auto", as in their files, or fp32 on a processor that multiplies bf16 more slowly."""
    return "auto" if device.type != "cpu" or _bf16_is_fast() else torch.float32


@cache
def _bf16_is_fast() -> bool:
    return faster_dtype(512) == "bfloat16"


def name_of(dtype: torch.dtype) -> str:
    """As configurations write it.

    >>> name_of(torch.bfloat16)
    'bfloat16'
    """
    return str(dtype).removeprefix("torch.")


def held_dtype(lm: Any) -> str:
    """Name of the type that the weights of a model are held in."""
    return name_of(lm.get_output_embeddings().weight.dtype)


def load_lm(path: str | Path, dtype: Any) -> Any:
    """A transformers model in ``dtype`` ("auto": that of its files), without dropout."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with readable(f"model {str(path)!r}", "a folder with a Hugging Face causal LM, or an id that can be fetched"), quiet():
        config = no_dropout(AutoConfig.from_pretrained(path))
        return AutoModelForCausalLM.from_pretrained(path, config=config, dtype=dtype, attn_implementation="sdpa")


@contextmanager
def readable(name: str, expected: str) -> Iterator[None]:
    """Raise a ConfigError that names the folder or file where what is read inside is missing, cut short or something else."""
    from safetensors import SafetensorError

    try:
        yield
    except RLPAError:
        raise
    except (SafetensorError, OSError, ValueError) as error:
        raise ConfigError(f"{name}: expected {expected}; {error}") from error


def room_of(config: Any) -> int:
    """Positions of a model within which a token's states hang on those before it alone.

    Rotary frequencies of kind "longrope" and "dynamic" are chosen anew for a whole forward pass that is longer than what the model was first made
    for: there a row's log-probabilities would hang on what follows them, and on the rows beside it.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [kind for kind in (rope, *rope.values()) if isinstance(kind, dict)]  # one for all layers, or by kind of layer
    old = getattr(config, "original_max_position_embeddings", None)
    first = [kind.get("original_max_position_embeddings") or old for kind in kinds if kind.get("rope_type") in ("longrope", "dynamic")]
    return min([config.max_position_embeddings, *filter(None, first)])


def checkpoint_layers(lm: Any) -> None:
    """Recompute every layer in the backward pass, in training mode. Raises ConfigError for a model with dropout, which that mode would turn on."""
    rates = {name: rate for name, rate in vars(lm.config).items() if "drop" in name and isinstance(rate, float) and rate}
    if rates:
        raise ConfigError(f"gradient_checkpointing: expected a model without dropout; its config has {rates}. Make it from loading.no_dropout(config).")
    enable = getattr(lm, "activation_checkpointing_enable", None) or lm.gradient_checkpointing_enable  # its older name
    enable({"use_reentrant": False})


def no_dropout(config: Any) -> Any:
    """A copy of a model config with every dropout rate 0: importance ratios need a deterministic policy."""
    config = copy.deepcopy(config)
    for name, rate in vars(config).items():
        if ("drop" in name) and isinstance(rate, float):
            setattr(config, name, 0.0)
    return config


@contextmanager
def quiet() -> Iterator[None]:
    """No transformers progress bar for a file or two: ours is the one to watch."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def check_plain_head(lm: Any) -> None:
    """Raise unless logits are W h: models that scale or cap them would be scored wrongly here."""
    weight = lm.get_output_embeddings().weight
    ids = torch.arange(4, device=weight.device)[None] % weight.shape[0]
    with torch.no_grad():
        expected = lm(input_ids=ids, use_cache=False).logits.float()
        hidden = lm.base_model(input_ids=ids, use_cache=False).last_hidden_state
        head = lm.get_output_embeddings()
        got = functional.linear(hidden.float(), head.weight.float())
    if getattr(head, "bias", None) is not None or not torch.allclose(got, expected, rtol=0.05, atol=0.05):
        raise ConfigError(
            f"model {type(lm).__name__}: expected logits = W h without bias, scale or cap; its own logits differ by "
            f"{float((got - expected).abs().max()):.3g}. Use a model with a plain LM head (Qwen2, Llama, ...)."
        )


def flush_denormals() -> None:
    """Round numbers below 1e-38 to 0, on every thread that starts after this call.

    A trained attention is so sharp that its smallest weights are denormal, on which processors are slow: an update of
    the tiny model took a third longer with them.
    """
    torch.set_flush_denormal(True)
