"""Does the simulated user keep its promises? Read from the text alone, for the scripted user and one worded by a model.

    python benchmarks/simulator_audit/run.py [--episodes 200] [--out benchmarks/results/simulator_audit]
    python benchmarks/simulator_audit/run.py --base-url http://127.0.0.1:8000/v1 --model NAME --llm-episodes 20

People of vanilla/val talk with three agents in turn: `attentive`, one that only makes small talk, one with ten fixed
questions. `reader.py` reads every message without the simulator's bookkeeping and text rules: what does it state of its
speaker, is that in the profile, how many points are new, are they among those that the simulator counts as revealed?
For a model's user the last two are also counted where its own checks brought a rewrite.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import finish
from reader import Reading, read, sentences

import rlpa_env  # noqa: F401
from rlpa_env import Profile, parse_action
from rlpa_env.agents import Agent, Composed, make_agent
from rlpa_env.replies import lines
from rlpa_env.vector import step_all

TURNS = 10
_BATCH = 20  # dialogues side by side
_EXAMPLES = 8  # of each kind of fault, in the result


def _small_talk(messages: Sequence[Any]) -> str:
    stock = lines()["small"]
    return stock[sum(message["role"] == "assistant" for message in messages) % len(stock)]


AGENTS: dict[str, Callable[[], Agent]] = {
    "attentive": lambda: make_agent("attentive"),
    "small talk": lambda: Composed(lambda messages: (), _small_talk),
    "questions": lambda: make_agent("script"),
}


class Audit:
    """Counts over dialogues, from the text."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = defaultdict(list)
        self.messages: Counter[str] = Counter()
        self.by_style: dict[str, Counter[str]] = defaultdict(Counter)
        self.by_agent: dict[str, Counter[str]] = defaultdict(Counter)
        self.most_new = 0  # read in one message, beyond what its budget allows

    def fault(self, kind: str, what: str) -> None:
        """Count a fault and keep a few of its kind."""
        self.counts[kind] += 1
        if len(self.examples[kind]) < _EXAMPLES:
            self.examples[kind].append(what)

    def opening(self, message: str, profile: Profile) -> None:
        """The first message, which may say nothing."""
        if read(message, profile).told or message != "Hello":
            self.fault("openings that reveal", message)

    def message(self, text: str, reading: Reading, known: set[Any], revealed: set[Any], budget: int) -> None:
        """One later message: ``known`` points had been read or revealed before, ``revealed`` are counted by now."""
        self.counts["messages"] += 1
        self.messages[text] += 1
        self.counts["messages longer than three sentences"] += len(reading.sentences) > 3
        self.counts["facts of self"] += reading.of_self
        self.counts["facts of others"] += reading.of_others
        for what in reading.beyond:
            self.fault("statements beyond the profile", what)
        new = reading.told - known
        self.counts["messages that tell something new"] += bool(new)
        self.most_new = max(self.most_new, len(new) - budget)
        if len(new) > budget:
            self.fault("messages over the budget", f"{sorted(new)} | {text}")
        for point in new - revealed:
            self.fault("points told before their time", f"{point.slot}: {point.value} | {text}")


def talk(make: Callable[[], gym.Env], jobs: Sequence[tuple[int, str, str]], audit: Audit) -> list[gym.Env]:
    """Hold the dialogues (seed, profile id, agent) side by side and read them."""
    envs = [make() for _ in jobs]
    infos = [env.reset(seed=seed, options={"profile": who})[1] for env, (seed, who, _) in zip(envs, jobs, strict=True)]
    agents = [AGENTS[name]() for _, _, name in jobs]
    known: list[set[Any]] = [set() for _ in jobs]
    said: list[list[str]] = [[] for _ in jobs]
    for env in envs:
        audit.opening(env.unwrapped.dialogue[0].content, env.unwrapped.profile)  # type: ignore[attr-defined]
    running = list(range(len(jobs)))
    for _ in range(TURNS):
        actions = [agents[i].act(infos[i]["messages"]) for i in running]
        steps = step_all([envs[i] for i in running], actions)
        for i, action, step in zip(running, actions, steps, strict=True):
            infos[i] = step[4]
            if step[4]["stop_reason"] == "failure":
                if not step[4]["error"].startswith("off schema"):
                    raise SystemExit(f"the model server failed: {step[4]['error']}")
                audit.fault("episodes that a failure ended", step[4]["error"])
                continue
            core = envs[i].unwrapped
            profile, revealed = core.profile, set(core.revealed)  # type: ignore[attr-defined]
            text = step[4]["messages"][-1]["content"]
            reading = read(text, profile, parse_action(action).reply)
            audit.message(text, reading, known[i], revealed, max(1, int(0.15 * len(profile.points))))
            for point in revealed - known[i] - reading.told:
                audit.fault("points counted that the text does not show", f"{point.slot}: {point.value} | {text}")
            known[i] |= reading.told | revealed
            audit.counts["messages said before in the dialogue"] += text in said[i]
            audit.counts["sentences"] += len(reading.sentences)
            audit.counts["sentences said before in the dialogue"] += sum(
                line in [old for message in said[i] for old in sentences(message)] for line in reading.sentences
            )
            said[i].append(text)
            own = audit.by_style[_style(core)]
            own.update(messages=1, words=len(text.split()), questions=text.count("?") + text.count("？"))
        running = [i for i, step in zip(running, steps, strict=True) if not (step[2] or step[3])]
    for env, info, (_, _, name) in zip(envs, infos, jobs, strict=True):
        core = env.unwrapped
        share = len(core.revealed) / len(core.profile.points)  # type: ignore[attr-defined]
        for group in (audit.by_style[_style(core)], audit.by_agent[name]):
            group.update({"episodes": 1, "revealed": share, "left": info["stop_reason"] == "user_left"})
    return envs


def _style(core: Any) -> str:
    """Which manner a user has; of a model's user it is that of the script behind it."""
    return getattr(core._user, "_script", core._user).style.name


def jobs_of(episodes: int) -> list[tuple[int, str, str]]:
    """(seed, profile id, agent) of each dialogue: the people in file order, the agents in turn."""
    people, names = gym.make("RLPA-v0", split="vanilla/val").unwrapped.profiles, list(AGENTS)  # type: ignore[attr-defined]
    return [(seed, people[seed % len(people)].id, names[seed % len(names)]) for seed in range(episodes)]


def figures_of(audit: Audit, episodes: int) -> dict[str, Any]:
    """Rates and counts for table and result."""
    counts, messages = audit.counts, max(1, audit.counts["messages"])
    facts = counts["facts of self"] + counts["facts of others"]
    styles = {
        name: {
            "episodes": int(own["episodes"]),
            "words a message": own["words"] / max(1, own["messages"]),
            "questions a message": own["questions"] / max(1, own["messages"]),
            "share revealed": own["revealed"] / max(1, own["episodes"]),
            "left": own["left"] / max(1, own["episodes"]),
        }
        for name, own in sorted(audit.by_style.items())
    }
    kinds = (
        "openings that reveal",
        "statements beyond the profile",
        "messages over the budget",
        "points told before their time",
        "points counted that the text does not show",
        "messages longer than three sentences",
        "episodes that a failure ended",
    )
    return {
        "episodes": episodes,
        "messages": counts["messages"],
        **{kind: counts[kind] for kind in kinds},
        "share of messages that tell something new": counts["messages that tell something new"] / messages,
        "share of fact-like sentences about others": counts["facts of others"] / max(1, facts),
        "share of messages said before in the dialogue": counts["messages said before in the dialogue"] / messages,
        "share of sentences said before in the dialogue": counts["sentences said before in the dialogue"] / max(1, counts["sentences"]),
        "share of the most common message": max(audit.messages.values(), default=0) / messages,
        "revealed by agent": {name: own["revealed"] / max(1, own["episodes"]) for name, own in audit.by_agent.items()},
        "styles": styles,
        "examples": {kind: found for kind, found in audit.examples.items() if found},
    }


def scripted(episodes: int) -> dict[str, Any]:
    """The default user."""
    audit = Audit()
    talk(lambda: gym.make("RLPA-v0", split="vanilla/val"), jobs_of(episodes), audit)
    return figures_of(audit, episodes)


def worded(episodes: int, llm: dict[str, Any]) -> dict[str, Any]:
    """The same mind, worded by a model; the rules judge, so that every call is the user's."""
    audit, counts = Audit(), Counter()
    jobs = jobs_of(episodes)
    for start in range(0, episodes, _BATCH):
        envs = talk(lambda: gym.make("RLPA-v0", split="vanilla/val", user="llm", llm=llm), jobs[start : start + _BATCH], audit)
        for env in envs:
            counts.update(env.unwrapped._user.counts)  # type: ignore[attr-defined]
        usage = envs[0].unwrapped._user.client.usage  # type: ignore[attr-defined]
    found = figures_of(audit, episodes) | {"checks": dict(counts), "model": llm["model"], "temperature": llm["temperature"]}
    return found | {"calls": usage.calls, "from store": usage.replayed, "completion tokens": usage.completion_tokens}


def table_of(columns: dict[str, dict[str, Any]]) -> Table:
    """One row a figure, one column a user."""
    table = Table("figure", *columns, title="what users' messages say, read from the text")
    first = next(iter(columns.values()))
    for key, value in first.items():
        if isinstance(value, (int, float)):
            table.add_row(key, *(f"{own[key]:.1%}" if key.startswith("share") else str(own[key]) for own in columns.values()))
    for agent in first["revealed by agent"]:
        table.add_row(f"share revealed to {agent}", *(f"{own['revealed by agent'].get(agent, np.nan):.1%}" for own in columns.values()))
    for style in sorted({style for own in columns.values() for style in own["styles"]}):
        cells = []
        for own in columns.values():
            found = own["styles"].get(style)
            cells.append(f"{found['words a message']:.1f} words, {found['questions a message']:.2f} questions, {found['share revealed']:.0%} revealed"
                         f" ({found['episodes']})" if found else "nobody")  # fmt: skip
        table.add_row(f"style {style}", *cells)
    for kind in ("messages", "rewrites", "leak", "stage direction", "length", "role", "empty", "kept faults"):
        table.add_row(f"model's user: {kind}", *(str(own.get("checks", {}).get(kind, "")) for own in columns.values()))
    return table


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=200, help="of the scripted user")
    parser.add_argument("--llm-episodes", type=int, default=20, help="of the model's user")
    parser.add_argument("--base-url", help="an OpenAI-compatible server; without it the scripted user alone")
    parser.add_argument("--model", help="a model that it serves")
    parser.add_argument("--temperature", type=float, default=0.7, help="of the model's user")
    parser.add_argument("--store", type=Path, help="folder for the model's answers; a later run takes them from there")
    parser.add_argument("--smoke", action="store_true", help="six dialogues each")
    parser.add_argument("--out", type=Path, help="folder for the result as JSON")
    args = parser.parse_args()
    if bool(args.base_url) != bool(args.model):
        parser.error("--base-url and --model go together")
    episodes, few = (6, 6) if args.smoke else (args.episodes, args.llm_episodes)
    columns = {"scripted": scripted(episodes)}
    if args.base_url:
        llm: dict[str, Any] = {"base_url": args.base_url, "model": args.model, "timeout": 900.0, "temperature": args.temperature}
        if args.store:
            llm |= {"mode": "record", "store": str(args.store / args.model)}
        columns[args.model] = worded(few, llm)
    Console(width=150).print(table_of(columns))
    finish("simulator_audit" + (f"-{args.model}" if args.model else ""), columns, [0], args.out)


if __name__ == "__main__":
    main()
