"""Conformance checks for other people's users, judges and matchers. Each raises AssertionError with what is wrong."""

from __future__ import annotations

import copy

import numpy as np

from rlpa_env.judges import Judge
from rlpa_env.matching import Matcher
from rlpa_env.parts import lacking
from rlpa_env.population import load_split
from rlpa_env.profiles import Profile
from rlpa_env.types import CRITERIA, Message, Point, Verdict
from rlpa_env.users import UserSimulator, UserTurn

_REPLIES = (
    "Hi, I just put the kettle on. What do you do for a living?",
    "",
    "I had a day like that. What do you like doing in your free time?",
    "As an AI, I cannot say.",
    "Where do you live? How old are you? Are you married?",
    "x" * 2000,
)


def _is_a(name: str, part: object) -> None:
    why = lacking(name, part)
    assert not why, why


def check_matcher(matcher: Matcher) -> None:
    """Scores have the promised shape and range, an exact copy matches, nothing else does by accident."""
    _is_a("matcher", matcher)
    truth = [Point("Occupation", "baker"), Point("Age", "34"), Point("", "I have two cats")]
    assert 0.0 < matcher.threshold <= 1.0, f"threshold: expected a number in (0, 1]; got {matcher.threshold!r}"
    for guess in ([], truth[:1], truth, [Point("Age", "33")]):
        scores = np.asarray(matcher.scores(guess, truth))
        assert scores.shape == (len(guess), len(truth)), f"scores: expected {(len(guess), len(truth))}; got {scores.shape}"
        assert ((scores >= 0) & (scores <= 1)).all(), "scores: expected values in [0, 1]"
    same = np.asarray(matcher.scores(truth, truth))
    assert (np.diag(same) >= matcher.threshold).all(), "an exact copy of a point must match it"
    off = same - np.diag(np.diag(same))
    assert (off < matcher.threshold).all(), "unrelated points must not match"
    near = np.asarray(matcher.scores([Point("Age", "33")], [Point("Age", "34")]))
    assert near[0, 0] < matcher.threshold, "numbers must be equal: 33 is not 34"


def check_judge(judge: Judge) -> None:
    """Verdicts are five real booleans with scores in [0, 1], the same for the same input, for any text."""
    _is_a("judge", judge)
    points = (Point("Occupation", "baker"),)
    dialogues = ([Message("user", "Hello")], [Message("assistant", "Hi."), Message("user", "I'm a baker.")])
    for dialogue in dialogues:
        for reply in _REPLIES:
            before = copy.deepcopy(dialogue)
            first, second = (judge.judge(points, dialogue, reply) for _ in range(2))
            assert isinstance(first, Verdict), f"expected a Verdict; got {first!r:.80}"
            assert dialogue == before, "judge must not change the dialogue"
            assert first == second, f"same input, different verdicts for {reply[:40]!r}"
            for criterion in CRITERIA:
                value = getattr(first, criterion)
                assert isinstance(value, bool), f"{criterion}: expected a bool; got {type(value).__name__}"
            for name, score in first.scores.items():
                assert name in CRITERIA, f"scores: expected names among {CRITERIA}; got {name!r}"
                assert 0.0 <= score <= 1.0, f"scores[{name!r}]: expected [0, 1]; got {score}"
    empty = judge.judge(points, dialogues[0], "")
    assert not empty.passed, "an empty reply must not pass"
    assert empty.paid == 0, f"an empty reply must not be paid; got {empty.paid}"


def check_user(user: UserSimulator, profiles: tuple[Profile, ...] | None = None, turns: int = 6) -> None:
    """A user opens without revealing, reveals within the budget and only the truth, forks exactly, and is seeded."""
    _is_a("user", user)
    absent = [name for name in ("revealed", "profile", "snapshot", "restore") if not isinstance(getattr(type(user), name, None), property) and not hasattr(user, name)]
    assert not absent, f"expected a user with {' and '.join(absent)}; {type(user).__qualname__} has none"
    for profile in profiles or load_split("vanilla/val")[:5]:
        transcript = _talk(user, profile, turns)
        assert transcript == _talk(user, profile, turns), "same profile, seed and replies must give the same messages"


def _talk(user: UserSimulator, profile: Profile, turns: int) -> list[str]:
    opening = user.reset(profile, np.random.default_rng(7))
    assert not user.revealed, "the opening must reveal nothing"
    dialogue = [Message("user", opening)]
    most = max(1, int(0.15 * len(profile.points)))
    for turn in range(turns):
        reply = _REPLIES[turn % len(_REPLIES)]
        before = set(user.revealed)
        state = user.snapshot()
        first = user.reply(tuple(dialogue), reply)
        assert isinstance(first, UserTurn), f"reply: expected a UserTurn; got {first!r:.80}"
        user.restore(state)
        answer = user.reply(tuple(dialogue), reply)
        assert answer == first, "a restored snapshot must answer the same"
        after = set(user.revealed)
        assert after <= set(user.profile.points), f"revealed what is not true: {after - set(user.profile.points)}"
        assert len(after - before) <= most, f"at most {most} new points a reply; got {after - before}"
        assert isinstance(answer.message, str), "a message must be a str"
        assert answer.message.strip(), "a message must not be empty"
        dialogue += [Message("assistant", reply), Message("user", answer.message)]
        if answer.left:
            break
    return [message.content for message in dialogue]
