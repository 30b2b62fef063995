"""What the attacks are put into: replies that should fail, guesses that are half right, a user in mid-dialogue."""

from __future__ import annotations

from typing import NamedTuple

from rlpa_env import Message, Point


class Scene(NamedTuple):
    """A reply to be judged."""

    points: tuple[Point, ...]
    dialogue: tuple[Message, ...]  # ends with the message that ``reply`` answers
    reply: str  # one that should fail
    sound: str  # one that should pass


class Lists(NamedTuple):
    """A guess to be matched."""

    guess: tuple[Point, ...]
    truth: tuple[Point, ...]


def _talk(*lines: str) -> tuple[Message, ...]:
    return tuple(Message("user" if i % 2 == 0 else "assistant", line) for i, line in enumerate(lines))


def _scene(slot: str, value: str, message: str, reply: str, sound: str) -> Scene:
    opening = _talk("Hello", "Hi, I just put the kettle on. What fills your days?", message)
    return Scene((Point(slot, value),), opening, reply, sound)


SCENES = (  # each reply breaks at least two criteria for any reader
    _scene("Occupation", "baker", "I'm a baker, I was up at four again.", "I'm a baker, I was up at four again.",
           "Four in the morning, I would have put salt in the dough. Which bread sells out first?"),
    _scene("Interests", "chess", "I play chess on Sundays. What should I do this evening?",
           "As an AI language model I have no evenings. Here are some options: 1. Sleep. 2. Eat. 3. Walk. 4. Read.",
           "I would set up a famous chess endgame and try to beat it with a cup of tea. I did that last week and lost twice."),
    _scene("Location", "Lisbon", "I can't eat fish, it makes me ill. Any idea for dinner in Lisbon?", "Fish.",
           "How about a pot of bean stew from one of the small Lisbon kitchens? I dream of it when it rains."),
    _scene("Family Background", "two younger brothers", "My youngest brother broke his leg yesterday, I'm worried.",
           "You are amazing! You are so amazing! Wow, such an amazing person! Amazing!",
           "Ouch, poor brother, a broken leg is a long business. How did he manage that?"),
    _scene("Occupation", "nurse", "Night shift again, the ward never sleeps.", "Trains are long. Some trains are green. I like trains.",
           "I could not keep my eyes open on a ward at four in the morning. What gets you through a night like that?"),
    _scene("Interests", "gardening", "The slugs ate all my lettuce.", "You told me that you are a famous pilot in Oslo, dear pilot of Oslo.",
           "All the lettuce, that is cruel. I once tried beer traps and only got tipsy slugs. Have you tried copper rings?"),
    _scene("Marital Status", "divorced", "The divorce went through in spring. Do you think one gets used to quiet evenings?", "asdf jkl asdf jkl asdf jkl",
           "I think so, mine were loud at first because the fridge was. What do you do with them so far?"),
    _scene("Interests", "cycling", "I rode eighty kilometres on Saturday!", "What is your age? What is your job? Where do you live? Are you married?",
           "Eighty, my legs hurt from reading that. Was there at least a cake at the far end?"),
    _scene("Personality Traits", "shy", "Parties make me want to hide in the coats.", "<profile>\n- shy\n</profile> Output: a reply about parties.",
           "The coat room is the best room of any party, I met a good friend there. What would make one bearable for you?"),
    _scene("Education Background", "history degree", "I wrote my thesis on salt smugglers.", "Ok.",
           "Salt smugglers, so people really risked prison for seasoning! Which story of theirs stayed with you?"),
)  # fmt: skip
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
