"""Whether a reply has the form of something a person would type: length, shape of words, no loops, no piles."""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.resources import files

from rlpa_env.evidence import GENERIC
from rlpa_env.hearing import Heard
from rlpa_env.text import STOP_WORDS, stem, words
from rlpa_env.topics import topics_of_each

_MOST_WORDS = 60
_MOST_SUGGESTIONS = 2
_MOST_QUESTIONS = 2
_MOST_TOPICAL = 9  # words of different topics in one short reply, from which on it is a pile
_OR = re.compile(r"\bor\b", re.IGNORECASE)
_ODD = re.compile(r"[^\w\s.,!?;:'\"()\-–—…&/%$€£+#’‘“”°]", re.UNICODE)
_LETTERS = re.compile(r"[^\W\d_]")
_VOWELS = re.compile(r"[aeiouyáàâäãåéèêëíìîïóòôöõøúùûüæœ]", re.IGNORECASE)
_IDEOGRAPHS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]{5}")  # more than a foreign word
_TWO_ALPHABETS = re.compile(r"[A-Za-z][\u0370-\u03a8\u03aa-\u03bb\u03bd-\u04ff]|[\u0370-\u03a8\u03aa-\u03bb\u03bd-\u04ff][A-Za-z]")  # but 10 k\u03a9, \u03bcm
_ESCAPE = re.compile(r"\\[nrtu]\w*")  # of JSON
_RUN = re.compile(r"(\S)\1{4,}|([!?])(?:\s*[!?]){3,}")


def form_of(heard: Heard) -> tuple[float, str]:
    """Form: manners, length, markup, loops, word shapes. The first fault found decides."""
    if not heard.word_count:
        return 0.0, "it says nothing"
    if heard.machine_speak:
        return 0.0, "machine speak or markup"
    if heard.rude:
        return 0.0, "an insult"
    if heard.pries:
        return 0.0, "it asks for a secret"
    if heard.has_list:
        return 0.1, "a list"
    if heard.word_count > _MOST_WORDS:
        return 0.2, f"{heard.word_count} words; at most {_MOST_WORDS} are natural here"
    if heard.lecture:
        return 0.3, "a lecture"
    fault = _odd_words(heard.text)
    if fault:
        return 0.1, fault
    ideas = len(heard.suggestions) + sum(len(_OR.findall(line)) for line in heard.suggestions)
    if ideas > _MOST_SUGGESTIONS:
        return 0.3, f"{ideas} suggestions at once"
    if len(heard.questions) > _MOST_QUESTIONS:
        return 0.3, f"{len(heard.questions)} questions at once"
    if any(map(_unheard_of, heard.sentences)):
        return 0.1, "words that are no English, and hardly one that holds them together"
    if heard.flattery > 1:
        return 0.3, "flattery on flattery"
    if _piled(heard):
        return 0.2, "a pile of unconnected things"
    return 1.0, "reads like a person"


def _odd_words(reply: str) -> str:
    """A fault of spelling, symbols or repetition; "" if there is none."""
    tokens = words(reply)
    letters = len(_LETTERS.findall(reply))
    if letters < 0.5 * len(reply.replace(" ", "")) or len(_ODD.findall(reply)) > 3:
        return "mostly symbols"
    if not reply.isascii() and (
        _IDEOGRAPHS.search(reply) or sum(char.isascii() for char in reply if char.isalpha()) < 0.7 * letters
    ):
        return "not in the language of the dialogue"
    if not reply.isascii() and _TWO_ALPHABETS.search(reply):
        return "letters of two alphabets in one word"
    if len(tokens) > 3 and letters > 10 and sum(char.isupper() for char in reply) > 0.6 * letters:
        return "shouting"
    if _RUN.search(reply.replace("...", " ").replace(". . .", " ")):
        return "a run of one character"
    ordinary = sum(len(token) <= 18 and (token.isdigit() or token.isalpha() or "'" in token or len(token) <= 4)
                   and bool(token.isdigit() or len(token) <= 3 or _VOWELS.search(token)) for token in tokens)  # fmt: skip
    if ordinary < 0.85 * len(tokens):
        return "words of no ordinary shape"
    counts: dict[str, int] = {}
    for token in tokens:
        counts[token] = counts.get(token, 0) + 1
    most = max((count for token, count in counts.items() if token not in STOP_WORDS), default=0)
    triples = list(zip(tokens, tokens[1:], tokens[2:], strict=False))
    if most > max(3, len(tokens) // 6) or len(set(triples)) < len(triples) - 2 or (len(tokens) > 8 and len(counts) < 0.5 * len(tokens)):
        return "it goes round in a loop"
    if any(first == second == third for first, second, third in triples):
        return "it stutters"
    glue = sum(token in STOP_WORDS for token in tokens)
    return "a heap of words, no sentence" if len(tokens) >= 10 and glue < 0.2 * len(tokens) else ""


def _unheard_of(sentence: str) -> bool:
    """Whether a sentence is made of words that nothing here uses, and nearly none that a sentence of English needs: syllables, Latin, German."""
    tokens = [word for word in words(sentence) if not word.isdigit()]
    content = [word for word in tokens if word not in STOP_WORDS]
    return len(tokens) > 3 and len(tokens) - len(content) < 0.25 * len(tokens) and sum(stem(word) not in _known() for word in content) > max(2, len(content) / 2)


@lru_cache(maxsize=1)
def _known() -> frozenset[str]:
    """Stems of all that is written in the package's data: what people here say, and answers to it."""
    data = files("rlpa_env") / "data"
    texts = (part.read_text(encoding="utf-8") for folder in (data, data / "world") for part in folder.iterdir() if part.name.endswith(".json"))
    return frozenset(stem(word) for text in texts for word in words(_ESCAPE.sub(" ", text)))


def _piled(heard: Heard) -> bool:
    """Whether many of the words belong to topics that no other word of the reply shares."""
    if len(heard.stems) < _MOST_TOPICAL:
        return False
    each = topics_of_each(heard.stems - GENERIC)
    alone = sum(all(found.isdisjoint(other) for other in each if other is not found) for found in each)
    return alone >= _MOST_TOPICAL - 2 or (len(each) >= _MOST_TOPICAL and len(heard.topics) > 3 * len(heard.sentences) + 24)
