"""What a run tells: figures of an iteration, the health note, the progress bar, metrics.jsonl and TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from rlpa_agent.advantages import explained_variance
from rlpa_agent.batch import Batch, valid_turns
from rlpa_agent.estimates import Estimates, UpdateStats
from rlpa_agent.rollout import PROFILE_TOKENS, RolloutCounts
from rlpa_agent.trajectory import Trajectory, Turn
from rlpa_env import parse_action
from rlpa_env.actions import cut_block
from rlpa_env.metrics import sameness

_TURN_FIGURES = (
    "reward/profile", "reward/response", "profile/precision", "profile/recall", "profile/f1", "profile/grounded_f1",
    "profile/invented", "profile/ceiling", "profile/revealed", "judge/naturalness", "judge/relevance", "judge/logic",
    "judge/engagement", "judge/informativeness",
)  # fmt: skip


def peak_memory_mb() -> float:
    """Largest resident set of this process so far, in MB; 0 where the system does not say."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0.0
    line = next((line for line in status.read_text().splitlines() if line.startswith("VmHWM")), "VmHWM: 0 kB")
    return int(line.split()[1]) / 1024


def rollout_figures(trajectories: Sequence[Trajectory], max_turns: int) -> dict[str, Any]:
    """Means over episodes and turns; turns after the user left count 0, those that a failure left unscored are left out.

    Figures of profiles and replies are there only where the environment tells of them, in the infos of every turn.
    ``by_turn/`` has a number for each turn, of length ``max_turns``. Rates and lengths (length stops, tokens, points listed)
    are means over the dialogues that held the turn, and 0 where none did.
    """
    figures: dict[str, Any] = {}
    valid = [valid_turns(t) for t in trajectories]  # what comes after an unscored turn is not learned from either
    failed = [len(turns) < len(t.turns) for turns, t in zip(valid, trajectories, strict=True)]
    whole = [sum(turn.reward for turn in turns) for turns, cut in zip(valid, failed, strict=True) if not cut]
    paid_K = _means_by_turn(valid, failed, max_turns, lambda turn: turn.reward)
    figures["return"] = float(paid_K.sum())
    figures["return_std"] = float(np.std(whole)) if whole else 0.0
    figures["turns"] = float(np.mean([len(turns) for turns in valid]))
    figures["failures"] = sum(failed)
    every = [turn for turns in valid for turn in turns]
    figures["length_stops"] = float(np.mean([turn.stop == "length" for turn in every])) if every else 0.0
    figures["by_turn/return"] = paid_K.tolist()
    figures["by_turn/length_stops"] = _by_turn(valid, max_turns, lambda turn: turn.stop == "length")
    figures["by_turn/action_tokens"] = _by_turn(valid, max_turns, lambda turn: len(turn.action_ids))
    if every and all(PROFILE_TOKENS in turn.parts for turn in every):
        profile = _by_turn(valid, max_turns, lambda turn: turn.parts[PROFILE_TOKENS])
        figures["by_turn/profile_tokens"] = profile
        figures["by_turn/reply_tokens"] = [a - p for a, p in zip(figures["by_turn/action_tokens"], profile, strict=True)]
    for key in _TURN_FIGURES:
        if every and all(key in turn.parts for turn in every):
            means_K = _means_by_turn(valid, failed, max_turns, partial(_part, key))
            figures[key] = float(means_K.mean())
            figures[f"by_turn/{key}"] = [round(value, 4) for value in means_K.tolist()]
    has_format = not every or any("reward/profile" in turn.parts for turn in every)
    ended = "left_early" if has_format else "terminated"  # elsewhere an end may as well be a game that was won
    last = [[len(t.turns) == k + 1 and t.terminated for t in trajectories] for k in range(max_turns)]
    figures[ended] = float(np.mean([t.terminated for t in trajectories]))
    figures[f"by_turn/{ended}"] = [float(np.mean(here)) for here in last]
    return figures | (_text_figures(trajectories, max_turns) if has_format else {})


def _part(key: str, turn: Turn) -> float:
    return turn.parts[key]


def _means_by_turn(valid: Sequence[Sequence[Turn]], failed: Sequence[bool], max_turns: int, figure: Callable[[Turn], float]) -> np.ndarray:
    """Mean of a figure at every turn, [K]: 0 for whoever has left, nothing for whom a failure cut off before it; 0 where that is everybody."""
    table_DK = np.zeros((len(valid), max_turns))
    for row, (turns, cut) in enumerate(zip(valid, failed, strict=True)):
        table_DK[row, : len(turns)] = [figure(turn) for turn in turns]
        if cut:
            table_DK[row, len(turns) :] = np.nan
    known_K = (~np.isnan(table_DK)).sum(axis=0)
    return np.nansum(table_DK, axis=0) / np.maximum(known_K, 1)


def _by_turn(dialogues: Sequence[Sequence[Any]], max_turns: int, figure: Callable[[Any], float]) -> list[float]:
    """A figure of every turn, its mean over the dialogues that held it; 0 where none did."""
    held = ([figure(dialogue[k]) for dialogue in dialogues if len(dialogue) > k] for k in range(max_turns))
    return [float(np.mean(here)) if here else 0.0 for here in held]


def _text_figures(trajectories: Sequence[Trajectory], max_turns: int) -> dict[str, Any]:
    """Figures of what was written: points listed, share of the profile block, how alike the replies after the first are."""
    dialogues = [[content for role, content in t.messages if role == "assistant"] for t in trajectories]
    texts = [text for dialogue in dialogues for text in dialogue]
    if not texts:
        return {}
    actions = [[parse_action(text) for text in dialogue] for dialogue in dialogues]
    profile_chars = sum(len(block.head) + len(block.tag) for block in map(cut_block, texts) if block.closed)
    return {
        "by_turn/guessed_points": _by_turn(actions, max_turns, lambda action: len(action.profile)),
        "guessed_points": float(np.mean([len(action.profile) for dialogue in actions for action in dialogue])),
        "malformed": float(np.mean([bool(action.error) for dialogue in actions for action in dialogue])),
        "replies": sum(max(0, len(dialogue) - 1) for dialogue in actions),  # after the first
        **sameness([[action.reply for action in dialogue] for dialogue in actions]),
        "profile_share": profile_chars / max(1, sum(map(len, texts))),
    }


def work_figures(counts: RolloutCounts, stats: UpdateStats, rollout_seconds: float) -> dict[str, Any]:
    """Speed and waste of one iteration."""
    return {
        "rollout_seconds": rollout_seconds,
        "update_seconds": stats.seconds,
        "rollout_tokens_per_second": counts.action_tokens / max(rollout_seconds, 1e-9),
        "update_tokens_per_second": stats.action_tokens / max(stats.seconds, 1e-9),
        "action_tokens": counts.action_tokens,
        "prefill_ratio": counts.prefilled_tokens / max(1, counts.context_tokens),
        "head_ratio": stats.head_ratio,
        "pad_share": 1 - stats.real_tokens / max(1, stats.padded_tokens),
        "context_stops": counts.context_stops,
        "prefill_seconds": counts.prefill_seconds,
        "decode_steps": counts.decode_steps,
        "decode_rows": counts.decode_rows,
        "environment_seconds": counts.environment_seconds,
        "peak_memory_mb": peak_memory_mb(),
    }


def update_figures(batch: Batch, estimates: Estimates, stats: UpdateStats) -> dict[str, Any]:
    """What the update did. Nothing of losses, clipping and entropy where the policy was not asked: its critic is warming up."""
    steps = max(1, stats.steps)
    told = {name: getattr(stats, name) / steps for name in ("clip_fraction", "policy_loss", "entropy")}
    kl_A = estimates.logp_old_A - estimates.logp_ref_A
    by_turn = {"by_turn/kl": kl_A, "by_turn/entropy": -batch.logp_old_A}  # of what was sampled, −log p is the entropy on average
    count_K = torch.bincount(batch.turn_A).clamp(min=1)
    by_turn_figures = {name: (torch.bincount(batch.turn_A, value_A.double()) / count_K).tolist() for name, value_A in by_turn.items()}
    if estimates.values_A is not None:
        pairs = [(estimates.values_A[batch.turn_A == k], estimates.returns_A[batch.turn_A == k]) for k in range(len(count_K))]
        by_turn_figures["by_turn/explained_variance"] = [explained_variance(*pair) if len(pair[0]) else 0.0 for pair in pairs]
    turns = len({(c, t) for c, t in zip(batch.chain_A.tolist(), batch.turn_A.tolist(), strict=True)})
    return {
        "kl": float(kl_A.mean()),
        "kl_per_turn": float(kl_A.sum()) / max(1, turns),
        **by_turn_figures,
        "served": estimates.weights_A is not None,
        "sampling_mismatch": float((estimates.logp_old_A - batch.logp_old_A).abs().mean()),
        "sampling_mismatch_max": float((estimates.logp_old_A - batch.logp_old_A).abs().max()),
        "first_ratio_error": stats.first_ratio_error,
        "approx_kl": stats.approx_kl,
        **(told if stats.policy_positions or any(told.values()) else {}),
        "value_loss": stats.value_loss / steps,
        "grad_norm": stats.grad_norm / steps,
        "optimizer_steps": stats.steps,
        "skipped_steps": stats.skipped,
        "stopped_by_kl": stats.stopped_by_kl,
        **stats.figures,
    }


def health(figures: Mapping[str, Any]) -> str:
    """One line that names the likeliest trouble; "ok" where there is none."""

    def at(key: str, default: float = 0.0) -> float:
        return float(figures.get(key, default))

    checks = (
        (at("skipped_steps") > 0, f"{at('skipped_steps'):.0f} optimizer steps skipped: loss or gradient not finite; lower the rates"),
        (at("length_stops") > 0.2, f"{at('length_stops'):.0%} of turns cut by length; raise max_new_tokens"),
        (at("first_ratio_error") > 0.01, f"ratios begin {at('first_ratio_error'):.2g} off 1: sampling and update compute apart; --ppo.old-logp scored"),
        (at("malformed") > 0.1, f"{at('malformed'):.0%} of completions malformed"),
        (at("context_stops") > 0, f"{at('context_stops'):.0f} dialogues outgrew the context"),
        (at("most_common_reply") > 0.1 and round(at("most_common_reply") * at("replies", 10)) > 1, f"one reply is {at('most_common_reply'):.0%} of all replies: collapse"),
        (at("left_early") > 0.5, f"{at('left_early'):.0%} of users leave early"),
        (at("clip_fraction") > 0.3, f"{at('clip_fraction'):.0%} of tokens clipped: steps too large"),
        (at("explained_variance", 1.0) < 0.05, f"critic explains {at('explained_variance'):.0%} of variance"),
        (bool(figures.get("stopped_by_kl")), "epochs stopped by target_kl"),
    )
    return next((text for bad, text in checks if bad), "ok")


def records_until(path: Path, iteration: int) -> list[dict[str, Any]]:
    """Lines of a run's log up to an iteration; without one that a kill has torn. [] where there is no log."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    records = [json.loads(line) for line in lines if line.endswith("}")]
    return [record for record in records if record["iteration"] <= iteration]


def trim(path: Path, iteration: int) -> None:
    """Drop what a run's log holds after an iteration; a log that is not there stays so."""
    if path.exists():
        path.write_text("".join(json.dumps(record) + "\n" for record in records_until(path, iteration)), encoding="utf-8")


class RunLog:
    """Writes metrics.jsonl and TensorBoard events, and drives the progress bar."""

    def __init__(self, out: Path, total: int | None, quiet: bool = False, keep: int = -1) -> None:
        """``keep``: the last iteration of an earlier part of this run that stays in metrics.jsonl and TensorBoard; later ones are dropped."""
        from torch.utils.tensorboard import SummaryWriter

        out.mkdir(parents=True, exist_ok=True)
        self.path = out / "metrics.jsonl"
        self.path.touch()
        trim(self.path, keep)
        self.newest: Mapping[str, Any] = (records_until(self.path, keep) or [{}])[-1]  # figures of the iteration before
        self.board = SummaryWriter(str(out / "tensorboard"), purge_step=keep + 1)
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"))
        self.bar = Progress(*columns, TimeElapsedColumn(), disable=quiet)
        self.task = self.bar.add_task("training", total=total, completed=max(0, keep), note="")
        self.sub = self.bar.add_task("  dialogues", total=1, note="")
        self.bar.start()

    def dialogues(self, done: int, total: int) -> None:
        """Progress inside an iteration."""
        self.bar.update(self.sub, completed=done, total=total)

    def iteration(self, figures: Mapping[str, Any]) -> None:
        """One line of metrics and one step of the bar."""
        self.newest = figures
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(figures) + "\n")
        for key, value in figures.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                self.board.add_scalar(key, value, figures["iteration"])
        speed = figures.get("rollout_tokens_per_second", 0.0)
        f1 = f" F1 {figures['profile/f1']:.3f}" if "profile/f1" in figures else ""
        apart = f" |Δlogp| {figures['sampling_mismatch']:.4f}" if figures.get("served") else ""
        note = f"return {figures['return']:.2f}{f1} KL {figures['kl_per_turn']:.2f}{apart} {speed:,.0f} tok/s · {figures['health']}"
        self.bar.update(self.task, completed=figures["iteration"], note=note)
        if self.bar.disable:
            return
        self.bar.console.print(f"[dim]{figures['iteration']:4d}[/] {note}", highlight=False)

    def validation(self, path: Path, iteration: int, figures: Mapping[str, float]) -> None:
        """One line of figures on held-out users, with ``f1_gap``: profile F1 of the newest rollouts, if there were any, less theirs."""
        if "profile_f1" in figures and "profile/f1" in self.newest:
            figures = {**figures, "f1_gap": self.newest["profile/f1"] - figures["profile_f1"]}
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"iteration": iteration, **figures}) + "\n")
        for key, value in figures.items():
            self.board.add_scalar(f"validation/{key}", value, iteration)

    def close(self) -> None:
        """Stop the bar and flush."""
        self.bar.stop()
        self.board.close()
