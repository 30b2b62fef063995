"""What a listener notices in one reply, whoever the listener is: questions, suggestions, claims, bad habits.

Nothing here knows a dialogue or a profile; the user and the judge both start from the same ``Heard``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from rlpa_env.guard import is_machine_speak
from rlpa_env.manners import asks_secrets, is_rude
from rlpa_env.text import is_question, letters, normalise, sentences, stem, stems, words
from rlpa_env.topics import topics_of
from rlpa_env.world import world


@dataclass(frozen=True)
class Heard:
    """One reply as heard. Sentences are verbatim; stems and topics as in ``text`` and ``topics``."""

    text: str
    letters: str  # of the text; see `text.letters`
    lines: tuple[str, ...]  # letters of each sentence
    asked: tuple[str, ...]  # the questions, normalised
    sentences: tuple[str, ...]
    questions: tuple[str, ...]  # whatever wants an answer, "tell me ..." included
    statements: tuple[str, ...]  # the other sentences, and what is said before a question in the same sentence
    stems: frozenset[str]
    topics: frozenset[str]
    question_stems: frozenset[str]
    question_topics: frozenset[str]
    asks_slots: frozenset[str]  # canonical slots that a question asks the listener for
    word_count: int
    has_list: bool  # bullets, numbering, or a long enumeration
    machine_speak: bool  # assistant phrases, markup, tags, role labels, talk about scores
    rude: bool  # insults, contempt for what was said
    pries: bool  # asks for a password, a PIN and the like
    flattery: int  # compliments paid to the person or their words
    suggestions: tuple[str, ...]  # sentences that propose something to do, have or choose
    claims: tuple[str, ...]  # what is asserted of the listener: "you are X", "as a X", "your X"
    lecture: bool  # tells the listener how to live, or explains at length


_BULLET = re.compile(r"^\s*(?:[-*•–]|\d{1,2}[.)]|[a-z]\))\s+\S", re.MULTILINE)
_INLINE_NUMBERS = re.compile(r"(?:^|\s)1[.)]\s.+\s2[.)]\s", re.DOTALL)
_ORDINALS = re.compile(r"\bfirst(?:ly)?\b.+\bsecond(?:ly)?\b.+\b(?:third(?:ly)?|finally|lastly)\b", re.I | re.DOTALL)
_LONG_ENUMERATION = 5  # short items in one sentence, from which on it is a list

_PRAISE = (
    r"(?:amazing|brilliant|wonderful|incredible|fantastic|awesome|genius|inspiring|inspiration|special|talented|perfect|"
    r"beautiful|impressive|remarkable|extraordinary|fascinating|exceptional|magnificent|marvell?ous|gifted|outstanding|"
    r"phenomenal|delightful|charming|lovely|great|clever|smart|admirable|unique|superb|stunning|the best|best)"
)
_FLATTERY = re.compile(
    rf"\byou(?:'re| are|r| seem| must be| sound)\s+(?:(?:so|such|really|truly|absolutely|simply|clearly|just|an?|the|most|very|"
    rf"quite|like|to be|obviously)\s+)*{_PRAISE}\b"
    rf"|\b(?:what|such) (?:an? )?(?:\w+ )?{_PRAISE} (?:\w+ )?(?:person|answer|question|message|taste|soul|human|mind|insight|story|choice|"
    r"view|thought|life|character|personality)\b"
    rf"|\b{_PRAISE} (?:question|answer|point|insight|taste|choice|story)\b(?=[.!,]|$| from you| of yours)"
    rf"|\byour? (?:\w+ ){{0,2}}(?:is|are|sounds?|seems?) (?:(?:so|such|really|truly|absolutely|simply|just|an?)\s+)*"
    r"(?:amazing|brilliant|incredible|inspiring|extraordinary|remarkable|magnificent|phenomenal|outstanding|exceptional)\b"
    r"|\bi(?:'m| am)? (?:really |truly |so |deeply |absolutely )*(?:admire|adore|worship|in awe of|impressed by|amazed by|honou?red)\b"
    r"|\bso (?:wise|clever|brave|smart|talented|gifted|kind) of you\b|\bhow (?:impressive|inspiring|brilliant|clever|wise) (?:of you|you)\b"
    r"|\b(?:nobody|no one) (?:is|tells|says|could)\b[^.!?]{0,40}\b(?:like|as|than) you\b|\byou have (?:such )?(?:great|wonderful|excellent|"
    r"exquisite|amazing|the best|impeccable) (?:taste|mind|style|heart|soul)\b",
    re.IGNORECASE,
)

_DO = (
    r"(?:try|go|get|plan|cook|bake|make|have|take|visit|watch|read|pick|choose|buy|give|start|join|do|see|look|book|grab|invite|"
    r"learn|play|listen|build|plant|draw|paint|rent|order|bring|spend|head|put|let|stick|keep|ask|call|find|use|add|treat|wear|write|"
    r"sing|dance|walk|ride|swim|explore|check|consider|surprise|wrap|order|stay|drive|sign|throw|host|organi[sz]e|skip|follow|mix|"
    r"serve|roast|grill|fry|map|catch|hire|adopt|sit|begin|end|meet|borrow|return|settle|combine|test|pack|hunt|collect|set|turn)"
)
_SUGGESTION = re.compile(
    r"\bhow about (?!you\b|your\b|yours|yourself|ur\b|u\b)|\bwhat about (?!you\b|your\b|yours|yourself|ur\b|u\b)"
    rf"|\bwhy (?:not|don't you)\b|\byou (?:could|should|can|might(?: want to| like to| enjoy)?|may want to|ought to)(?: always| just|"
    rf" maybe| also| simply| really| try to)? {_DO}\b"
    rf"|\b(?:maybe|perhaps)(?: just| even)? (?:you (?:could|should|can) )?(?:{_DO}\b|(?:an?|some|something|somewhere|anything) \w+)"
    rf"|\b(?:have you|ever) (?:ever )?(?:tried|thought (?:of|about)|considered)\b|(?:^|[,;:-]\s*)(?:just |then |simply )?(?:try|consider)\b"
    r"|\bi(?:'d| would)(?: just| also| even| probably| definitely| maybe| always| certainly| personally)* (?:suggest|recommend|go (?:for|with|to)|pick|choose|"
    r"say(?! (?:it depends|so|yes|no|that depends))|vote|start|opt|get|try|take|plan|bring|cook|make|give|watch|look|stick|do (?:a|an|the|some)|have (?:a|an|some)|spend|"
    r"visit|book|buy|grab|head|settle|open|light|prepare|order|invite|hike|walk|ride|paint|draw|learn|join|build|roast|grill|mix|bake|rent|pack|put|wrap|serve|lean|advise|treat|play|read)\b"
    r"|\bi (?:suggest|recommend|vote|advise)\b|\bmy (?:pick|tip|vote|suggestion|idea|recommendation|choice|advice) (?:is|would be|goes)\b"
    rf"|\blet's {_DO}\b|\bif i were you\b|\byou(?:'d| would| will|'ll|\s+might) (?:really |probably |surely |definitely )?(?:enjoy|like|love)\b"
    r"|\b(?:can't|cannot) go wrong with\b|\bgive \w+(?: \w+){0,3} a (?:try|go|chance|shot)\b"
    r"|\b(?:would|might|could|'d) (?:be (?:a |an |the |just |quite |pretty |so |really )*(?:nice|good|great|fun|lovely|perfect|fine|safe|right|cosy|cozy|better|best|thing|"
    r"idea|choice|fit|ideal|bet)|suit you|fit you|work (?:well|nicely|fine|for you)|do (?:nicely|the trick|you good)|make a (?:nice|good|great|lovely|fine|fun))\b"
    r"|\bsounds? like (?:the|a) (?:right|good|nice|perfect|safe) (?:plan|idea|choice|gift|present|evening|weekend)\b"
    rf"|^(?:{_DO}) (?:an?|the|some|something|somewhere|your|to|for|them|him|her|it|with|out|on|in|off|up|around|along|by|more|two|one|close|whatever|anything)\b",
    re.IGNORECASE,
)  # fmt: skip
_PROPOSAL = re.compile(r"^(?:(?:so|and|well|then|oh|hm+),?\s+)*(?:how about|what about|why not|why don't you)\b", re.IGNORECASE)
_NO_SUGGESTION = re.compile(
    r"\byou (?:should|could|can) (?:be proud|have seen|have told|say that|see (?:why|that|how)|make out)\b|\b(?:maybe|perhaps) (?:an?|some) (?:bit|little)\b"
    r"|^(?:have|had) (?:a|an) (?:good|nice|great|lovely|wonderful|fun|safe) \w+[.!]*$|^take care\b|^make (?:it|that) (?:a|two)\b"
    r"|^(?:keep|do|see|go) (?:it|you|on)\b|^(?:look|let) (?:at (?:you|that)|me)\b",
    re.IGNORECASE,
)

_TELL_ME = re.compile(
    r"^(?:(?:so|and|well|please|but|come on),?\s+)*(?:(?:do |please )?(?:tell|show) (?:me|us) (?!about it\W*$)|describe\b|share\b|"
    r"i(?:'d| would) (?:love|like) to (?:hear|know|learn|find out)\b|i(?:'m| am) (?:curious|interested to know|wondering)\b|"
    r"i wonder (?:what|how|where|who|why|when|which|if|whether) (?:you|your)\b|let me (?:guess|ask)\b|let me know (?:what|how|where|who|why|when|"
    r"which|more|about)\b|name (?:one|a|an|your|three|two)\b)",
    re.IGNORECASE,
)
_CLAUSE = re.compile(r"\s*(?:,|;|:|\s[-–—]+)\s+(?:and |but |so |or )?")

_CLAIM = re.compile(
    r"\b(?:you(?: (?:never|don't|do not|didn't|did not|no longer))?(?:'re| are|'ve| have|'d| had| were| own| live| work| study| studied| teach| play| come| grew| enjoy| love| like|"
    r" hate| despise| detest| loathe| dislike| resent| (?:never|no longer) (?:liked|loved|enjoyed|owned|lived|worked|studied|played|touched|tried)| prefer| speak| collect| raise| run| keep| moved| said you| told me you| mentioned you)|as an?|your|"
    r"being an?|for an?(?= [a-z ]{3,30} like you))\s+(?P<what>[^.!?;]{2,80})",
    re.IGNORECASE,
)
_AS_YOU = re.compile(r"\byou\b|\byour\b", re.IGNORECASE)
_CLAIM_ENDS = re.compile(
    r"\s(?:and|but|because|so|when|while|if|who|which|that|is|are|was|were|must|sounds?|seems?|has|have|does|did|can|could|would|will|"
    r"may|might|should|makes?|keeps?|gives?|really|then|though|than|made|shows?|feels?|looks?|deserves?|explains?|needs?)\b|,",
    re.IGNORECASE,
)
_LECTURE = re.compile(
    r"\byou (?:must|need to|have to|ought to|should (?:always|never|really)|had better)\b|\bit is (?:important|essential|crucial|vital|"
    r"necessary|recommended|advisable) (?:to|that|for)\b|\b(?:remember|make sure|be sure|ensure|keep in mind) (?:to|that|you)\b|"
    r"\b(?:experts|studies|research|scientists|statistics) (?:say|show|suggest|recommend|prove)|\bin conclusion\b|\bfurthermore\b|\bmoreover\b|"
    r"\badditionally\b|\bin general,|\bthe key (?:is|to)\b|\ba healthy (?:diet|lifestyle|balance)\b|\bgenerally speaking\b",
    re.IGNORECASE,
)
_LECTURE_WORDS = 70  # words without a question, from which on a reply is a speech


MOST_ASKED = 2
"""Slots that one question may ask for: work and home, say. One that asks for more is an interrogation with a single question mark."""


@lru_cache(maxsize=16_384)
def hear(reply: str) -> Heard:
    """Everything that one reply gives a listener, apart from what it means to this listener.

    >>> heard = hear("Rye bread at dawn, I envy you. Do you like your work?")
    >>> heard.questions, sorted(heard.asks_slots), heard.flattery
    (('Do you like your work?',), ['Occupation'], 0)
    """
    found = sentences(reply)
    questions, statements = split_questions(found)
    asked = " ".join(questions)
    count = len(words(reply))
    return Heard(
        text=reply,
        letters=letters(reply),
        lines=tuple(map(letters, found)),
        asked=tuple(map(normalise, questions)),
        sentences=found,
        questions=questions,
        statements=statements,
        stems=stems(reply),
        topics=topics_of(reply),
        question_stems=frozenset().union(*map(stems, questions)),
        question_topics=topics_of(asked),
        asks_slots=frozenset().union(*map(slots_asked, questions)),
        word_count=count,
        has_list=_has_list(reply, found),
        machine_speak=is_machine_speak(reply),
        rude=is_rude(reply),
        pries=asks_secrets(reply),
        flattery=len(_FLATTERY.findall(reply)),
        suggestions=tuple(line for line in found if is_suggestion(line)),
        claims=claims_of(statements),
        lecture=len(_LECTURE.findall(reply)) >= 2 or (count > _LECTURE_WORDS and not questions),
    )


def split_questions(found: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Questions and statements; "That sounds fun, do you go often?" is one of each."""
    questions: list[str] = []
    statements: list[str] = []
    for sentence in found:
        if _TELL_ME.match(sentence):
            questions.append(sentence)
            continue
        if _PROPOSAL.match(sentence) and is_suggestion(sentence):  # "How about a walk?" offers, it does not ask
            statements.append(sentence)
            continue
        head, tail = _clauses(sentence)
        if tail:
            statements.append(head)
            questions.append(tail)
        else:
            (questions if is_question(sentence) else statements).append(sentence)
    return tuple(questions), tuple(statements)


def _clauses(sentence: str) -> tuple[str, str]:
    """(statement, question) at the first clause border after which a question opens; ("", "") if there is none."""
    for border in _CLAUSE.finditer(sentence):
        head, tail = sentence[: border.start()], sentence[border.end() :]
        bare = tail.rstrip(" ?!.")
        if len(words(head)) >= 2 and len(words(tail)) >= 2 and is_question(bare) and not is_question(head):
            return head, tail
    return "", ""


def _has_list(reply: str, found: tuple[str, ...]) -> bool:
    if len(_BULLET.findall(reply)) >= 2 or _INLINE_NUMBERS.search(reply) or _ORDINALS.search(reply):
        return True
    for sentence in found:
        pieces = re.split(r",|;|\band\b|\bor\b|/", sentence)
        short = [piece for piece in pieces if 1 <= len(piece.split()) <= 3]
        if len(short) >= _LONG_ENUMERATION:
            return True
    return False


def is_suggestion(sentence: str) -> bool:
    """Whether one sentence proposes something to do, to have or to choose.

    >>> is_suggestion("How about a bakery tour?"), is_suggestion("How about you?")
    (True, False)
    """
    bare = sentence.strip()
    return bool(_SUGGESTION.search(bare)) and not _NO_SUGGESTION.search(bare)


def claims_of(statements: tuple[str, ...]) -> tuple[str, ...]:
    """What statements assert of the listener, the asserting word included.

    >>> claims_of(("As a baker you must be tired", "I love your old camera a lot"))
    ('As a baker you', 'your old camera a lot')
    """
    found = []
    for line in statements:
        addressed = bool(_AS_YOU.search(line))
        start = 0
        while match := _CLAIM.search(line, start):
            lead = line[match.start() : match.start("what")].lower()
            what = match.group("what")
            end = _CLAIM_ENDS.search(f" {what}")
            kept = what[: max(0, end.start() - 1)] if end else what
            start = match.start("what")
            if kept and (addressed or not lead.startswith(("as", "being", "for"))):
                found.append(line[match.start() : match.start("what") + len(kept)])
    return tuple(found)


@lru_cache(maxsize=1)
def _about() -> tuple[Mapping[tuple[str, ...], str], int, tuple[tuple[frozenset[str], str], ...]]:
    """Phrases by which a question asks for a slot, the longest one's length, and the slots' names as stems."""
    phrases: dict[tuple[str, ...], set[str]] = {}
    names = []
    for spec in world().slots.values():
        for phrase in spec.about:
            phrases.setdefault(words(phrase), set()).add(spec.name)
        named = frozenset(stem(word) for word in words(spec.name))
        if named:
            names.append((named, spec.name))
    longest = max(map(len, phrases), default=1)
    return {key: "\0".join(sorted(found)) for key, found in phrases.items()}, longest, tuple(names)


_WHAT_DO_YOU_DO = re.compile(r"\bwhat do (?:you|u|ya) do(?: (?:for (?:a )?(?:living|work)|all day|exactly|now|these days))?\W*$", re.I)


@lru_cache(maxsize=16_384)
def slots_asked(question: str) -> frozenset[str]:
    """Slots that one question asks for: by their authored words, longest phrase first, or by the slot's own name."""
    phrases, longest, names = _about()
    tokens = words(question)
    found: set[str] = set()
    position = 0
    while position < len(tokens):
        for length in range(min(longest, len(tokens) - position), 0, -1):
            hit = phrases.get(tokens[position : position + length])
            if hit:
                found.update(hit.split("\0"))
                position += length - 1
                break
        position += 1
    there = frozenset(map(stem, tokens))
    found.update(name for named, name in names if named <= there)
    if not found and _WHAT_DO_YOU_DO.search(question):
        found.add("Occupation")
    return frozenset(found)


def asks_for(heard: Heard, said: frozenset[str]) -> int:
    """How many slots the questions ask for, in words whose stems the listener has not ``said``, if it is more than `MOST_ASKED`; else 0.

    A value that is quoted may name several: "What else goes with late-born child of older parents?".
    """
    if len(heard.asks_slots) <= MOST_ASKED:
        return 0
    fresh = (" ".join(word for word in words(question) if stem(word) not in said) for question in heard.questions)
    found = len(frozenset().union(*map(slots_asked, fresh)))
    return found if found > MOST_ASKED else 0


def echo(reply: str, message: str) -> float:
    """Share of the reply's content words (all words, if it has no content) that only repeat the message, in [0, 1].

    >>> echo("You had a long day at the bakery?", "I had a long day at the bakery.")
    1.0
    """
    said, own = stems(message), stems(reply)
    if own:
        return len(own & said) / len(own)
    tokens = words(reply)
    return sum(token in words(message) for token in tokens) / len(tokens) if tokens else 0.0
