"""Answers of the start policy to learn from: several to every turn of dialogues with the environment, with what each earned.

`rollout.collect` answers every turn several times from the same state and goes on with the best paid. A line a dialogue is kept
in answers.jsonl; the best answers are rows for SFT, best and worst of a turn are pairs for DPO.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlpa_agent.baseline_config import DPO, SFT
from rlpa_agent.chat import Chat, Transcript
from rlpa_agent.trajectory import Trajectory, Turn
from rlpa_env.errors import ConfigError

if TYPE_CHECKING:
    from rlpa_agent.policy import Policy
    from rlpa_agent.protocols import TextEnv

ANSWERS, ABOUT = "answers.jsonl", "answers.json"
Ids = list[int]
Report = Callable[[str], None]


@dataclass(frozen=True)
class Pair:
    """Two answers to one state."""

    prompt_ids: Ids  # the dialogue so far as it was fed, assistant header included
    chosen_ids: Ids  # as sampled, a sampled end token included
    rejected_ids: Ids
    chosen_reward: float  # of the turn, as the environment paid it
    rejected_reward: float
    dialogue: int
    turn: int  # from 0


def held_answers(
    policy: Policy,
    make_env: Callable[[], TextEnv],
    config: SFT | DPO,
    folder: Path,
    deadline: float = float("inf"),
    report: Report | None = None,
) -> dict[int, Trajectory]:
    """Dialogue number -> the dialogue, ``others`` of its turns included: read from ``folder``, and what it lacks held now.

    Dialogue i depends on the start, the settings, the seed and i, not on which run held it. Every dialogue is written as it
    ends. ``deadline`` in seconds of time.perf_counter: no round of dialogues begins that would probably end after it, but
    the first.
    """
    from rlpa_agent.pool import GymPool
    from rlpa_agent.rollout import collect

    data = config.data
    about = {name: value for name, value in asdict(data).items() if name not in ("model", "dialogues", "concurrent")}
    _check_same(folder, json.loads(json.dumps(about | {"seed": config.seed, "start": weights_key(policy)})))
    found = {i: t for i, t in read_answers(folder).items() if i < data.dialogues}
    missing = [i for i in range(data.dialogues) if i not in found]
    people = np.random.default_rng([config.seed, 1]).integers(2**31, size=data.dialogues).tolist()
    pool = GymPool([make_env() for _ in range(min(data.concurrent, len(missing)))])
    longest = 0.0
    with (folder / ANSWERS).open("a", encoding="utf-8") as file:
        while missing and (not found or time.perf_counter() + longest <= deadline):
            began = time.perf_counter()
            now, missing = missing[: data.concurrent], missing[data.concurrent :]

            def keep(index: int, trajectory: Trajectory, now: Sequence[int] = now) -> None:
                found[now[index]] = trajectory
                file.write(json.dumps(_as_line(now[index], trajectory, policy.chat), ensure_ascii=False) + "\n")
                file.flush()

            collect(
                policy,
                pool,
                seeds=[people[i] for i in now],
                streams=[(config.seed, i) for i in now],
                temperature=data.temperature,
                max_new_tokens=data.max_new_tokens,
                max_turns=data.max_turns,
                samples=data.samples,
                on_episode=keep,
            )
            longest = max(longest, time.perf_counter() - began)
            if report is not None:
                report(f"{len(found)} of {data.dialogues} dialogues")
    return dict(sorted(found.items()))


def weights_key(policy: Policy) -> str:
    """Changes with what the policy computes, and with what it is told before a dialogue; not with new, idle adapters."""
    digest = hashlib.sha256(repr(policy.system_prompt).encode())
    for name, tensor in sorted(policy.lm.state_dict().items()):
        if "lora_A" not in name and ("lora_B" not in name or bool(tensor.any())):
            digest.update(tensor.flatten()[:256].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _check_same(folder: Path, about: Mapping[str, Any]) -> None:
    """Raise unless the folder is new, or its answers were sampled in this way."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ABOUT
    if not path.is_file():
        if (folder / ANSWERS).exists():
            raise ConfigError(f"{path}: expected beside {ANSWERS}; it is missing. Delete {ANSWERS}, or choose another folder.")
        path.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    other = [f"{name}={before.get(name)!r}, now {about.get(name)!r}" for name in {**before, **about} if before.get(name) != about.get(name)]
    if other:
        raise ConfigError(
            f"{folder / ANSWERS}: expected answers of this start with these settings; they differ in {'; '.join(other)}. "
            "Go on with the same settings, or choose another folder."
        )


def _as_line(number: int, trajectory: Trajectory, chat: Chat) -> dict[str, Any]:
    """A dialogue as plain data. A context is kept as what it adds to the first ``shared`` ids of the one before and its answer."""
    turns, before = [], Transcript()
    for turn in trajectory.turns:
        context = turn.context_ids.tolist()
        shared = next((i for i, (a, b) in enumerate(zip(context, before.ids)) if a != b), min(len(context), len(before.ids)))
        answers = [
            {"ids": t.action_ids.tolist(), "reward": t.reward, "valid": t.valid, "stop": t.stop, "text": chat.decode(t.action_ids.tolist())}
            for t in (turn, *turn.others)
        ]
        turns.append({"shared": shared, "adds": context[shared:], "answers": answers})
        before = Transcript([*context, *turn.action_ids.tolist()])
    return {"dialogue": number, "episode": trajectory.episode, "stop_reason": trajectory.stop_reason, "messages": trajectory.messages, "turns": turns}


def read_answers(folder: Path) -> dict[int, Trajectory]:
    """Dialogue number -> dialogue of a folder; {} if there are none. The first answer of a turn is the one it went on with.

    A last line that was cut by a kill is removed from the file. Log-probabilities are not kept: they are NaN.
    """
    path, found = folder / ANSWERS, {}
    if not path.is_file():
        return {}
    whole = path.read_bytes()
    kept = whole[: whole.rfind(b"\n") + 1]
    if kept != whole:
        path.write_bytes(kept)
    for line in kept.decode("utf-8").split("\n")[:-1]:  # people may write U+2028, a line end to splitlines()
        data = json.loads(line)
        turns: list[Turn] = []
        for turn in data["turns"]:
            before = [*turns[-1].context_ids.tolist(), *turns[-1].action_ids.tolist()] if turns else []
            context = np.asarray([*before[: turn["shared"]], *turn["adds"]], dtype=np.int64)
            best, *others = (_turn(context, answer) for answer in turn["answers"])
            turns.append(replace(best, others=tuple(others)))
        messages = tuple((role, text) for role, text in data["messages"])
        nowhere = np.zeros(0, dtype=np.int64)
        found[data["dialogue"]] = Trajectory(tuple(turns), nowhere, False, True, data["stop_reason"], data["episode"], messages)
    return found


def _turn(context: np.ndarray, answer: Mapping[str, Any]) -> Turn:
    ids = np.asarray(answer["ids"], dtype=np.int64)
    unknown = np.full(len(ids), np.nan, dtype=np.float32)
    return Turn(context, ids, unknown, answer["reward"], valid=answer["valid"], stop=answer["stop"])


def best_rows(trajectories: Mapping[int, Trajectory]) -> tuple[list[Transcript], int]:
    """Rows whose mask marks the best answers, and how many answers were left out because they had earned nothing.

    Turn k + 1 goes on in the row of turn k iff its context begins with that row, so a dialogue with a growing context is one
    row. What earned nothing stays in the row as context.
    """
    rows: list[Transcript] = []
    left_out = 0
    for trajectory in trajectories.values():
        row: Transcript | None = None
        for turn in trajectory.turns:
            if not turn.valid:
                break
            context = turn.context_ids.tolist()
            if row is None or context[: len(row.ids)] != row.ids:
                row = Transcript()
                rows.append(row)
            row.context(context[len(row.ids) :])
            paid = turn.reward > 0
            (row.action if paid else row.context)(turn.action_ids)
            left_out += not paid
    return [row for row in rows if any(row.mask)], left_out


def best_and_worst(trajectories: Mapping[int, Trajectory], margin: float) -> tuple[list[Pair], int]:
    """A pair a turn, and how many turns were dropped because no two of their answers differ by more than ``margin``."""
    pairs: list[Pair] = []
    dropped = 0
    for number, trajectory in trajectories.items():
        for k, turn in enumerate(trajectory.turns):
            answers = [answer for answer in (turn, *turn.others) if answer.valid]
            best, worst = max(answers, key=_reward, default=turn), min(answers, key=_reward, default=turn)
            if not best.reward - worst.reward > margin:
                dropped += 1
                continue
            ids = (turn.context_ids.tolist(), best.action_ids.tolist(), worst.action_ids.tolist())
            pairs.append(Pair(*ids, float(best.reward), float(worst.reward), number, k))
    return pairs, dropped


def _reward(turn: Turn) -> float:
    return turn.reward
