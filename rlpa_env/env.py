"""The Gymnasium environment: it orchestrates parser, matcher, user and judge, and decides nothing itself."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from rlpa_env import parts
from rlpa_env.actions import MAX_ACTION_CHARS, Action, instructions, parse_action
from rlpa_env.errors import ConfigError, ModelError, OffSchemaError, check_number, redacted, unknown_choice
from rlpa_env.flows import Flow, run
from rlpa_env.judges import Judge
from rlpa_env.matching import Matcher
from rlpa_env.parts import NO_VERDICT, Asked, answers, check_choice, flows_of
from rlpa_env.profiles import Profile
from rlpa_env.rewards import ProfileScore, partial_rewards, score_pairs, total_reward
from rlpa_env.spaces import UnicodeText
from rlpa_env.types import CRITERIA, Message, Point, Scored, Snapshot, StopReason, Verdict
from rlpa_env.users import UserSimulator

MAX_OBSERVATION_CHARS = 1_000_000
MAX_MEMORY_CHARS = 8_000
_NO_SCORE = ProfileScore()
_OVER = Snapshot(None, {}, {})  # where none is kept
_JUDGE_KEYS = tuple((f"judge/{criterion}", criterion) for criterion in CRITERIA)


class RLPAEnv(gym.Env[str, str]):
    """A dialogue with a simulated user whose profile is hidden (arXiv 2505.15456).

    Observation: the dialogue so far as text. Action: one completion with a ``<profile>`` and a ``<response>`` block.
    Reward of a turn: ``profile_weight * R_profile + response_weight * R_response``, both in [0, 1].

    Args:
        split: name of a bundled split, or path of a JSONL file of profiles.
        user: ``"scripted"``, ``"llm"``, or an object with the `UserSimulator` methods.
        matcher: ``"lexical"``, ``"embedding"``, ``"llm"``, or a `Matcher`.
        judge: ``"rules"``, ``"llm"``, or a `Judge`.
        judge_sees: profile shown to the judge: ``"inferred"`` (the paper's reward) or ``"hidden"``.
        credit: ``"paper"`` counts every hit, ``"grounded"`` only hits on points that had been revealed.
        cues: ``"explicit"``, ``"implicit"`` or ``"mixed"``: how points are voiced.
        style: None follows the personality; else ``plain``, ``terse``, ``chatty``, ``evasive`` or ``impatient``.
        shift_turn: the hidden profile changes before the reward of this action (1-based).
        sessions: dialogues held with one person before the next is drawn; between them life moves on.
        consent: the user may ask to forget something sensitive that it has told.
        privacy_weight: subtracted for every listed point that is sensitive and was never told, or was to be forgotten.
            A turn's reward never falls below 0.
        on_error: a model failure ends the episode (``"truncate"``), or `step` raises it and did not happen (``"raise"``).
        llm: settings of the language-model parts; needed where one of them is chosen.
        embedding_model: of ``matcher="embedding"``: name or local folder of a sentence-transformers model; None is
            all-MiniLM-L6-v2.
        max_turns: the turn limit as the instructions state it. The limit itself is ``max_episode_steps`` of the
            registration, which an environment cannot see: who overrides one in ``gym.make`` overrides both. `evaluate` does so itself.

    Raises:
        ConfigError: an argument has an unknown value; the message names the choices and the nearest one.
        NotInstalledError: a part was chosen whose packages are not there.
    """

    metadata = {"render_modes": ["human", "ansi"], "render_fps": 1}  # noqa: RUF012 - Gymnasium's own convention

    def __init__(
        self,
        split: str | os.PathLike[str] = "vanilla/train",
        *,
        user: str | UserSimulator = "scripted",
        matcher: str | Matcher = "lexical",
        judge: str | Judge = "rules",
        judge_sees: str = "inferred",
        credit: str = "paper",
        cues: str = "mixed",
        style: str | None = None,
        shift_turn: int | None = None,
        sessions: int = 1,
        consent: bool = False,
        privacy_weight: float = 0.0,
        profile_weight: float = 1.0,
        response_weight: float = 1.0,
        on_error: str = "truncate",
        llm: Mapping[str, Any] | None = None,
        embedding_model: str | None = None,
        max_turns: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        check_choice("judge_sees", judge_sees, ("inferred", "hidden"))
        check_choice("credit", credit, ("paper", "grounded"))
        check_choice("on_error", on_error, ("truncate", "raise"))
        if render_mode is not None:
            check_choice("render_mode", render_mode, self.metadata["render_modes"])
        check_number("shift_turn", shift_turn, 2, optional=True)
        check_number("sessions", sessions, 1)
        check_number("max_turns", max_turns, 1, optional=True)
        weights = {"profile_weight": profile_weight, "response_weight": response_weight, "privacy_weight": privacy_weight}
        for name, weight in weights.items():
            check_number(name, weight, 0, whole=False)
        self.profiles = parts.profiles_of(split)
        self._by_id = {profile.id: profile for profile in self.profiles}
        told = {"cues": cues, "style": style, "shift_turn": shift_turn, "consent": consent}
        self._user, self._matcher, self._judge = parts.all_of(user, matcher, judge, llm, embedding_model, judge_sees, **told)
        self.split, self.judge_sees, self.credit, self.on_error = split, judge_sees, credit, on_error
        self.profile_weight, self.response_weight = float(profile_weight), float(response_weight)
        self.privacy_weight, self.sessions = float(privacy_weight), sessions
        self.max_turns, self.render_mode = max_turns, render_mode
        self.observation_space = UnicodeText(MAX_OBSERVATION_CHARS)
        self.action_space = UnicodeText(MAX_ACTION_CHARS)
        self._begun, self._session = False, 0
        self._clear()
        self._dialogue: list[Message] = []
        self._earlier: tuple[Message, ...] = ()  # what this person said in earlier talks
        self._ready: tuple[str, Sequence[Any]] | None = None  # action and outcomes of a turn that is still to be scored
        self._undo: Snapshot | None = None  # from before the turn that is under way
        waiting = ((self._user, "reply_flow"), (self._matcher, "scores_flow"), (self._judge, "judge_flow"))
        self._waits = any(hasattr(part, name) for part, name in waiting)
        self._keeps = (self._waits or on_error == "raise") and hasattr(self._user, "snapshot")  # a snapshot a turn costs a few percent

    @property
    def profile(self) -> Profile:
        """The hidden truth now. For evaluation; never part of an observation or info."""
        self._check_begun("profile")
        return self._user.profile

    @property
    def revealed(self) -> tuple[Point, ...]:
        """Points of the truth that the user has revealed so far."""
        self._check_begun("revealed")
        return self._user.revealed

    @property
    def withdrawn(self) -> tuple[Point, ...]:
        """Points that the user has told and then asked to forget."""
        return getattr(self._user, "withdrawn", ())

    @property
    def turn(self) -> int:
        """Number of actions taken in this episode."""
        return self._turn

    @property
    def last_action(self) -> Action:
        """The newest action as parsed; empty before the first."""
        return self._action

    @property
    def last_verdict(self) -> Verdict:
        """The judge's verdict on the newest reply; all False before the first and for malformed actions."""
        return self._verdict

    @property
    def last_rewards(self) -> tuple[float, float]:
        """Profile and response reward of the newest action, unweighted, each in [0, 1]."""
        return self._rewards

    @property
    def matched(self) -> tuple[tuple[int, int], ...]:
        """Pairs (index of guessed point, index of true point) that counted as hits on the newest guess; see `scored`."""
        return self._scored[0]

    @property
    def scored(self) -> Scored:
        """What the newest guess was scored on: its hits as pairs (guess, truth), the truth of that turn, its part then revealed."""
        return self._scored

    @property
    def dialogue(self) -> tuple[Message, ...]:
        """What was said, without profile blocks."""
        return tuple(self._dialogue)

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Draw a hidden profile and hear "Hello".

        Options:
            profile: an id of the split, or a mapping or Profile, instead of a drawn one.
            session: 1 for a new person; n for the n-th talk with the person of the last episode. Without it people
                change after ``sessions`` talks, and with every ``seed``.
            memory: the agent's own notes from earlier talks, which go into the system message.
        """
        self.take_back()
        super().reset(seed=seed)
        options = dict(options or {})
        chosen, memory = options.pop("profile", None), options.pop("memory", "")
        same = self._begun and seed is None and chosen is None and self._session < self.sessions  # a seed says who comes
        session = options.pop("session", self._session + 1 if same else 1)
        if options:
            raise unknown_choice("reset option", next(iter(options)), ("profile", "session", "memory"))
        if session != 1 and (session != self._session + 1 or chosen is not None or not hasattr(self._user, "again")):
            raise ConfigError(
                f"reset option session: expected 1, or {self._session + 1} after an episode with the same person and without "
                f"a profile; got {session!r}."
            )
        if not isinstance(memory, str) or len(memory) > MAX_MEMORY_CHARS:
            raise ConfigError(f"reset option memory: expected a text of at most {MAX_MEMORY_CHARS} characters; got {memory!r:.80}.")
        drawn = self.profiles[int(self.np_random.random() * len(self.profiles))]
        stream = np.random.Generator(np.random.PCG64(int(self.np_random.integers(2**63))))
        if session == 1:
            opening = self._user.reset(drawn if chosen is None else parts.profile_of(chosen, self._by_id), stream)
        else:
            opening = self._user.again(stream)  # type: ignore[attr-defined]
        self._earlier = (*self._earlier, *(said for said in self._dialogue if said.role == "user")) if session > 1 else ()
        self._session = int(session)
        notes = f"\n\nYour notes from earlier talks with this person:\n{memory}" if memory else ""
        self._dialogue = [Message("user", opening)]
        self._raw = [("system", instructions(self.max_turns) + notes), ("user", opening)]
        self._observation = f"User: {opening}"
        self._clear()
        self._begun = True
        if self.render_mode == "human":
            self.render()
        return self._observation, self._info()

    def _clear(self) -> None:
        """Before the first turn."""
        self._turn, self._stop, self._error, self._valid = 0, StopReason.RUNNING, "", True
        self._action, self._score, self._verdict = Action((), ""), _NO_SCORE, NO_VERDICT
        self._partial: tuple[float, ...] = ()
        self._rewards, self._breaches, self._cost = (0.0, 0.0), (0, 0), 0.0
        self._scored: Scored = (), (), ()

    def _check_begun(self, what: str) -> None:
        if not self._begun:
            raise gym.error.ResetNeeded(f"RLPAEnv.{what}: expected reset() first; call reset(seed=...).")

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """One turn: parse, score the guess, let the user answer the reply, judge the reply.

        A step that raises, ctrl-C included, did not happen where a model is asked or with ``on_error="raise"``: all is as before, and
        the same step can be tried again. Elsewhere, and where the user has no ``snapshot``, the episode is over: ResetNeeded comes next.
        """
        try:
            if self._ready is None:
                self.take(action, run(self.flows(action)) if self._waits else answers(*self._parts(), self._begin(action)))
            heard, outcomes = self._ready or (action, ())
            if heard != action:
                raise ConfigError(f"step: expected the action whose model calls were made, {heard!r:.80}; got {action!r:.80}.")
            transition = self._finish(action, outcomes)
        except BaseException:
            self.take_back()
            raise
        self._ready = self._undo = None
        return transition

    def _finish(self, action: str, outcomes: Sequence[Any]) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Score the turn that was begun."""
        act, before = self._action, tuple(self._dialogue)
        self._raw.append(("assistant", str(action)[: MAX_ACTION_CHARS + 1]))  # of one that is too long so much that it still is
        self._dialogue.append(Message("assistant", act.reply))
        failure = next((outcome for outcome in outcomes if isinstance(outcome, ModelError)), None)
        if failure is not None:
            return self._fail(failure, act)
        pairs, answer, self._verdict = parts.checked(outcomes)
        truth, known, withdrawn = self._before
        hits = [truth.points[t] for _, t in pairs]
        untold = sum(point in truth.sensitive and point not in known for point in hits) if truth.sensitive else 0
        self._breaches = untold, sum(point in withdrawn for point in hits)
        said = tuple([message.content for message in (*self._earlier, *before) if message.role == "user"])
        self._scored = tuple(pairs), truth.points, known
        self._score = score_pairs(pairs, act.profile, truth.points, revealed=known, said=said)
        self._dialogue.append(Message("user", answer.message))
        self._raw.append(("user", answer.message))
        self._observation += f"\nAssistant: {act.reply}\nUser: {answer.message}"
        grounded = self.credit == "grounded"
        counted = {g for g, t in pairs if not grounded or truth.points[t] in known}
        self._partial = () if act.error else partial_rewards(counted, len(act.profile), len(truth.points))
        profile = 0.0 if act.error else self._score.grounded_f1 if grounded else self._score.f1
        self._rewards = (profile, 0.0 if act.error else self._verdict.paid)
        last = StopReason.TURN_LIMIT if self._turn == self.max_turns else StopReason.RUNNING
        self._stop = StopReason.USER_LEFT if answer.left else last
        if self.render_mode == "human":
            self.render()
        whole = total_reward(*self._rewards, self.profile_weight, self.response_weight)
        reward = max(0.0, whole - self.privacy_weight * sum(self._breaches))
        self._cost = whole - reward
        return self._observation, reward, answer.left, False, self._info()

    @property
    def waits(self) -> bool:
        """Whether a turn calls models, and so is worth running beside others; see ``flows``."""
        return self._waits

    def flows(self, action: str) -> list[Flow[Any]]:
        """Begin a turn of an environment that waits: matched pairs, the user's answer and the verdict, as flows.

        `vector.step_all` runs those of many environments together, hands each its outcomes by ``take`` and then calls
        ``step`` with the same action.
        """
        return flows_of(*self._parts(), self._begin(action))

    def take(self, action: str, outcomes: Sequence[Any]) -> None:
        """The outcomes of ``flows(action)``, for the ``step(action)`` that follows; raises the failure among them if that would."""
        failure = next((outcome for outcome in outcomes if isinstance(outcome, ModelError)), None)
        if failure is not None and self.on_error == "raise":
            self.take_back()
            raise failure
        self._ready = (action, outcomes)

    def take_back(self) -> None:
        """Undo the turn that was begun and not ended, if there is one; see `step`."""
        undo, self._undo, self._ready = self._undo, None, None
        if undo is _OVER:
            self._begun = False
        elif undo is not None:
            self.restore(undo)

    def _begin(self, action: str) -> Asked:
        self.take_back()  # a turn whose step never came
        self._check_begun("step")
        if self._stop in (StopReason.USER_LEFT, StopReason.FAILURE):
            raise gym.error.ResetNeeded(f"RLPAEnv.step: expected reset() after an episode's end ({self._stop.value}); call reset(seed=...).")
        self._undo = self.snapshot() if self._keeps else _OVER
        self._turn += 1
        self._action = act = parse_action(action)
        self._before = self._user.profile, self._user.revealed, self.withdrawn
        before, truth = tuple(self._dialogue), self._before[0].points
        shown = truth if self.judge_sees == "hidden" else act.profile
        return Asked((act.profile, truth), (before, act.reply), None if act.error else (shown, (*self._earlier, *before), act.reply))

    def _parts(self) -> tuple[UserSimulator, Matcher, Judge]:
        return self._user, self._matcher, self._judge

    def _fail(self, failure: ModelError, act: Action) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """A model failed: the turn has no valid reward, and the transcript is kept."""
        self._observation += f"\nAssistant: {act.reply}"
        hidden = {*self._before[0].points, *self.profile.points} - {*self._before[1]}
        words = redacted(str(failure), [point.value for point in hidden])
        kind = "off schema: " if isinstance(failure, OffSchemaError) else ""
        self._valid, self._error, self._stop = False, f"{kind}{words}", StopReason.FAILURE
        self._rewards, self._breaches, self._cost, self._verdict, self._score = (0.0, 0.0), (0, 0), 0.0, NO_VERDICT, _NO_SCORE
        self._partial, self._scored = (), ((), self._before[0].points, self._before[1])
        return self._observation, 0.0, False, True, self._info()

    def _info(self) -> dict[str, Any]:
        score, verdict = self._score, self._verdict
        info: dict[str, Any] = {
            "messages": [{"role": role, "content": content} for role, content in self._raw],
            "turn": self._turn,
            "session": self._session,
            "reward/profile": self._rewards[0],
            "reward/response": self._rewards[1],
            "reward/profile_share": self.profile_weight * self._rewards[0] - self._cost,
            "reward/valid": self._valid,
            "profile/precision": score.precision,
            "profile/recall": score.recall,
            "profile/f1": score.f1,
            "profile/grounded_f1": score.grounded_f1,
            "profile/invented": score.invented,
            "profile/ceiling": score.ceiling,
            "profile/partial": self._partial,
            "profile/revealed": len(self._user.revealed) / len(self._user.profile.points),
            "privacy/untold": self._breaches[0],
            "privacy/withdrawn": self._breaches[1],
            "privacy/cost": self._cost,
            "user/patience": self._user.patience,
            "parse_error": self._action.error,
            "stop_reason": self._stop.value,
            "error": self._error,
        }
        return info | {key: bool(getattr(verdict, criterion)) for key, criterion in _JUDGE_KEYS}

    def render(self) -> str | None:
        """The dialogue, guess against truth, and the two rewards; ``ansi`` returns it, ``human`` prints it."""
        from rlpa_env.rendering import render_episode

        self._check_begun("render")
        if self.render_mode is None:
            gym.logger.warn("render() was called without a render_mode; pass render_mode='ansi' to gym.make.")
            return None
        return render_episode(self, to_terminal=self.render_mode == "human")

    def snapshot(self) -> Snapshot:
        """Everything that changes, copied; see `fork` for wrapped environments."""
        self._check_begun("snapshot")
        names = ("_turn", "_stop", "_error", "_valid", "_action", "_score", "_partial", "_verdict", "_rewards", "_breaches", "_cost",
                 "_observation", "_begun", "_session", "_scored", "_earlier")  # fmt: skip
        values = {name: getattr(self, name) for name in names}
        values |= {"_dialogue": self._dialogue[:], "_raw": self._raw[:]}
        return Snapshot(self._user.snapshot(), self.np_random.bit_generator.state, values)

    def restore(self, state: Snapshot) -> None:
        """Go back to a snapshot, which stays usable."""
        self._ready = self._undo = None
        self._user.restore(state.user)
        self.np_random = np.random.Generator(np.random.PCG64())
        self.np_random.bit_generator.state = state.random
        for name, value in state.values.items():
            setattr(self, name, value[:] if isinstance(value, list) else value)

    def forked(self) -> RLPAEnv:
        """A second environment in the same state that shares only what never changes."""
        twin = copy.copy(self)
        twin._user, twin.action_space, twin.observation_space = (
            copy.copy(self._user), copy.deepcopy(self.action_space), copy.deepcopy(self.observation_space)
        )  # fmt: skip
        twin.restore(self.snapshot())
        return twin
