"""The scripted user that is the default: code decides what may be told, authored lines word it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rlpa_env.disclosure import (
    AGAIN_AFTER,
    HIDDEN,
    HINTED,
    PLAIN,
    STYLES,
    Impression,
    Mind,
    Style,
    budget,
    choose,
    facts_of,
    listen,
    remember,
    style_of,
)
from rlpa_env.errors import unknown_choice
from rlpa_env.population import shifted
from rlpa_env.profiles import Profile
from rlpa_env.text import stems
from rlpa_env.types import Dialogue, Point
from rlpa_env.users import Draft, Part, UserTurn
from rlpa_env.voice import distractor, fitting, hint_lines, pick, plain_lines
from rlpa_env.world import world

CUES = ("explicit", "implicit", "mixed")
OPENING = "Hello"
_HINTS_IN_MIXED = 0.4  # share of points that come implicitly first
_DISTRACTORS = 0.48  # a reply that tells something also says something that is not about the user now
_DISTRACTORS_ALONE = 0.2  # the same for a reply that tells nothing
_QUESTIONS_BACK = 0.12
_WITHDRAWS = 0.3  # a turn on which a user who has told something sensitive asks to forget it


class ScriptedUser:
    """A deterministic-by-seed person: code decides what may be told, authored lines word it.

    Args:
        cues: ``explicit`` tells plainly, ``implicit`` hints first, ``mixed`` hints first for 40 % of the points. Hints are authored, so
            points of people from elsewhere are always told plainly.
        style: None follows the personality; else one of ``plain terse chatty evasive impatient``.
        shift_turn: the truth is a changed profile from the reward of this action (1-based) on; None: never.
        consent: having told something sensitive, the user may ask to forget it, once a dialogue.
    """

    def __init__(
        self, cues: str = "mixed", style: str | None = None, shift_turn: int | None = None, consent: bool = False
    ) -> None:
        if cues not in CUES:
            raise unknown_choice("cues", cues, CUES)
        if style not in (None, *STYLES):
            raise unknown_choice("style", style, STYLES)
        self.cues, self.style_name, self.shift_turn, self.consent = cues, style, shift_turn, consent

    def reset(self, profile: Profile, rng: np.random.Generator) -> str:
        """Become ``profile``; returns "Hello"."""
        self._profile, self._rng = profile, rng
        self.style: Style = STYLES[self.style_name] if self.style_name else style_of(profile)
        facts = facts_of(profile)
        patience = self.style.patience
        self._mind = Mind(facts, [HIDDEN] * len(facts), patience=patience, start_patience=patience)
        self._used: set[str] = set()
        self._told_at: dict[int, int] = {}
        self._news: list[int] = []  # changed facts that are still to be announced
        self._withdrawn: set[int] = set()  # facts that the user has asked to forget
        return OPENING

    def again(self, rng: np.random.Generator) -> str:
        """The same person another day: they remember what they told; one or two points have changed since."""
        self._rng, before = rng, self._mind
        told = [i for i, status in enumerate(before.status) if status != HIDDEN]
        self._profile, changed = shifted(self._profile, told, rng, least=1)
        status = [HIDDEN if i in changed else known for i, known in enumerate(before.status)]
        patience = self.style.patience
        self._mind = Mind(
            facts_of(self._profile), status, patience=patience, start_patience=patience,
            opened=set(before.opened), trust=before.trust, sentence={i: said for i, said in before.sentence.items() if i not in changed},
            answered=set(before.answered) - {before.facts[i].slot for i in changed},
        )  # fmt: skip
        self._used, self._told_at = set(), {}
        self._news = [index for index in changed if index in told] or list(changed[:1])
        self._withdrawn -= set(changed)
        return pick(rng, world().voice["again"], self._used)

    @property
    def profile(self) -> Profile:
        """The truth now."""
        return self._profile

    @property
    def revealed(self) -> tuple[Point, ...]:
        """Points told so far that are still true."""
        mind = self._mind
        return tuple([fact.point for fact, status in zip(mind.facts, mind.status, strict=True) if status != HIDDEN])

    @property
    def withdrawn(self) -> tuple[Point, ...]:
        """Points that the user has told and then asked to forget."""
        return tuple(self._mind.facts[index].point for index in sorted(self._withdrawn))

    @property
    def patience(self) -> int:
        """Steps left before this user leaves, never below 0."""
        return max(0, self._mind.patience)

    def snapshot(self) -> object:
        """Copy of the mind, the lines used and the random state."""
        return (
            self._profile, self.style, self._mind.copy(), set(self._used), dict(self._told_at),
            list(self._news), set(self._withdrawn), self._rng.bit_generator.state,
        )  # fmt: skip

    def restore(self, state: Any) -> None:
        """Continue from a snapshot of this or another ScriptedUser."""
        self._profile, self.style, mind, used, told_at, news, withdrawn, random = state
        self._mind, self._used, self._told_at, self._news = mind.copy(), set(used), dict(told_at), list(news)
        self._withdrawn = set(withdrawn)
        self._rng = np.random.Generator(np.random.PCG64())
        self._rng.bit_generator.state = random

    def reply(self, dialogue: Dialogue, reply: str) -> UserTurn:
        """Hear ``reply`` and answer it in at most three sentences."""
        draft = self.draft(reply)
        return self.say(draft, draft.text, draft.parts)

    def draft(self, reply: str) -> Draft:
        """Hear ``reply`` and decide what to say; nothing counts as said before ``say``."""
        mind, rng = self._mind, self._rng
        mind.turn += 1
        impression = listen(mind, self.style, reply)
        remember(mind, impression)
        if self.shift_turn is not None and mind.turn == self.shift_turn - 1:
            self._shift()
        if mind.patience <= 0:
            voice = world().voice
            last = (pick(rng, voice["dislike"][impression.dislike], self._used), pick(rng, voice["left"], self._used))
            return Draft(tuple(map(Part, last)), impression.dislike, left=True)
        return Draft(tuple(self._parts(impression)), impression.dislike)

    def point(self, index: int) -> Point:
        """The point of a fact."""
        return self._mind.facts[index].point

    def _parts(self, impression: Impression) -> list[Part]:
        mind, rng, voice = self._mind, self._rng, world().voice
        news = self._announce()
        clear = [] if impression.dislike or news else self._clear_up(impression)
        chosen = choose(mind, self.style, impression, rng) if not news else []
        again = self._again(impression) if not (news or clear or chosen) else []
        parts: list[tuple[int, str]] = []
        marks: list[tuple[str, object]] = []

        def say(priority: int, line: str, mark: str = "", what: object = None) -> None:
            parts.append((priority, line))
            marks.append((mark, what))

        self._lead(impression, bool(news or clear or chosen), say)
        for index in news:
            template = pick(rng, voice["shift"], self._used)
            fact = mind.facts[index]
            phrase = fact.value.phrase if fact.value else fact.point.value
            line = template.replace("{value}", fact.point.value).replace("{a}", phrase)
            say(0, line[0].upper() + line[1:], "plain", index)
        for index in self._regretted() if self.consent and not (impression.dislike or news) else ():
            line = pick(rng, voice["withdraw"], self._used).replace("{value}", mind.facts[index].point.value)
            say(0, line, "withdraw", index)
        for index in (*clear, *again):
            say(0, pick(rng, plain_lines(mind.facts[index]), self._used), "plain", index)
        for index in chosen:
            mode, line = self._word(index)
            say(1, line, mode, index)
        if rng.random() < (_DISTRACTORS if chosen or clear else _DISTRACTORS_ALONE) and not impression.dislike:
            slots = [mind.facts[i].slot for i in (*chosen, *clear)] or [fact.slot for fact in mind.facts]
            other = distractor(self._profile, slots, rng, self._used)
            if other:
                say(2, other[0], "distractor", other[1])
        self._ask_back(impression, say)
        kept = fitting(parts, self.style.sentences if not impression.dislike else 3)
        if not kept:  # nothing to tell, nothing to complain about
            return [Part(pick(rng, voice["smalltalk"], self._used))]
        return [Part(parts[i][1], *marks[i]) for i in kept]

    def _lead(self, impression: Impression, tells: bool, say) -> None:
        """The first sentence: a complaint, an answer to a claim or idea, an acknowledgement, or small talk."""
        rng, voice, used = self._rng, world().voice, self._used
        if impression.dislike:
            say(0, pick(rng, voice["dislike"][impression.dislike], used))
            if rng.random() < 0.5:
                say(3, pick(rng, voice["cold"], used))
        elif impression.suits is not None:
            say(2, pick(rng, voice["thanks_idea" if impression.suits else "bad_idea"], used))
        elif impression.confirmed:
            say(2, pick(rng, voice["confirm"], used))
        elif impression.declined and not tells:
            say(1, pick(rng, voice["private"], used))
        elif impression.empty_handed and not tells:
            say(1, pick(rng, voice["no_more"], used))
        elif not tells:
            lines = voice["warm"] if impression.reacts else voice["smalltalk"]
            say(1, pick(rng, lines, used))
            if rng.random() < self.style.chat:
                say(3, pick(rng, voice["smalltalk"], used))
        elif rng.random() < self.style.chat:
            say(4, pick(rng, voice["followup_lead" if impression.takes_up else "ack"], used))

    def _regretted(self) -> list[int]:
        """A sensitive point, told earlier by its value, that the user now asks to forget."""
        if self._withdrawn or self._rng.random() > _WITHDRAWS:
            return []
        private = self._profile.sensitive
        plain = [i for i in self._told_at if self._mind.status[i] == PLAIN]
        return [i for i in plain if self._mind.facts[i].point in private and self._told_at[i] < self._mind.turn][:1]

    def _clear_up(self, impression: Impression) -> list[int]:
        """Hinted points whose cue was taken up: the plain value follows."""
        return [i for i in impression.takes_up if self._mind.status[i] == HINTED and i not in self._withdrawn][:1]

    def _again(self, impression: Impression) -> list[int]:
        """In long dialogues a topic may be taken up again."""
        told = [
            i
            for i, at in self._told_at.items()
            if self._mind.turn - at >= AGAIN_AFTER
            and self._mind.facts[i].slot in impression.heard.asks_slots
            and i not in self._withdrawn
        ]
        return told[:1] if not impression.dislike else []

    def _word(self, index: int) -> tuple[str, str]:
        fact = self._mind.facts[index]
        hints = hint_lines(fact)
        hint = bool(hints) and (
            self.cues == "implicit" or (self.cues == "mixed" and self._rng.random() < _HINTS_IN_MIXED)
        )
        lines = hints if hint else plain_lines(fact)
        return ("hint" if hint else "plain"), pick(self._rng, lines, self._used)

    def _ask_back(self, impression: Impression, say) -> None:
        mind, rng, voice = self._mind, self._rng, world().voice
        if impression.dislike or mind.pending not in ("", "question"):
            return
        if mind.sentence and rng.random() < self.style.request:
            topics = sorted(voice["request"])
            topic = topics[int(rng.random() * len(topics))]
            say(2, pick(rng, voice["request"][topic]["lines"], self._used), "request", topic)
        elif not mind.pending and rng.random() < _QUESTIONS_BACK:
            say(3, pick(rng, voice["question_back"], self._used), "question", None)

    def say(self, draft: Draft, text: str, said: Sequence[Part]) -> UserTurn:
        """Say ``text``, which voices the parts ``said`` of the draft; what it leaves out stays unsaid."""
        mind = self._mind
        told, plainly, distractors = [], [], []
        pending, request, last = "", "", []
        for line, mark, what in said:
            if mark in ("plain", "hint"):
                index = int(what)
                if mind.status[index] == HIDDEN:
                    told.append(mind.facts[index].point)
                if mark == "plain":
                    plainly.append(mind.facts[index].point)
                mind.status[index] = max(mind.status[index], PLAIN if mark == "plain" else HINTED)
                mind.sentence[index] = stems(line)
                self._told_at[index] = mind.turn
                last.append(index)
                if index in self._news:
                    self._news.remove(index)
            elif mark == "withdraw":
                self._withdrawn.add(int(what))
            elif mark == "distractor":
                distractors.append(what)
            elif mark == "request":
                pending = request = str(what)
            elif mark == "question":
                pending = "question"
        if draft.left:  # what slipped out with the last words was heard; no answer to them is waited for
            return UserTurn(text, True, tuple(told), tuple(plainly), dislike=draft.dislike)
        mind.pending, mind.last, mind.message = pending, tuple(last), text
        return UserTurn(text, False, tuple(told), tuple(plainly), tuple(distractors), draft.dislike, request)

    def _announce(self) -> list[int]:
        """Changed points to announce now: perhaps one turn early, at the latest when the truth has changed."""
        if not self._news:
            return []
        if self.shift_turn is not None and self._mind.turn < self.shift_turn and self._rng.random() < 0.5:
            return []
        return self._news[: budget(self._mind)]

    def _shift(self) -> None:
        """Replace two or three points of the truth, at least one of them told already if any was."""
        mind, rng = self._mind, self._rng
        told = [i for i, status in enumerate(mind.status) if status != HIDDEN]
        self._profile, changed = shifted(self._profile, told, rng)
        facts = facts_of(self._profile)
        mind.facts = tuple(facts)
        for index in changed:  # what was said of a point that is true no more says nothing of the new one
            mind.status[index] = HIDDEN
            mind.sentence.pop(index, None)
            self._told_at.pop(index, None)
        self._withdrawn -= set(changed)
        news = [index for index in changed if index in told] or list(changed[:1])
        self._news = [*(index for index in self._news if index not in news), *news]  # a new session may have news of its own
