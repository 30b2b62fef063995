"""A real Qwen2.5-0.5B, trained by PPO on a laptop's processor, and held-out people before and after.

    python benchmarks/qwen_cpu/run.py --model DIR --aloe DIR [--minutes 90] [--runs runs/qwen_cpu] [--out benchmarks/results/qwen_cpu]

Three policies are compared: the model as it is, under the environment's instructions; the *start*, which a supervised warm start
of a few minutes has taught the form of an answer, on the mixture of the tiny preset's (weak on purpose, people that the
environment brings along, none of ALOE's); and what PPO makes of the start. Before the warm start a model of this size writes most
answers in a form of its own, earns nothing, and its users tell it nothing.

DIR of --model: any Hugging Face folder or id of a Qwen2.5-0.5B; of --aloe: ALOE's profile.jsonl and personality.jsonl
(docs/environment.md says where they come from). The people are split as `rlpa-agent`'s demo splits them: every fifth is held
out. Everything is kept in RUNS and goes on where it was stopped, so it can be run in pieces; --train-only and --samples choose
one. OUT receives the figures, the learning curve, and the dialogues with the first three held-out people,
before and after, as they came.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import fingerprint, finish
from training import check_begun, check_done, ensure_trained, read_done, settings_of, write_done

from rlpa_agent.cli import policy_path
from rlpa_agent.config import PRESETS, SHIPPED, TrainConfig
from rlpa_agent.demo import split_people
from rlpa_agent.evaluate import policy_agent
from rlpa_agent.loading import device_named, faster_dtype, frozen_dtype
from rlpa_agent.lora import LoraSettings
from rlpa_agent.mixture import WEAK, dialogue
from rlpa_agent.policy import Policy
from rlpa_agent.warm_start import Progress, Schedule, Stage, warm_start
from rlpa_env.evaluate import Setting, collect, results_table
from rlpa_env.results import paired_difference, summarise

RAW, BEFORE, AFTER = "as it is", "start", "trained"
BESIDE = ("script", "attentive")  # rules, for scale
TURNS, EVALUATED = 8, 10  # of a dialogue, in training and with held-out people
PROMPT = "Get to know the person you talk with, for {} turns, and be good company."
"""Of the start and all that is trained from it: what an answer looks like they know, and every row begins with these tokens."""
GAINS = {"profile_f1": "f1", "grounded_f1": "grounded_f1", "precision": "precision", "recall": "recall", "al": "al", "response": "response", "return": "return"}
SHOWN = 3  # people whose dialogues are kept


def qwen_config(folder: Path, model: str, people: str, minutes: float) -> TrainConfig:
    """The preset, with dialogues of a size that a processor learns from ten times in 90 minutes."""
    preset = PRESETS["qwen2.5-0.5b"]
    rollout = dataclasses.replace(preset.rollout, split=people, dialogues=16, concurrent=16, max_turns=TURNS, max_new_tokens=96)
    # Ten iterations: no time for one that only the critic learns from, nor for a rate that is meant for hundreds.
    ppo = dataclasses.replace(preset.ppo, epochs=1, minibatches=8, critic_warmup=0, max_kl=40.0, old_logp=_old_logp(folder))
    optim = dataclasses.replace(preset.optim, policy_lr=3e-4)
    model_config = dataclasses.replace(preset.model, path=model, gradient_checkpointing=False)
    quiet = dataclasses.replace(preset.eval, every=0)
    return dataclasses.replace(
        preset, out=folder, minutes=minutes, iterations=None, save_every=1, keep_rollouts=True,
        rollout=rollout, ppo=ppo, optim=optim, model=model_config, eval=quiet,
    )


def _old_logp(folder: Path) -> str:
    """Measured when the run begins; later what it began with, for a stopwatch must not make another run of it."""
    if (folder / "config.json").is_file():
        return TrainConfig.read(folder).ppo.old_logp
    return "sampled" if frozen_dtype(device_named("auto")) == torch.float32 else "scored"


def ensure_started(folder: Path, model: str, steps: int) -> Path:
    """The start: adapters after a supervised warm start. Every tenth step is kept."""
    settings = f"{Path(model).name} {fingerprint(model)}, {steps} steps"
    check_done(folder, settings)
    if read_done(folder) is None:
        check_begun(folder, [fingerprint(model)])
        preset = PRESETS["qwen2.5-0.5b"].model
        policy = Policy.from_pretrained(model, lora=LoraSettings(preset.lora_rank, preset.lora_alpha), reference=False, system_prompt=PROMPT.format(TURNS))
        last: list[Progress] = []
        stages = [Stage(partial(dialogue, turns=(3, 8), teacher=WEAK), steps, 4)]
        schedule = Schedule(lr=5e-4, warmup_steps=3, decay_share=0.5, weight_decay=0.0)
        bf16 = faster_dtype(policy.lm.config.hidden_size) == "bfloat16"

        def report(progress: Progress) -> None:
            last.append(progress)
            print(f"warm start {progress.step}/{steps}: {progress.loss:.2f} nats a token, {progress.seconds:.0f} s", flush=True)

        warm_start(policy, stages, schedule=schedule, bf16=bf16, out=folder, save_every=10, resume=True, report=report)
        told = {"steps": steps, "dialogues": 4 * steps, "tokens": last[-1].tokens, "minutes": round(last[-1].seconds / 60, 2)} if last else {}
        write_done(folder, settings, told)
    return folder / "last"


def curve(metrics: Sequence[Mapping[str, Any]], path: Path) -> None:
    """What was earned and known while training, by dialogues."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    seen = [line["dialogues"] for line in metrics]
    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(13, 3.6), constrained_layout=True)
    for key, label in (("profile/f1", "profile F1"), ("profile/grounded_f1", "grounded F1"), ("profile/ceiling", "share of the points told so far")):
        middle.plot(seen, [line[key] for line in metrics], marker=".", label=label)
    left.plot(seen, [line["return"] for line in metrics], marker=".")
    right.plot(seen, [line["kl_per_turn"] for line in metrics], marker=".", color="tab:red")
    for axes, title in ((left, "weighted reward of a dialogue, at τ = 1"), (middle, "what is believed"), (right, "KL to the start, nats a turn")):
        axes.set(title=title, xlabel="dialogues trained on")
        axes.set_ylim(bottom=0)
    middle.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def dialogues(records: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The first people's dialogues of both policies, as Markdown: what was said, believed and paid; not the profiles themselves."""
    pages = ["# The first three held-out people, before and after\n\nUnpicked: the first people in file order, the first dialogue with each, sampled at τ = 1.\n"]
    first = {(r["profile"], name): r for name in (BEFORE, AFTER) for r in reversed(records[name])}
    for person in list(dict.fromkeys(r["profile"] for r in records[BEFORE]))[:SHOWN]:
        for name in (BEFORE, AFTER):
            record = first[person, name]
            points = sum(1 if isinstance(value, str) else len(value) for value in record["truth"].values())
            pages.append(f"\n## {record['profile']}, {name}\n\n{points} points to find.\n")  # which ones is ALOE's to say
            spoken = [m for m in record["messages"] if m["role"] != "system"]
            for k, turn in enumerate(record["turns"]):
                verdict = f"F1 {turn['f1']:.2f}, response {turn['response']:.0f}" + (f", {turn['parse_error']}" if turn["parse_error"] else "")
                answer = spoken[2 * k + 1]["content"].rstrip()
                pages.append(f"\n**Turn {k + 1}, user:** {spoken[2 * k]['content']}\n\n```text\n{answer}\n```\n{verdict}\n")
            pages += [f"\n**The user's last word:** {message['content']}\n" for message in spoken[2 * len(record["turns"]) :]]
    return "".join(pages)


def main() -> None:
    """Train, score, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="Qwen/Qwen2.5-0.5B-Instruct")
    parser.add_argument("--aloe", type=Path, help="folder with ALOE's two files")
    parser.add_argument("--minutes", type=float, default=90.0, help="of training, evaluation apart")
    parser.add_argument("--warm-steps", type=int, default=24, help="of the warm start, four dialogues each")
    parser.add_argument("--users", type=int, default=40, help="held-out people")
    parser.add_argument("--samples", type=int, default=3, help="dialogues with each")
    parser.add_argument("--runs", type=Path, default=Path("runs/qwen_cpu"))
    parser.add_argument("--train-only", action="store_true", help="stop when the training is over")
    parser.add_argument("--smoke", action="store_true", help="the tiny start and bundled people, one iteration, three people")
    parser.add_argument("--out", type=Path, help="folder for the result")
    args = parser.parse_args()
    if args.smoke:
        args.model, args.warm_steps, args.users, args.samples = policy_path(SHIPPED), 1, SHOWN, 1
        people, held_out = "vanilla/train", "vanilla/test"
    else:
        if args.aloe is None:
            parser.error("--aloe: expected the folder with ALOE's profile.jsonl and personality.jsonl; got none.")
        train, _, test = split_people(args.aloe, args.runs / "people")
        people, held_out = str(train), str(test)
    start = ensure_started(args.runs / "start", str(args.model), args.warm_steps)
    config = qwen_config(args.runs / "run", str(start), people, args.minutes)
    read = (fingerprint(str(args.model)), fingerprint(people))  # paths that stay the same for another model or other people
    done = ensure_trained(_smaller(config) if args.smoke else config, read)
    if args.train_only:
        print(json.dumps(done))
        return

    seeds = tuple(range(args.samples))
    folder = args.runs / f"eval-{settings_of(config, read)}"
    agents: dict[str, Any] = {}
    for name, path in ((BEFORE, str(start)), (AFTER, str(config.out)), (RAW, str(args.model))):
        # All get the tokens of the training run, but the model as it is, which needs more to say anything.
        agents[name] = policy_agent(policy_path(path), max_new_tokens=128 if name == RAW else config.rollout.max_new_tokens)
        if name != RAW:
            agents[name].chat.system_prompt = PROMPT.format(EVALUATED)  # the turn limit that holds
    agents |= dict.fromkeys(BESIDE)
    records = collect(agents, Setting("RLPA-v0", held_out, args.users, seeds), folder)
    rows = [summarise(name, r, None, None, seeds) for name, r in records.items()]
    Console(width=170).print(results_table(rows, f"{args.users} held-out people, {args.samples} dialogues each"))
    for row in rows:
        print(f"{row['agent']}: {row['malformed']:.1%} of answers malformed, {row['tokens_per_turn']:.0f} tokens a turn, {row['left_early']:.0%} of users left early")
    gains = {}
    for before, after in ((BEFORE, AFTER), (RAW, BEFORE), (RAW, AFTER)):
        gains[f"{after} - {before}"] = gain = {name: paired_difference(records[after], records[before], key) for name, key in GAINS.items()}
        print(f"{after} − {before}: " + " · ".join(f"{name} {gap:+.3f} [{low:+.3f}, {high:+.3f}]" for name, (gap, low, high) in gain.items()))
    metrics = [json.loads(line) for line in (config.out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    shown = ("return", "profile/f1", "profile/grounded_f1", "profile/ceiling", "reward/response", "kl_per_turn", "seconds", "dialogues")
    figures = {
        "warm_start": read_done(args.runs / "start"),
        "training": {**done, "optimizer_steps": sum(line["optimizer_steps"] for line in metrics), "kl_per_turn": metrics[-1]["kl_per_turn"]},
        "rows": rows,
        "gains": gains,
        "curve": [{key: line[key] for key in shown} for line in metrics],
    }
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        curve(metrics, args.out / "learning.png")
        (args.out / "dialogues.md").write_text(dialogues(records), encoding="utf-8")
    finish("qwen_cpu", figures, list(seeds), args.out)


def _smaller(config: TrainConfig) -> TrainConfig:
    """For --smoke."""
    rollout = dataclasses.replace(config.rollout, dialogues=2, concurrent=2, max_turns=2)
    return dataclasses.replace(config, rollout=rollout, iterations=1, minutes=None)


if __name__ == "__main__":
    main()
