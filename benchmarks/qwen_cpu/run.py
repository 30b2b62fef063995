"""A real Qwen2.5-0.5B, trained by PPO on a laptop's processor, and held-out people before and after.

    python benchmarks/qwen_cpu/run.py --model DIR --aloe DIR [--minutes 90] [--runs runs/qwen_cpu] [--out benchmarks/results/qwen_cpu]

DIR of --model: any Hugging Face folder or id of a Qwen2.5-0.5B; of --aloe: ALOE's profile.jsonl and personality.jsonl
(docs/environment.md says where they come from). The people are split as `rlpa-agent`'s demo splits them: every fifth is held
out. Training and evaluation are kept in RUNS and go on where they were stopped, so they can be run in pieces; --train-only and
--samples choose a piece. OUT receives the figures, the learning curve, and the dialogues with the first three held-out people,
before and after, as they came.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import finish
from training import ensure_trained, settings_of

from rlpa_agent.cli import policy_path
from rlpa_agent.config import PRESETS, SHIPPED, TrainConfig
from rlpa_agent.demo import split_people
from rlpa_agent.evaluate import policy_agent
from rlpa_env.evaluate import Setting, collect, results_table
from rlpa_env.results import paired_difference, summarise

BEFORE, AFTER = "start", "trained"
GAINS = {"profile_f1": "f1", "grounded_f1": "grounded_f1", "precision": "precision", "recall": "recall", "al": "al", "response": "response", "return": "return"}
SHOWN = 3  # people whose dialogues are kept


def qwen_config(folder: Path, model: str, people: str, minutes: float) -> TrainConfig:
    """The preset, with dialogues of a size that a processor learns from ten times in 90 minutes."""
    preset = PRESETS["qwen2.5-0.5b"]
    rollout = dataclasses.replace(preset.rollout, split=people, dialogues=16, concurrent=16, max_turns=8, max_new_tokens=96)
    # Ten iterations: no time for one that only the critic learns from, nor for a rate that is meant for hundreds.
    ppo = dataclasses.replace(preset.ppo, epochs=1, minibatches=8, critic_warmup=0)
    optim = dataclasses.replace(preset.optim, policy_lr=5e-4)
    model_config = dataclasses.replace(preset.model, path=model, gradient_checkpointing=False)
    quiet = dataclasses.replace(preset.eval, every=0)
    return dataclasses.replace(
        preset, out=folder, minutes=minutes, iterations=None, save_every=1, keep_rollouts=True,
        rollout=rollout, ppo=ppo, optim=optim, model=model_config, eval=quiet,
    )


def curve(metrics: Sequence[Mapping[str, Any]], path: Path) -> None:
    """What was earned and known while training, by dialogues."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    seen = [line["dialogues"] for line in metrics]
    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(13, 3.6), constrained_layout=True)
    for key, label in (("profile/f1", "profile F1"), ("profile/grounded_f1", "grounded F1"), ("profile/ceiling", "ceiling of the F1")):
        middle.plot(seen, [line[key] for line in metrics], marker=".", label=label)
    left.plot(seen, [line["return"] for line in metrics], marker=".")
    right.plot(seen, [line["kl_per_turn"] for line in metrics], marker=".", color="tab:red")
    for axes, title in ((left, "return of a dialogue, at τ = 1"), (middle, "what is believed"), (right, "KL to the start, nats a turn")):
        axes.set(title=title, xlabel="dialogues trained on")
        axes.set_ylim(bottom=0)
    middle.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def dialogues(records: Mapping[str, Sequence[Mapping[str, Any]]], seed: int) -> str:
    """The first people's dialogues of both policies, as Markdown: what was said, what was believed, what was paid."""
    pages = ["# The first three held-out people, before and after\n\nUnpicked: the first in file order, seed " + f"{seed}, sampled at τ = 1.\n"]
    chosen = {name: [r for r in rows if r["seed"] == seed][:SHOWN] for name, rows in records.items()}
    for pair in zip(*chosen.values(), strict=True):
        for name, record in zip(chosen, pair, strict=True):
            truth = "; ".join(f"{slot}: {', '.join(values)}" for slot, values in record["truth"].items())
            pages.append(f"\n## {record['profile']}, {name}\n\nWho they are: {truth}\n")
            spoken = [m for m in record["messages"] if m["role"] != "system"]
            for k, turn in enumerate(record["turns"]):
                verdict = f"F1 {turn['f1']:.2f}, response {turn['response']:.0f}" + (f", {turn['parse_error']}" if turn["parse_error"] else "")
                answer = spoken[2 * k + 1]["content"].rstrip()
                pages.append(f"\n**Turn {k + 1}, user:** {spoken[2 * k]['content']}\n\n```text\n{answer}\n```\n{verdict}\n")
    return "".join(pages)


def main() -> None:
    """Train, score, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="Qwen/Qwen2.5-0.5B-Instruct")
    parser.add_argument("--aloe", type=Path, help="folder with ALOE's two files")
    parser.add_argument("--minutes", type=float, default=90.0, help="of training, evaluation apart")
    parser.add_argument("--users", type=int, default=40, help="held-out people")
    parser.add_argument("--samples", type=int, default=3, help="dialogues with each")
    parser.add_argument("--runs", type=Path, default=Path("runs/qwen_cpu"))
    parser.add_argument("--train-only", action="store_true", help="stop when the training is over")
    parser.add_argument("--smoke", action="store_true", help="the tiny start and bundled people, one iteration, three people")
    parser.add_argument("--out", type=Path, help="folder for the result")
    args = parser.parse_args()
    if args.smoke:
        config, held_out, args.users, args.samples = _smoke(args.runs), "vanilla/test", SHOWN, 1
    else:
        if args.aloe is None:
            parser.error("--aloe: expected the folder with ALOE's profile.jsonl and personality.jsonl; got none.")
        train, _, test = split_people(args.aloe, args.runs / "people")
        config, held_out = qwen_config(args.runs / "run", args.model, str(train), args.minutes), str(test)
    done = ensure_trained(config)
    if args.train_only:
        print(json.dumps(done))
        return

    seeds = tuple(range(args.samples))
    folder = args.runs / f"eval-{settings_of(config)}"
    # Both policies get the tokens of the training run, so the lengths of their answers can be compared.
    limit = config.rollout.max_new_tokens
    agents = {name: policy_agent(policy_path(path), max_new_tokens=limit) for name, path in ((BEFORE, config.model.path), (AFTER, str(config.out)))}
    records = collect(agents, Setting("RLPA-v0", held_out, args.users, seeds), folder)
    rows = [summarise(name, r, None, None, seeds) for name, r in records.items()]
    Console(width=170).print(results_table(rows, f"{args.users} held-out people, {args.samples} dialogues each"))
    names = ("estimate", "lo", "hi")
    gains = {name: dict(zip(names, paired_difference(records[AFTER], records[BEFORE], key), strict=True)) for name, key in GAINS.items()}
    for name, gain in gains.items():
        print(f"{name:>12} {gain['estimate']:+.3f} [{gain['lo']:+.3f}, {gain['hi']:+.3f}]")
    metrics = [json.loads(line) for line in (config.out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    shown = ("return", "profile/f1", "profile/grounded_f1", "profile/ceiling", "reward/response", "kl_per_turn", "seconds", "dialogues")
    figures = {
        "training": {**done, "optimizer_steps": sum(line["optimizer_steps"] for line in metrics), "kl_per_turn": metrics[-1]["kl_per_turn"]},
        "rows": rows,
        "gains": gains,
        "curve": [{key: line[key] for key in shown} for line in metrics],
    }
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        curve(metrics, args.out / "learning.png")
        (args.out / "dialogues.md").write_text(dialogues(records, seeds[0]), encoding="utf-8")
    finish("qwen_cpu", figures, list(seeds), args.out)


def _smoke(runs: Path) -> TrainConfig:
    real = qwen_config(runs / "run", SHIPPED, "vanilla/train", 1.0)
    rollout = dataclasses.replace(real.rollout, dialogues=2, concurrent=2, max_turns=2)
    return dataclasses.replace(real, rollout=rollout, iterations=1, minutes=None)


if __name__ == "__main__":
    main()
