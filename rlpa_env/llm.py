"""Language models as user, judge and matcher. Agent text reaches them as data only: a string in a field of a JSON object.

Each part is a *flow* (see `flows`): the environment has the calls of one turn in flight together.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

import numpy as np

from rlpa_env.clients import ChatClient, client_of
from rlpa_env.disclosure import facts_of
from rlpa_env.errors import OffSchemaError
from rlpa_env.evidence import COMMON, history_of, supported
from rlpa_env.flows import Flow, alone
from rlpa_env.guard import breaks_role, is_machine_speak, is_order
from rlpa_env.matching import LexicalMatcher
from rlpa_env.meaning import comparable, meaning, point_score
from rlpa_env.profiles import Profile, canonical_slot
from rlpa_env.scripted import ScriptedUser
from rlpa_env.store import sendable
from rlpa_env.text import normalise, sentences, stems
from rlpa_env.types import CRITERIA, Dialogue, Point, Verdict
from rlpa_env.users import Draft, Part, UserTurn
from rlpa_env.voice import plain_lines
from rlpa_env.voicing import IDEOGRAPH, names, tells

TRIES = 3  # answers to one input, all off schema, after which the turn counts as off schema
_MOST_SENTENCES, _MOST_CHARS, _MOST_TOKENS = 3, 400, 200  # of a message
_STAGE = re.compile(
    r"\*[^*\n]{1,80}\*|[(\[](?:[^)\]]{0,40}\b)?(?:smil|laugh|sigh|nod|paus|grin|chuckl|shrug|wink|blush|think)(?:e?s|\w?ing)\b[^)\]]{0,40}[)\]]"
    r"|[(\uff08][^)\uff09]{0,20}(?:[\u7b11\u53f9\u8038\u7728]|\u70b9\u5934|\u505c\u987f)[^)\uff09]{0,20}[)\uff09]",  # laugh, sigh, shrug, blink, nod, pause
    re.I,
)
_ROLE = re.compile(r"^\s*(?:me|them|user|assistant|person|stranger|human)\s*:", re.I | re.M)
_ASKS = re.compile(r"[?\uff1f]")
# The first of them, whose opening tag may have been part of the prompt; one that is never closed ends where a profile begins.
_THOUGHT = re.compile(r"\A(?!\s*(?:\{|```|<\s*profile)).*?</think>\s*|\A\s*<think>(?:.*(?=<profile>)|.*)", re.DOTALL | re.I)
_LATER_THOUGHT = re.compile(r"<think>(?:(?!<think>).)*?</think>\s*", re.DOTALL | re.I)
_LEFT_OUT = "\u2026"  # stands for a turn that the judge does not get to see
_ROUNDABOUT = 3  # words that another wording may need beyond the truth's own: "flies planes for a living"


@lru_cache(maxsize=16)
def prompt(name: str, language: str) -> str:
    """The instructions of a part; a changed prompt is a new file with a new number."""
    return (files("rlpa_env") / "prompts" / f"{name}.{language}.txt").read_text(encoding="utf-8").strip()


def _request(instructions: str, data: Mapping[str, Any]) -> list[dict[str, str]]:
    return [{"role": "system", "content": instructions}, {"role": "user", "content": json.dumps(data, ensure_ascii=False)}]


def _trait(point: Point) -> str:
    return f"{point.slot}: {point.value}" if point.slot else point.value


def _orders(point: Point) -> bool:
    """Whether a guessed point is no trait but an order to its reader."""
    return is_order(_trait(point))


def without_thoughts(written: str) -> str:
    """What a model wrote, without its thoughts. JSON and code are left as they are: they may speak of such tags."""
    text = _THOUGHT.sub("", written)
    return text if text.lstrip().startswith(("{", "```")) else _LATER_THOUGHT.sub("", text)


def _answer(written: str) -> str:
    """What a model wrote, without its thoughts and the code fence around it."""
    text = without_thoughts(written).strip()
    fenced = len(text) >= 6 and text.startswith("```") and text.endswith("```")
    return re.sub(r"\A```\w*", "", text[:-3]).strip() if fenced else text


class LLMUser:
    """The scripted user's mind with a language model's tongue.

    Code decides what may be said now; the model is shown that and what it has told before, never the rest of the
    profile nor the value behind a hint, and words it. Its text is checked: a point told before its time, named where
    it should be hinted at or taken from somebody else, a stage direction, more than three sentences or a broken role brings
    one rewrite; if a leak or a broken role stays, the draft is sent. A point counts as revealed only if the text tells it; see `voicing`.

    Args:
        llm: client, or settings of one; see `ChatConfig`.
        cues, style, shift_turn, consent: as for `ScriptedUser`.
    """

    def __init__(self, llm: Any, cues: str = "mixed", style: str | None = None, shift_turn: int | None = None, consent: bool = False) -> None:
        self.client: ChatClient = client_of(llm)
        self.counts = dict.fromkeys(("messages", "rewrites", "leak", "stage direction", "length", "role", "empty", "kept faults"), 0)
        self._script = ScriptedUser(cues, style, shift_turn, consent)

    def reset(self, profile: Profile, rng: np.random.Generator) -> str:
        """Become ``profile``; the opening is "Hello" and costs no call."""
        state: Any = rng.bit_generator.state  # read, not drawn from: what is said when is as with the scripted user
        self._seeds = np.random.Generator(np.random.PCG64(state["state"]["state"] % 2**63))
        self._told: dict[Point, str] = {}  # how the model knows what it has told: the trait, or the sentence that hinted
        self._named: set[Point] = set()  # of them those told plainly
        return self._script.reset(profile, rng)

    def again(self, rng: np.random.Generator) -> str:
        """The same person another day; see `ScriptedUser.again`."""
        return self._script.again(rng)

    @property
    def profile(self) -> Profile:
        """The truth now."""
        return self._script.profile

    @property
    def revealed(self) -> tuple[Point, ...]:
        """Points that the sent texts have told so far."""
        return self._script.revealed

    @property
    def withdrawn(self) -> tuple[Point, ...]:
        """Points that the user has told and then asked to forget."""
        return self._script.withdrawn

    @property
    def patience(self) -> int:
        """Steps left before this user leaves."""
        return self._script.patience

    def snapshot(self) -> object:
        """The script's snapshot, the state of the seeds and how the points were told."""
        return self._script.snapshot(), self._seeds.bit_generator.state, dict(self._told), set(self._named)

    def restore(self, state: Any) -> None:
        """Continue from a snapshot."""
        script, seeds, told, named = state
        kept = self._script
        self._script = ScriptedUser(kept.cues, kept.style_name, kept.shift_turn, kept.consent)
        self._script.restore(script)
        self._seeds = np.random.Generator(np.random.PCG64())
        self._seeds.bit_generator.state = seeds
        self._told, self._named = dict(told), set(named)

    def reply(self, dialogue: Dialogue, reply: str) -> UserTurn:
        """Answer ``reply``; waits for the model."""
        return alone(self.reply_flow(dialogue, reply))

    def reply_flow(self, dialogue: Dialogue, reply: str) -> Flow[UserTurn]:
        """``reply`` as a flow. Ends with OffSchemaError when two answers say nothing at all."""
        script = self._script
        draft = script.draft(reply)
        quiet = self._quiet(draft)
        messages = self._messages(dialogue, reply, draft)
        first_seed, second_seed = (int(seed) for seed in self._seeds.integers(2**31, size=2))
        most = min(_MOST_TOKENS, self.client.config.max_tokens)
        text = _cleaned((yield self.client.begin(messages, seed=first_seed, max_tokens=most)))
        fault = _fault(text, quiet)
        self.counts["messages"] += 1
        if fault:
            self.counts["rewrites"] += 1
            self.counts[fault.split(":")[0]] += 1
            wish = prompt("user-rewrite-v1", self.client.config.language).replace("{fault}", fault)
            again = [*messages, {"role": "assistant", "content": text}, {"role": "user", "content": wish}]
            rewritten = _cleaned((yield self.client.begin(again, seed=second_seed, max_tokens=most)))
            if _STAGE.sub(" ", rewritten).strip():  # else the first message is what there is
                text, fault = rewritten, _fault(rewritten, quiet)
            self.counts["kept faults"] += bool(fault)
            text = draft.text if fault.startswith(("leak", "role")) else text  # or an agent that talks a model into either is paid for it
        text = _STAGE.sub(" ", text).strip()
        if not text:
            raise OffSchemaError("user: expected a message; the model wrote nothing that a person types, twice.")
        text = " ".join(sentences(text)[:_MOST_SENTENCES])[:_MOST_CHARS]
        said = [part._replace(line=_nearest(part.line, text)) for part in draft.parts if self._said(part, text, draft)]
        for line, mark, index in said:
            if mark in ("plain", "hint"):
                point = script.point(index)
                self._told[point] = _trait(point) if mark == "plain" or point in self._named else line
                self._named |= {point} if mark == "plain" else set()
        return script.say(draft, text, said)

    def _quiet(self, draft: Draft) -> dict[int, tuple[Point, tuple[str, ...]]]:
        """Point and plain wordings of every fact that may not be told by its value: not yet, or only hinted at.

        What the draft tells, if only in passing, is the script's doing; what it says of somebody else has a negative index.
        """
        saying = {part.what for part in draft.parts if part.mark in ("plain", "withdraw")}
        known = self._named.intersection(self.revealed)
        facts = {index: (fact.point, plain_lines(fact)) for index, fact in enumerate(facts_of(self.profile)) if index not in saying}
        facts |= {~i: (part.what, ()) for i, part in enumerate(draft.parts) if part.mark == "distractor"}
        return {index: fact for index, fact in facts.items() if fact[0] not in known and not tells(draft.text, *fact)}

    def _said(self, part: Part, text: str, draft: Draft) -> bool:
        """Whether a text carries out a part of the draft."""
        if part.mark == "plain":
            lines = dict.fromkeys((part.line, *plain_lines(facts_of(self.profile)[part.what])))
            return tells(text, self._script.point(part.what), tuple(lines))
        if part.mark == "withdraw":
            return names(text, self._script.point(part.what).value)
        if part.mark == "distractor":
            return names(text, part.what.value)
        if part.mark == "hint":
            if IDEOGRAPH.search(text):  # a hint in translation shares no words: it is there if nothing was left out
                return len(sentences(text)) >= len(draft.parts)
            wanted = stems(part.line) - COMMON
            return len(wanted & stems(text)) >= max(1, 0.4 * len(wanted)) or normalise(part.line) in normalise(text)
        return part.mark == "" or bool(_ASKS.search(text))

    def _messages(self, dialogue: Dialogue, reply: str, draft: Draft) -> list[dict[str, str]]:
        turns = [{"me" if role == "user" else "them": content} for role, content in (*dialogue, ("assistant", reply))]
        told = [self._told[point] for point in self.revealed]
        data = {"manner": self._script.style.name, "told": told, "dialogue": turns, "say": draft.text}
        return _request(prompt("user-v2", self.client.config.language), data)


def _cleaned(text: str) -> str:
    """Without thoughts, and without the fence, quotation marks and blank lines that models put around a message."""
    text = " ".join(sendable(_answer(text)).split())
    return text[1:-1].strip() if len(text) > 1 and text[0] + text[-1] in ('""', "''", "\u201c\u201d") else text


def _fault(text: str, quiet: Mapping[int, tuple[Point, tuple[str, ...]]]) -> str:
    """What is wrong with a message, for the rewrite; "" if nothing."""
    if not text:
        return "empty: write the message"
    for index, (point, lines) in quiet.items():
        if tells(text, point, lines):
            return f"leak: do not say {_own_words(text, point, lines)!r} " + ("yet" if index >= 0 else "of yourself, it is said of somebody else")
    if _STAGE.search(text):
        return "stage direction: only the words that you type"
    if _ROLE.search(text) or breaks_role(text) or is_order(text):
        return "role: you are a person in a chat; only your own message"
    if len(sentences(text)) > _MOST_SENTENCES or len(text) > _MOST_CHARS:
        return f"length: at most {_MOST_SENTENCES} short sentences"
    return ""


def _own_words(text: str, point: Point, lines: tuple[str, ...]) -> str:
    """The words of a message that tell a point: the value itself may say more than the model knows."""
    words = next((sentence for sentence in sentences(text) if tells(sentence, point, lines)), text).split()
    shared = [index for index, word in enumerate(words) if stems(word) & stems(point.value)]
    return " ".join(words[shared[0] : shared[-1] + 1] if shared else words).strip(".,;:!?")


def _nearest(line: str, text: str) -> str:
    """The sentence of a message that says what ``line`` says."""
    return max(sentences(text), key=lambda sentence: len(stems(line) & stems(sentence)))


# A reason is bounded, or a weak model reasons until its tokens are spent and the answer is no JSON; by a pattern, since
# not every server that obeys schemas knows maxLength.
_REASON = MappingProxyType({"type": "string", "pattern": '^[^"\\\\\\n\\r\\t]{0,100}$'})
_CRITERION = MappingProxyType({"reason": dict(_REASON), "pass": {"type": "boolean"}})
_VERDICT_SCHEMA: Mapping[str, Any] = MappingProxyType(
    {
        "title": "verdict",
        "type": "object",
        "properties": {
            name: {"type": "object", "properties": dict(_CRITERION), "required": [*_CRITERION], "additionalProperties": False} for name in CRITERIA
        },
        "required": list(CRITERIA),
        "additionalProperties": False,
    }
)
def _pairs_schema(guesses: Sequence[int], truths: Sequence[int]) -> dict[str, Any]:
    """Pairs of these ids, not more than can be one-to-one: a weak model cannot list for ever."""
    ids = {"guess": {"type": "integer", "enum": list(guesses)}, "truth": {"type": "integer", "enum": list(truths)}}
    pair = {"type": "object", "properties": ids, "required": ["guess", "truth"], "additionalProperties": False}
    pairs = {"type": "array", "items": pair, "maxItems": min(len(guesses), len(truths))}
    return {"title": "pairs", "type": "object", "properties": {"pairs": pairs}, "required": ["pairs"], "additionalProperties": False}


def _structured(client: ChatClient, who: str, messages: Sequence[Mapping[str, str]], schema: Mapping[str, Any], read: Any) -> Flow[Any]:
    """Ask until ``read`` accepts the answer, at most TRIES times; then OffSchemaError."""
    problem = ""
    for attempt in range(TRIES):
        answer = yield client.begin(messages, schema=schema, seed=attempt, temperature=0.0 if attempt == 0 else 0.5)
        try:
            return read(json.loads(_answer(answer)))
        except (ValueError, KeyError, TypeError, RecursionError) as error:  # the last: "[[[[…", a model that lost its way
            problem = type(error).__name__  # no word of the answer: it may hold what the judge was shown, and this reaches info
    raise OffSchemaError(f"{who}: expected JSON of the schema {schema['title']!r}; {TRIES} answers were off it, the last by {problem}")


class LLMJudge:
    """A language model that passes or fails a reply by five criteria (paper, section 3), each with a reason.

    Of a guessed profile it is shown the points that the user's own messages support: an invented one earns nothing.

    Args:
        llm: client, or settings of one.
        trusted: the points are the truth and not a guess, so all of them are shown.
        guard: a reply that talks like a machine or to its judge is not natural, whatever the model says; and an earlier
            reply that does so, or a guessed point that gives orders, is not shown.
    """

    def __init__(self, llm: Any, guard: bool = True, trusted: bool = False) -> None:
        self.client: ChatClient = client_of(llm)
        self.guard, self.trusted = guard, trusted

    def judge(self, points: Sequence[Point], dialogue: Dialogue, reply: str) -> Verdict:
        """Score ``reply``; waits for the model."""
        return alone(self.judge_flow(points, dialogue, reply))

    def judge_flow(self, points: Sequence[Point], dialogue: Dialogue, reply: str) -> Flow[Verdict]:
        """``judge`` as a flow. An empty reply fails without a call."""
        if not reply.strip():
            return Verdict(False, False, False, False, False, reasons=dict.fromkeys(CRITERIA, "it says nothing"))
        turns = [{"person": content} if role == "user" else {"companion": self._shown(content)} for role, content in dialogue]
        history = history_of(tuple(dialogue))
        shown = [p for p in points if (self.trusted or supported(p, history)) and not (self.guard and _orders(p))]
        data = {"profile": [_trait(point) for point in shown], "dialogue": turns, "reply": reply}
        messages = _request(prompt("judge-v1", self.client.config.language), data)
        verdict: Verdict = yield from _structured(self.client, "judge", messages, _VERDICT_SCHEMA, _verdict)
        if self.guard and verdict.naturalness and is_machine_speak(reply):
            reasons = {**verdict.reasons, "naturalness": "machine speak, or words for the judge"}
            return replace(verdict, naturalness=False, scores={**verdict.scores, "naturalness": 0.0}, reasons=reasons)
        return verdict

    def _shown(self, earlier: str) -> str:
        """An earlier reply as the model sees it; one word to the judge would buy all later verdicts."""
        return _LEFT_OUT if self.guard and is_machine_speak(earlier) else earlier


def _verdict(answer: Any) -> Verdict:
    passed = {}
    for name in CRITERIA:
        passed[name] = answer[name]["pass"]
        if not isinstance(passed[name], bool):
            raise ValueError(f"{name}: expected true or false; got {type(passed[name]).__name__}")
    reasons = {name: str(answer[name].get("reason", ""))[:300] for name in CRITERIA}
    return Verdict(**passed, scores={name: float(ok) for name, ok in passed.items()}, reasons=reasons)


class LLMMatcher:
    """A language model that lists which guesses mean which truths; numbers, negation, persons and padding stay with the rules.

    Equal values match without it, and it is shown only what may still match.

    Args:
        llm: client, or settings of one.
        guard: a guess that gives orders means nothing, and the model does not get to see it.
    """

    threshold = 0.5

    def __init__(self, llm: Any, guard: bool = True) -> None:
        self.client: ChatClient = client_of(llm)
        self.guard = guard

    def scores(self, guess: Sequence[Point], truth: Sequence[Point]) -> np.ndarray:
        """Float array [len(guess), len(truth)] of 0 and 1; waits for the model."""
        return alone(self.scores_flow(guess, truth))

    def scores_flow(self, guess: Sequence[Point], truth: Sequence[Point]) -> Flow[np.ndarray]:
        """``scores`` as a flow; no call where nothing is left that can match."""
        shape = len(guess), len(truth)
        sound = [not (self.guard and _orders(point)) for point in guess]
        allowed_GT = np.array([[ok and comparable(g, t) and not _padded(g, t) for t in truth] for g, ok in zip(guess, sound, strict=True)], bool).reshape(shape)
        equal_GT = np.array([[normalise(g.value) == normalise(t.value) for t in truth] for g in guess], bool).reshape(shape)
        same_GT = allowed_GT & equal_GT
        open_GT = allowed_GT & ~same_GT.any(axis=1, keepdims=True) & ~same_GT.any(axis=0, keepdims=True)
        scores_GT = same_GT.astype(float)
        if not open_GT.any():
            return scores_GT
        guesses, truths = (np.flatnonzero(open_GT.any(axis=axis)).tolist() for axis in (1, 0))
        shown = [[{"id": i, "trait": _trait(points[i])} for i in ids] for points, ids in ((guess, guesses), (truth, truths))]
        data = {"guesses": shown[0], "truths": shown[1]}
        messages = _request(prompt("matcher-v1", self.client.config.language), data)
        pairs: list[tuple[int, int]] = yield from _structured(self.client, "matcher", messages, _pairs_schema(guesses, truths), _pairs)
        for row, column in pairs:
            if 0 <= row < len(guess) and 0 <= column < len(truth) and open_GT[row, column]:
                scores_GT[row, column] = 1.0
        return scores_GT


def _pairs(answer: Any) -> list[tuple[int, int]]:
    found = [(pair["guess"], pair["truth"]) for pair in answer["pairs"]]
    if not all(type(index) is int for pair in found for index in pair):
        raise ValueError("expected ids, integers")
    return found


def _padded(guess: Point, truth: Point) -> bool:
    """Whether a guess says more than the truth, whatever of it is true, or denies something of which the truth has no word.

    Where it has all the words of the truth, the lexical matcher's measure decides; other words for it may be a few more.
    """
    said, true = _content(guess), _content(truth)
    if true and true <= said:
        return point_score(guess, truth) < LexicalMatcher.threshold
    return len(said) > len(true) + _ROUNDABOUT or (meaning(guess.value).negated and said.isdisjoint(true))


def _content(point: Point) -> frozenset[str]:
    """Stems of what a point says; a slot name that is none says something too."""
    return meaning(point.value if canonical_slot(point.slot) else _trait(point)).stems
