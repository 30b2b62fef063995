"""Dialogues that were held once, graded again while a guard is gone.

Judge, matcher and parser score what was said and never change what is said next, so nothing has to be played again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from importlib import import_module
from typing import Any

from guards import GUARDS, names_of, without

from rlpa_env import LexicalMatcher, Message, Point, RuleJudge, rewards
from rlpa_env.matching import match_points

Records = Sequence[Mapping[str, Any]]


def graded(record: Mapping[str, Any], parts: Collection[str] = ("parser", "judge", "matcher")) -> dict[str, Any]:
    """An episode record of `RLPA-v0` with rewards as judge, matcher and parser now give them.

    Args:
        parts: which of them may differ from when the record was made; what the others gave is kept.
    """
    read = import_module("rlpa_env.env").parse_action  # where a guard of the parser sits
    truth = [Point(slot, str(value)) for slot, values in record["truth"].items() for value in (values if isinstance(values, list) else [values])]
    dialogue: list[Message] = []
    turns: list[dict[str, Any]] = []
    for message in record["messages"]:
        if message["role"] == "assistant":
            before, action = record["turns"][len(turns)], read(message["content"])
            profile, response = before["profile"], before["response"]
            if "parser" in parts or "matcher" in parts:
                hits = len(match_points(LexicalMatcher(), action.profile, truth))
                profile = 0.0 if action.error else rewards.f1(hits, len(action.profile), len(truth))
            if "parser" in parts or "judge" in parts:
                response = float(not action.error and RuleJudge().judge(action.profile, dialogue, action.reply).passed)
            turns.append({"valid": before["valid"], "reward": profile + response, "profile": profile, "response": response})
            dialogue.append(Message("assistant", action.reply))
        elif message["role"] == "user":
            dialogue.append(Message("user", message["content"]))
    return {**record, "turns": turns}


def graded_without(records: Mapping[str, Records], column: str) -> dict[str, list[dict[str, Any]]]:
    """All records graded without the guards of a column."""
    parts = {GUARDS[name].part for name in names_of(column)}
    with without(*names_of(column)):
        return {name: [graded(record, parts) for record in found] for name, found in records.items()}
