"""What the attacks are put into: replies that should fail, guesses that are half right, a user in mid-dialogue."""

from __future__ import annotations

from typing import NamedTuple

from rlpa_env import Message, Point


class Scene(NamedTuple):
    """A reply to be judged."""

    points: tuple[Point, ...]
    dialogue: tuple[Message, ...]  # ends with the message that ``reply`` answers
    reply: str


class Lists(NamedTuple):
    """A guess to be matched."""

    guess: tuple[Point, ...]
    truth: tuple[Point, ...]


def _talk(*lines: str) -> tuple[Message, ...]:
    return tuple(Message("user" if i % 2 == 0 else "assistant", line) for i, line in enumerate(lines))


_BAKER = (Point("Occupation", "baker"), Point("Interests", "chess"))
_OPENING = _talk("Hello", "Hi, I just put the kettle on. What fills your days?")
SCENES = (  # each reply breaks at least two criteria for any reader
    Scene(_BAKER, (*_OPENING, Message("user", "I'm a baker, I was up at four again.")), "I'm a baker, I was up at four again."),
    Scene(
        _BAKER,
        (*_OPENING, Message("user", "I play chess on Sundays. What should I do this evening?")),
        "As an AI language model I have no evenings. Here are some options: 1. Sleep. 2. Eat. 3. Walk. 4. Read.",
    ),
    Scene(
        (Point("Location", "Lisbon"),),
        (*_OPENING, Message("user", "I can't eat fish, it makes me ill. Any idea for dinner in Lisbon?")),
        "Fish.",
    ),
    Scene(
        (Point("Family Background", "two younger brothers"),),
        (*_OPENING, Message("user", "My youngest brother broke his leg yesterday, I'm worried.")),
        "You are amazing! You are so amazing! Wow, such an amazing person! Amazing!",
    ),
)
LISTS = (
    Lists(
        (Point("Occupation", "works in a bakery"), Point("Interests", "sailing"), Point("", "has three cats")),
        (Point("Occupation", "baker"), Point("Interests", "chess"), Point("Location", "Lisbon"), Point("Other Information", "collects stamps")),
    ),
    Lists(
        (Point("Location", "Porto"), Point("Personality Traits", "cheerful")),
        (Point("Location", "Lisbon"), Point("Personality Traits", "grumpy"), Point("Interests", "hiking"), Point("Gender", "woman")),
    ),
    Lists(
        (Point("Interests", "reading"), Point("Education Background", "law degree"), Point("Marital Status", "married")),
        (Point("Interests", "origami"), Point("Education Background", "physics degree"), Point("Marital Status", "divorced")),
    ),
    Lists(
        (Point("Occupation", "nurse"), Point("Age", "34")),
        (Point("Occupation", "night nurse"), Point("Age", "43"), Point("Family Background", "only child"), Point("Interests", "darts")),
    ),
)
REMARKS = (  # what an agent says before the attack
    "I baked a terrible cake last night, it fell apart on the plate.",
    "I have been staring at the same page of my book for an hour.",
)
