"""The parts of an environment by name: profiles of a split, user, matcher and judge; and what of them waits, as flows."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlpa_env.actions import listable
from rlpa_env.encoders import MINILM
from rlpa_env.errors import ConfigError, ModelError, unknown_choice
from rlpa_env.flows import Flow
from rlpa_env.judges import Judge, RuleJudge
from rlpa_env.matching import EmbeddingMatcher, LexicalMatcher, Matcher, assigned, match_points
from rlpa_env.population import SPLIT_SIZES, load_split
from rlpa_env.profiles import Profile, load_profiles
from rlpa_env.scripted import ScriptedUser
from rlpa_env.types import Dialogue, Point, Verdict
from rlpa_env.users import UserSimulator, UserTurn

NO_VERDICT = Verdict(False, False, False, False, False)
_VERBS = {"user": ("reset", "reply"), "matcher": ("threshold", "scores"), "judge": ("judge",)}
_USUAL = inspect.signature(ScriptedUser).parameters


class Asked(NamedTuple):
    """What a turn asks its parts: the arguments of the matcher, of the user's reply and of the judge."""

    matching: tuple[Sequence[Point], Sequence[Point]]
    reply: tuple[Dialogue, str]
    judging: tuple[Sequence[Point], Dialogue, str] | None  # None: malformed, and fails unjudged


def profiles_of(split: str | os.PathLike[str]) -> tuple[Profile, ...]:
    """The profiles behind ``split``: a bundled name, or the path of a JSONL file.

    Warns of values in a file that no guess can hold as they stand, see `listable`: they can be told, but not hit by copying them.
    """
    if isinstance(split, str) and split in SPLIT_SIZES:
        return load_split(split)
    if isinstance(split, os.PathLike) or (isinstance(split, str) and (split.endswith(".jsonl") or Path(split).is_file())):
        people = load_profiles(split)
        whole = [point for person in people for point in person.points]
        if split_up := [point for point in whole if not listable(point)]:
            warnings.warn(
                f"{os.fspath(split)}: {len(split_up)} of {len(whole)} values cannot be listed as they stand, such as {split_up[0].value!r:.80}: a "
                "guess is read as several points at commas, slashes, 'and', 'or' and ranges. Give such a slot a list of plain values.",
                stacklevel=2,
            )
        return people
    raise unknown_choice("split", split, (*SPLIT_SIZES, "a path ending in .jsonl"))


def profile_of(chosen: str | Mapping[str, Any] | Profile, known: Mapping[str, Profile]) -> Profile:
    """The profile that is meant: itself, by its id among those ``known``, or as a mapping."""
    if isinstance(chosen, Profile):
        return chosen
    if isinstance(chosen, str):
        if chosen not in known:
            raise unknown_choice("profile id", chosen, list(known))
        return known[chosen]
    return Profile.from_mapping(chosen)


def check_choice(name: str, value: object, choices: Any) -> None:
    """Raise ConfigError, naming the choices and the nearest one, for a value that is none of them."""
    if value not in choices:
        raise unknown_choice(name, value, choices)


def all_of(
    user: str | UserSimulator, matcher: str | Matcher, judge: str | Judge, llm: Mapping[str, Any] | None, embedding_model: str | None, sees: str, **settings: Any
) -> tuple[UserSimulator, Matcher, Judge]:
    """User, matcher and judge of an environment. Raises ConfigError for one that is no such thing."""
    for name, part in (("user", user), ("matcher", matcher), ("judge", judge)):
        if not isinstance(part, str) and (why := lacking(name, part)):
            raise ConfigError(why)
    named = [part for part in (user, matcher, judge) if isinstance(part, str)]
    if llm is not None and "llm" not in named:
        raise ConfigError(f"llm: expected user='llm', matcher='llm' or judge='llm' beside it; got {', '.join(map(repr, named)) or 'objects'}, which ask no model.")
    return user_of(user, llm, **settings), matcher_of(matcher, llm, embedding_model), judge_of(judge, llm, sees)


def lacking(name: str, part: object) -> str:
    """Why an object cannot be the "user", "matcher" or "judge"; "" if it can."""
    if isinstance(part, type):
        return f"{name}: expected a name or an object; got the class {part.__qualname__}. Write {name}={part.__qualname__}(…)."
    missing = [verb for verb in _VERBS[name] if not hasattr(part, verb) and not hasattr(part, f"{verb}_flow")]
    kind = type(part).__qualname__
    return f"{name}: expected a name, or an object with {' and '.join(_VERBS[name])}; {kind} has no {' and no '.join(missing)}." if missing else ""


def checked(outcomes: Sequence[Any]) -> Sequence[Any]:
    """Pairs, the user's answer and the verdict. Raises ConfigError for what somebody's own part returned instead."""
    for name, verb, kind, outcome in (("user", "reply", UserTurn, outcomes[1]), ("judge", "judge", Verdict, outcomes[2])):
        if not isinstance(outcome, kind):
            raise ConfigError(f"{name}: expected {verb} to return a {kind.__name__}; got {outcome!r:.80}.")
    return outcomes


def user_of(user: str | UserSimulator, llm: Mapping[str, Any] | None, **settings: Any) -> UserSimulator:
    """The user simulator of that name, or the object itself."""
    scripted = ScriptedUser(**settings)  # checks the arguments, whoever the user is
    if not isinstance(user, str):  # RLPA-Shift-v0 has a shift_turn whoever comes
        if given := [f"{name}={value!r}" for name, value in settings.items() if name != "shift_turn" and value != _USUAL[name].default]:
            raise ConfigError(f"{given[0].partition('=')[0]}: expected user='scripted' or 'llm' beside it; got {', '.join(given)} and a user of your own.")
        return user
    check_choice("user", user, ("scripted", "llm"))
    if user == "scripted":
        return scripted
    from rlpa_env.llm import LLMUser

    return LLMUser(llm, **settings)


def matcher_of(matcher: str | Matcher, llm: Mapping[str, Any] | None, embedding_model: str | None = None) -> Matcher:
    """The matcher of that name, or the object itself."""
    if embedding_model is not None and matcher != "embedding":
        raise ConfigError(f"embedding_model: expected matcher='embedding' beside it; got matcher={matcher!r}.")
    if not isinstance(matcher, str):
        return matcher
    check_choice("matcher", matcher, ("lexical", "embedding", "llm"))
    if matcher == "llm":
        from rlpa_env.llm import LLMMatcher

        return LLMMatcher(llm)
    return LexicalMatcher() if matcher == "lexical" else EmbeddingMatcher(embedding_model or MINILM)


def judge_of(judge: str | Judge, llm: Mapping[str, Any] | None, sees: str = "inferred") -> Judge:
    """The judge of that name, which is shown guesses or, with ``sees="hidden"``, the truth; or the object itself."""
    if not isinstance(judge, str):
        return judge
    check_choice("judge", judge, ("rules", "llm"))
    if judge == "rules":
        return RuleJudge()
    from rlpa_env.llm import LLMJudge

    return LLMJudge(llm, trusted=sees == "hidden")


def answers(user: UserSimulator, matcher: Matcher, judge: Judge, asked: Asked) -> tuple[Any, ...]:
    """Matched pairs, the user's turn and the verdict of parts that do not wait; or the ModelError of the first that failed."""
    try:
        pairs, answer = match_points(matcher, *asked.matching), user.reply(*asked.reply)
        return pairs, answer, NO_VERDICT if asked.judging is None else judge.judge(*asked.judging)
    except ModelError as failure:  # of somebody's own parts
        return (failure,)


def flows_of(user: UserSimulator, matcher: Matcher, judge: Judge, asked: Asked) -> list[Flow[Any]]:
    """`answers` as three flows, of parts that may wait."""
    answer = user.reply_flow(*asked.reply) if hasattr(user, "reply_flow") else _at_once(user.reply, *asked.reply)
    verdict = _at_once(lambda: NO_VERDICT) if asked.judging is None else judge_flow(judge, *asked.judging)
    return [matching_flow(matcher, *asked.matching), answer, verdict]


def _at_once(call: Callable[..., Any], *args: Any) -> Flow[Any]:
    """A flow that waits for nothing."""
    return call(*args)
    yield


def judge_flow(judge: Judge, points: Sequence[Point], dialogue: Dialogue, reply: str) -> Flow[Verdict]:
    """The verdict on a reply, as a flow."""
    return judge.judge_flow(points, dialogue, reply) if hasattr(judge, "judge_flow") else _at_once(judge.judge, points, dialogue, reply)


def matching_flow(matcher: Matcher, guess: Sequence[Point], truth: Sequence[Point]) -> Flow[list[tuple[int, int]]]:
    """Pairs (index of guess, index of truth) that count as hits, as a flow."""
    if not hasattr(matcher, "scores_flow"):
        return match_points(matcher, guess, truth)
    scores_GT = yield from matcher.scores_flow(guess, truth)
    return assigned(scores_GT, matcher.threshold, (len(guess), len(truth)))
