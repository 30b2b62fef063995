"""Supervised warm start: a language model learns dialogues from a source, with loss on the assistant's tokens only.

A *source* is any callable ``source(rng) -> [(role, content), ...]`` that makes one dialogue, beginning with the user
and ending with the assistant; an assistant's turn with the role "slip" is context and not taught, nor is a "slip" before the
rest of a turn. Batches are a function of (seed, stage, step), so a stopped run resumes where it was.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlpa_agent.chat import Chat, Transcript
from rlpa_agent.generation import Decoder, decoder
from rlpa_agent.policy import Policy
from rlpa_env.errors import ConfigError

Source = Callable[[np.random.Generator], Sequence[tuple[str, str]]]
POOL = 16
"""Batches drawn at once and sorted by length, so that rows of one batch are about equally long."""


@dataclass(frozen=True)
class Stage:
    """A stretch of training on one source: short dialogues first, then long ones."""

    source: Source
    steps: int
    batch: int = 8  # dialogues a step


@dataclass(frozen=True)
class Schedule:
    """How fast to learn. The rate rises linearly, stays, and falls linearly to zero at the end."""

    lr: float = 1e-3  # of AdamW
    muon_lr: float | None = None  # if set, Muon trains the inner matrices at this rate and AdamW the rest
    warmup_steps: int = 100
    decay_share: float = 0.3  # last part of all steps
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0

    def factor(self, step: int, total: int) -> float:
        """Share of the full rate at ``step`` (0-based) of ``total``.

        >>> schedule = Schedule(warmup_steps=10, decay_share=0.5)
        >>> [schedule.factor(step, 100) for step in (0, 9, 49, 50, 75, 99)]
        [0.1, 1.0, 1.0, 1.0, 0.5, 0.02]
        """
        rise = (step + 1) / max(self.warmup_steps, 1)
        fall = (total - step) / max(self.decay_share * total, 1e-9)
        return min(1.0, rise, fall)


@dataclass(frozen=True)
class Progress:
    """What ``warm_start`` reports after a step."""

    step: int  # 1-based
    loss: float  # mean -log p of the assistant's tokens in this batch, nats
    tokens: int  # fed so far in this process
    seconds: float  # in this process


def encode(chat: Chat, dialogue: Sequence[tuple[str, str]]) -> Transcript:
    """A dialogue as ids; the mask marks what the assistant says, end tokens included."""
    turns = [turn for turn in dialogue if turn[0] != "system"]
    head = list(dialogue[: len(dialogue) - len(turns)])
    roles = [role for role, _ in turns]
    if not re.fullmatch("(user (slip |(slip )?assistant ))+", "".join(f"{role} " for role in roles)):
        raise ConfigError(f"dialogue: expected user, assistant, user, assistant, ...; got {roles}")
    transcript = Transcript()
    transcript.context(chat.opening([*head, turns[0]]))
    for i, (role, content) in enumerate(turns[1:], 1):
        follows = roles[i + 1] if i + 1 < len(turns) else "user"
        if role == "user":
            transcript.context(chat.follow([chat.end_id], content))
            continue
        ids = chat.tokenizer.encode(content, add_special_tokens=False, split_special_tokens=True)
        whole = [*ids, chat.end_id] if follows == "user" else ids
        (transcript.context if role == "slip" else transcript.action)(whole)
    return transcript


def warm_start(
    policy: Policy,
    stages: Sequence[Stage],
    *,
    schedule: Schedule | None = None,
    seed: int = 0,
    bf16: bool = True,
    out: Path | None = None,
    save_every: int = 500,
    resume: bool = False,
    report: Callable[[Progress], None] | None = None,
) -> None:
    """Train ``policy.lm`` in place. With ``out``, checkpoints go there and ``resume`` continues from the last one."""
    schedule = schedule or Schedule()
    total = sum(stage.steps for stage in stages)
    optimizers = _optimizers(policy, schedule)
    done = _resume(policy, optimizers, out, seed, total) if resume and out is not None else 0
    began, tokens = time.perf_counter(), 0
    for step, batch in batches(policy.chat, stages, seed, policy.context_limit, start=done):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["full_lr"] * schedule.factor(step, total)
            optimizer.zero_grad(set_to_none=True)
        loss = batch_loss(policy, batch, bf16)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(policy.parameters_policy()), schedule.max_grad_norm)
        for optimizer in optimizers:
            optimizer.step()
        tokens += sum(len(transcript.ids) for transcript in batch)
        if report is not None:
            report(Progress(step + 1, float(loss.detach()), tokens, time.perf_counter() - began))
        if out is not None and ((step + 1) % save_every == 0 or step + 1 == total):
            _save(policy, optimizers, out, seed, step + 1, total)


def batches(
    chat: Chat, stages: Sequence[Stage], seed: int, limit: int, *, start: int = 0
) -> Iterator[tuple[int, list[Transcript]]]:
    """(step, transcripts) from step ``start`` on. Dialogues longer than ``limit`` tokens end earlier."""
    step = 0
    for number, stage in enumerate(stages):
        for pool in range(-(-stage.steps // POOL)):
            size = min(POOL, stage.steps - pool * POOL)
            if step + size <= start:
                step += size
                continue
            rng = np.random.default_rng([seed, number, pool])
            drawn = [_fitting(chat, stage.source(rng), limit) for _ in range(size * stage.batch)]
            drawn.sort(key=lambda transcript: len(transcript.ids))
            for i in rng.permutation(size):
                if step >= start:
                    yield step, drawn[i * stage.batch : (i + 1) * stage.batch]
                step += 1


def _fitting(chat: Chat, dialogue: Sequence[tuple[str, str]], limit: int) -> Transcript:
    transcript = encode(chat, dialogue)
    while len(transcript.ids) > limit and [role for role, _ in dialogue].count("user") > 1:
        dialogue = dialogue[: max(i for i, (role, _) in enumerate(dialogue) if role == "user")]
        transcript = encode(chat, dialogue)
    return transcript


def padded(batch: Sequence[Transcript], pad_id: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """ids [B, L] padded on the right, lengths [B], and (row, position) of every assistant token."""
    longest = max(len(transcript.ids) for transcript in batch)
    ids = torch.full((len(batch), longest), pad_id)
    mask = torch.zeros(len(batch), longest, dtype=torch.bool)
    for row, transcript in enumerate(batch):
        ids[row, : len(transcript.ids)] = torch.tensor(transcript.ids)
        mask[row, : len(transcript.ids)] = torch.tensor(transcript.mask)
    rows, positions = mask.nonzero(as_tuple=True)
    return ids, torch.tensor([len(transcript.ids) for transcript in batch]), rows, positions


def batch_loss(policy: Policy, batch: Sequence[Transcript], bf16: bool) -> Tensor:
    """Mean -log p of the assistant's tokens."""
    ids, lengths, rows, positions = padded(batch, policy.chat.pad_id)
    with torch.autocast(policy.device.type, torch.bfloat16, enabled=bf16):
        nowhere = torch.zeros(len(rows))
        scored = policy.score(ids, lengths, rows, positions, nowhere, temperature=1.0, need=("logp",))
    assert scored.logp is not None
    return -scored.logp.mean()


def _optimizers(policy: Policy, schedule: Schedule) -> list[torch.optim.Optimizer]:
    matrices: list[torch.nn.Parameter] = []
    rest: list[torch.nn.Parameter] = []
    embedding = policy.lm.get_input_embeddings().weight
    for parameter in policy.parameters_policy():
        inner = parameter.ndim == 2 and parameter is not embedding
        (matrices if inner and schedule.muon_lr is not None else rest).append(parameter)
    decay = schedule.weight_decay
    made: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(rest, lr=schedule.lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=decay, foreach=True)
    ]
    if schedule.muon_lr is not None:
        made.append(torch.optim.Muon(matrices, lr=schedule.muon_lr, weight_decay=decay))
    for optimizer in made:
        for group in optimizer.param_groups:
            group["full_lr"] = group["lr"]
    return made


def _save(policy: Policy, optimizers: Sequence[Any], out: Path, seed: int, step: int, total: int) -> None:
    """Write beside, then rename: an interrupted save leaves the previous checkpoint whole."""
    fresh, last, old = out / "saving", out / "last", out / "previous"
    _remove(fresh)
    policy.save(fresh)
    torch.save([optimizer.state_dict() for optimizer in optimizers], fresh / "optimizers.pt")
    (fresh / "progress.json").write_text(json.dumps({"seed": seed, "step": step, "total": total}))
    if last.exists():
        _remove(old)
        os.replace(last, old)
    os.replace(fresh, last)
    _remove(old)


def newest(out: Path) -> Path:
    """The checkpoint of a warm start, if there is one: the one before it where a kill came between the two renames."""
    last, old = out / "last", out / "previous"
    return old if not last.exists() and old.exists() else last


def _remove(folder: Path) -> None:
    if folder.exists():
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def _resume(policy: Policy, optimizers: Sequence[Any], out: Path, seed: int, total: int) -> int:
    """Load the last checkpoint into the policy and optimizers; the number of steps done (0: there is none)."""
    last = newest(out)
    if not last.exists():
        return 0
    progress = json.loads((last / "progress.json").read_text())
    if (progress["seed"], progress["total"]) != (seed, total):
        raise ConfigError(
            f"{last}: expected a warm start with seed {seed} and {total} steps in all; it has {progress}. "
            "Use another folder or the same settings."
        )
    policy.lm.load_state_dict(Policy.load(last, reference=False).lm.state_dict())
    states = torch.load(last / "optimizers.pt", weights_only=True)
    for optimizer, state in zip(optimizers, states):
        optimizer.load_state_dict(state)
    return progress["step"]


@torch.no_grad()
def forced_copy(
    policy: Policy, histories: Sequence[Sequence[tuple[str, str]]], told: Sequence[Sequence[tuple[str, str]]]
) -> list[list[bool]]:
    """For each history (ending with a user message), which of the told (slot, value) points the model can write down.

    The profile block is forced line by line, "- Slot:", and greedy decoding fills each line in: one value, or several
    with commas. A slot of which fewer values were written than told is forced again. A point counts when its value
    stands on a line of its slot.
    """
    chat, tokenizer = policy.chat, policy.tokenizer
    rows = [row for row, points in enumerate(told) if points]
    if not rows:
        return [[] for _ in told]
    cache: Decoder = decoder(policy.lm, len(rows), policy.context_limit)
    start = np.asarray(tokenizer.encode("<profile>\n", add_special_tokens=False), dtype=np.int64)
    unfed = [np.concatenate([chat.opening(histories[row]), start]) for row in rows]
    asked = [Counter(slot for slot, _ in told[row]) for row in rows]  # slot -> lines that may still be forced
    written: list[dict[str, list[str]]] = [{slot: [] for slot in left} for left in asked]
    while True:
        forced = {}
        for i, left in enumerate(asked):
            wanted = Counter(slot for slot, _ in told[rows[i]])
            slot = next((s for s in left if left[s] and len(written[i][s]) < wanted[s]), None)
            if slot is not None:
                forced[i] = slot
                left[slot] -= 1
        if not forced:
            break
        chunks = [np.concatenate([unfed[i], tokenizer.encode(f"- {slot}:", add_special_tokens=False)]) for i, slot in forced.items()]
        for (i, slot), ids in zip(forced.items(), greedy_lines(policy, cache, list(forced), chunks)):
            unfed[i] = np.asarray(ids[-1:], dtype=np.int64)  # the line break was chosen but not fed
            line = tokenizer.decode(ids, clean_up_tokenization_spaces=False).strip()
            written[i][slot] += [value.strip().casefold() for value in line.split(",")]
    hits: list[list[bool]] = [[] for _ in told]
    for i, row in enumerate(rows):
        hits[row] = [value.casefold() in written[i][slot] for slot, value in told[row]]
    return hits


def greedy_lines(
    policy: Policy, cache: Decoder, rows: list[int], chunks: list[np.ndarray], longest: int = 32
) -> list[list[int]]:
    """Greedy ids for each row up to and with the end of the line."""
    head = policy.lm.get_output_embeddings().weight
    (newline,) = policy.tokenizer.encode("\n", add_special_tokens=False)
    hidden = torch.zeros(max(rows) + 1, head.shape[1], device=head.device)
    hidden[rows] = cache.prefill(rows, chunks)
    lines: list[list[int]] = [[] for _ in rows]
    open_rows = set(range(len(rows)))
    while open_rows:
        ids = (hidden @ head.T).cpu().masked_fill(policy.banned_V, -torch.inf).argmax(-1)
        live = torch.zeros(len(hidden), dtype=torch.bool)
        for i in sorted(open_rows):
            lines[i].append(int(ids[rows[i]]))
            if lines[i][-1] == newline or lines[i][-1] in policy.chat.end_ids or len(lines[i]) == longest:
                lines[i][-1] = newline  # a line that does not end is closed, so that the next can follow
                open_rows.discard(i)
            else:
                live[rows[i]] = True
        if open_rows:
            hidden = cache.step(ids, live)
    return lines
