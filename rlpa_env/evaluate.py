"""Agents × users × seeds -> episodes -> results with intervals. Every score is computed from the episode records."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import rlpa_env  # noqa: F401 - registers the ids, in worker processes too
from rlpa_env.agents import Agent, make_agent
from rlpa_env.errors import ConfigError
from rlpa_env.judges import Judge, RuleJudge
from rlpa_env.parts import profiles_of
from rlpa_env.results import paired_difference, returns, summarise
from rlpa_env.types import CRITERIA, Message
from rlpa_env.vector import make_calls
from rlpa_env.wrappers import append_line, end_torn_line, read_episodes, scored_on

REFERENCES = ("prior", "oracle")  # always run: the floor and the scale of every normalised score
_BATCH = 32  # dialogues that a batching agent holds at once


@dataclass(frozen=True)
class Setting:
    """Which task is evaluated; agents are compared only within one setting."""

    env_id: str = "RLPA-v0"
    split: str = "vanilla/test"
    users: int | None = None  # the first so many profiles in file order; None: all
    seeds: tuple[int, ...] = (0,)
    env_kwargs: tuple[tuple[str, Any], ...] = ()

    @property
    def key(self) -> str:
        """Short name of the setting, for caches and resumed files."""
        text = json.dumps([self.env_id, self.split, list(map(list, self.env_kwargs))], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def make(self) -> gym.Env:
        """The environment of this setting."""
        return gym.make(f"rlpa_env:{self.env_id}", split=self.split, **dict(self.env_kwargs))

    @property
    def waits(self) -> bool:
        """Whether its turns call models."""
        return self.make().unwrapped.waits  # type: ignore[attr-defined]

    def episodes(self) -> list[tuple[str, int]]:
        """(profile id, environment seed) of every episode; paired across agents."""
        people = profiles_of(self.split)
        if self.users is not None and not 1 <= self.users <= len(people):
            raise ConfigError(f"users: expected 1..{len(people)} for split {self.split!r}; got {self.users}.")
        chosen = people[: self.users]
        return [(p.id, 1_000_003 * seed + i) for seed in self.seeds for i, p in enumerate(chosen)]


def _turn_record(info: Mapping[str, Any], reward: float, al: bool, completion: str, counter: Any) -> dict[str, Any]:
    record = {
        "reward": reward,
        "valid": bool(info["reward/valid"]),
        "profile": info["reward/profile"],
        "response": info["reward/response"],
        "al": float(al),
        "f1": info["profile/f1"],
        "grounded_f1": info["profile/grounded_f1"],
        "precision": info["profile/precision"],
        "recall": info["profile/recall"],
        "ceiling": info["profile/ceiling"],
        "revealed": info["profile/revealed"],
        "invented": info["profile/invented"],
        "patience": info["user/patience"],
        "tokens": counter(completion),
        "parse_error": info["parse_error"],
    }
    return record | {criterion: bool(info[f"judge/{criterion}"]) for criterion in CRITERIA}


class _Run:
    """One dialogue in progress."""

    def __init__(self, setting: Setting, env: gym.Env, episode: tuple[str, int], agent: Agent, judge: Judge) -> None:
        self.env, self.agent, self.judge, self.setting = env, agent, judge, setting
        self.profile_id, self.seed = episode
        self.observation, self.info = env.reset(seed=self.seed, options={"profile": self.profile_id})
        self.turns: list[dict[str, Any]] = []
        self.done = False
        self.counter: Callable[[str], int] = getattr(agent, "count_tokens", _count_words)
        if hasattr(agent, "attach"):
            agent.attach(env)

    @property
    def messages(self) -> list[dict[str, str]]:
        return self.info["messages"]

    def step(self, completion: str) -> None:
        core = self.env.unwrapped
        truth = core.profile.points  # type: ignore[attr-defined]
        before: tuple[Message, ...] = core.dialogue  # type: ignore[attr-defined]
        self.observation, reward, terminated, truncated, self.info = self.env.step(completion)
        heard = core.last_action  # type: ignore[attr-defined]
        al = not heard.error and self.judge.judge(truth, before, heard.reply).passed
        said = core.last_verdict.reasons  # type: ignore[attr-defined]
        failed = {c: said[c] for c in CRITERIA if c in said and not self.info[f"judge/{c}"]}
        turn = _turn_record(self.info, float(reward), al, completion, self.counter)
        self.turns.append(turn | {"reasons": failed} | scored_on(core))
        self.done = terminated or truncated
        self.left = terminated

    def record(self, name: str) -> dict[str, Any]:
        core = self.env.unwrapped
        truth = [list(point) for point in core.profile.points]  # type: ignore[attr-defined]
        return {
            "agent": name,
            "setting": self.setting.key,
            "env": self.setting.env_id,
            "split": self.setting.split,
            "profile": self.profile_id,
            "seed": self.seed,
            "limit": self.env.spec.max_episode_steps if self.env.spec else len(self.turns),
            "left": self.left,
            "stop_reason": self.info["stop_reason"],
            "error": self.info["error"],
            "truth": core.profile.to_mapping()["slots"],  # type: ignore[attr-defined]
            "messages": self.messages,
            "turns": [{k: v for k, v in turn.items() if k != "points" or v != truth} for turn in self.turns],
        }


def _count_words(text: str) -> int:
    return len(text.split())


def run_episodes(
    agent: Agent | None, name: str, setting: Setting, episodes: Sequence[tuple[str, int]], done: Callable[[dict[str, Any]], None]
) -> None:
    """Play ``episodes`` and hand each finished record to ``done``.

    Agents that act in batches, and environments that wait for models, hold several dialogues at once.

    Args:
        agent: None for the reference agent of that name, a fresh one for each dialogue.
    """
    judge = RuleJudge()
    batch = getattr(agent, "act_batch", None)
    many = batch is not None or (bool(episodes) and setting.waits and not hasattr(agent, "attach"))
    waiting = list(reversed(episodes))
    running: list[_Run] = []
    while waiting or running:
        while waiting and len(running) < (_BATCH if many else 1):
            running.append(_Run(setting, setting.make(), waiting.pop(), agent or make_agent(name), judge))
        if batch is not None:
            completions = batch([run.messages for run in running])
        else:
            completions = [run.agent.act(run.messages) for run in running]
        make_calls([run.env for run in running], completions)
        for run, completion in zip(running, completions, strict=True):
            run.step(completion)
            if run.done:
                done(run.record(name))
        running = [run for run in running if not run.done]


def _play_one(name: str, setting: Setting, episode: tuple[str, int]) -> dict[str, Any]:
    records: list[dict[str, Any]] = []
    run_episodes(None, name, setting, [episode], records.append)
    return records[0]


def collect(
    agents: Mapping[str, Agent | None], setting: Setting, out: Path | None = None, workers: int = 2, quiet: bool = False
) -> dict[str, list[dict[str, Any]]]:
    """Play every agent on every episode of the setting, resuming from ``out/episodes.jsonl``.

    Args:
        agents: name -> agent object; None builds the reference agent of that name, in worker processes.

    Returns:
        Agent name -> episode records in the order of ``setting.episodes()``.
    """
    episodes = setting.episodes()
    path = out / "episodes.jsonl" if out else None
    found: dict[tuple[str, str, int], dict[str, Any]] = {}
    if path and path.exists():
        for record in read_episodes(path):
            if record.get("setting") == setting.key:
                found[record["agent"], record["profile"], record["seed"]] = record
        end_torn_line(path)
    if out:
        out.mkdir(parents=True, exist_ok=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=quiet) as progress:
        for name, agent in agents.items():
            missing = [e for e in episodes if (name, *e) not in found]
            task = progress.add_task(name, total=len(episodes), completed=len(episodes) - len(missing))

            def done(record: dict[str, Any], task=task) -> None:
                found[record["agent"], record["profile"], record["seed"]] = record
                if path:
                    append_line(path, record)
                progress.advance(task)

            if agent is not None or setting.waits:  # models: dialogues side by side in this process, which ctrl-C reaches
                run_episodes(agent, name, setting, missing, done)
            elif workers > 1 and len(missing) > 8:
                with ProcessPoolExecutor(workers) as pool:
                    for record in pool.map(partial(_play_one, name, setting), missing, chunksize=4):
                        done(record)
            else:
                for episode in missing:
                    done(_play_one(name, setting, episode))
    return {name: [found[name, profile, seed] for profile, seed in episodes] for name in agents}


def evaluate(
    agents: Sequence[str] | Mapping[str, Agent | None],
    *,
    env_id: str = "RLPA-v0",
    split: str = "vanilla/test",
    users: int | None = None,
    seeds: Sequence[int] = (0,),
    env_kwargs: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    workers: int = 2,
    quiet: bool = False,
) -> list[dict[str, Any]]:
    """Play agents against held-out users and score them; see ``results.summarise`` for the figures.

    Args:
        agents: names of reference agents, or a mapping name -> agent object (None: the reference agent of that name).
        users: the first so many profiles in file order, each once per seed; None: all.
        out: folder for ``episodes.jsonl`` (resumed if it is there) and ``results.json``.

    Returns:
        One row per agent, in the order given, then those of `REFERENCES` that were not asked for. ``tied_with`` names
        the neighbours in the ranking by return whose paired interval covers 0.
    """
    wanted: dict[str, Agent | None] = dict(agents) if isinstance(agents, Mapping) else dict.fromkeys(agents)
    kwargs = tuple(sorted((env_kwargs or {}).items()))
    setting = Setting(env_id, split, users, tuple(seeds), kwargs)
    everybody = {**wanted, **{name: None for name in REFERENCES if name not in wanted}}
    folder = Path(out) if out else None
    records = collect(everybody, setting, folder, workers, quiet)
    prior, oracle = records["prior"], records["oracle"]
    tied = ties(records)
    rows = [
        summarise(name, records[name], prior, oracle, setting.seeds)
        | {"tied_with": [b if a == name else a for a, b in tied if name in (a, b)]}
        for name in everybody
    ]
    if folder:
        (folder / "results.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return rows


_COLUMNS = (
    ("return", "return", 2),
    ("normalised", "normalised", 2),
    ("normalised_profile", "… profile", 2),
    ("normalised_response", "… response", 2),
    ("profile_f1", "profile F1", 3),
    ("profile_grounded_f1", "grounded F1", 3),
    ("avg", "AL AVG", 1),
)


def results_table(rows: Sequence[Mapping[str, Any]], title: str = "") -> Table:
    """The rows as a table, every score with its 95 % interval, best return first."""
    table = Table(title=title, title_justify="left")
    table.add_column("agent")
    for _, heading, _ in _COLUMNS:
        table.add_column(heading, justify="right")
    for row in sorted(rows, key=lambda row: -row["return"]):
        cells = [f"{row[k]:.{d}f} [dim]{row[f'{k}_lo']:.{d}f}…{row[f'{k}_hi']:.{d}f}[/]" for k, _, d in _COLUMNS]
        equal = "".join(f"\n[dim]tied with {other}[/]" for other in row.get("tied_with", ()))
        if not row.get("ranked", True):
            equal = f"\n[red]not ranked: {row['off_schema']} turns off schema[/]"
        table.add_row(f"{row['agent']}{equal}", *cells)
    return table


def ties(records: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[tuple[str, str]]:
    """Neighbours in the ranking by return whose paired 95 % interval covers 0: not to be told apart."""
    ranked = sorted(records, key=lambda name: -float(np.nanmean(returns(records[name]))))
    tied = []
    for better, worse in pairwise(ranked):
        _, low, high = paired_difference(records[better], records[worse])
        if low <= 0 <= high:
            tied.append((better, worse))
    return tied
