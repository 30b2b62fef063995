"""Playing: dialogues of one agent in one setting, side by side where it or the environment waits for models, to records."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym

from rlpa_env.agents import Agent, checked_completion, make_agent
from rlpa_env.errors import (
    BudgetError,
    ConfigError,
    ContextError,
    ModelError,
    OffSchemaError,
    without_credentials,
)
from rlpa_env.flows import Flow, run
from rlpa_env.parts import judge_flow
from rlpa_env.results import budget_spent
from rlpa_env.setting import Setting
from rlpa_env.types import CRITERIA, Message, StopReason
from rlpa_env.vector import make_calls
from rlpa_env.wrappers import digest, scored_on

_BATCH = 32  # dialogues that a batching agent holds at once


_UNPAID = {"reward/valid": False, "reward/profile": 0.0, "reward/response": 0.0}
_RECORDED = {
    **{name: f"reward/{name}" for name in ("profile", "response")},
    **{name: f"profile/{name}" for name in ("f1", "grounded_f1", "precision", "recall", "ceiling", "revealed", "invented")},
    "patience": "user/patience",
    "parse_error": "parse_error",
}


def _turn_record(info: Mapping[str, Any], reward: float, al: bool, completion: str, counter: Any) -> dict[str, Any]:
    told = {"reward": reward, "valid": bool(info["reward/valid"]), "al": float(al), "tokens": counter(completion)}
    scores = {name: info[key] for name, key in _RECORDED.items()}
    return told | scores | {criterion: bool(info[f"judge/{criterion}"]) for criterion in CRITERIA}


class _Run:
    """One dialogue in progress."""

    def __init__(self, setting: Setting, env: gym.Env, episode: tuple[str, int], agent: Agent) -> None:
        self.env, self.agent, self.setting = env, agent, setting
        self.profile_id, self.seed = episode
        self.limit = env.spec.max_episode_steps if env.spec else None  # now: a user in the midst of its part may not be copied
        self.observation, self.info = env.reset(seed=self.seed, options={"profile": self.profile_id})
        self.turns: list[dict[str, Any]] = []
        self.done = self.left = False
        self.counter: Callable[[str], int] = getattr(agent, "count_tokens", _count_words)
        if hasattr(agent, "attach"):
            agent.attach(env)

    @property
    def messages(self) -> list[dict[str, str]]:
        return self.info["messages"]

    def answer(self) -> str | ModelError:
        try:
            return self.agent.act(self.messages)
        except ModelError as failure:
            return failure

    def step(self, completion: str) -> Flow[None]:
        """A turn, as a flow that waits for the judge of alignment; where that fails, the dialogue ends as where a model of the environment does."""
        core: Any = self.env.unwrapped
        before: tuple[Message, ...] = core.dialogue
        self.observation, reward, self.left, truncated, self.info = self.env.step(completion)
        self.done, al = self.left or truncated, False
        heard, truth = core.last_action, core.scored[1]  # not profile: a shift of the user's, who has answered, is of the next turn
        said = core.last_verdict.reasons
        failed = {c: said[c] for c in CRITERIA if c in said and not self.info[f"judge/{c}"]}
        if self.info["reward/valid"] and not heard.error:
            try:
                al = (yield from judge_flow(self.setting.aligner, truth, before, heard.reply)).passed
            except ModelError as failure:
                kind = "off schema: " if isinstance(failure, OffSchemaError) else ""
                told = {"error": f"{kind}{failure} (judging alignment)", "stop_reason": StopReason.FAILURE.value}
                self.info = {**self.info, **_UNPAID, **told}
                reward, self.done, self.left = 0.0, True, False
        self.turns.append(_turn_record(self.info, float(reward), al, completion, self.counter) | {"reasons": failed} | scored_on(core))

    def fail(self, error: ModelError) -> None:
        """The agent has no answer: the episode ends in the form of one that a failed model of the environment ends.

        One whose context is full ends with the turns that it has had, as in training; at the first turn that is no result.
        """
        if isinstance(error, ContextError) and not self.turns:
            raise ConfigError(f"agent: expected room for a first answer; {error}")
        if isinstance(error, ContextError):
            self.info, self.done = {**self.info, "stop_reason": StopReason.CONTEXT.value}, True
            return
        core: Any = self.env.unwrapped
        truth = core.profile.points
        self.info = {**self.info, **dict.fromkeys((f"judge/{criterion}" for criterion in CRITERIA), False)}
        self.info |= _UNPAID | {"parse_error": "", "error": f"agent: {error}"}
        self.info |= {"stop_reason": StopReason.FAILURE.value, "messages": [*self.messages, {"role": "assistant", "content": ""}]}
        told = [index for index, point in enumerate(truth) if point in core.revealed]
        scored = {"reasons": {}, "hits": [], "told": told, "points": [list(point) for point in truth]}
        self.turns.append(_turn_record(self.info, 0.0, False, "", self.counter) | scored)
        self.done = True

    def record(self, name: str) -> dict[str, Any]:
        core = self.env.unwrapped
        truth = [list(point) for point in core.profile.points]  # type: ignore[attr-defined]
        return {
            "agent": name,
            "setting": self.setting.key,
            "env": self.setting.env_id,
            "split": self.setting.split,
            **self.setting.named,
            "profile": self.profile_id,
            "seed": self.seed,
            "limit": self.limit or len(self.turns),
            "left": self.left,
            "stop_reason": self.info["stop_reason"],
            "error": without_credentials(self.info["error"]),
            "truth": core.profile.to_mapping()["slots"],  # type: ignore[attr-defined]
            "messages": self.messages,
            "turns": [{k: v for k, v in turn.items() if k != "points" or v != truth} for turn in self.turns],
        }


def episode_stream(profile_id: str, seed: int) -> int:
    """Names an episode of a split, in every evaluation alike: what an agent samples in it can hang on this, not on what else is played.

    >>> episode_stream("v-test-000", 0) == episode_stream("v-test-000", 0) != episode_stream("v-test-000", 1)
    True
    """
    return int(digest([profile_id, seed]), 16)


def _count_words(text: str) -> int:
    return len(text.split())


def run_episodes(
    agent: Agent | None, name: str, setting: Setting, episodes: Sequence[tuple[str, int]], done: Callable[[dict[str, Any]], None]
) -> None:
    """Play ``episodes`` and hand each finished record to ``done``.

    Agents that act in batches, and environments that wait for models, hold several dialogues at once. An agent's ModelError
    ends its dialogue as failed, and the others go on.

    Args:
        agent: None for the reference agent of that name, a fresh one for each dialogue.

    Raises:
        BudgetError: a budget is spent, of the agent or of the environment; dialogues that it cut short are not ``done``.
    """
    batches = hasattr(agent, "act_batch") or hasattr(agent, "act_flow")
    many = batches or (bool(episodes) and setting.asks and not hasattr(agent, "attach"))
    waiting = list(reversed(episodes))
    running: list[_Run] = []
    while waiting or running:
        while waiting and len(running) < (_BATCH if many else 1):
            running.append(_Run(setting, setting.make(), waiting.pop(), agent or make_agent(name)))
        answers = list(zip(running, _answers(agent, running), strict=True))
        spent = [answer for _, answer in answers if isinstance(answer, BudgetError)]
        said = [(one, checked_completion(name, answer)) for one, answer in answers if not isinstance(answer, ModelError)]
        make_calls([one.env for one, _ in said], [answer for _, answer in said])
        for failure in filter(None, run([one.step(answer) for one, answer in said])):
            raise failure  # of an environment that raises, whose calls could not be made ahead
        for one, answer in answers:
            if isinstance(answer, ModelError) and not isinstance(answer, BudgetError):
                one.fail(answer)
            if one.done and budget_spent(one.info["error"]):
                spent.append(BudgetError(one.info["error"]))
            elif one.done:
                done(one.record(name))
        if spent:
            raise spent[0]
        running = [one for one in running if not one.done]


def _answers(agent: Any, running: Sequence[_Run]) -> list[str | ModelError]:
    """One completion for each dialogue; a ModelError in the place of what failed, of a whole batch if that did."""
    if hasattr(agent, "act_flow"):
        return run([agent.act_flow(one.messages) for one in running])
    if hasattr(agent, "act_batch"):
        named = {"streams": [episode_stream(one.profile_id, one.seed) for one in running]} if _takes_streams(agent) else {}
        try:
            return list(agent.act_batch([one.messages for one in running], **named))
        except ModelError as failure:
            return [failure] * len(running)
    return [one.answer() for one in running]


def _takes_streams(agent: Any) -> bool:
    try:
        return "streams" in inspect.signature(agent.act_batch).parameters
    except (TypeError, ValueError):  # of something written in C
        return False
