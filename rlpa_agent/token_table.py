"""A kept dialogue token by token: what was said, what it earned, and what the estimator made of it.

In the terminal, and as one HTML file without scripts or outside references. Everything that a person or a model wrote
is escaped.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table
from rich.text import Text

from rlpa_agent.advantages import chain_gae, token_rewards
from rlpa_agent.config import TrainConfig
from rlpa_agent.rollout_files import KeptRollout
from rlpa_env import ConfigError

FIGURES = {
    "logp_old": "log-probability when the update began",
    "logp_ref": "of the frozen reference",
    "kl": "logp old − logp reference",
    "value": "V, what the critic expected before the token",
    "reward": "reward due at the token, without KL",
    "delta": "δ, one-step error of the critic: token reward + γ·next V − V",
    "advantage": "A, before whitening",
    "used": "A as the loss takes it",
    "return": "what the critic is taught (without a critic: reward from here on)",
}
"""Column -> what it is."""


@dataclass(frozen=True)
class TokenLine:
    """One token. ``figures`` is empty for tokens that were fed, not sampled."""

    text: str
    mask: bool  # sampled by the policy
    turn: int | None  # 0-based; None for context
    row: int  # contexts that were rewritten have rows of their own
    figures: dict[str, float]


def token_lines(kept: KeptRollout, episode: int, config: TrainConfig, tokenizer: Any) -> list[TokenLine]:
    """The tokens of a dialogue in the order of its rows; ``episode`` counts from 0."""
    batch = kept.batch
    chains = [chain for chain, owner in enumerate(batch.episode_C) if owner == episode]
    if not chains:
        raise ConfigError(
            f"episode: expected one of 0 … {len(kept.episodes) - 1} with a scored turn, in iteration {kept.iteration}; got {episode}."
        )
    columns = _columns(kept, config)
    own = torch.isin(batch.chain_A, torch.tensor(chains)).nonzero()[:, 0].tolist()
    place = {(int(batch.row_A[i]), int(batch.pos_A[i])): i for i in own}
    lines = []
    for row in sorted({row for row, _ in place}):
        for position, token in enumerate(batch.rows[row].tolist()):
            i = place.get((row, position))
            text = tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False)
            figures = {} if i is None else {name: float(column[i]) for name, column in columns.items()}
            lines.append(TokenLine(text, i is not None, None if i is None else int(batch.turn_A[i]), row, figures))
    return lines


def _columns(kept: KeptRollout, config: TrainConfig) -> dict[str, torch.Tensor]:
    """The figures of all action tokens [A]; those of the critic only where there was one."""
    batch, known, ppo = kept.batch, kept.estimates, config.ppo
    kl_A = known.logp_old_A - known.logp_ref_A
    columns = {"logp_old": known.logp_old_A, "logp_ref": known.logp_ref_A, "kl": kl_A, "reward": batch.reward_A}
    if known.values_A is not None and known.bootstrap_C is not None:
        rewards = token_rewards(batch.reward_A, kl_A if config.kl_in == "reward" else None, ppo.beta)
        one_step = {"gamma_token": ppo.gamma_token, "gamma_turn": ppo.gamma_turn, "lam_token": 0.0, "lam_turn": 0.0}
        columns["value"] = known.values_A
        columns["delta"], _ = chain_gae(
            rewards, known.values_A, batch.segment_A, batch.starts_C, known.bootstrap_C, **one_step
        )
    columns |= {"advantage": known.raw_A, "used": known.advantages_A, "return": known.returns_A}
    return {name: columns[name] for name in FIGURES if name in columns}


def _visible(text: str) -> str:
    return text.replace("\n", "⏎").replace("\t", "⇥") if text else "∅"


def _heading(name: str) -> str:
    return {"delta": "δ", "value": "V", "advantage": "A", "kl": "KL"}.get(name, name.replace("_", " "))


def terminal_table(lines: Sequence[TokenLine], title: str) -> Table:
    """Runs of fed tokens are one dim line; every sampled token has a line."""
    names = next((list(line.figures) for line in lines if line.mask), [])
    table = Table(title=Text(title), pad_edge=False)
    for name in ("turn", "mask", "text"):
        table.add_column(name, overflow="fold")
    for name in names:
        table.add_column(_heading(name), justify="right")
    fed: list[str] = []

    def flush() -> None:
        if fed:
            table.add_row("", str(len(fed)), Text(_visible("".join(fed)), style="dim"))
            fed.clear()

    for line in lines:
        if not line.mask:
            fed.append(line.text)
            continue
        flush()
        figures = [f"{line.figures[name]:.3f}" for name in names]
        table.add_row(str(line.turn), "1", Text(_visible(line.text)), *figures)
    flush()
    return table


STYLE = """body{font:14px/1.5 system-ui,sans-serif;margin:2rem;max-width:75rem;color:#222;background:#fff}
table{border-collapse:collapse}th{position:sticky;top:0;background:#f2f2f2;text-align:right}
td,th{padding:.1rem .6rem;border-bottom:1px solid #eee;font-variant-numeric:tabular-nums;text-align:right}
td.t{font-family:ui-monospace,monospace;text-align:left;white-space:pre-wrap}
tr.fed td{color:#888;background:#fafafa}tr.end td{border-bottom:2px solid #888}"""


def html_page(lines: Sequence[TokenLine], title: str, notes: Sequence[str] = ()) -> str:
    """A page that stands alone. Advantages are shaded, blue above 0 and red below."""
    names = next((list(line.figures) for line in lines if line.mask), [])
    widest = max((abs(line.figures["used"]) for line in lines if line.mask), default=0.0) or 1.0
    head = "".join(f'<th title="{html.escape(FIGURES[name])}">{html.escape(_heading(name))}</th>' for name in names)
    body = []
    for i, line in enumerate(lines):
        text = f'<td class="t">{html.escape(_visible(line.text))}</td>'
        if not line.mask:
            body.append(f'<tr class="fed"><td></td><td>0</td>{text}<td colspan="{len(names)}"></td></tr>')
            continue
        share = line.figures["used"] / widest
        colour = f"rgba({'40,90,200' if share > 0 else '200,50,40'},{abs(share) * 0.5:.3f})"
        last = i + 1 == len(lines) or lines[i + 1].turn != line.turn
        cells = "".join(
            f'<td style="background:{colour}">{line.figures[name]:.4f}</td>' if name == "used" else f"<td>{line.figures[name]:.4f}</td>"
            for name in names
        )
        body.append(f'<tr class="{"end" if last else "own"}"><td>{line.turn}</td><td>1</td>{text}{cells}</tr>')
    said = "".join(f"<p>{html.escape(note)}</p>" for note in notes)
    meaning = "".join(f"<li><b>{html.escape(_heading(name))}</b>: {html.escape(FIGURES[name])}</li>" for name in names)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style></head>'
        f"<body><h1>{html.escape(title)}</h1>{said}<ul>{meaning}</ul><table><thead><tr><th>turn</th><th>mask</th><th>text</th>{head}"
        f"</tr></thead><tbody>{''.join(body)}</tbody></table></body></html>\n"
    )


def episode_notes(kept: KeptRollout, episode: int) -> tuple[str, list[str]]:
    """Title of a dialogue, and a line for every turn with its reward and the parts of it."""
    line = kept.episodes[episode]
    title = f"iteration {kept.iteration} · dialogue {episode} · {line['episode']} · {line['stop_reason'] or 'over'}"
    notes = []
    for k, turn in enumerate(line["turns"]):
        parts = ", ".join(f"{name} {value:.3g}" for name, value in turn["parts"].items() if name.startswith("reward/"))
        notes.append(f"turn {k}: reward {turn['reward']:.3g}{f' ({parts})' if parts else ''}, stop {turn['stop']}")
    return title, notes
