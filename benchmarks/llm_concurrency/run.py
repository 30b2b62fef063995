"""How much of a model server's speed reaches the environment, and what becomes of its failures.

    python benchmarks/llm_concurrency/run.py [--envs 32] [--turns 8] [--smoke] [--out benchmarks/results/llm_concurrency]

A local server in another process answers after a fixed time; users and judges of all environments call it.
1. At 1 s a call: turns per second as a share of the ideal, at which user and judge call of every dialogue overlap.
2. At 0.2 s a call: the same as a share of what a bare asynchronous loop of the same official client gets for the same
   calls in the same run (pairs of runs, one after the other).
3. With 20 % of the calls failing in seven ways: every episode ends whole or as a marked failure, and the counts add up.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import gymnasium as gym
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import finish

import rlpa_env  # noqa: F401
from rlpa_env import RLPAVectorEnv
from rlpa_env.agents import make_agent
from rlpa_env.clients import ChatClient
from rlpa_env.vector import step_all


@contextmanager
def serving(*options: object) -> Iterator[str]:
    """The base URL of a server in another process."""
    command = [sys.executable, str(Path(__file__).parent / "server.py"), *map(str, options)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.kill()


def scripts(envs: int, turns: int) -> list[list[str]]:
    """For each environment the actions of a dialogue with the scripted user, which is what the server plays too."""
    agent, found = make_agent("attentive"), []
    for seed in range(envs):
        env = gym.make("RLPA-v0", style="plain")
        _, info = env.reset(seed=seed)
        actions = []
        while len(actions) < turns:
            actions.append(agent.act(info["messages"]))
            _, _, terminated, truncated, info = env.step(actions[-1])
            if terminated or truncated:
                break
        found.append(actions)
    return found


def ours(llm: dict[str, Any], actions: list[list[str]], turns: int) -> tuple[float, list[dict[str, Any]]]:
    """Seconds a step of all environments, the first left out, and the requests that were made."""
    envs = RLPAVectorEnv(len(actions), user="llm", judge="llm", llm=llm, style="plain", autoreset_mode="Disabled")
    client: ChatClient = envs.envs[0].unwrapped._user.client  # type: ignore[attr-defined]
    bodies: list[dict[str, Any]] = []
    call = client._call

    def noted(body: dict[str, Any]) -> Any:
        bodies.append(body)
        return call(body)

    client._call = noted  # type: ignore[method-assign]
    envs.reset(seed=0)
    times = []
    for turn in range(turns):
        started = time.perf_counter()
        envs.step([own[turn] for own in actions])
        times.append(time.perf_counter() - started)
        if turn == 0:
            bodies.clear()
    client.close()
    return statistics.median(times[1:]), bodies


def bare(url: str, bodies: list[dict[str, Any]], envs: int) -> float:
    """Seconds for the same calls, as many at a time, from an asynchronous loop around the official client."""
    from openai import AsyncOpenAI

    async def loop() -> float:
        times = []
        async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as sdk:
            await asyncio.gather(*(sdk.chat.completions.create(**body) for body in bodies[: 2 * envs]))  # opens connections
            for start in range(0, len(bodies), 2 * envs):
                began = time.perf_counter()
                await asyncio.gather(*(sdk.chat.completions.create(**body) for body in bodies[start : start + 2 * envs]))
                times.append(time.perf_counter() - began)
        return statistics.median(times)

    return asyncio.run(loop())


def faulty(envs: int, episodes: int, share: float) -> dict[str, Any]:
    """Whole episodes against a server of which a share of the answers fail."""
    agent = make_agent("attentive")
    with serving("--delay", 0.01, "--faults", share) as url:
        llm = {"base_url": url, "model": "m", "timeout": 1.0, "retries": 4, "backoff": 0.02, "longest_wait": 0.5}
        running = [gym.make("RLPA-LLM-v0", llm=llm) for _ in range(envs)]
        ends: Counter[str] = Counter()
        wrong = 0
        for first in range(0, episodes, envs):
            active = running[: min(envs, episodes - first)]
            infos = [env.reset(seed=first + i)[1] for i, env in enumerate(active)]
            while active:
                steps = step_all(active, [agent.act(info["messages"]) for info in infos])
                for step in steps:
                    failed = step[4]["stop_reason"] == "failure"
                    wrong += failed == step[4]["reward/valid"] or (failed and (step[1] != 0.0 or not step[4]["error"]))
                    if step[2] or step[3]:
                        kind = step[4]["error"].split(":")[0] if failed else ""
                        ends["off schema" if kind == "off schema" else "transport" if failed else "whole"] += 1
                kept = [i for i, step in enumerate(steps) if not (step[2] or step[3])]
                active, infos = [active[i] for i in kept], [steps[i][4] for i in kept]
        usage = running[0].unwrapped._user.client.usage  # type: ignore[attr-defined]
        with urllib.request.urlopen(url) as response:
            served = json.load(response)
        running[0].unwrapped._user.client.close()  # type: ignore[attr-defined]
    return {
        "episodes": episodes,
        "ends": dict(ends),
        "wrongly marked turns": wrong,
        "calls answered": usage.calls,
        "calls given up": usage.lost,
        "attempts": usage.attempts,
        "attempts failed": usage.failed,
        "failures by kind": usage.reasons,
        "faults served": {kind: count for kind, count in served.items() if kind not in ("requests", "answered", "most at once")},
        "adds up": sum(ends.values()) == episodes
        and usage.attempts == usage.calls + usage.failed == served["requests"]
        and sum(usage.reasons.values()) == usage.failed,
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", type=int, default=32)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=5, help="pairs of runs for part 2")
    parser.add_argument("--episodes", type=int, default=200, help="of part 3")
    parser.add_argument("--smoke", action="store_true", help="a few calls, to see that it runs")
    parser.add_argument("--out", type=Path, help="folder for the result as JSON")
    args = parser.parse_args()
    if args.smoke:
        args.envs, args.turns, args.pairs, args.episodes = 4, 3, 1, 8
    actions = [own for own in scripts(2 * args.envs, args.turns) if len(own) == args.turns][: args.envs]
    slow, quick = (0.1, 0.05) if args.smoke else (1.0, 0.2)
    with serving("--delay", slow) as url:
        llm = {"base_url": url, "model": "m", "concurrency": 4 * args.envs}
        with ProcessPoolExecutor(1, get_context("spawn")) as other:  # after that the server knows its answers and only waits; we know nothing
            other.submit(ours, llm, actions, args.turns).result()
        seconds, _ = ours(llm, actions, args.turns)
    ratios, pairs = [], []
    with serving("--delay", quick) as url:
        for pair in range(args.pairs):
            llm = {"base_url": url, "model": f"m{pair}", "concurrency": 4 * args.envs}
            own, bodies = ours(llm, actions, args.turns)
            other = bare(url, bodies, len(actions))
            pairs.append((own, other))
            ratios.append(other / own)
    faults = faulty(args.envs, args.episodes, 0.2)
    figures = {
        "envs": len(actions),
        "share_of_ideal_at_1s": slow / seconds,
        "share_of_bare_loop_at_200ms": statistics.median(ratios),
        "pairs_at_200ms": pairs,
        "faults": faults,
    }
    table = Table("figure", "value", title=f"{len(actions)} environments, two calls a turn each")
    table.add_row(f"share of the ideal rate at {slow} s a call", f"{slow / seconds:.1%}")
    spread = f"{statistics.median(ratios):.1%}  ({min(ratios):.1%} … {max(ratios):.1%})"
    table.add_row(f"share of a bare asynchronous loop at {quick} s a call", spread)
    for key, value in faults.items():
        table.add_row(f"20 % faults: {key}", str(value))
    Console(width=120).print(table)
    finish("llm_concurrency", figures, [0], args.out)


if __name__ == "__main__":
    main()
