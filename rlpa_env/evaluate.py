"""Agents × users × seeds -> episodes -> results with intervals. Every score is computed from the episode records."""

from __future__ import annotations

import json
import operator
import os
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import rlpa_env  # noqa: F401 - registers the ids, in worker processes too
from rlpa_env.agents import Agent, checked_agent
from rlpa_env.errors import BudgetError, ConfigError, ModelError
from rlpa_env.judges import Judge
from rlpa_env.parts import check_choice
from rlpa_env.playing import run_episodes
from rlpa_env.rendering import results_table as results_table  # part of this module's interface
from rlpa_env.results import off_schema, result_rows
from rlpa_env.setting import Setting as Setting  # and so is this
from rlpa_env.types import StopReason
from rlpa_env.wrappers import (
    append_line,
    described,
    end_torn_line,
    read_episodes,
    source,
)

REFERENCES = {"all": ("prior", "oracle"), "prior": ("prior",), "none": ()}  # the floor and the scale of every normalised score


def _play_apart(name: str, setting: Setting, episodes: Sequence[tuple[str, int]], workers: int, done: Callable[[dict[str, Any]], None]) -> None:
    """Each in one of several processes; those that have ended are done, whatever comes of the others."""
    with ProcessPoolExecutor(workers, initializer=_end_with, initargs=(os.getpid(),)) as pool:
        playing = [pool.submit(_play_one, name, setting, episode) for episode in episodes]
        try:
            for future in as_completed(playing):
                done(future.result())
        finally:
            for future in playing:
                future.cancel()


def _end_with(parent: int) -> None:
    """End this process soon after the one that began it: nobody would read what it plays."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _play_one(name: str, setting: Setting, episode: tuple[str, int]) -> dict[str, Any]:
    records: list[dict[str, Any]] = []
    run_episodes(None, name, setting, [episode], records.append)
    return records[0]


def _identity(agent: Agent, unread: list[str]) -> Any:
    """What tells an agent from others: `described`, and of a class of somebody's own its `source`."""
    found = described(agent, unread)
    if not isinstance(found, dict) or found.get("class") != type(agent).__qualname__:  # it says itself what it is
        return found
    code = source(agent)
    return found | ({"code": code} if code else {})


def collect(
    agents: Mapping[str, Agent | None], setting: Setting, out: Path | None = None, workers: int = 2, quiet: bool = False
) -> dict[str, list[dict[str, Any]]]:
    """Play every agent on every episode of the setting, resuming from ``out/episodes.jsonl``.

    An episode in the file counts if it is of the same task and the same agent (`described`), and no failure from outside cut
    it short: a server that was down, a rate limit, a time-out. One that was off schema counts: the agent may have caused it.
    Of an agent without ``identity`` that holds something that cannot be read (a lambda, an open file, an HTTP client) none
    counts, nor for anybody in an environment with such arguments: it may be another than the one that played. A warning says so.

    Args:
        agents: name -> agent object; None builds the reference agent of that name, in worker processes if neither models nor
            objects are among the arguments of the environment.

    Returns:
        Agent name -> episode records in the order of ``setting.episodes()``.

    Raises:
        BudgetError: a budget is spent; what was finished is kept.
    """
    episodes = setting.episodes()
    unread: dict[str, list[str]] = {name: [] for name in agents}
    identities = {name: None if agent is None else _identity(checked_agent(name, agent), unread[name]) for name, agent in agents.items()}
    path = out / "episodes.jsonl" if out else None
    if path:
        _warn_of({f"agent {name!r}": own for name, own in unread.items()} | setting.unread)
    known = {name: own for name, own in identities.items() if not unread[name] and not any(setting.unread.values())}
    found = _finished(path, setting, known) if path and path.exists() else {}
    objects = any(isinstance(value, dict) and "class" in value for value in setting.arguments.values()) or not isinstance(setting.al_judge, str)
    apart = workers > 1 and not objects
    if out:
        out.mkdir(parents=True, exist_ok=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=quiet) as progress:
        for name, agent in agents.items():
            missing = [e for e in episodes if (name, *e) not in found]
            task = progress.add_task(escape(name), total=len(episodes), completed=len(episodes) - len(missing))

            def done(record: dict[str, Any], task=task, identity=identities[name]) -> None:
                record |= {} if identity is None else {"identity": identity}
                found[record["agent"], record["profile"], record["seed"]] = record
                if path:
                    append_line(path, record)
                progress.advance(task)

            if agent is not None or setting.asks:  # models: dialogues side by side in this process, which ctrl-C reaches
                try:
                    run_episodes(agent, name, setting, missing, done)
                except BudgetError as error:
                    kept = f"Finished episodes are in {path}; the same evaluation with a larger budget goes on from there."
                    raise BudgetError(f"{error} {kept if path else 'Finished episodes are lost: no folder `out` was given.'}") from error
            elif apart and len(missing) > 8:
                _play_apart(name, setting, missing, workers, done)
            else:
                for episode in missing:
                    done(_play_one(name, setting, episode))
    return {name: [found[name, profile, seed] for profile, seed in episodes] for name in agents}


def _warn_of(unread: Mapping[str, Sequence[str]]) -> None:
    for what, names in unread.items():
        if names:
            warnings.warn(
                f"{what}: expected attributes that tell it from others of its class; got {', '.join(sorted(set(names)))}, of which nothing can be read. "
                "Finished episodes are played again, unless it has an attribute `identity`: a mapping that says which it is.",
                stacklevel=4,
            )


def _finished(path: Path, setting: Setting, identities: Mapping[str, Any]) -> dict[tuple[str, str, int], dict[str, Any]]:
    """(agent, profile, seed) -> episode of a file that need not be held again; ends a torn last line."""
    found: dict[tuple[str, str, int], dict[str, Any]] = {}
    for record in read_episodes(path):
        name = record.get("agent", "")
        if record.get("setting") != setting.key or name not in identities:
            continue
        own = identities[name]
        # Of files from before identities were kept; an agent that says what it is has no part in them.
        unknown = own if own is None or "class" in own else None
        final = record["stop_reason"] != StopReason.FAILURE.value or off_schema(record)
        if final and record.get("identity", unknown) == own:
            found[name, record["profile"], record["seed"]] = record
    end_torn_line(path)
    return found


def _wanted(agents: Sequence[str] | Mapping[str, Agent | None]) -> dict[str, Agent | None]:
    """The agents asked for, by name; None is the reference agent of that name."""
    if isinstance(agents, str) or not all(isinstance(name, str) for name in agents):
        raise ConfigError(f"agents: expected a list of names, or a mapping name -> agent; got {agents!r:.80}. Write ['NAME'] or {{'NAME': agent}}.")
    wanted: dict[str, Agent | None] = dict(agents) if isinstance(agents, Mapping) else dict.fromkeys(agents)
    for name in ("prior", "oracle"):
        if wanted.get(name) is not None:
            raise ConfigError(f"agents: expected another name for an agent of your own; got {name!r}, an end of the scale that all are measured by.")
    return wanted


def evaluate(
    agents: Sequence[str] | Mapping[str, Agent | None],
    *,
    env_id: str = "RLPA-v0",
    split: str | os.PathLike[str] = "vanilla/test",
    users: int | None = None,
    seeds: Sequence[int] = (0,),
    env_kwargs: Mapping[str, Any] | None = None,
    al_judge: str | Judge = "rules",
    references: str = "auto",
    out: str | Path | None = None,
    workers: int = 2,
    quiet: bool = False,
) -> list[dict[str, Any]]:
    """Play agents against held-out users and score them; see ``results.summarise`` for the figures.

    Args:
        agents: names of reference agents, or a mapping name -> agent object (None: the reference agent of that name).
        users: the first so many profiles in file order, each once per seed; None: all.
        env_kwargs: of the environment; objects too, such as ``judge=RuleJudge()``.
        al_judge: judges every reply with the true profile, for ``al``, whatever the training judge is: "rules"; "llm", the
            model of ``env_kwargs["llm"]``; or an object. ``al_judge`` in a row names it where it is not the rules.
        references: who is played beside them: "all" is prior and oracle, the two ends of the normalised scores; "prior";
            "none". "auto" is "all", but "prior" where user, matcher or judge is a model, which the oracle asks hundreds of
            times a turn. Without both there are no normalised scores.
        out: folder for ``episodes.jsonl`` (resumed if it is there, see `collect`) and ``results.json``.

    Returns:
        One row per agent, in the order given, then the references that were not asked for. ``tied_with`` names the ranked agents
        whose returns are not to be told apart from this one's (`results.ties`); ``kwargs`` and ``identity`` say on which
        models it rests.

    Raises:
        ModelError: of an agent every episode failed; the rows of the others are in ``out``.
        BudgetError: a budget is spent; what was finished is in ``out``.
    """
    check_choice("references", references, ("auto", *REFERENCES))
    try:
        numbers = tuple(map(operator.index, seeds))
    except TypeError as error:
        raise ConfigError(f"seeds: expected a list of integers; got {seeds!r:.80}. Write [3] for the seed 3, range(3) for three seeds.") from error
    wanted = _wanted(agents)
    kwargs = tuple(sorted((env_kwargs or {}).items()))
    setting = Setting(env_id, split if isinstance(split, str) else os.fspath(split), users, numbers, kwargs, al_judge)
    if references == "auto":
        references = "prior" if setting.waits else "all"
    everybody = {**wanted, **{name: None for name in REFERENCES[references] if name not in wanted}}
    folder = Path(out) if out else None
    records = collect(everybody, setting, folder, workers, quiet)
    rows, errors = result_rows(records, setting.seeds)
    for row in rows:
        first = records[row["agent"]][0]
        row |= setting.named | ({"identity": first["identity"]} if "identity" in first else {})
    if folder and rows:
        (folder / "results.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    if errors:
        raise ModelError("; ".join([*map(str, errors), *([f"the rows of the others are in {folder / 'results.json'}"] if folder and rows else [])]))
    return rows
