"""The same training twice: dialogues sampled by a vLLM server, and by the trainer itself.

    VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve rlpa_agent/data/tiny --enable-lora --max-lora-rank 16 --dtype float32 \\
        --logprobs-mode processed_logprobs --max-num-batched-tokens 65536 --no-enable-chunked-prefill
    python benchmarks/served_rollouts/run.py --server http://localhost:8000 [--iterations 12] [--seeds 0] [--users 37]

Both train LoRA adapters on the tiny start, with equal settings, seeds, people and iterations; of the server every iteration has
new weights under a new name. It samples other dialogues from equal seeds, so curves differ by chance: what counts is held-out people
before and after, where the trainer samples for all. Claims: no token's log-probability is further than 0.01 from the trainer's; the
return rises under both; served rollouts gain at least half of what the built-in ones do. Runs are kept in RUNS and gone on with.
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
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import finish
from training import ensure_trained, settings_of

from rlpa_agent.cli import policy_path
from rlpa_agent.config import PRESETS, SHIPPED, TrainConfig
from rlpa_agent.evaluate import policy_agent
from rlpa_env import RLPAError
from rlpa_env.evaluate import Setting, collect, results_table
from rlpa_env.results import paired_difference, summarise

ARMS = ("built in", "served")
BEFORE = "start"
NEAR = 0.01  # nats: what two programs' float32 may differ by at a token
GAINS = ("return", "grounded_f1", "response")


def config_of(arm: str, seed: int, args: argparse.Namespace) -> TrainConfig:
    """The preset tiny with adapters, which is what a server takes, at a rate for so few steps; all in float32."""
    preset = PRESETS["tiny"]
    shorter: dict[str, Any] = {"dialogues": 2, "max_turns": 2, "max_new_tokens": 48} if args.smoke else {}
    return dataclasses.replace(
        preset,
        model=dataclasses.replace(preset.model, lora_rank=16, base_dtype="float32", rollout_dtype="float32", update_dtype="float32"),
        optim=dataclasses.replace(preset.optim, policy_lr=1e-3),
        rollout=dataclasses.replace(preset.rollout, server=args.server if arm == "served" else None, **shorter),
        eval=dataclasses.replace(preset.eval, every=0),
        iterations=1 if args.smoke else args.iterations,
        minutes=None,
        save_every=1,
        seed=seed,
        out=args.runs / f"{arm.replace(' ', '-')}-{seed}",
    )


def curve(folder: Path) -> list[dict[str, float]]:
    """What every iteration earned, how far the sampler was from the trainer, and how long its dialogues took."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    shown = ("return", "reward/response", "profile/grounded_f1", "sampling_mismatch", "sampling_mismatch_max", "rollout_seconds", "seconds")
    return [{key: line[key] for key in shown} for line in lines]


def judged(curves: Sequence[Sequence[Mapping[str, float]]], gains: Mapping[str, Mapping[str, tuple[float, float, float]]]) -> dict[str, bool]:
    """The three claims of the head."""
    gained = {arm: gains[f"{arm} - {BEFORE}"]["return"] for arm in ARMS}
    return {
        "near": all(line["sampling_mismatch_max"] <= NEAR for lines in curves for line in lines),
        "rises": all(low > 0 for _, low, _ in gained.values()),
        "half": gained["served"][0] >= 0.5 * gained["built in"][0],
    }


def main() -> None:
    """Train, score, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", required=True, metavar="URL", help="of the vLLM server, without /v1")
    parser.add_argument("--iterations", type=int, default=12)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--users", type=int, default=37, help="held-out people, the first of vanilla/test")
    parser.add_argument("--runs", type=Path, default=Path("runs/served_rollouts"))
    parser.add_argument("--out", type=Path, help="folder for the result as JSON")
    parser.add_argument("--smoke", action="store_true", help="one iteration of two short dialogues, two people")
    args = parser.parse_args()
    users, seeds = (2, args.seeds[:1]) if args.smoke else (args.users, args.seeds)

    curves: dict[str, list[list[dict[str, float]]]] = {arm: [] for arm in ARMS}
    records: dict[str, list[dict[str, Any]]] = {name: [] for name in (BEFORE, *ARMS)}
    for seed in seeds:
        sources = {BEFORE: policy_path(SHIPPED)}
        for arm in ARMS:
            config = config_of(arm, seed, args)
            try:
                told = ensure_trained(config)
            except RLPAError as error:
                raise SystemExit(f"served_rollouts, {arm}: {error}") from error
            print(f"{arm}, seed {seed}: {told['iterations']} iterations, return {told['return']}, {told['health']}", flush=True)
            curves[arm].append(curve(config.out))
            sources[arm] = policy_path(str(config.out))
        setting = Setting("RLPA-v0", "vanilla/test", users, (seed,))
        folder = args.runs / f"eval-{settings_of(config_of('built in', seed, args))}"
        for name, found in collect({name: policy_agent(path, seed=seed) for name, path in sources.items()}, setting, folder, quiet=args.smoke).items():
            records[name] += found

    shown = Table("iteration", *(f"return, {arm}" for arm in ARMS), "|Δlogp| of the server: mean", "greatest", *(f"rollout s, {arm}" for arm in ARMS))
    for i, lines in enumerate(zip(curves["built in"][0], curves["served"][0], strict=True), 1):
        apart = (f"{lines[1]['sampling_mismatch']:.1e}", f"{lines[1]['sampling_mismatch_max']:.1e}")
        shown.add_row(str(i), *(f"{line['return']:.2f}" for line in lines), *apart, *(f"{line['rollout_seconds']:.1f}" for line in lines))
    console = Console(width=150)
    console.print(shown)
    rows = [summarise(name, found, None, None, tuple(seeds)) for name, found in records.items()]
    console.print(results_table(rows, f"{users} held-out people, seeds {seeds}"))
    gains = {}
    for less, more in ((BEFORE, "built in"), (BEFORE, "served"), ("built in", "served")):
        gains[f"{more} - {less}"] = gain = {key: paired_difference(records[more], records[less], key) for key in GAINS}
        print(f"{more} − {less}: " + " · ".join(f"{key} {mean:+.3f} [{low:+.3f}, {high:+.3f}]" for key, (mean, low, high) in gain.items()))
    claims = judged(curves["served"], gains)
    finish("served_rollouts", {"iterations": len(curves["served"][0]), "users": users, "curves": curves, "rows": rows, "gains": gains, "claims": claims}, seeds, args.out)


if __name__ == "__main__":
    main()
