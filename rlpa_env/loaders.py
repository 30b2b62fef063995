"""Other people's profiles, which we do not redistribute: ALOE (free text) and PersonaChat (persona sentences).

Free text is split into points by rules only: every value is a piece of the text, nothing is added or inferred.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from pathlib import Path
from typing import Any

from rlpa_env.errors import ProfileError
from rlpa_env.profiles import Profile
from rlpa_env.text import normalise

_MOST_BAD = 0.01  # share of unreadable lines above which a file is refused
PERSONA = "Persona"  # free key of persona sentences

_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'])")
_SUBJECT = re.compile(r"^(?:(?:in|during|on|at|when|whenever|after|despite|although|outside)\b[^,]*,\s*)?(?:he|she|they)(?:'s|\s+is|\s+are)?\s+", re.I)
_VERB = r"(?:is|are|was|has|have|had|holds?|lives?|loves|likes|enjoys|works?|plays?|runs?|owns?|collects?|volunteers?|practices?|studies|studied|teaches|writes?|speaks?|plans?|travels?|spends?|prefers?|participates?|never|often|always|also|frequently|sometimes|regularly|currently|recently|occasionally|would|can|dreams?|hopes?|makes?|takes?|goes|keeps?|hosts?|grew|wants?|values?|tends?|thinks?|finds?|helps?|knits?|paints?|cooks?|bakes?|performs?|grows?|wears?|hates?|dislikes?|feels?|seeks?|gets?|tries|stands|approaches|shows?|brings?|does|attends?)"
_AND_CLAUSE = re.compile(rf"(?:,\s*|\s+)(?:(?:and|but|while)\s+(?:(?:he|she|they|is|who)\s+)?|who\s+)(?={_VERB}\s)", re.I)
_AGE = re.compile(r"\b(?P<age>\d{1,3})[- ]years?[- ]old\b[, ]*(?P<rest>.*)$", re.I)
_LIKES = re.compile(r"^(?:(?:also|really|always|still|often|particularly|especially)\s+)*(?:enjoys?|loves?|likes?)\s+(?P<what>.+)$", re.I)
_LIVES = re.compile(r"^(?:currently\s+|now\s+)?lives? in (?P<what>.+)$", re.I)
_WORKS = re.compile(r"^(?:currently\s+)?(?:works?|working) as (?:an? )?(?P<what>.+)$", re.I)
_DEGREE = re.compile(r"^(?:has|holds?|earned) (?P<what>(?:an? )?[^,]*\b(?:degree|doctorate|ph\.?d|diploma|certificate|mba|bachelor|master)\b.*)$", re.I)
_MARITAL = re.compile(r"^(?:(?:is|are)\s+)?(?P<what>single|married|divorced|widowed|engaged(?!\s+in\b|\s+with\s+(?:the|local|other)\b))\b(?!-)(?P<rest>.*)$", re.I)
_LEADING = re.compile(r"^(?:(?:also|and|is|are|has|have)\s+)+", re.I)
_LIST = re.compile(r"\s*,\s*(?:and\s+)?|\s+and\s+")
_MOST_WORDS = 4  # longer list items are taken whole: "a walk by the sea and a long talk" is one thing


def load_aloe(folder: str | os.PathLike[str], *, personality: bool = True) -> tuple[Profile, ...]:
    """The people of ALOE (Wu et al. 2024): ``profile.jsonl`` and ``personality.jsonl``, one JSON string a line.

    Args:
        folder: where the two files lie.
        personality: give person i the personality i modulo their number (the files pair none) as further points.

    A line that is no JSON string is skipped with a warning that names it; more than 1 % of them raises ProfileError.
    """
    folder = Path(folder)
    people = _strings(folder / "profile.jsonl")
    characters = _strings(folder / "personality.jsonl") if personality else [(0, "")]
    if not characters:
        raise ProfileError(f"{folder / 'personality.jsonl'}: expected personalities; got blank lines. Leave them out with `personality=False`.")
    profiles = []
    for i, (line, text) in enumerate(people):
        slots: dict[str, list[str]] = {}
        for slot, value in split_text(text):
            _put(slots, slot, value)
        for slot, value in split_text(characters[i % len(characters)][1]):
            trait = value.partition(",")[0]  # "witty, often making clever remarks": the rest only explains
            _put(slots, "Personality Traits" if slot in ("Other Information", "Interests") else slot, trait)
        if slots:
            profiles.append(Profile(f"aloe-{line:04d}", {slot: tuple(values) for slot, values in slots.items()}))
    return tuple(profiles)


def load_personachat(path: str | os.PathLike[str]) -> tuple[Profile, ...]:
    """People from a JSONL file whose lines hold ``{"persona": [sentence, …], …}``; every sentence is one point.

    A sentence that names alternatives ("i like tea and cake.") is one point too, and copied into a guess it is read as several:
    see `actions.listable`.
    """
    path = Path(path)
    profiles = []
    for number, record in _lines(path, dict):
        persona = record.get("persona")
        if not isinstance(persona, list) or not all(isinstance(line, str) for line in persona) or not "".join(persona).strip():
            raise ProfileError(f"{path}:{number}: expected 'persona' to be a list of sentences; got {persona!r:.80}.")
        values: dict[str, list[str]] = {}
        for line in persona:
            if line.strip():
                _put(values, PERSONA, line.strip())
        profiles.append(Profile(f"personachat-{number:04d}", {PERSONA: tuple(values[PERSONA])}))
    return tuple(profiles)


def split_text(text: str) -> list[tuple[str, str]]:
    """(slot, value) points of a third-person description, in order; every value is a piece of the text.

    >>> split_text("She is a 34-year-old florist who enjoys chess and long walks. She has two cats and lives in Rome.")
    [('Age', '34'), ('Occupation', 'florist'), ('Interests', 'chess'), ('Interests', 'long walks'), \
('Other Information', 'two cats'), ('Location', 'Rome')]
    """
    points: list[tuple[str, str]] = []
    for sentence in _SENTENCE.split(text.strip()):
        points += _of_sentence(sentence.strip().rstrip(".!?").strip())
    return points


def _of_sentence(sentence: str) -> list[tuple[str, str]]:
    points: list[tuple[str, str]] = []
    rest = _SUBJECT.sub("", sentence, count=1)
    aged = _AGE.search(rest)
    if aged and rest[: aged.start()].lower() in ("", "a ", "an "):  # and not her 7-year-old daughter
        points.append(("Age", aged["age"]))
        job, rest = _job(aged["rest"])
        if job:
            points.append(("Occupation", job))
    for clause in _AND_CLAUSE.split(rest):
        points += _of_clause(clause.strip(" ,;"))
    return points


def _job(rest: str) -> tuple[str, str]:
    """What follows the age up to the next clause, and what remains."""
    end = re.search(r"\s(?:who|with|that|living|working|studying|majoring|from|in|at)\b|,|\sand\s", rest)
    return (rest[: end.start()].strip(), rest[end.end() :].strip()) if end else (rest.strip(), "")


def _of_clause(clause: str) -> list[tuple[str, str]]:
    if len(normalise(clause)) < 3:
        return []
    married = _MARITAL.match(clause)
    if married:
        more = re.sub(r"^\W*(?:and|with|to)?\s*", "", married["rest"], count=1)
        own = [("Marital Status", married["what"])]
        return own + ([("Family Background", married["rest"].strip(" ,"))] if len(normalise(more)) > 2 else [])
    for slot, pattern in (("Location", _LIVES), ("Occupation", _WORKS), ("Education Background", _DEGREE)):
        found = pattern.match(clause)
        if found:
            return [(slot, found["what"].strip(" ,"))]
    liked = _LIKES.match(clause)
    if liked:
        return [("Interests", item) for item in _items(liked["what"])]
    value = _LEADING.sub("", clause).strip(" ,")
    return [("Other Information", value)] if len(normalise(value)) >= 3 else []


def _items(text: str) -> list[str]:
    """A list of short things, or the whole as one thing."""
    parts = [part.strip(" ,") for part in _LIST.split(text)]
    short = all(part and len(part.split()) <= _MOST_WORDS for part in parts)
    return parts if short else [text.strip(" ,")]


def _put(slots: dict[str, list[str]], slot: str, value: str) -> None:
    """Add a value unless it stands there; a second age or status is left out."""
    single = slot in ("Age", "Marital Status", "Location")
    values = slots.setdefault(slot, [])
    if not (values and single) and normalise(value) not in map(normalise, values):
        values.append(value)


def _strings(path: Path) -> list[tuple[int, str]]:
    return [(number, text) for number, text in _lines(path, str) if text.strip()]


def _lines(path: Path, kind: type) -> list[tuple[int, Any]]:
    """(line number, JSON value) of every readable line of the wanted kind."""
    if not path.is_file():
        raise ProfileError(f"{path}: expected a JSONL file; there is none. Give the folder or file of the original data.")
    found, bad = [], []
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    for number, line in lines:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):  # the latter: "[[[[…"
            value = None
        if isinstance(value, kind):
            found.append((number, value))
        else:
            bad.append(number)
    if not lines or len(bad) > _MOST_BAD * len(lines):
        raise ProfileError(
            f"{path}: expected one JSON {kind.__name__} a line; {len(bad)} of {len(lines)} lines are none"
            + (f" (first: line {bad[0]})." if bad else ".")
        )
    if bad:
        warnings.warn(f"{path}: skipped unreadable line {', '.join(map(str, bad))}", stacklevel=3)
    return found
