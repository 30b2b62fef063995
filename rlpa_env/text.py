"""English text at the level of characters and words: sentences, words, stems, questions, normal form.

Everything is rule-based, deterministic and cached: the environment reads the same strings many times a turn.
Stems need only be *consistent* (baker, bakes and baking agree), they need not be words.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache, partial

_cached = partial(lru_cache, maxsize=32_768)
INVISIBLE = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
"""What is not drawn, as ranges of a character class."""
_INVISIBLE = re.compile(f"[{INVISIBLE}]")
_LONGEST_CACHED = 4_000  # characters; longer texts are computed anew, so that the caches stay bounded in bytes

_STOP_WORDS = """
    a an the this that these those here there where when while why how who whom whose what which
    i me my mine myself you your yours yourself yourselves he him his himself she her hers herself it its itself
    we us our ours ourselves they them their theirs themselves one ones someone somebody something anyone anybody
    anything everyone everybody everything nobody nothing none
    am is are was were be been being do does did doing done have has had having can could will would shall should
    may might must ought need let lets
    i'm i've i'll i'd you're you've you'll you'd he's he'll he'd she's she'll she'd it's it'll it'd we're we've
    we'll we'd they're they've they'll they'd that's that'll there's here's what's who's where's how's when's why's
    let's isn't aren't wasn't weren't don't doesn't didn't haven't hasn't hadn't can't couldn't won't wouldn't
    shan't shouldn't mustn't needn't ain't cannot y'all
    im ive ill id youre youve youll youd hes shes thats theres whats dont doesnt didnt havent hasnt cant couldnt
    wont wouldnt isnt arent wasnt werent aint u ur r ya
    and or but nor so yet if then than because cause cuz as of at by for with about against between into through
    during before after above below to from up down in out on off over under again further once until till since
    upon within without toward towards among per via onto
    not no yes yeah yep yup nope nah ok okay oh ah aha hm hmm wow well hi hey hello bye lol haha hahaha ha
    please thanks thank sorry sure
    very too also just only really quite rather pretty much many more most less least lot lots some any all both
    each every few other others another such own same else even ever never always often sometimes usually maybe
    perhaps probably actually basically definitely certainly still already almost enough though although however
    instead either neither whether bit kind sort thing things stuff way ways
    get gets got getting gotten go goes going gone went come comes coming came make makes making made take takes
    taking took taken put puts give gives gave given say says said saying tell tells told know knows knew known
    think thinks thought see sees saw seen seem seems look looks looking want wants wanted like likes liked
    mean means guess suppose use used try tries tried keep keeps kept gonna gotta wanna
    now today soon later back away around along together
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())
"""Words without content of their own: function words, greetings, light verbs. ``stems`` drops them."""

_IRREGULAR = {
    form: base
    for base, forms in {
        "child": "children", "man": "men", "woman": "women", "wife": "wives", "knife": "knives", "life": "lives",
        "leaf": "leaves", "loaf": "loaves", "wolf": "wolves", "shelf": "shelves", "mouse": "mice", "goose": "geese",
        "foot": "feet", "tooth": "teeth", "person": "people", "run": "ran", "swim": "swam swum", "sing": "sang sung",
        "write": "wrote written", "teach": "taught", "buy": "bought", "eat": "ate eaten", "drink": "drank drunk",
        "drive": "drove driven", "grow": "grew grown", "catch": "caught", "build": "built", "ride": "rode ridden",
        "fly": "flew flown flies", "draw": "drew drawn", "sell": "sold", "meet": "met", "sleep": "slept",
        "wear": "wore worn", "win": "won", "bring": "brought", "leave": "left", "feel": "felt", "speak": "spoke spoken",
        "break": "broke broken", "choose": "chose chosen", "find": "found", "lose": "lost", "spend": "spent",
        "send": "sent", "fight": "fought", "hold": "held", "hear": "heard", "throw": "threw thrown",
        "begin": "began begun", "wake": "woke woken", "sew": "sewn", "knit": "knitted knitting", "study": "studies",
        "bake": "bakery", "brew": "brewery", "die": "dying",
        "lie": "lying", "photograph": "photography", "marry": "marriage", "play": "played playing plays player players",
    }.items()
    for form in forms.split()
}  # fmt: skip

_WHOLE_WORDS = """
    thing king ring wing evening during ceiling sibling pudding lightning viking string spring bring darling
    hundred naked wicked sacred kindred family only reply supply italy july early ugly belly jelly lily silly bully
    holly rely ally assembly butterfly daily bus gas yes this plus lens christmas news tennis chess physics paris
    texas mathematics athletics politics species series always perhaps texas gymnastics ethics
    water mother father brother sister daughter paper number dinner letter better winter summer river cover butter
    corner flower tower shower power master offer weather feather leather other after over under never ever her
    per computer order layer finger ginger danger stranger hunger anger tiger amber timber member september october
    november december chamber soccer cancer officer grocer career peer beer deer cheer engineer volunteer pioneer
    either neither together rather whether gather grandmother grandfather former proper super copper pepper supper
    upper zipper slipper whisper temper monster easter poster sweater theater oyster hamster quarter center
    character matter bitter litter twitter glitter silver clever fever liver forever discover deliver consider
    wonder thunder gender tender shoulder ladder spider border murder elder folder counter meter liter laser
    cheeseburger burger hamburger lager eager passenger trigger roller shoulder fiber cyber cider sober manner
    banner inner partner owner mariner cooker diner chapter filter shelter register minister semester disaster
    cluster minor
"""
_WHOLE = frozenset(_WHOLE_WORDS.split())
"""Words that end like an inflection and are none."""

_APOSTROPHES = str.maketrans({"\u2019": "'", "\u2018": "'", "\u02bc": "'", "\u00b4": "'", "`": "'"})
_IDEOGRAPHS = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"  # scripts without spaces between words
# Python's \w knows no marks, but Indic and Southeast Asian scripts spell with them. Those of Latin, Hebrew and Arabic may be left out.
_SPELLING_MARKS = "".join(
    chr(code) for part in (range(0x900, 0x1D00), range(0xA800, 0xAC00)) for code in part if unicodedata.category(chr(code)) in ("Mn", "Mc")
)
_LETTER = rf"[^\W_{_IDEOGRAPHS}]"
_WORD, _MARKED_WORD = (
    re.compile(rf"[{_IDEOGRAPHS}]+|{letter}+(?:'{letter}+)*") for letter in (_LETTER, rf"(?:{_LETTER}|[{_SPELLING_MARKS}])")
)
_VOWEL = re.compile(r"[aeiouy]")
_SENTENCE_END = re.compile(r"(?:(?<=[.!?\u2026])|(?<=[.!?\u2026][\"')\u201d]))\s+|\s*\n\s*|(?<=[\u3002\uff01\uff1f])(?![\u3002\uff01\uff1f\u201d\u300d])")
_ABBREVIATION = re.compile(r"(?:^|\s|\()(?:mr|mrs|ms|dr|prof|st|vs|no|jr|sr|e\.g|i\.e|approx|[A-Za-z])\.$", re.IGNORECASE)
_NOT_NORMAL = re.compile(rf"[^\w\s+#{_SPELLING_MARKS}]+|_")

_AUXILIARY = (
    r"(?:am|is|are|was|were|do|does|did|have|has|had|can|could|will|would|should|shall|may|might|ca|wo|"
    r"isn't|aren't|wasn't|weren't|don't|doesn't|didn't|haven't|hasn't|can't|couldn't|won't|wouldn't|shouldn't)"
)
_SUBJECT = r"(?:i|you|u|ya|he|she|it|we|they|that|this|these|those|there|your|my|his|her|the|any|anyone|anybody|people)"
_QUESTION = re.compile(
    rf"(?:(?:so|and|but|well|oh|ok|okay|hey|hi|hello|also|or|then|now|wow|nice|cool),?\s+)*"
    rf"(?:(?:what|who|where|when|why|which|how|whose|whom)(?:'s|'re|\s+{_AUXILIARY})\b"
    rf"|(?:what|which)\s+(?:kind|type|sort|colou?r|part|else|about)\b"
    rf"|how\s+(?:about|many|much|long|often|old|far|come|big)\b"
    rf"|why\s+not\b|{_AUXILIARY}\s+{_SUBJECT}\b)",
    re.IGNORECASE,
)


def normalise(text: str) -> str:
    """The form under which two texts count as the same: NFKC, casefolded, punctuation and spaces folded.

    ``+`` and ``#`` stay, so that C, C++ and C# differ.

    >>> normalise("  Rock-Climbing,  MOSTLY indoors! "), normalise("Don’t")
    ('rock climbing mostly indoors', 'dont')
    """
    return _normalise(text) if len(text) <= _LONGEST_CACHED else _normalise.__wrapped__(text)


@_cached()
def _normalise(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold().translate(_APOSTROPHES).replace("'", "")
    return " ".join(_NOT_NORMAL.sub(" ", folded).split())


def letters(text: str) -> str:
    """The normal form without its spaces: the same for a text that is hyphenated, spaced or punctuated anew.

    >>> letters("Rock-climbing, mostly!") == letters("ro-ck climb ing mostly")
    True
    """
    return normalise(text).replace(" ", "")


def visible(text: str) -> str:
    """A text without the characters that nobody sees, which part the words that hold them: soft hyphens, joiners, fillers, selectors."""
    return text if text.isascii() else _INVISIBLE.sub("", text)


def sentences(text: str) -> tuple[str, ...]:
    """Split at sentence ends, Chinese stops and line breaks; the punctuation stays with its sentence.

    >>> sentences("Dr. Lee is off. Pity! It costs 3.50, right?")
    ('Dr. Lee is off.', 'Pity!', 'It costs 3.50, right?')
    """
    return _sentences(text) if len(text) <= _LONGEST_CACHED else _sentences.__wrapped__(text)


@_cached()
def _sentences(text: str) -> tuple[str, ...]:
    found: list[str] = []
    glue = False  # the piece before ended in an abbreviation or holds no word yet
    for piece in map(str.strip, _SENTENCE_END.split(text)):
        if not piece:
            continue
        trails_on = bool(found) and piece[0].islower() and found[-1].endswith(("...", "\u2026"))
        if found and (glue or trails_on or not any(map(str.isalnum, piece))):
            found[-1] = f"{found[-1]} {piece}"
        else:
            found.append(piece)
        end = found[-1][-9:]  # no abbreviation is longer, with what stands before it
        glue = (end[-1] == "." and _ABBREVIATION.search(end) is not None) or not any(map(str.isalnum, found[-1]))
    return tuple(found)


def words(text: str) -> tuple[str, ...]:
    """Lower-case tokens of letters, digits and inner apostrophes; a run of ideographs is one token.

    >>> words("Don’t panic: it's my 2nd dog-walk.")
    ("don't", 'panic', "it's", 'my', '2nd', 'dog', 'walk')
    >>> words("我是nurse，也下chess。")
    ('我是', 'nurse', '也下', 'chess')
    """
    return _words(text) if len(text) <= _LONGEST_CACHED else _words.__wrapped__(text)


@_cached()
def _words(text: str) -> tuple[str, ...]:
    return tuple((_WORD if text.isascii() else _MARKED_WORD).findall(text.translate(_APOSTROPHES).lower()))


@_cached()
def stem(word: str) -> str:
    """Reduce one lower-case word to a stem shared by its inflections and its agent noun.

    >>> [stem(word) for word in ("bakers", "baking", "baked", "stories", "runner", "children", "hiking")]
    ['bak', 'bak', 'bak', 'stori', 'run', 'child', 'hik']
    """
    if word.endswith("'s"):
        word = word[:-2]
    word = word.replace("'", "")
    word = _IRREGULAR.get(word, word)
    if len(word) < 4 or not word.isalpha():
        return word
    word = _singular(word)
    if word not in _WHOLE:
        word = _without_ending(word)
    return _terminal(word)


def _singular(word: str) -> str:
    if word in _WHOLE or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies"):
        return word[:-1] if len(word) <= 4 else word[:-3] + "y"
    if word.endswith(("ches", "shes", "sses", "xes", "zes", "oes")):
        return word[:-2]
    return word[:-1]


def _without_ending(word: str) -> str:
    """Strip one of -ing, -ed, -er, -est-free -ly when a plausible stem remains."""
    for ending, shortest in (("ingly", 3), ("edly", 3), ("ing", 3), ("ied", 2), ("ed", 3), ("ier", 3), ("er", 3), ("ly", 4)):
        if not word.endswith(ending):
            continue
        rest = word[: -len(ending)]
        if len(rest) < (2 if ending in ("ing", "ed") else shortest) or not _VOWEL.search(rest):
            return word
        if ending in ("ed", "er") and rest.endswith("e"):  # need, beer, speed
            return word
        if ending in ("ied", "ier"):
            return rest + "y"
        if ending != "ly" and len(rest) > 3 - (ending != "er") and rest[-1] == rest[-2] and rest[-1] not in "aeiouls":
            rest = rest[:-1]  # running, jogger; but calling, missed
        elif ending != "ly" and rest.endswith(("ell", "oll", "vill")) and len(rest) > 5:
            rest = rest[:-1]  # travelling, controlled
        return rest
    return word


def _terminal(word: str) -> str:
    if len(word) > 3 and word[-1] == "e" and word != "wine":  # which is not to win
        return word[:-1]
    if len(word) > 3 and word[-1] == "y" and word[-2] not in "aeiou":
        return word[:-1] + "i"
    return word


def stems(text: str) -> frozenset[str]:
    """The stems of the content words: stop words and single letters are dropped, numbers are kept.

    >>> sorted(stems("I've been baking for 12 years, it's the best!"))
    ['12', 'bak', 'best', 'year']
    """
    return _stems(text) if len(text) <= _LONGEST_CACHED else _stems.__wrapped__(text)


@_cached()
def _stems(text: str) -> frozenset[str]:
    parts = sentences(text)
    if len(parts) > 1:  # people say the same sentences again, in other messages
        return frozenset().union(*map(stems, parts))
    found = set()
    for word in words(text):
        if word in STOP_WORDS or (word.endswith("'s") and word[:-2] in STOP_WORDS):
            continue
        if len(word) > 1 or word.isdigit():
            found.add(stem(word))
    return frozenset(found)


def is_question(sentence: str) -> bool:
    """Whether one sentence asks: it ends in a question mark, or opens like a question without one.

    >>> is_question("And you?"), is_question("so what do you do for work"), is_question("What a day!")
    (True, True, False)
    """
    return _is_question(sentence) if len(sentence) <= _LONGEST_CACHED else "?" in sentence[-4:]


@_cached()
def _is_question(sentence: str) -> bool:
    bare = sentence.rstrip(" \t\r\n\"')\u201d.!\u2026")
    if bare[-1:] in ("?", "\uff1f"):
        return True
    return not sentence.rstrip().endswith("!") and _QUESTION.match(sentence.translate(_APOSTROPHES)) is not None
