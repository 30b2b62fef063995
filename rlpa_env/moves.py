"""What kind of move an utterance makes: greets, answers yes or no, takes leave, speaks of somebody. Patterns only."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache

_YES = re.compile(
    r"^\W*(?:(?:oh|well|haha|lol|ah|hmm?|honestly)\W+)*(?:yes|yeah|yea|yep|yup|no|nope|nah|not|sure|of course|definitely|absolutely|never|"
    r"sometimes|often|rarely|i (?:do|am|have|can|would|did|was|don't|think so|think not)|i'm|maybe|kind of|sort of|kinda|a little|only|both|neither)\b",
    re.IGNORECASE,
)
_ACKNOWLEDGES = re.compile(
    r"^\W*(?:(?:oh|wow|haha|lol|aw+|ah)\W+)*(?:that|that's|thats|cool|nice|great|awesome|wow|sounds|interesting|really|lol|haha|aw+|"
    r"amazing|congrat\w*|good for|neat|true|ok)\b",
    re.IGNORECASE,
)
_RETURNS = re.compile(r"\b(?:how|what) about (?:you|u|yourself)\b|(?:^|[.,!]\s*)(?:and )?(?:you|yourself)\s*\?", re.IGNORECASE)
_ME_TOO = re.compile(r"\b(?:me too|me neither|so do i|same here|i (?:do|am|have|can|would|did) too|i agree)\b", re.IGNORECASE)
_GREETING = re.compile(r"^\W*(?:hello|hi|hey|howdy|hiya|good (?:morning|evening|afternoon|day)|greetings|nice to meet)\b", re.IGNORECASE)
_HOW_ARE = re.compile(
    r"\bhow(?:'s| is| are| r)? (?:are |r )?(?:you|u|it going|everything|things|your (?:day|evening|morning|night|week))\b"
    r"(?= (?:doing|today|tonight|this|feeling|been|going|so far)|\W*(?:$|[?.!,]))",
    re.IGNORECASE,
)
_FINE = re.compile(
    r"\b(?:good|great|fine|well|ok|okay|alright|tired|fantastic|bored|better|awesome|relax\w*|excited|busy|wonderful|not (?:so|too)|"
    r"can't complain|lovely|hanging|quiet|slow|sleepy|happy|long)\b",
    re.IGNORECASE,
)
_BYE = re.compile(
    r"\b(?:bye|goodbye|good night|nice (?:talking|chatting|meeting)|have a (?:good|great|nice)|talk (?:to you )?later|gotta go|see you|take care)\b",
    re.IGNORECASE,
)
_SAD = re.compile(
    r"\b(?:died|dead|death|passed away|sick|cancer|lost|divorc\w+|lonely|sad|depress\w+|injur\w+|hurt|broke|broken|fired|unfortunately|"
    r"miss|alone|killed|accident|struggl\w+|tough|stress\w*|scared|afraid|pain|awful|terrible|funeral|ill|cry|cried|hard)\b",
    re.IGNORECASE,
)
_SORRY = re.compile(r"\b(?:sorry|that sucks|oh no|too bad|that's sad|bummer|terrible|awful|that is sad)\b", re.IGNORECASE)
_HE_SHE = re.compile(r"\b(?:he|she|his|her|him|hers|he's|she's)\b", re.IGNORECASE)
_PERSON = re.compile(
    r"\b(?:he|she|his|her|him|mother|mom|mum|father|dad|wife|husband|son|daughter|brother|sister|friend|boyfriend|girlfriend|boss|dog|cat|"
    r"uncle|aunt|cousin|niece|nephew|neighbou?r|grandm\w+|grandfather|grandpa|grandson|granddaughter|kid|man|woman|guy|girl|boy|baby|pet|"
    r"teacher|fiance|partner|colleague|roommate|singer|artist|author|horse|puppy|kitten|parrot|rabbit|player|actor|actress)s?\b",
    re.IGNORECASE,
)
_HOW_MUCH = re.compile(r"\bhow (?:old|many|long|much|often|far)\b", re.IGNORECASE)
_AMOUNT = re.compile(
    r"\d|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|twenty|thirty|forty|few|years?|months?|weeks?|days?|every|often|once|"
    r"twice|never|always|since|not (?:much|long|far|many))\b",
    re.IGNORECASE,
)
_REASON = re.compile(r"\b(?:because|cause|since|just|so that|it's|it is|in order|to)\b", re.IGNORECASE)
_PLACE = re.compile(r"\b(?:in|from|at|near|by|live|here|outside)\b", re.IGNORECASE)
_SPEAKS_OF_SELF = re.compile(r"\b(?:i|i'm|i've|i'd|i'll|im|ive|my|me|mine|we|our|us)\b", re.IGNORECASE)
_WHY = re.compile(r"\bwhy\b|\bhow come\b", re.IGNORECASE)
_WHERE = re.compile(r"\bwhere\b", re.IGNORECASE)


@dataclass(frozen=True)
class Moves:
    """The moves of one utterance; each is looked up when first asked for and kept."""

    text: str

    @cached_property
    def yes(self) -> bool:
        """It opens like the answer to a yes/no question."""
        return _YES.match(self.text) is not None

    @cached_property
    def acknowledges(self) -> bool:
        """It opens with a short reaction."""
        return _ACKNOWLEDGES.match(self.text) is not None

    @cached_property
    def returns(self) -> bool:
        """It asks "and you?"."""
        return _RETURNS.search(self.text) is not None

    @cached_property
    def me_too(self) -> bool:
        """It says the same of the speaker."""
        return _ME_TOO.search(self.text) is not None

    @cached_property
    def greets(self) -> bool:
        """It opens with a greeting."""
        return _GREETING.match(self.text) is not None

    @cached_property
    def how_are(self) -> bool:
        """It asks how the other is."""
        return _HOW_ARE.search(self.text) is not None

    @cached_property
    def fine(self) -> bool:
        """It says how one is."""
        return _FINE.search(self.text) is not None

    @cached_property
    def bye(self) -> bool:
        """It takes leave."""
        return _BYE.search(self.text) is not None

    @cached_property
    def sad(self) -> bool:
        """It tells something sad."""
        return _SAD.search(self.text) is not None

    @cached_property
    def sorry(self) -> bool:
        """It is sorry to hear it."""
        return _SORRY.search(self.text) is not None

    @cached_property
    def person(self) -> bool:
        """It mentions somebody whom he or she may mean."""
        return _PERSON.search(self.text) is not None

    @cached_property
    def amount(self) -> bool:
        """It gives a number or a time."""
        return _AMOUNT.search(self.text) is not None

    @cached_property
    def reason(self) -> bool:
        """It may give a reason."""
        return _REASON.search(self.text) is not None

    @cached_property
    def place(self) -> bool:
        """It may name a place."""
        return _PLACE.search(self.text) is not None

    @cached_property
    def personal(self) -> bool:
        """It speaks of its speaker."""
        return _SPEAKS_OF_SELF.search(self.text) is not None

    @cached_property
    def how_much(self) -> bool:
        """It asks for a number or a time."""
        return _HOW_MUCH.search(self.text) is not None

    @cached_property
    def why(self) -> bool:
        """It asks for a reason."""
        return _WHY.search(self.text) is not None

    @cached_property
    def where(self) -> bool:
        """It asks for a place."""
        return _WHERE.search(self.text) is not None

    @cached_property
    def stranger(self) -> bool:
        """It says he or she without having introduced anybody."""
        return _HE_SHE.search(self.text) is not None and not _PERSON.search(_HE_SHE.sub(" ", self.text))


@lru_cache(maxsize=16_384)
def moves(text: str) -> Moves:
    """The moves of ``text``, shared by everybody who asks.

    >>> moves("Yes, me too!").yes, moves("He never calls.").stranger
    (True, True)
    """
    return Moves(text)
