"""Incremental decoding of many dialogues at once, over one preallocated key-value cache.

Every row of the cache is one dialogue with its own length; new text is written at the row's end, so nothing that
was fed is ever computed again. Two ways through the model share the cache: ``Qwen2Decoder`` runs the weights of a
Qwen2 directly (on small models the generic modules cost more than the arithmetic), ``GenericDecoder`` calls any
other transformers model with full attention. Axes: R rows, n leading rows, T new tokens, L cached positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rlpa_agent.lora import merged, merged_weight
from rlpa_agent.products import Product
from rlpa_env.errors import ConfigError

GROWTH = 128
"""Positions by which a cache grows at the least, else by half: it holds what its longest row needs, not the model's whole context."""

NOISE_FLOATS = 2**13
"""Noise drawn per row at a time; part of the definition of a row's random stream."""


class Decoder(Protocol):
    """What a rollout needs of a model. Rows that are in use are always the leading ones."""

    capacity: int  # cached positions per row
    dtype: torch.dtype  # of hidden states
    lengths_R: Tensor  # int64 [R]; tokens cached per row

    def prefill(self, rows: Sequence[int], chunks: Sequence[np.ndarray]) -> Tensor:
        """Append a chunk of ids to each row; hidden state [len(rows), H] after its last token."""

    def step(self, ids_n: Tensor, live_n: Tensor) -> Tensor:
        """Append one id to each leading row where ``live_n``; hidden state [n, H] (junk where not live)."""

    def clear(self, row: int, kept: int = 0) -> None:
        """Forget all of a row but its first ``kept`` positions."""

    def move(self, source: int, target: int) -> None:
        """Copy one row over another."""

    def pretend(self, length: int) -> None:
        """Let every row hold ``length`` empty positions: for timing."""


def decoder(lm: Any, rows: int, capacity: int, dtype: torch.dtype | None = None) -> Decoder:
    """The fastest decoder for a model. It is for the weights of now: make a new one after an update.

    It computes in ``dtype`` (None: as held) with a copy of them, LoRA adapters added to the weights that they stand on. Where
    there is nothing to convert and nothing to add, a `GenericDecoder` copies nothing and reads the model itself.
    """
    config = lm.config
    layers, window = getattr(config, "layer_types", None), getattr(config, "sliding_window", None)
    if "sliding_attention" in (layers or ()) or (layers is None and window and window < capacity):
        raise ConfigError(f"model {type(lm).__name__}: expected full attention in every layer; got a sliding window{f' of {window}' if window else ''}")
    direct = type(lm).__name__ == "Qwen2ForCausalLM" and config.rope_parameters.get("rope_type") == "default" and config.hidden_act == "silu"
    return (Qwen2Decoder if direct else GenericDecoder)(lm, rows, capacity, dtype)


class _Cache:
    """Keys and values [R, heads, held, D] a layer, row lengths, and an additive mask that grows with them.

    ``held`` positions have memory, ``capacity`` could. A row of Qwen2.5-0.5B takes 12 kB a position in bf16.
    """

    def __init__(self, lm: Any, rows: int, capacity: int, dtype: torch.dtype | None = None) -> None:
        config = lm.config
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        self.groups = config.num_attention_heads // self.heads
        self.size, self.rows, self.capacity = size, rows, capacity
        weight = lm.get_output_embeddings().weight
        self.dtype, self.device = dtype or weight.dtype, weight.device
        self.held = 0
        empty = torch.zeros((rows, self.heads, 0, size), dtype=self.dtype, device=self.device)
        self.keys, self.values = ([empty] * config.num_hidden_layers for _ in range(2))
        self.mask_RL = torch.zeros((rows, 0), dtype=self.dtype, device=self.device)
        self.lengths_R = torch.zeros(rows, dtype=torch.int64)

    def reserve(self, positions: int) -> None:
        """Hold at least so many positions of every row. A layer at a time, so that little is held twice."""
        if positions <= self.held:
            return
        old = self.held
        self.held = min(self.capacity, max(positions, old + max(GROWTH, old // 2)))
        for store in (self.keys, self.values):
            for layer, tensor in enumerate(store):
                # Zeros, not empty memory: a masked NaN would still poison a weighted sum.
                store[layer] = tensor.new_zeros((self.rows, self.heads, self.held, self.size))
                store[layer][:, :, :old] = tensor
        mask_RL = self.mask_RL.new_full((self.rows, self.held), -torch.inf)
        mask_RL[:, :old] = self.mask_RL
        self.mask_RL = mask_RL

    def pretend(self, length: int) -> None:
        self.reserve(length)
        self.lengths_R.fill_(length)
        self.mask_RL.fill_(-torch.inf)
        self.mask_RL[:, :length] = 0

    def clear(self, row: int, kept: int = 0) -> None:
        self.lengths_R[row] = kept
        self.mask_RL[row, kept:] = -torch.inf

    def move(self, source: int, target: int) -> None:
        used = int(self.lengths_R[source])
        for tensor in (*self.keys, *self.values):
            tensor[target, :, :used] = tensor[source, :, :used]
        self.lengths_R[target] = used
        self.mask_RL[target] = self.mask_RL[source]

    def slots(self, rows: Tensor, positions: Tensor) -> Tensor:
        """Flat cache indices [len(rows) * heads] of (row, every head, position)."""
        return ((rows[:, None] * self.heads + torch.arange(self.heads)) * self.held + positions[:, None]).flatten().to(self.device)

    def _next(self, n: int) -> Tensor:
        """Where a step writes in each leading row; a full row, which cannot be live, at its last position."""
        self.reserve(min(self.capacity, int(self.lengths_R[:n].max()) + 1))
        return self.lengths_R[:n].clamp(max=self.capacity - 1)

    def write(self, layer: int, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Write keys and values [tokens, heads, D] at ``slots``."""
        for store, new in ((self.keys[layer], keys), (self.values[layer], values)):
            store.view(-1, self.size).index_copy_(0, slots, new.reshape(-1, self.size))

    def extend(self, rows: Sequence[int], counts: Sequence[int]) -> tuple[list[int], Tensor, Tensor]:
        """Lengthen rows; old lengths, and (row, position) of every new token in order."""
        old = [int(self.lengths_R[row]) for row in rows]
        self.reserve(min(self.capacity, max(start + count for start, count in zip(old, counts))))
        for row, start, count in zip(rows, old, counts):
            if count < 1 or start + count > self.capacity:
                raise ConfigError(
                    f"cache: expected 1 to {self.capacity - start} more tokens in row {row} of {self.capacity}; "
                    f"got {count}"
                )
            self.lengths_R[row] = start + count
            self.mask_RL[row, start : start + count] = 0
        positions = torch.cat([torch.arange(start, start + count) for start, count in zip(old, counts)])
        return old, torch.repeat_interleave(torch.tensor(rows), torch.tensor(counts)), positions


class Qwen2Decoder(_Cache):
    """Runs the weights of a ``Qwen2ForCausalLM`` with fused projections and grouped-query attention."""

    def __init__(self, lm: Any, rows: int, capacity: int, dtype: torch.dtype | None = None) -> None:
        super().__init__(lm, rows, capacity, dtype)
        self.eps = lm.config.rms_norm_eps
        self.embed, self.norm = (part.weight.detach().to(self.dtype) for part in (lm.model.embed_tokens, lm.model.norm))
        angles = torch.arange(capacity)[:, None].float() * lm.model.rotary_emb.inv_freq.float().cpu()
        self.turns_LD = torch.polar(torch.ones_like(angles), angles)[:, None].to(self.device)  # [L, 1, D/2] complex
        # Rotary pairs (i, i + D/2) become neighbours, so that one complex product rotates them. Queries and keys
        # are reordered alike, which leaves their products as they are.
        half = torch.arange(self.size // 2)
        order = torch.stack([half, half + self.size // 2], dim=1).flatten()
        self.layers = [self._fuse(layer, order) for layer in lm.model.layers]

    def _fuse(self, layer: Any, order: Tensor) -> tuple[Tensor, Product, Product, Tensor, Product, Product]:
        attention, mlp = layer.self_attn, layer.mlp

        def reordered(projection: Any) -> tuple[Tensor, Tensor]:
            weight, bias = merged_weight(projection, self.dtype), projection.bias.detach().to(self.dtype)
            heads = len(bias) // self.size
            return (
                weight.view(heads, self.size, -1)[:, order].reshape(weight.shape),
                bias.view(heads, self.size)[:, order].flatten(),
            )

        def together(*projections: Any) -> Product:
            return Product(torch.cat([merged_weight(part, self.dtype) for part in projections]))

        parts = [reordered(attention.q_proj), reordered(attention.k_proj)]
        parts.append((merged_weight(attention.v_proj, self.dtype), attention.v_proj.bias.detach().to(self.dtype)))
        return (
            layer.input_layernorm.weight.detach().to(self.dtype),
            Product(torch.cat([weight for weight, _ in parts]), torch.cat([bias for _, bias in parts])),
            together(attention.o_proj),
            layer.post_attention_layernorm.weight.detach().to(self.dtype),
            together(mlp.gate_proj, mlp.up_proj),
            together(mlp.down_proj),
        )

    @torch.no_grad()
    def prefill(self, rows: Sequence[int], chunks: Sequence[np.ndarray]) -> Tensor:
        counts = [len(chunk) for chunk in chunks]
        old, row_T, position_T = self.extend(rows, counts)
        spans = []
        offset = 0
        for row, start, count in zip(rows, old, counts):
            # Queries of one key head are stacked: G groups x T tokens, each seeing the past and itself.
            index = torch.arange(start + count)
            hidden = index[None, :] > torch.arange(start, start + count)[:, None]
            # Added to the scores, as attention wants it: of booleans it would make that anew in every layer.
            mask = torch.zeros(hidden.shape, dtype=self.dtype).masked_fill_(hidden, -torch.inf).repeat(self.groups, 1)
            spans.append((row, offset, offset + count, start + count, mask.to(self.device)))
            offset += count

        def attend(layer: int, query_THGD: Tensor) -> Tensor:
            outs = []
            for row, begin, end, length, mask in spans:
                query = query_THGD[begin:end].permute(1, 2, 0, 3).reshape(1, self.heads, -1, self.size)
                keys, values = (
                    self.keys[layer][row, None, :, :length],
                    self.values[layer][row, None, :, :length],
                )
                out = functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
                outs.append(out.view(self.heads, self.groups, end - begin, self.size).permute(2, 0, 1, 3))
            return torch.cat(outs)

        ids_T = torch.from_numpy(np.concatenate(chunks))
        hidden_TH = self._forward(ids_T, self.slots(row_T, position_T), position_T, attend)
        return hidden_TH[torch.tensor([end - 1 for _, _, end, _, _ in spans])]

    @torch.no_grad()
    def step(self, ids_n: Tensor, live_n: Tensor) -> Tensor:
        n = len(ids_n)
        row_n = torch.arange(n)
        # A row that is not live writes past its end: masked now, overwritten by the row's next chunk.
        position_n = self._next(n)
        self.mask_RL[row_n[live_n], position_n[live_n]] = 0
        self.lengths_R[:n] += live_n
        longest = max(int(self.lengths_R[:n].max()), 1)
        mask = self.mask_RL[:n, None, None, :longest]

        def attend(layer: int, query_nHGD: Tensor) -> Tensor:
            keys, values = self.keys[layer][:n, :, :longest], self.values[layer][:n, :, :longest]
            return functional.scaled_dot_product_attention(query_nHGD, keys, values, attn_mask=mask)

        return self._forward(ids_n, self.slots(row_n, position_n), position_n, attend)

    def _forward(self, ids_T: Tensor, slots: Tensor, position_T: Tensor, attend: Any) -> Tensor:
        tokens, width = len(ids_T), self.heads * self.size
        queries, hidden = width * self.groups, (self.embed.shape[1],)
        x = self.embed[ids_T.to(self.device)]
        turns = self.turns_LD[position_T.to(self.device)]
        for layer, (norm_1, qkv, out, norm_2, gate_up, down) in enumerate(self.layers):
            h = qkv(functional.rms_norm(x, hidden, norm_1, self.eps))
            pairs = h[:, : queries + width].float().reshape(tokens, -1, self.size // 2, 2)
            rotated = torch.view_as_real(torch.view_as_complex(pairs) * turns).to(h.dtype)
            rotated = rotated.view(tokens, -1, self.size)
            heads = self.heads * self.groups
            self.write(layer, slots, rotated[:, heads:], h[:, queries + width :])
            mixed = attend(layer, rotated[:, :heads].view(tokens, self.heads, self.groups, self.size))
            x = out.added_to(x, mixed.reshape(tokens, queries))
            gate, up = gate_up(functional.rms_norm(x, hidden, norm_2, self.eps)).chunk(2, dim=-1)
            x = down.added_to(x, functional.silu(gate) * up)
        return functional.rms_norm(x, hidden, self.norm, self.eps)


class GenericDecoder(_Cache):
    """Calls any transformers model through a cache object of its kind that reads and writes ours."""

    def __init__(self, lm: Any, rows: int, capacity: int, dtype: torch.dtype | None = None) -> None:
        super().__init__(lm, rows, capacity, dtype)
        as_it_is = self.dtype == lm.dtype and not any(hasattr(module, "base_layer") for module in lm.modules())
        self.base = (lm if as_it_is else merged(lm, self.dtype)).base_model

    @torch.no_grad()
    def prefill(self, rows: Sequence[int], chunks: Sequence[np.ndarray]) -> Tensor:
        counts = torch.tensor([len(chunk) for chunk in chunks])
        old, row_N, position_N = self.extend(rows, counts.tolist())
        longest, width = int(self.lengths_R[rows].max()), int(counts.max())
        valid_RT = torch.arange(width) < counts[:, None]
        ids_RT = torch.zeros(valid_RT.shape, dtype=torch.int64)
        ids_RT[valid_RT] = torch.from_numpy(np.concatenate(chunks))
        position_RT = torch.tensor(old)[:, None] + torch.arange(width)
        sees = torch.arange(longest) <= position_RT[..., None]
        hidden = self._call(
            ids_RT, position_RT, sees, self.slots(row_N, position_N), torch.tensor(rows), valid_RT
        )
        return hidden[torch.arange(len(rows)), counts - 1]

    @torch.no_grad()
    def step(self, ids_n: Tensor, live_n: Tensor) -> Tensor:
        n = len(ids_n)
        position_n = self._next(n)
        self.lengths_R[:n] += live_n
        longest = int(position_n.max()) + 1
        sees = torch.arange(longest) <= position_n[:, None, None]
        slots = self.slots(torch.arange(n), position_n)
        every = torch.ones(n, 1, dtype=torch.bool)
        return self._call(ids_n[:, None], position_n[:, None], sees, slots, slice(n), every)[:, 0]

    def _call(
        self, ids: Tensor, positions: Tensor, sees: Tensor, slots: Tensor, rows: Any, valid: Tensor
    ) -> Tensor:
        """Hidden states [rows, T, H]; ``valid`` [rows, T] marks the tokens that ``slots`` have a place for."""
        cache = _adapter(self, slots, rows, valid.to(self.device), sees.shape[-1])
        mask = torch.where(sees[:, None], 0.0, -torch.inf).to(self.device, self.dtype)
        ids, positions = ids.to(self.device), positions.to(self.device)
        out = self.base(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        )
        return out.last_hidden_state


def _adapter(store: _Cache, slots: Tensor, rows: Any, valid: Tensor, longest: int) -> Any:
    """A transformers ``Cache`` for one forward pass that reads and writes ``store``."""
    from transformers import Cache

    class RowCache(Cache):
        def __init__(self) -> None:
            super().__init__(layers=[])

        def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any) -> Any:
            keys, values = (states.transpose(1, 2)[valid] for states in (key_states, value_states))
            store.write(layer_idx, slots, keys, values)
            return store.keys[layer_idx][rows][:, :, :longest], store.values[layer_idx][rows][:, :, :longest]

        def get_seq_length(self, layer_idx: int = 0) -> int:
            return longest

    return RowCache()


class Sampler:
    """Draws tokens by an exponential race: argmax of log p - log E with E ~ Exp(1) is a draw from p.

    Each row has its own stream, restarted at every turn from (key, turn): what a row draws depends on nothing but
    its own history. ``temperature`` 0 takes the likeliest token; log-probabilities are then at temperature 1. In bf16
    the head stays in bf16, with logits rounded to it; everything behind them is fp32.
    """

    def __init__(
        self, lm: Any, banned_V: Tensor, rows: int, temperature: float, dtype: torch.dtype = torch.float32
    ) -> None:
        self.dtype = dtype
        self.head = Product(lm.get_output_embeddings().weight.detach().to(dtype), shared=True)
        device = lm.get_output_embeddings().weight.device
        self.bias_V = torch.zeros(len(banned_V)).masked_fill(banned_V, -torch.inf).to(device)
        self.temperature = temperature
        self.block = max(1, NOISE_FLOATS // len(banned_V))
        self.noise_RBV = torch.zeros(rows, self.block, len(banned_V), device=device) if temperature > 0 else None
        self.used_R = [0] * rows
        self.streams: list[np.random.Generator | None] = [None] * rows

    def restart(self, row: int, key: Sequence[int]) -> None:
        """Start the stream of a turn."""
        self.streams[row] = np.random.Generator(np.random.PCG64(np.random.SeedSequence(list(key))))
        self.used_R[row] = self.block

    def move(self, source: int, target: int) -> None:
        """Give ``target`` the stream of ``source``."""
        self.streams[target], self.used_R[target] = self.streams[source], self.used_R[source]
        if self.noise_RBV is not None:
            self.noise_RBV[target] = self.noise_RBV[source]

    @torch.no_grad()
    def draw(self, hidden_nH: Tensor, live: Sequence[bool]) -> tuple[Tensor, Tensor]:
        """One token id and its log-probability (fp32) for every row, on the processor; streams of rows not live stand still."""
        n = len(hidden_nH)
        logits_nV = self.head(hidden_nH.to(self.dtype)).float().mul_(1 / (self.temperature or 1.0)).add_(self.bias_V)
        race_nV = logits_nV if self.noise_RBV is None else logits_nV + self._noise(n, live)
        ids_n = race_nV.argmax(dim=-1)
        chosen_n = logits_nV.gather(1, ids_n[:, None])[:, 0]
        return ids_n.cpu(), (chosen_n - torch.logsumexp(logits_nV, dim=-1)).cpu()

    def _noise(self, n: int, live: Sequence[bool]) -> Tensor:
        """-log E for the leading rows [n, V]."""
        assert self.noise_RBV is not None
        for row in range(n):
            if not live[row]:
                continue
            if self.used_R[row] == self.block:
                stream = self.streams[row]
                assert stream is not None, f"row {row} draws before its stream was started"
                noise = torch.from_numpy(_exponential(stream, self.noise_RBV.shape[1:])).log_().neg_()
                self.noise_RBV[row] = noise.to(self.noise_RBV.device)
                self.used_R[row] = 0
            self.used_R[row] += 1
        return self.noise_RBV[torch.arange(n), torch.tensor(self.used_R[:n]).clamp(min=1) - 1]


def _exponential(stream: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Exponential noise in fp32, small values included.

    numpy draws them from 2^23 steps, the lowest of which is 0: it wins any race, however unlikely its token. With 152 k
    tokens that was three draws of a hundred. Such a value is drawn again from within its step.
    """
    noise = stream.standard_exponential(shape, dtype=np.float32)
    zero = noise == 0
    noise[zero] = (1.0 - stream.random(np.count_nonzero(zero))) * 2.0**-23
    return noise
