"""Turns per second of RLPA-v0 on one core: full reward, default arguments, actions that differ.

    python benchmarks/env_throughput/run.py [--smoke] [--out benchmarks/results/env_throughput]

The actions are those that the `attentive` agent says in dialogues with other users, each played as the same turn
number that it was said in; only the environment's own time is counted. "Every reply new" adds a sentence that was never
said before to each reply, so that nothing about it can be remembered.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import finish

import rlpa_env  # noqa: F401
from rlpa_env.agents import make_agent


def scripts(episodes: int) -> list[list[str]]:
    """Whole dialogues' worth of actions, said to users that are not met again below."""
    env, agent = gym.make("RLPA-v0", split="vanilla/val"), make_agent("attentive")
    found = []
    for seed in range(episodes):
        _, info = env.reset(seed=10_000 + seed)
        actions, over = [], False
        while not over:
            actions.append(agent.act(info["messages"]))
            _, _, terminated, truncated, info = env.step(actions[-1])
            over = terminated or truncated
        found.append(actions)
    return found


def renewed(actions: list[list[str]], episodes: int) -> list[list[str]]:
    """As many dialogues, every reply with a sentence of its own."""
    tail = "</response>"
    said = 0
    found = []
    for episode in range(episodes):
        found.append([])
        for action in actions[episode % len(actions)]:
            said += 1
            found[-1].append(action.replace(tail, f"I counted {said} swifts over gate {said % 89}.\n{tail}"))
    return found


def measure(actions: list[list[str]], episodes: int, seed: int) -> float:
    """Turns per second of processor time over whole episodes, resets included: one thread, whatever else the machine does."""
    env = gym.make("RLPA-v0")
    turns, start = 0, time.process_time()
    for episode in range(episodes):
        env.reset(seed=seed + episode)
        for action in actions[episode % len(actions)]:
            _, _, terminated, truncated, _ = env.step(action)
            turns += 1
            if terminated or truncated:
                break
    return turns / (time.process_time() - start)


def main() -> None:
    """Measure eleven times and print median and spread."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few episodes, to see that it runs")
    parser.add_argument("--out", type=Path, help="folder for the result as JSON")
    args = parser.parse_args()
    actions = scripts(5 if args.smoke else 60)
    repeats, episodes = (2, 20) if args.smoke else (11, 600)
    cold = measure(actions, 20, seed=90_000)
    rates = [measure(actions, episodes, seed=1000 * repeat) for repeat in range(repeats)]
    fresh = measure(renewed(actions, episodes), episodes, seed=80_000)
    different = len({action for dialogue in actions for action in dialogue})
    table = Table("figure", "value", title="RLPA-v0, one core, default arguments")
    table.add_row("turns/s, median", f"{np.median(rates):,.0f}")
    table.add_row("turns/s, lowest … highest", f"{min(rates):,.0f} … {max(rates):,.0f}")
    table.add_row("turns/s, first 20 episodes (cold caches)", f"{cold:,.0f}")
    table.add_row("turns/s, every reply new", f"{fresh:,.0f}")
    table.add_row("different actions", str(different))
    Console(width=100).print(table)
    figures = {
        "turns_per_second": float(np.median(rates)),
        "lowest": min(rates),
        "highest": max(rates),
        "cold": cold,
        "every_reply_new": fresh,
        "different_actions": different,
    }
    finish("env_throughput", figures, [1000 * repeat for repeat in range(repeats)], args.out)


if __name__ == "__main__":
    main()
