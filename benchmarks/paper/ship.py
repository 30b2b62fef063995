"""A trained policy as a small folder that can be committed: weights in small files, no optimizer state, and where it comes from.

The folder loads like any other policy folder. `trained.json` in it says what was trained and how often its greedy answers
differ from those of the run. Weights are not rounded: the start lies on the grid of bfloat16, and what a short run adds to most of its
weights is less than half a step of that.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlpa_agent.cli import policy_path
from rlpa_agent.contexts import read_context, save_context
from rlpa_agent.evaluate import policy_agent
from rlpa_agent.policy import Policy
from rlpa_env import RLPAError
from rlpa_env.evaluate import Setting, collect

ABOUT = "trained.json"
DTYPE = "float32"
LARGEST = "10MB"  # of a file of weights; a repository takes none above 15
DIFFER = 2  # greedy answers at most: another processor may turn a token
USERS = 8  # validation people whose dialogues are answered again
Messages = Sequence[Mapping[str, str]]


def ship(run: Path, target: Path, told: Mapping[str, Any], users: int = USERS) -> str:
    """Write the policy of ``run`` to ``target``, once, whole or not at all; returns a line about it.

    Args:
        told: what is known of the run; goes into `trained.json`, and another one there means another policy.

    Raises RLPAError, and leaves ``target`` as it was, where more than DIFFER greedy answers are not the run's.
    """
    told = {**told, "dtype": DTYPE}
    if (target / ABOUT).exists():
        about = json.loads((target / ABOUT).read_text(encoding="utf-8"))
        if all(about.get(name) == value for name, value in told.items()):
            return _line(target, about)
    source, fresh = policy_path(str(run)), target.with_name(target.name + ".part")
    shutil.rmtree(fresh, ignore_errors=True)
    policy = Policy.from_pretrained(source, reference=False)
    policy.save(fresh, largest=LARGEST)
    save_context(fresh, read_context(source))
    differ, answers = greedy_difference(source, fresh, users)
    if differ > DIFFER:
        raise RLPAError(
            f"{fresh}: expected at most {DIFFER} of {answers} greedy answers other than those of {source}; got {differ}. "
            "Written weights are not the run's: see which differ, and ship it again."
        )
    about = {**told, "greedy_answers": answers, "greedy_answers_that_differ": differ}
    (fresh / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    fresh.replace(target)
    return _line(target, about)


def _line(target: Path, about: Mapping[str, Any]) -> str:
    size = sum(file.stat().st_size for file in target.iterdir()) / 1e6
    return f"{target}: {size:.1f} MB, {about['greedy_answers_that_differ']} of {about['greedy_answers']} greedy answers differ from the run's"


def greedy_difference(original: str | Path, shipped: str | Path, users: int, split: str = "vanilla/val") -> tuple[int, int]:
    """(answers that differ, answers): both answer the same states, those of greedy dialogues of the original."""
    talks = collect({"original": policy_agent(original, temperature=0.0)}, Setting("RLPA-v0", split, users), quiet=True)["original"]
    states = [talk["messages"][:i] for talk in talks for i, said in enumerate(talk["messages"]) if said["role"] == "assistant"]
    one, other = answers(original, states), answers(shipped, states)
    return sum(a != b for a, b in zip(one, other, strict=True)), len(states)


def answers(path: str | Path, states: Sequence[Messages], at_once: int = 32) -> list[str]:
    """Greedy answers of a policy to dialogues that it has not held itself, each read from its text."""
    return [
        text
        for i in range(0, len(states), at_once)
        for text in policy_agent(path, temperature=0.0).act_batch(states[i : i + at_once])  # a new agent remembers nothing
    ]
