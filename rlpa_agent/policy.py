"""A causal language model with a value head on the same trunk, and a frozen reference.

The only module that touches a transformers model. Axes: B rows, L positions, A action tokens, C contexts,
H hidden size, V vocabulary. Rows are padded on the right and a row's true length is data, never guessed from ids.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from rlpa_agent.chat import Chat
from rlpa_env.errors import ConfigError, unknown_choice

VALUE_FILE = "value_head.safetensors"
PROMPT_FILE = "system_prompt.txt"
CHUNK_LOGITS = 2**25
"""Logits held at once; beyond it the LM head runs in chunks that are recomputed in the backward pass."""

NEEDS = ("logp", "value", "entropy")
FROM_FOLDER = "\0from the folder"


class Scored(NamedTuple):
    """What the policy says about action tokens. A part that was not asked for is None. All float32."""

    logp: Tensor | None  # [A]; log-probability of each token at the given temperature
    value: Tensor | None  # [A]; value head's raw output before the token, in its own units
    entropy: Tensor | None  # [A] nats; of the distribution the token was drawn from
    hidden: Tensor | None = None  # [A, H]; detached hidden state that the token was predicted from


class ValueHead(nn.Module):
    """Two-layer perceptron on a hidden state and the share of turns played; starts as the constant 0."""

    def __init__(self, hidden_size: int, *, seed: int = 0) -> None:
        super().__init__()
        self.inner = nn.utils.skip_init(nn.Linear, hidden_size + 1, hidden_size)  # draws nothing globally
        self.outer = nn.utils.skip_init(nn.Linear, hidden_size, 1)
        generator = torch.Generator().manual_seed(seed)
        nn.init.normal_(self.inner.weight, std=hidden_size**-0.5, generator=generator)
        for zero in (self.inner.bias, self.outer.weight, self.outer.bias):
            nn.init.zeros_(zero)

    def forward(self, hidden_AH: Tensor, turn_fraction_A: Tensor) -> Tensor:
        """Value [A] in fp32; ``turn_fraction_A`` is turn/turn limit in [0, 1]."""
        features = torch.cat([hidden_AH.float(), turn_fraction_A.float()[:, None]], dim=-1)
        return self.outer(functional.silu(self.inner(features)))[:, 0]

    @torch.no_grad()
    def rescale(self, old: tuple[float, float], new: tuple[float, float]) -> None:
        """Keep every de-normalised value when the (mean, deviation) that normalise returns change."""
        (old_mean, old_std), (new_mean, new_std) = old, new
        self.outer.weight.mul_(old_std / new_std)
        self.outer.bias.mul_(old_std).add_(old_mean - new_mean).div_(new_std)


class Policy:
    """Language model + value head + frozen reference, with the chat format they were made for."""

    def __init__(
        self,
        lm: Any,
        tokenizer: Any,
        *,
        system_prompt: str | None = None,
        temperature: float = 1.0,
        max_user_tokens: int | None = None,
        value_grad: str = "detach",
        reference: bool = True,
        seed: int = 0,
    ) -> None:
        """``temperature`` is the training temperature, saved with the model. ``reference`` freezes a copy now."""
        if value_grad not in ("detach", "shared"):
            raise unknown_choice("value_grad", value_grad, ("detach", "shared"))
        self.lm, self.tokenizer, self.temperature, self.value_grad = lm, tokenizer, temperature, value_grad
        self.chat = Chat(tokenizer, system_prompt, max_user_tokens)
        self.value_head = ValueHead(lm.config.hidden_size, seed=seed)
        self.reference: Any = None
        self.banned_V = torch.zeros(lm.get_output_embeddings().weight.shape[0], dtype=torch.bool)
        self.banned_V[torch.from_numpy(self.chat.banned_ids(len(self.banned_V)))] = True
        _check_plain_head(lm)
        if reference:
            self.freeze_reference()

    @property
    def context_limit(self) -> int:
        """Tokens that fit one row."""
        return self.lm.config.max_position_embeddings

    @property
    def system_prompt(self) -> str | None:
        """See ``Chat``: None keeps a dialogue's own system message."""
        return self.chat.system_prompt

    @classmethod
    def from_config(cls, config: Any, tokenizer: Any, *, seed: int = 0, **options: Any) -> Policy:
        """A randomly initialised model, e.g. from a ``Qwen2Config``; equal seeds give equal weights."""
        from transformers import AutoModelForCausalLM

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            lm = AutoModelForCausalLM.from_config(_no_dropout(config), attn_implementation="sdpa")
        return cls(lm.float().eval(), tokenizer, seed=seed, **options)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        system_prompt: Any = FROM_FOLDER,
        **options: Any,
    ) -> Policy:
        """Any Hugging Face causal LM: a folder or an id. Files that ``save`` wrote beside it are used.

        ``system_prompt`` and ``temperature`` override those of the folder.
        """
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

        try:
            config = _no_dropout(AutoConfig.from_pretrained(path))
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"model {str(path)!r}: expected a folder with a Hugging Face causal LM, or an id that can be fetched; {error}"
            ) from error
        with _quiet():
            lm = AutoModelForCausalLM.from_pretrained(path, config=config, dtype=dtype, attn_implementation="sdpa")
        folder = Path(path)
        if (folder / VALUE_FILE).is_file():
            options.setdefault("temperature", GenerationConfig.from_pretrained(path).temperature)
        if system_prompt is FROM_FOLDER:
            prompt = folder / PROMPT_FILE
            system_prompt = prompt.read_bytes().decode("utf-8") if prompt.is_file() else None
        policy = cls(lm.eval(), AutoTokenizer.from_pretrained(path), system_prompt=system_prompt, **options)
        if (folder / VALUE_FILE).is_file():
            from safetensors.torch import load_file

            policy.value_head.load_state_dict(load_file(folder / VALUE_FILE))
        return policy

    @classmethod
    def load(cls, folder: str | Path, **options: Any) -> Policy:
        """Load what ``save`` wrote. The reference is a copy of what was loaded unless ``reference=False``."""
        missing = [name for name in ("config.json", VALUE_FILE) if not (Path(folder) / name).is_file()]
        if missing:
            raise ConfigError(
                f"policy folder {folder}: expected files written by Policy.save; {', '.join(missing)} missing. "
                "For a plain Hugging Face model use Policy.from_pretrained."
            )
        return cls.from_pretrained(folder, **options)

    def save(self, folder: str | Path, *, dtype: torch.dtype | None = None) -> None:
        """Write model, tokenizer, chat template, generation config, system prompt and value head.

        The folder loads in plain transformers; ``dtype`` stores the model smaller than it is held.
        """
        from safetensors.torch import save_file
        from transformers import GenerationConfig

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        lm = self.lm if dtype is None else copy.deepcopy(self.lm).to(dtype)
        lm.generation_config = GenerationConfig(
            do_sample=True,
            temperature=self.temperature,
            top_k=0,
            top_p=1.0,
            eos_token_id=list(self.chat.end_ids),
            pad_token_id=self.chat.pad_id,
        )
        with _quiet():
            lm.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        if self.system_prompt is not None:
            (folder / PROMPT_FILE).write_bytes(self.system_prompt.encode("utf-8"))
        head = {name: tensor.contiguous() for name, tensor in self.value_head.state_dict().items()}
        save_file(head, folder / VALUE_FILE, metadata={"format": "pt"})

    def parameters_policy(self) -> Iterator[nn.Parameter]:
        """Trunk and LM head (tied once): the policy optimizer's."""
        return (parameter for parameter in self.lm.parameters() if parameter.requires_grad)

    def parameters_value(self) -> Iterator[nn.Parameter]:
        """The value head: the critic optimizer's."""
        return self.value_head.parameters()

    def freeze_reference(self, source: Policy | None = None) -> None:
        """Make a frozen copy of ``source``'s language model (default: our own, as it is now) the reference."""
        self.reference = copy.deepcopy((source or self).lm).eval().requires_grad_(False)

    def score(
        self,
        input_ids_BL: Tensor,
        lengths_B: Tensor,
        rows_A: Tensor,
        pos_A: Tensor,
        turn_fraction_A: Tensor,
        *,
        temperature: float,
        need: Sequence[str] = NEEDS,
        starts_B: Tensor | None = None,
    ) -> Scored:
        """Score the tokens at (row, position): one trunk forward, one gather at position - 1, both heads there.

        ``starts_B`` is the first true position of each row, for rows padded on the left as well.
        """
        for name in need:
            if name not in (*NEEDS, "hidden"):
                raise unknown_choice("need", name, (*NEEDS, "hidden"))
        _check_positions(pos_A, lengths_B[rows_A], 1, starts_B[rows_A] if starts_B is not None else 0)
        hidden_AH = self._hidden(self.lm, input_ids_BL, lengths_B, rows_A, pos_A - 1, starts_B)
        logp = value = entropy = None
        if "logp" in need or "entropy" in need:
            ids_A = input_ids_BL[rows_A, pos_A]
            logp, entropy = self._head(self.lm, hidden_AH, ids_A, temperature, "entropy" in need)
        if "value" in need:
            value = self._value(hidden_AH, turn_fraction_A)
        hidden = hidden_AH.detach().float() if "hidden" in need else None
        return Scored(logp if "logp" in need else None, value, entropy, hidden)

    def value_at(
        self, input_ids_BL: Tensor, lengths_B: Tensor, rows_C: Tensor, pos_C: Tensor, turn_fraction_C: Tensor
    ) -> Tensor:
        """Value [C] from the hidden state *at* each position: the state that the row up to there describes."""
        _check_positions(pos_C, lengths_B[rows_C], 0, 0)
        return self._value(
            self._hidden(self.lm, input_ids_BL, lengths_B, rows_C, pos_C, None), turn_fraction_C
        )

    @torch.no_grad()
    def reference_logp(
        self, input_ids_BL: Tensor, lengths_B: Tensor, rows_A: Tensor, pos_A: Tensor, *, temperature: float
    ) -> Tensor:
        """Log-probability [A] of the same tokens under the frozen reference."""
        if self.reference is None:
            raise ConfigError("reference: expected a frozen copy; got none. Call freeze_reference() first.")
        _check_positions(pos_A, lengths_B[rows_A], 1, 0)
        hidden_AH = self._hidden(self.reference, input_ids_BL, lengths_B, rows_A, pos_A - 1, None)
        return self._head(self.reference, hidden_AH, input_ids_BL[rows_A, pos_A], temperature, False)[0]

    def _hidden(
        self, lm: Any, ids_BL: Tensor, lengths_B: Tensor, rows: Tensor, pos: Tensor, starts_B: Tensor | None
    ) -> Tensor:
        """Final hidden states at (row, pos), from one forward over the rows cut to the longest."""
        ids_BL = ids_BL[:, : int(lengths_B.max())]
        places: dict[str, Tensor] = {}
        if starts_B is not None:
            # Padding on the right needs no mask under causal attention; padding on the left does.
            index_L = torch.arange(ids_BL.shape[1], device=ids_BL.device)
            places["attention_mask"] = (index_L >= starts_B[:, None]) & (index_L < lengths_B[:, None])
            places["position_ids"] = (index_L - starts_B[:, None]).clamp(min=0)
        hidden_BLH = lm.base_model(input_ids=ids_BL, use_cache=False, **places).last_hidden_state
        return hidden_BLH[rows, pos]

    def _value(self, hidden_AH: Tensor, turn_fraction_A: Tensor) -> Tensor:
        if self.value_grad == "detach":
            hidden_AH = hidden_AH.detach()
        with torch.autocast(hidden_AH.device.type, enabled=False):
            return self.value_head(hidden_AH, turn_fraction_A)

    def _head(
        self, lm: Any, hidden_AH: Tensor, ids_A: Tensor, temperature: float, entropy: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Log-probability and, if asked for, entropy of each token, fp32 whatever the trunk ran in."""
        if temperature <= 0:
            raise ConfigError(f"temperature: expected more than 0 to score tokens; got {temperature}")
        if bool(self.banned_V[ids_A].any()):
            raise ConfigError(
                f"action ids: expected none that sampling bans; got {ids_A[self.banned_V[ids_A]][:5]}"
            )
        weight_VH = lm.get_output_embeddings().weight
        size = max(1, CHUNK_LOGITS // len(weight_VH))
        recompute = torch.is_grad_enabled() and len(ids_A) > size
        logps, entropies = [], []
        for hidden, ids in zip(hidden_AH.split(size), ids_A.split(size)):
            arguments = (hidden, weight_VH, ids, self.banned_V, temperature, entropy)
            part = checkpoint(_chunk, *arguments, use_reentrant=False) if recompute else _chunk(*arguments)
            logps.append(part[0])
            entropies.append(part[1])
        return torch.cat(logps), torch.cat(entropies) if entropy else None


def _chunk(
    hidden_AH: Tensor, weight_VH: Tensor, ids_A: Tensor, banned_V: Tensor, temperature: float, entropy: bool
) -> tuple[Tensor, Tensor]:
    """Log-probability [A] and entropy ([A], or [0] where it is not asked for)."""
    with torch.autocast(hidden_AH.device.type, enabled=False):
        logits_AV = functional.linear(hidden_AH.float(), weight_VH.float()) / temperature
        logp_AV = torch.log_softmax(logits_AV.masked_fill(banned_V, -torch.inf), dim=-1)
        logp_A = logp_AV.gather(1, ids_A[:, None])[:, 0]
        if not entropy:
            return logp_A, logp_A.new_zeros(0)
        return logp_A, -(logp_AV.exp() * logp_AV.masked_fill(banned_V, 0.0)).sum(-1)


def _check_positions(pos: Tensor, length: Tensor, lowest: int, start: Tensor | int) -> None:
    if bool(((pos < start + lowest) | (pos >= length)).any()):
        raise ConfigError(
            f"positions: expected {lowest} <= position - start and position < length; got positions up to "
            f"{int(pos.max())} and down to {int(pos.min())} for lengths from {int(length.min())}"
        )


def flush_denormals() -> None:
    """Round numbers below 1e-38 to 0, on every thread that starts after this call.

    A trained attention is so sharp that its smallest weights are denormal, on which processors are slow: an update of
    the tiny model took a third longer with them.
    """
    torch.set_flush_denormal(True)


def _no_dropout(config: Any) -> Any:
    """A copy of a model config with every dropout rate 0: importance ratios need a deterministic policy."""
    config = copy.deepcopy(config)
    for name, rate in vars(config).items():
        if ("drop" in name) and isinstance(rate, float):
            setattr(config, name, 0.0)
    return config


@contextmanager
def _quiet() -> Iterator[None]:
    """No transformers progress bar for a file or two: ours is the one to watch."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _check_plain_head(lm: Any) -> None:
    """Raise unless logits are W h: models that scale or cap them would be scored wrongly here."""
    ids = torch.arange(4)[None] % lm.get_output_embeddings().weight.shape[0]
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
