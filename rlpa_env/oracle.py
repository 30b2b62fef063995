"""A strong reference with privileges: tries replies on forks of the dialogue before it says one. Not a bound."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym

from rlpa_env import attentive, replies
from rlpa_env.actions import format_action
from rlpa_env.agents import Messages, frequencies, training_split
from rlpa_env.env import RLPAEnv
from rlpa_env.forking import fork
from rlpa_env.text import sentences
from rlpa_env.types import Point
from rlpa_env.vector import step_all

_SECOND = 6  # replies tried in the second turn of the look-ahead


class Oracle:
    """Keeps the reply that passes all five verdicts and then reveals most over two turns.

    Its profile: the revealed points, and prior guesses that raise the expected F1 (p > F1/2).
    """

    def attach(self, env: gym.Env) -> None:
        """Take the environment whose hidden state may be tried out."""
        self._env = env

    def act(self, messages: Messages) -> str:
        """Look two turns ahead on forks; where models answer, all calls of a look ahead are in flight together."""
        core: RLPAEnv = self._env.unwrapped  # type: ignore[assignment]
        known = core.revealed
        guess = (*known, *self._guesses(core, known))
        candidates = _candidates(core, messages)
        branches: list[Any] = [fork(core) for _ in candidates]
        steps = step_all(branches, [format_action(guess, reply) for reply in candidates])
        passed = [branch.unwrapped.last_verdict.passed for branch in branches]
        told = [-1.0 if step[2] else float(step[4]["profile/revealed"]) for step in steps]
        going = [i for i, step in enumerate(steps) if passed[i] and not (step[2] or step[3])]
        ahead = self._ahead([branches[i] for i in going], [steps[i][4]["messages"] for i in going], guess)
        for i, most in zip(going, ahead, strict=True):
            told[i] = max(told[i], most)
        best = max(range(len(candidates)), key=lambda i: (passed[i], told[i]))
        return format_action(guess, candidates[best])

    def _ahead(self, branches: Sequence[Any], dialogues: Sequence[Messages], guess: Sequence[Point]) -> list[float]:
        """For each branch the most that can be revealed one turn later."""
        tries = [
            (index, fork(branch), reply)
            for index, (branch, messages) in enumerate(zip(branches, dialogues, strict=True))
            for reply in _candidates(branch.unwrapped, messages)[:_SECOND]
        ]
        steps = step_all([later for _, later, _ in tries], [format_action(guess, reply) for _, _, reply in tries])
        most = [0.0] * len(branches)
        for (index, _, _), step in zip(tries, steps, strict=True):
            most[index] = max(most[index], float(step[4]["profile/revealed"]))
        return most

    def _guesses(self, core: RLPAEnv, known: Sequence[Point]) -> list[Point]:
        """Prior guesses for what was not told, as long as each raises the expected F1."""
        told = {point.slot for point in known}
        size = len(core.profile.points)
        expected, listed = float(len(known)), len(known)
        guesses: list[Point] = []
        for point, share in frequencies(training_split(self._env)).items():
            if point.slot in told or any(point.slot == other.slot for other in guesses):
                continue
            if share <= expected / (listed + size):  # F1 / 2 of the list as it stands
                break
            guesses.append(point)
            expected, listed = expected + share, listed + 1
        return guesses


def _candidates(core: RLPAEnv, messages: Messages) -> list[str]:
    """Replies worth trying: what attentive would say, then every reaction with every useful question or idea."""
    said = frozenset(line for m in core.dialogue if m.role == "assistant" for line in sentences(m.content))
    last, known = messages[-1]["content"], core.revealed
    key = f"{len(messages)} {last}"
    new = [point for point in attentive.read(last) if point in known] or list(known[-1:])
    reactions = [replies.pick_up(last, key)]
    if new:
        reactions.append(replies.reaction_to(new[-1], key))
    if "?" in last:
        reactions = [replies.suggestion(point, key) for point in known[-4:]] or reactions
        reactions.append(replies.nth(replies.lines()["answer"], key, said))
    hidden = list(dict.fromkeys(point.slot for point in core.profile.points if point not in known))
    questions = [replies.question_for(slot, key, said) for slot in hidden]
    questions += [replies.follow_up(point.value, key, said) for point in known[-5:]]
    paired = [f"{reaction} {question}" for question in questions for reaction in reversed(reactions)]
    return [*paired[:1], attentive.answer(messages), *paired[1:], *reactions]
