"""A causal language model with a value head on the same trunk, and a frozen reference.

The only module that touches a transformers model. Axes: B rows, L positions, A action tokens, C contexts,
H hidden size, V vocabulary. Rows are padded on the right and a row's true length is data, never guessed from ids.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from rlpa_agent.chat import Chat
from rlpa_agent.config import RolloutConfig, TrainConfig
from rlpa_agent.head import token_logprobs
from rlpa_agent.loading import (
    check_plain_head,
    checkpoint_layers,
    device_named,
    frozen_dtype,
    holds_model,
    load_lm,
    no_dropout,
    quiet,
    readable,
    room_of,
)
from rlpa_agent.lora import Adapter, LoraSettings, base_of
from rlpa_agent.sharding import Shards, spread_like
from rlpa_agent.trunk import last_layer_at
from rlpa_agent.value import FILE, ValueHead, head_file
from rlpa_agent.world import World
from rlpa_env.errors import ConfigError, unknown_choice

PROMPT_FILE = "system_prompt.txt"
NEEDS = ("logp", "value", "entropy")
STRIDE = 64
"""Tokens that the width of a bf16 forward pass is a multiple of, on a processor. oneDNN compiles its kernels for every shape anew and
keeps them, as many as a thousand: where each width was its own, a training grew by 130 MB an iteration."""
FROM_FOLDER = "\0from the folder"


class Scored(NamedTuple):
    """What the policy says about action tokens. A part that was not asked for is None. All float32."""

    logp: Tensor | None  # [A]; log-probability of each token at the given temperature
    value: Tensor | None  # [A]; value head's raw output before the token, in its own units
    entropy: Tensor | None  # [A] nats; of the distribution the token was drawn from
    hidden: Tensor | None = None  # [A, H]; detached hidden state that the token was predicted from


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
        adapter: Adapter | None = None,
        rollout_dtype: torch.dtype | None = None,
        gradient_checkpointing: bool = False,
        device: str | None = None,
        seed: int = 0,
    ) -> None:
        """``temperature`` is the training temperature, saved with the model. ``reference`` freezes the start now.

        ``adapter``: LoRA layers of ``lm``, which alone are trained and saved then. ``rollout_dtype``: of the weights that
        decoders copy; None: as held. ``gradient_checkpointing`` halves the memory of an update for a third more time.
        ``device``: where the weights go, "auto" for a GPU where there is one; None: they stay. What methods take and return is on the processor anyway.
        """
        if value_grad not in ("detach", "shared"):
            raise unknown_choice("value_grad", value_grad, ("detach", "shared"))
        lm = lm if device is None else lm.to(device_named(device))
        self.lm, self.tokenizer, self.temperature, self.value_grad = lm, tokenizer, temperature, value_grad
        self.chat = Chat(tokenizer, system_prompt, max_user_tokens)
        self.value_head = ValueHead(lm.config.hidden_size, seed=seed).to(self.device)
        self.adapter, self.gradient_checkpointing = adapter, gradient_checkpointing
        self.rollout_dtype = rollout_dtype or lm.get_output_embeddings().weight.dtype
        if gradient_checkpointing:
            checkpoint_layers(lm)
        self.reference: Any = None
        self.shards: Shards | None = None
        self.head_positions = 0  # where the LM head has scored tokens so far
        self.banned_V = torch.zeros(lm.get_output_embeddings().weight.shape[0], dtype=torch.bool)
        self.banned_V[torch.from_numpy(self.chat.banned_ids(len(self.banned_V)))] = True
        check_plain_head(lm)
        if reference:
            self.freeze_reference()

    def take_on(self, config: TrainConfig) -> None:
        """What a run says of contexts and sampling, to be saved with the policy. Raises ConfigError where its dialogues do not fit.

        The length of user messages is taken where the chat bounds none and the run does not leave it as it is by default: then it stays unknown.
        """
        self.temperature, self.chat.kept = config.rollout.temperature, config.context
        if self.chat.max_user_tokens is None and config.rollout.max_user_tokens != RolloutConfig.max_user_tokens:
            self.chat.max_user_tokens = config.rollout.max_user_tokens
        if self.chat.max_user_tokens is not None:  # else nobody knows how long a dialogue may be; rollouts cut it then
            self.chat.check_fits(self.context_limit, turns=config.rollout.max_turns, max_new_tokens=config.rollout.max_new_tokens)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.lm.get_output_embeddings().weight.device
        return device

    @property
    def context_limit(self) -> int:
        """Tokens that fit one row, see `loading.room_of`."""
        return room_of(self.lm.config)

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
            lm = AutoModelForCausalLM.from_config(no_dropout(config), attn_implementation="sdpa")
        return cls(lm.float().eval(), tokenizer, seed=seed, **options)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        lora: LoraSettings | None = None,
        dtype: torch.dtype | None = None,
        system_prompt: Any = FROM_FOLDER,
        **options: Any,
    ) -> Policy:
        """Any Hugging Face causal LM: a folder or an id. Files that ``save`` wrote beside it are used.

        ``lora`` puts new adapters on it and freezes the rest; a folder that holds an adapter is loaded with its base.
        ``dtype``: default fp32, and for a base that is frozen `loading.frozen_dtype`. ``system_prompt`` and ``temperature``
        override those of the folder.
        """
        from transformers import AutoTokenizer, GenerationConfig

        folder = Path(path)
        base = base_of(folder)
        lm = load_lm(base or path, dtype or (frozen_dtype(device_named(options.get("device") or "cpu")) if base or lora else torch.float32))
        adapter = None
        if base:
            with readable(f"policy folder {folder}", "an adapter"):
                adapter = Adapter.load(lm, folder)
            if lora is not None and lora.rank != adapter.rank:
                raise ConfigError(f"lora: expected rank {adapter.rank}, that of the adapter in {folder}; got {lora.rank}.")
        elif lora is not None:
            adapter = Adapter.fresh(lm, lora, str(path), seed=options.get("seed", 0))
        head = head_file(folder)
        if head:
            options.setdefault("temperature", GenerationConfig.from_pretrained(path).temperature)
        if system_prompt is FROM_FOLDER:
            prompt = folder / PROMPT_FILE
            system_prompt = prompt.read_bytes().decode("utf-8") if prompt.is_file() else None
        with readable(f"model {str(path)!r}", "a tokenizer beside it"):
            tokenizer = AutoTokenizer.from_pretrained(path)
        policy = cls(lm.eval(), tokenizer, system_prompt=system_prompt, adapter=adapter, **options)
        if head:
            with readable(str(head), "a value head"):
                policy.value_head.load(head)
        return policy

    @classmethod
    def load(cls, folder: str | Path, **options: Any) -> Policy:
        """Load what ``save`` wrote. The reference is a copy of what was loaded unless ``reference=False``."""
        missing = [] if holds_model(Path(folder)) else ["config.json"]
        missing += [] if head_file(Path(folder)) else [FILE]
        if missing:
            raise ConfigError(
                f"policy folder {folder}: expected files written by Policy.save; {', '.join(missing)} missing. "
                "For a plain Hugging Face model use Policy.from_pretrained."
            )
        return cls.from_pretrained(folder, **options)

    def save(self, folder: str | Path, *, dtype: torch.dtype | None = None, largest: str = "50GB") -> None:
        """Write model or adapter, tokenizer, chat template, generation config, system prompt and value head.

        The folder loads in plain transformers; ``dtype`` stores a model smaller than it is held. ``largest``: of a file of weights.
        """
        from transformers import GenerationConfig

        if self.shards is not None:
            raise ConfigError("save: expected a policy that this process holds whole; got a sharded one. Save what whole() gives, which all processes call.")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        generation = GenerationConfig(
            do_sample=True,
            temperature=self.temperature,
            top_k=0,
            top_p=1.0,
            eos_token_id=list(self.chat.end_ids),
            pad_token_id=self.chat.pad_id,
        )
        if self.adapter is not None:
            self.adapter.save(folder)
            generation.save_pretrained(folder)
        else:
            lm = self.lm if dtype is None else copy.deepcopy(self.lm).to(dtype)
            lm.generation_config = generation
            near: dict[int, Tensor] = {}  # by the weight, so that tied ones stay one
            weights = {name: near.setdefault(id(weight), weight.detach().cpu()) for name, weight in lm.state_dict(keep_vars=True).items()}
            with quiet():
                lm.save_pretrained(folder, state_dict=weights, max_shard_size=largest)
        self.tokenizer.save_pretrained(folder)
        if self.system_prompt is not None:
            (folder / PROMPT_FILE).write_bytes(self.system_prompt.encode("utf-8"))
        self.value_head.save(folder)

    def parameters_policy(self) -> Iterator[nn.Parameter]:
        """Trunk and LM head (tied once), or the adapter: the policy optimizer's."""
        return (parameter for parameter in self.lm.parameters() if parameter.requires_grad)

    def parameters_value(self) -> Iterator[nn.Parameter]:
        """The value head: the critic optimizer's."""
        return self.value_head.parameters()

    def freeze_reference(self, source: Policy | None = None) -> None:
        """Make a frozen copy of ``source``'s language model (default: our own, as it is now) the reference.

        Under LoRA our own start needs no copy of the model: it is the adapter switched off, or a copy of the adapter.
        """
        if self.adapter is not None and source is None:
            self.adapter.keep_start()
            self.reference = self.adapter
        else:
            self.reference = copy.deepcopy((source or self).whole().lm).eval().requires_grad_(False)
            if self.shards is not None:
                self.shards.spread(self.reference)

    def shard(self, world: World) -> None:
        """Leave this process a share of the model and of its reference; all have to call it. See `sharding`.

        Optimizers are made afterwards. Sampling and saving go through `whole`. Raises ConfigError where it cannot be done.
        """
        self.shards = Shards(self.lm, self.adapter, world)
        if isinstance(self.reference, nn.Module):
            self.shards.spread(self.reference)

    def whole(self) -> Policy:
        """A plain policy with these weights and without a reference: this one, where it is not sharded. All have to call it."""
        if self.shards is None:
            return self
        twin = copy.copy(self)
        twin.lm, twin.adapter = self.shards.whole(self.lm, self.adapter)
        twin.shards = twin.reference = None
        return twin

    def reference_tensors(self) -> dict[str, Tensor]:
        """Weights of the reference, tied ones once and as they are held, for a checkpoint; none where it is the adapter switched off."""
        if isinstance(self.reference, Adapter):
            return self.reference.start()
        return {} if self.reference is None else {name: p.detach() for name, p in self.reference.named_parameters()}

    @torch.no_grad()
    def load_reference(self, tensors: Mapping[str, Tensor]) -> None:
        """Undo ``reference_tensors``. Raises ConfigError where it needs weights and there are none."""
        if isinstance(self.reference, Adapter):
            self.reference.set_start(tensors)
        elif self.reference is not None:
            for name, parameter in self.reference.named_parameters():
                if name not in tensors:
                    raise ConfigError(f"reference: expected its weights; {name} is missing.")
                parameter.copy_(spread_like(tensors[name], parameter))

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
        entropy_grad: bool = True,
    ) -> Scored:
        """Score the tokens at (row, position): one trunk forward, one gather at position - 1, both heads there.

        Tensors come and go on the processor, wherever the weights are; gradients find their way.
        ``starts_B`` is the first true position of each row, for rows padded on the left as well. ``entropy_grad=False``:
        the entropy is a figure, for which autograd keeps nothing.
        """
        for name in need:
            if name not in (*NEEDS, "hidden"):
                raise unknown_choice("need", name, (*NEEDS, "hidden"))
        _check_positions(pos_A, lengths_B[rows_A], 1, starts_B[rows_A] if starts_B is not None else 0)
        hidden_AH = self._hidden(self.lm, input_ids_BL, lengths_B, rows_A, pos_A - 1, starts_B)
        logp = value = entropy = None
        if "logp" in need or "entropy" in need:
            ids_A = input_ids_BL[rows_A, pos_A]
            logp, entropy = self._head(self.lm, hidden_AH, ids_A, temperature, "entropy" in need, entropy_grad)
        if "value" in need:
            value = self.value_of(hidden_AH, turn_fraction_A)
        hidden = hidden_AH.detach().float().cpu() if "hidden" in need else None
        return Scored(logp if "logp" in need else None, value, entropy, hidden)

    def value_at(
        self, input_ids_BL: Tensor, lengths_B: Tensor, rows_C: Tensor, pos_C: Tensor, turn_fraction_C: Tensor
    ) -> Tensor:
        """Value [C] from the hidden state *at* each position: the state that the row up to there describes."""
        _check_positions(pos_C, lengths_B[rows_C], 0, 0)
        return self.value_of(self._hidden(self.lm, input_ids_BL, lengths_B, rows_C, pos_C, None), turn_fraction_C)

    @torch.no_grad()
    def reference_logp(
        self, input_ids_BL: Tensor, lengths_B: Tensor, rows_A: Tensor, pos_A: Tensor, *, temperature: float
    ) -> Tensor:
        """Log-probability [A] of the same tokens under the frozen reference."""
        if self.reference is None:
            raise ConfigError("reference: expected a frozen copy; got none. Call freeze_reference() first.")
        _check_positions(pos_A, lengths_B[rows_A], 1, 0)
        own = isinstance(self.reference, Adapter)
        lm = self.lm if own else self.reference
        with self.reference.reference() if own else nullcontext():
            hidden_AH = self._hidden(lm, input_ids_BL, lengths_B, rows_A, pos_A - 1, None)
        return self._head(lm, hidden_AH, input_ids_BL[rows_A, pos_A], temperature, False)[0]

    def _hidden(
        self, lm: Any, ids_BL: Tensor, lengths_B: Tensor, rows: Tensor, pos: Tensor, starts_B: Tensor | None
    ) -> Tensor:
        """Final hidden states at (row, pos), from one forward over the rows cut behind the last of them, or a little wider (`STRIDE`)."""
        longest, stride = int(pos.max()) + 1 if len(pos) else 1, self._stride()
        width = max(longest, min(longest + -longest % stride, self.context_limit))
        ids_BL = functional.pad(ids_BL[:, :width], (0, max(0, width - ids_BL.shape[1])), value=self.chat.pad_id).to(self.device)
        places: dict[str, Tensor] = {}
        if starts_B is not None:
            # Padding on the right needs no mask under causal attention; padding on the left does.
            index_L = torch.arange(ids_BL.shape[1], device=ids_BL.device)
            starts_B1, ends_B1 = starts_B[:, None].to(self.device), lengths_B[:, None].to(self.device)
            places["attention_mask"] = (index_L >= starts_B1) & (index_L < ends_B1)
            places["position_ids"] = (index_L - starts_B1).clamp(min=0)
        # transformers checkpoints in training mode only, which changes nothing else: there is no dropout.
        lm.train(self.gradient_checkpointing and torch.is_grad_enabled())
        rows, pos = rows.to(self.device), pos.to(self.device)
        try:
            # Not where layers are checkpointed: they run again behind our back, and scores with and without gradient have to agree.
            with nullcontext() if self.gradient_checkpointing else last_layer_at(lm, rows, pos, stride):
                hidden_BLH = lm.base_model(input_ids=ids_BL, use_cache=False, **places).last_hidden_state
        finally:
            lm.eval()
        return hidden_BLH[rows, pos]

    def _stride(self) -> int:
        """What sizes of a forward pass are multiples of, see `STRIDE`."""
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else self.lm.get_output_embeddings().weight.dtype
        return STRIDE if dtype == torch.bfloat16 and self.device.type == "cpu" else 1

    def value_of(self, hidden_AH: Tensor, turn_fraction_A: Tensor) -> Tensor:
        """Value [A] of hidden states, in the units of the head."""
        if self.value_grad == "detach":
            hidden_AH = hidden_AH.detach()
        with torch.autocast(self.device.type, enabled=False):
            return self.value_head(hidden_AH.to(self.device), turn_fraction_A.to(self.device)).cpu()

    def _head(
        self, lm: Any, hidden_AH: Tensor, ids_A: Tensor, temperature: float, entropy: bool, entropy_grad: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """Log-probability and, if asked for, entropy of each token."""
        if temperature <= 0:
            raise ConfigError(f"temperature: expected more than 0 to score tokens; got {temperature}")
        if bool(self.banned_V[ids_A].any()):
            raise ConfigError(f"action ids: expected none that sampling bans; got {ids_A[self.banned_V[ids_A]][:5]}")
        self.head_positions += len(hidden_AH)
        weight_VH, places = lm.get_output_embeddings().weight, (ids_A.to(self.device), self.banned_V.to(self.device))
        logp, entropy_A = token_logprobs(hidden_AH, weight_VH, *places, temperature, entropy=entropy, entropy_grad=entropy_grad)
        return logp.cpu(), None if entropy_A is None else entropy_A.cpu()


def _check_positions(pos: Tensor, length: Tensor, lowest: int, start: Tensor | int) -> None:
    if bool(((pos < start + lowest) | (pos >= length)).any()):
        raise ConfigError(
            f"positions: expected {lowest} <= position - start and position < length; got positions up to "
            f"{int(pos.max())} and down to {int(pos.min())} for lengths from {int(length.min())}"
        )
