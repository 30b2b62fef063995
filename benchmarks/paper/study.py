"""What the benchmarks of the paper share: their options, who is behind a name, and dialogues that are held once and kept.

`--model NAME=SOURCE …`: NAME is a row of the tables (start, rlpa, sft, dpo, …), SOURCE is

    tiny                        the start checkpoint that comes with the package
    DIR or a model's id         a policy folder, a run, or any causal LM; "{seed}" in it stands for the seed, so that
                                rlpa=runs/ppo-{seed} is another training run for each of --seeds
    attentive, script, …        a reference agent
    base, reminder, self-critic, cot, rag     a served model, prompted (--base-url, --model-name)
    cot@DIR, self-critic@tiny, …    the same prompting on a local policy

`--trained FOLDER` adds the policies of `train.py`, or what it shipped, that a benchmark asks about: NAME=FOLDER/NAME-{seed}.

Dialogues are kept in RUNS under what produced them (setting, weights, temperature), not under the name, so a finished part
is neither held again nor taken for that of other weights, and benchmarks that share a setting share its dialogues.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import fingerprint, finish

from rlpa_env import ConfigError
from rlpa_env.agents import AGENTS
from rlpa_env.evaluate import Setting, collect
from rlpa_env.prompting import METHODS, PromptingAgent
from rlpa_env.results import per_turn

VANILLA, EXTENDED = ("RLPA-v0", "vanilla/test"), ("RLPA-Extended-v0", "extended/test")
_HEAD, _TURN = 512, 96 + 160 + 32  # tokens at most: of the instructions; of a user message, an answer and what is around them
Records = list[dict[str, Any]]


def parser(description: str | None, model: Sequence[str] = ("start=tiny",), trained: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The options of every benchmark that holds dialogues.

    Args:
        model: the default of --model.
        trained: names of the policies of `train.py` that the benchmark asks about; --trained finds them.
    """
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--model", nargs="+", default=list(model), metavar="NAME=SOURCE", help="who is compared; see study.py")
    if trained:
        found.add_argument("--trained", type=Path, help=f"folder of NAME-SEED: adds {', '.join(trained)}, where all --seeds are there")
        found.set_defaults(asked=trained)
    found.add_argument("--users", type=int, default=74, help="the first so many people of the split")
    found.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of training runs ({seed}), people's replies and sampling")
    found.add_argument("--temperature", type=float, help="of local policies; their own if not given, 0 is greedy")
    found.add_argument("--max-new-tokens", type=int, help="longest answer of local policies; as they were trained if not given")
    found.add_argument("--workers", type=int, default=2, help="policies that talk side by side, each on its share of the cores; 1 for a large model")
    found.add_argument("--runs", type=Path, default=Path("runs/paper"), help="folder for dialogues; finished ones are not held again")
    found.add_argument("--out", type=Path, help="folder for the result as JSON")
    found.add_argument("--smoke", action="store_true", help="five people and one seed, to see that it runs")
    served(found)
    return found


def served(found: argparse.ArgumentParser) -> None:
    """The options of a served model."""
    found.add_argument("--base-url", help="an OpenAI-compatible server, for what needs a served model; left out without it")
    found.add_argument("--model-name", help="name of a model that it serves")
    found.add_argument("--embedding", help="name or folder of a sentence-transformers model, for rag and the embedding matcher")


def graded(args: argparse.Namespace) -> dict[str, Any]:
    """Settings of a served model that judges, matches or rates: its answers are kept in RUNS, so a rerun asks nothing twice."""
    store = str(args.runs / "answers" / _slug(args.model_name))
    return {"base_url": args.base_url, "model": args.model_name, "temperature": 0.0, "mode": "record", "store": store}


def read(found: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parsed and checked options, cut down under --smoke; ``contestants`` is name -> source."""
    args = found.parse_args(arguments)
    if bool(args.base_url) != bool(args.model_name):
        found.error(f"--base-url and --model-name: expected both or neither; got {args.base_url} and {args.model_name}")
    if "workers" in args and args.workers < 1:
        found.error(f"--workers: expected at least one; got {args.workers}")
    if args.users < 1 or len(set(args.seeds)) != len(args.seeds):
        found.error(f"--users and --seeds: expected at least one user and distinct seeds; got {args.users} and {args.seeds}")
    if args.smoke:
        args.users, args.seeds = min(args.users, 5), args.seeds[:1]
    if args.smoke or args.base_url:
        args.workers = 1  # a server has its own concurrency
    if "model" in args:
        try:
            args.contestants = contestants(args.model)
            for name, source in trained_policies(args).items():
                args.contestants.setdefault(name, source)
        except ConfigError as error:
            found.error(str(error))
    return args


def contestants(model: Sequence[str]) -> dict[str, str]:
    """Name -> source. A source without a name is called by it, the tiny start "start"."""
    found: dict[str, str] = {}
    for text in model:
        name, equals, source = text.partition("=")
        if not equals:
            name, source = "start" if text == "tiny" else Path(text).name, text
        if not name or not source or name in found:
            raise ConfigError(f"--model: expected NAME=SOURCE with distinct names; got {text!r} beside {list(found)}.")
        found[name] = source
    return found


def trained_policies(args: argparse.Namespace) -> dict[str, str]:
    """Name -> source of the policies in --trained that are asked about; one that lacks a seed is left out, and said so."""
    found: dict[str, str] = {}
    if getattr(args, "trained", None) is None:
        return found
    for name in args.asked:
        lacking = [seed for seed in args.seeds if not (args.trained / f"{name}-{seed}").is_dir()]
        if not lacking:
            found[name] = f"{args.trained}/{name}-{{seed}}"
        elif len(lacking) < len(args.seeds):
            print(f"{args.trained}: {name} has no seed {', '.join(map(str, lacking))}, and is left out")
    if not found:
        print(f"{args.trained}: none of {', '.join(args.asked)} is there for the seeds {args.seeds}; only --model is compared")
    return found


class Late:
    """A policy that is loaded when it is first asked: finished parts need none, and are known by ``key``, which weights go into."""

    def __init__(self, key: str, make: Callable[[], Any]) -> None:
        self.identity, self._make, self._agent = {"key": key}, make, None

    def _now(self) -> Any:
        if self._agent is None:
            self._agent = self._make()
        return self._agent

    def act(self, messages: Any) -> str:
        """One completion."""
        return self._now().act(messages)

    def act_batch(self, batch: Any, streams: Any = None) -> list[str]:
        """Completions, decoded together."""
        return self._now().act_batch(batch, streams)

    def count_tokens(self, text: str) -> int:
        """Tokens of a text."""
        return self._now().count_tokens(text)


@dataclass(frozen=True)
class Source:
    """Who answers, and what tells them from all others."""

    key: str  # names their dialogues in RUNS
    agent: Any  # None: the reference agent ``key``
    unit: str  # of ``tokens``: "tokens" of the policy's own tokenizer, or "words"
    context: str = ""  # how a local policy is fed a long dialogue; "": as it was trained


def source_of(source: str, seed: int, args: argparse.Namespace, turns: int | None = None) -> Source:
    """The agent behind a source for one seed.

    Args:
        turns: of a dialogue too long to be fed as in training: args.context, or the one that fits.
    """
    if source in AGENTS:
        return Source(source, None, "words")
    if source in METHODS:
        if not args.base_url:
            raise SystemExit(f"--model {source}: expected --base-url and --model-name of a served model; got none")
        llm = {"base_url": args.base_url, "model": args.model_name, "seeds": False}
        more = (args.embedding,) if args.embedding else ()
        return Source(f"{source}-{_slug(args.model_name)}", PromptingAgent(llm, source, *more), "words")
    from rlpa_agent.cli import policy_path
    from rlpa_agent.config import SHIPPED

    method, _, source = source.partition("@") if source.partition("@")[0] in METHODS else ("", "", source)
    path = policy_path(SHIPPED if source == "tiny" else _there(source.replace("{seed}", str(seed))))
    key = f"{method}{'-' if method else ''}{_slug(Path(path).name)}-{fingerprint(path)}"
    if args.temperature is not None:
        key += f"-t{args.temperature:g}"
    if args.max_new_tokens is not None:
        key += f"-n{args.max_new_tokens}"
    context = (args.context or fitting_context(path, turns)) if turns else ""
    if context:
        key += f"-{context}"
    return Source(key, Late(key, lambda: _prompted(_policy(path, args, context), method, args)), "tokens", context)


def fitting_context(path: str, turns: int) -> str:
    """latest (all said, the newest profile block only) where so many turns fit the model for certain, else window."""
    from transformers import AutoConfig

    from rlpa_agent.lora import base_of

    room = AutoConfig.from_pretrained((base_of(Path(path)) if Path(path).is_dir() else None) or path).max_position_embeddings
    return "latest" if _HEAD + turns * _TURN <= room else "window"


def _there(source: str) -> str:
    """A folder that exists, or what can be a model's id."""
    if not Path(source).is_dir() and (source.count("/") > 1 or source.startswith((".", "/", "~"))):
        raise SystemExit(f"--model: expected tiny, a folder, a model's id, or one of {', '.join((*AGENTS, *METHODS))}; there is no folder {source!r}")
    return source


def _policy(path: str, args: argparse.Namespace, context: str) -> Any:
    from rlpa_agent.contexts import ContextKind
    from rlpa_agent.evaluate import policy_agent

    agent = policy_agent(path, temperature=args.temperature, max_new_tokens=args.max_new_tokens)
    if context:
        agent.chat.kept = ContextKind(context)
    return agent


def _prompted(agent: Any, method: str, args: argparse.Namespace) -> Any:
    """The policy, prompted where a method is named."""
    if not method:
        return agent
    from rlpa_agent.prompted import PromptedPolicy

    return PromptedPolicy(agent, method, *((args.embedding,) if args.embedding else ()))


def _slug(text: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-." else "-" for letter in text)


def hold(
    args: argparse.Namespace, task: tuple[str, str], turns: int | None = None, **env_kwargs: Any
) -> dict[str, list[Records]]:
    """Name -> the dialogues of every seed, held or read from RUNS. The same people and seeds for all names.

    Args:
        task: environment id and split.
        turns: see ``source_of``.
    """
    wanted = {(name, seed): source_of(source, seed, args, turns).key for name, source in args.contestants.items() for seed in args.seeds}
    parts = {(key, seed): (args.contestants[name], seed) for (name, seed), key in wanted.items()}
    beside = args.workers > 1 and len(parts) > 1
    one = partial(_held, args=args, task=task, turns=turns, env_kwargs=env_kwargs, beside=beside)
    if beside:
        spawn = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
        with ProcessPoolExecutor(args.workers, spawn, _share_cores, (args.workers,)) as pool:
            going = pool.map(one, *zip(*parts.values(), strict=True))
            found = list(track(going, f"{task[0]}, {task[1]}: {args.users} dialogues each", total=len(parts)))
    else:
        found = [one(source, seed) for source, seed in parts.values()]
    held = dict(zip(parts, found, strict=True))
    return {name: [held[wanted[name, seed], seed] for seed in args.seeds] for name in args.contestants}


def _share_cores(workers: int) -> None:
    import torch

    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))


def _held(
    source: str, seed: int, *, args: argparse.Namespace, task: tuple[str, str], turns: int | None, env_kwargs: Mapping[str, Any], beside: bool
) -> Records:
    """The dialogues of one part; ``beside`` others in a process of its own it shows no bar and starts no further processes."""
    found = source_of(source, seed, args, turns)
    setting = Setting(*task, args.users, (seed,), tuple(sorted(env_kwargs.items())))
    folder = args.runs / f"{task[0]}-{setting.key}" / f"{found.key}-seed{seed}"
    workers = 1 if beside or args.users < 9 else 2
    records = collect({found.key: found.agent}, setting, folder, workers, quiet=args.smoke or beside)[found.key]
    if all(record["stop_reason"] == "failure" for record in records):
        raise SystemExit(f"{source}: expected dialogues without a failure; all failed, the first with: {records[0]['error']}")
    return records


def by_turn(seeds: Sequence[Records], key: str, *, gone: float = 0.0) -> np.ndarray:
    """Array [S seeds, U users, K turns] of a per-turn figure. ``gone`` stands for turns after the user left."""
    table_SUK = np.stack([per_turn(records, key) for records in seeds])
    if gone != 0.0:
        for s, records in enumerate(seeds):
            for u, record in enumerate(records):
                table_SUK[s, u, len(record["turns"]) :] = gone
    return table_SUK


def conclude(name: str, figures: dict[str, Any], args: argparse.Namespace) -> None:
    """Print and write as every benchmark does, without anybody's folders in the command."""
    sys.argv = [sys.argv[0], *map(_without_folders, sys.argv[1:])]
    models = {name: _without_folders(source) for name, source in vars(args).get("contestants", {}).items()}
    finish(name, _missing_as_null({"users": args.users, "models": models} | figures), args.seeds, args.out)


def _missing_as_null(data: Any) -> Any:
    """NaN, which JSON does not know, as null."""
    if isinstance(data, Mapping):
        return {key: _missing_as_null(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_missing_as_null(value) for value in data]
    return None if isinstance(data, float) and np.isnan(data) else data


def _without_folders(text: str) -> str:
    """An absolute path, alone or behind NAME= or METHOD@, as its last part."""
    found = re.fullmatch(r"(|.*?[=@])(/.*)", text)
    return f"{found[1]}{Path(found[2]).name}" if found else text
