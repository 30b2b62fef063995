"""How fast the trainer is: against TRL's GRPOTrainer, against plainer ways of doing the same, and as dialogues grow.

    python benchmarks/trainer_speed/run.py [--parts single multi defaults growth rows prefill roofline memory]
        [--model FOLDER] [--threads 2] [--seed 0] [--out benchmarks/results/trainer_speed] [--smoke]

single    samples/s of one-turn answers: ours under grpo and ppo, and TRL with our precision, β, optimizer and clipping
multi     the same for dialogues; TRL with a ``rollout_func`` that calls ``generate`` every turn
defaults  as single, each with its own defaults; TRL in bf16 where the processor is faster in that
growth    tokens processed and seconds of rollout and update with 5, 10, 20 and 40 turns: exponents of the turns
rows      update rate of whole-episode rows against a row for every turn
prefill   rollout against ``generate`` on every turn's whole history: the shipped start and, with --model, a few dialogues of that
roofline  share of the processor's matrix products that the update reaches: the shipped start and, with --model, LoRA on that
memory    largest resident set of an iteration, each in a process of its own; with --model also of LoRA PPO on that

All answers have exactly the tokens they are given. What is compared runs in turn, again and again, and medians count; the
first round of everything is left out. single, multi, defaults and memory need the extra ``baselines``. Two quiet cores are busy for
more than an hour, half of it with multi. OUT receives every part as it is measured, and a stopped command goes on behind the last
one, as long as commit, machine and options are the same.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))
from common import commit, finish, machine, write
from workload import SMOKE, Ours, Size, build_model, check_learned, paid, policy_from, said

from rlpa_agent.batch import make_batch
from rlpa_agent.cli import build_trainer, policy_path
from rlpa_agent.config import PRESETS, SHIPPED
from rlpa_agent.loading import flush_denormals
from rlpa_agent.progress import peak_memory_mb
from rlpa_agent.rollout import RolloutCounts, collect

Figures = dict[str, Any]


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Slope of log cost over log size, by least squares.

    >>> round(exponent([5, 10, 20], [2.0, 8.0, 32.0]), 6)
    2.0
    """
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def spread(values: Sequence[float]) -> Figures:
    """Median of some seconds, and all of them."""
    return {"median": median(values), "all": [round(value, 4) for value in values]}


def against_trl(model: Path, size: Size, seed: int, work: Path, *, turns: int = 1, same: bool = True) -> Figures:
    """Samples a second, ours under grpo and ppo and TRL's, in turn."""
    from peer import Peer

    tokens = size.tokens if turns == 1 else size.dialogue_tokens
    ours = {algo: Ours(model, size, algo=algo, turns=turns, tokens=tokens, seed=seed, same=same) for algo in ("grpo", "ppo")}
    peer = Peer(model, size, policy_from(model, size).chat, work / "trl", turns=turns, same=same, seed=seed)
    rounds: dict[str, list[Figures]] = {algo: [] for algo in ours}

    def others() -> None:
        for algo, run in ours.items():
            rounds[algo].append(run())

    theirs = peer.run(others)
    for own in rounds.values():
        del own[0]
        for each in own:
            check_learned(each["head_ratio"])
    taken = {algo: [each["seconds"] for each in own] for algo, own in rounds.items()} | {"trl": theirs}
    figures: Figures = {
        name: spread(seconds) | {"samples_per_second": size.dialogues / median(seconds)} for name, seconds in taken.items()
    }
    for algo in ours:
        figures[f"{algo}_to_trl"] = figures[algo]["samples_per_second"] / figures["trl"]["samples_per_second"]
    ppo = ours["grpo"].config.ppo
    steps = {"ours": ppo.epochs * ppo.minibatches, "trl": peer.steps}  # of a round
    return figures | {"optimizer_steps": steps, "trl_bf16": peer.bf16, "turns": turns, "tokens": tokens, "dialogues": size.dialogues}


def growth(model: Path, size: Size, seed: int) -> Figures:
    """How tokens processed and seconds grow with turns, at fixed tokens a turn."""
    runs = {
        turns: Ours(model, size, algo="ppo", turns=turns, tokens=size.dialogue_tokens, seed=seed, dialogues=size.prompts)
        for turns in size.growth
    }
    seen: dict[int, dict[str, list[float]]] = {turns: {} for turns in runs}
    for number in range(size.repeats + 1):
        for turns, run in runs.items():
            trajectories, counts = run.trainer.gather()
            batch = make_batch(trajectories, max_turns=turns)
            _, stats = run.trainer.learner.update(batch, run.trainer.iteration)
            if number:
                check_learned(stats.head_ratio)
            run.trainer.iteration += 1
            values = {
                "rollout_tokens": counts.prefilled_tokens + counts.decode_rows,
                "update_tokens": stats.padded_tokens,
                "rollout_seconds": counts.seconds,
                "update_seconds": stats.seconds,
            }
            for name, value in values.items():
                seen[turns].setdefault(name, []).append(value)
    medians = {name: [median(seen[turns][name][1:]) for turns in runs] for name in next(iter(seen.values()))}
    return {"turns": list(runs)} | {name: {"median": values, "exponent": exponent(list(runs), values)} for name, values in medians.items()}


def rows(model: Path, size: Size, seed: int) -> Figures:
    """Update rate of the same dialogues, as a row each and as a row a turn."""
    run = Ours(model, size, algo="ppo", turns=size.turns, tokens=size.dialogue_tokens, seed=seed, dialogues=size.prompts)
    trajectories, _ = run.trainer.gather()
    batches = {name: make_batch(trajectories, max_turns=size.turns, row_per_turn=name == "per_turn") for name in ("whole", "per_turn")}
    taken: dict[str, list[float]] = {name: [] for name in batches}
    for _ in range(size.repeats + 1):
        for name, batch in batches.items():
            _, stats = run.trainer.learner.update(batch, 0)
            check_learned(stats.head_ratio)
            taken[name].append(stats.seconds)
    figures: Figures = {
        name: spread(taken[name][1:])
        | {"action_tokens_per_second": batch.tokens / median(taken[name][1:]), "fed": sum(map(len, batch.rows))}
        for name, batch in batches.items()
    }
    figures["whole_to_per_turn"] = figures["per_turn"]["median"] / figures["whole"]["median"]
    return figures | {"turns": size.turns}


def prefill(model: str, size: Size, seed: int) -> Figures:
    """Seconds of the same number of dialogues, by our rollout and by ``generate`` on the whole history every turn."""
    from peer import reprefilled
    from workload import Talk

    policy = policy_from(model, size)
    seeds, settings = list(range(size.dialogues)), {"max_new_tokens": size.dialogue_tokens, "max_turns": size.turns}
    openings = [policy.chat.opening([("user", said(i, 0))]).tolist() for i in seeds]
    banned = policy.banned_V.nonzero()[:, 0].tolist()
    policy.lm.generation_config.suppress_tokens = banned  # generate would end a turn, or say what we do not
    taken: dict[str, list[float]] = {"ours": [], "generate": []}
    for again in range(size.repeats + 1):
        counts = RolloutCounts()
        envs = [Talk(size.turns) for _ in seeds]
        collect(policy, envs, seeds=seeds, sample_seed=again, counts=counts, temperature=1.0, **settings)
        taken["ours"].append(counts.seconds)
        began = time.perf_counter()
        done, mask = reprefilled(policy.lm, policy.chat, openings, size.turns, size.dialogue_tokens)
        for own, sampled in zip(done, mask, strict=True):  # it too has to know what was earned
            paid(policy.chat.decode([token for token, kept in zip(own, sampled, strict=True) if kept]))
        taken["generate"].append(time.perf_counter() - began)
    figures: Figures = {name: spread(seconds[1:]) for name, seconds in taken.items()}
    ratio = figures["generate"]["median"] / figures["ours"]["median"]
    return figures | {"ours_to_generate": ratio, "model": Path(model).name, "dialogues": size.dialogues}


def probe(kind: str, model: str, size: Size, seed: int, work: Path) -> float:
    """Largest resident set in MB after one iteration of this process, in which the policy learned."""
    if kind == "lora":
        preset = PRESETS["qwen2.5-0.5b"]
        ppo = dataclasses.replace(preset.ppo, critic_warmup=0)  # else only the critic would learn, and no gradient be held
        settings = dataclasses.replace(preset.rollout, dialogues=32, concurrent=32)
        config = dataclasses.replace(
            preset, model=dataclasses.replace(preset.model, path=model), rollout=settings, ppo=ppo, eval=dataclasses.replace(preset.eval, every=0), seed=seed, out=work / "lora",
        )  # fmt: skip
        check_learned(build_trainer(config, quiet=True).one_iteration()["head_ratio"])
    elif kind == "trl":
        from peer import Peer

        few = dataclasses.replace(size, repeats=0)
        Peer(Path(model), few, policy_from(model, few).chat, work / "trl", turns=size.turns, seed=seed).run(lambda: None)
    else:
        check_learned(Ours(Path(model), size, algo=kind, turns=size.turns, tokens=size.dialogue_tokens, seed=seed)()["head_ratio"])
    return peak_memory_mb()


def memory(model: Path, real: str | None, args: argparse.Namespace) -> Figures:
    """Peak MB of every side, measured in processes of their own."""
    figures = {}
    for kind in ("grpo", "ppo", "trl", *(("lora",) if real else ())):
        command = [sys.executable, __file__, "--probe", kind, "--model", real if kind == "lora" else str(model)]
        command += ["--threads", str(args.threads), "--seed", str(args.seed), *(["--smoke"] if args.smoke else [])]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
        figures[f"{kind}_mb"] = json.loads(done.stdout.splitlines()[-1])
    return figures


def flat(figures: Figures, before: str = "") -> list[tuple[str, str]]:
    """Lines of the table: the numbers of a part, lists of repeats left out."""
    lines: list[tuple[str, str]] = []
    for name, value in figures.items():
        if isinstance(value, dict):
            lines += flat(value, f"{before}{name} ")
        elif name != "all":
            said_as = ", ".join(f"{each:,.4g}" for each in value) if isinstance(value, list) else value
            lines.append((before + name, f"{value:,.4g}" if isinstance(value, (int, float)) and not isinstance(value, bool) else str(said_as)))
    return lines


def kept(args: argparse.Namespace, settings: Figures) -> Figures:
    """Parts that OUT already holds, measured here at this commit with the same settings; {} if there are none."""
    path = args.out / "trainer_speed.json" if args.out else None
    if path is None or not path.is_file() or commit().endswith("+"):
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    same = found["commit"] == commit() and found["machine"] == machine() and all(found["figures"].get(key) == value for key, value in settings.items())
    return {part: figures for part, figures in found["figures"].items() if part in PARTS} if same else {}


PARTS = ("single", "multi", "defaults", "growth", "rows", "prefill", "roofline", "memory")


def measured(part: str, model: Path, size: Size, args: argparse.Namespace, work: Path) -> Figures:
    """The figures of one part."""
    if part in ("single", "multi", "defaults"):
        return against_trl(model, size, args.seed, work / part, turns=size.turns if part == "multi" else 1, same=part != "defaults")
    if part == "growth":
        return growth(model, size, args.seed)
    if part == "rows":
        return rows(model, size, args.seed)
    if part == "prefill":
        few = dataclasses.replace(size, prompts=min(8, size.prompts), completions=1, repeats=min(3, size.repeats))  # minutes each
        sides = {"tiny": (policy_path(SHIPPED), size)} | ({"real": (args.model, few)} if args.model else {})
        return {name: prefill(source, amount, args.seed) for name, (source, amount) in sides.items()}
    if part == "roofline":
        from roofline import roofline

        shape = {"rows": 1, "turns": 2, "fed": 6, "sampled": 4} if args.smoke else {"rows": 2, "turns": 10, "fed": 60, "sampled": 100}
        names = {"tiny": None} | ({"real": args.model} if args.model else {})
        pairs = 1 if args.smoke else 7
        return {name: roofline(source, work / name, pairs=pairs, seed=args.seed, **shape) for name, source in names.items()}
    return memory(model, args.model, args)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=PARTS)
    parser.add_argument("--model", help="a folder or id of a real model, for prefill, roofline and memory")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for the result as JSON")
    parser.add_argument("--smoke", action="store_true", help="seconds: a few tokens of a very small model, one repeat")
    parser.add_argument("--probe", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    flush_denormals()
    size = SMOKE if args.smoke else Size()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if args.probe:
            print(json.dumps(probe(args.probe, args.model, size, args.seed, work)))
            return
        model = build_model(work / "model", size, args.seed)
        parameters = sum(parameter.numel() for parameter in policy_from(model, size).lm.parameters())
        figures: Figures = {"parameters": parameters, "threads": args.threads, "seed": args.seed, "smoke": args.smoke, "model": Path(args.model or "").name}
        figures |= kept(args, figures)
        table = Table(title=f"trainer speed · {parameters / 1e6:.1f} M parameters · median of {size.repeats}")
        table.add_column("")
        table.add_column("", justify="right")
        for part in args.parts:
            began = time.perf_counter()
            if part in figures:
                print(f"{part}: kept from before", file=sys.stderr, flush=True)
            else:
                figures[part] = measured(part, model, size, args, work)
                print(f"{part}: measured in {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
            table.add_section()
            for name, value in flat(figures[part]):
                table.add_row(f"{part} · {name}", value)
            write("trainer_speed", figures, [args.seed], args.out)  # what is measured stays, should the rest be stopped
    Console(width=120).print(table)
    finish("trainer_speed", figures, [args.seed], args.out)


if __name__ == "__main__":
    main()
