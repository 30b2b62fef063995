"""Score an agent of your own beside the reference agents.

    python examples/02_your_own_agent.py [--users 20] [--smoke]

An agent is any object with `act(messages) -> str`. This one always asks about hobbies and lists nothing but what
follows "I love" or "I like". It shows the form, not how to do well: people seldom say just that, and leave when they are asked the
same again, so it earns less than an agent that never listens. What does well is `rlpa_env/attentive.py`.
"""

import argparse
import re

from rich.console import Console

from rlpa_env import Point, format_action
from rlpa_env.evaluate import evaluate, results_table

QUESTIONS = (
    "Hi, I just made tea. What do you like doing in your free time?",
    "I could use a hobby like that. What else do you enjoy doing?",
    "My weekends are mostly laundry, I'm a bit jealous. Any other hobby on the side?",
)


class HobbyHunter:
    """Knows one trick, honestly."""

    def act(self, messages):
        said = " ".join(message["content"] for message in messages if message["role"] == "user")
        found = re.findall(r"\bI (?:love|like) ([a-z ]{3,30})", said)
        points = [Point("Interests", value.strip()) for value in dict.fromkeys(found)]
        turn = sum(message["role"] == "assistant" for message in messages)
        return format_action(points, QUESTIONS[turn % len(QUESTIONS)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--smoke", action="store_true", help="two users only")
    args = parser.parse_args()
    users = 2 if args.smoke else args.users
    agents = {"hobby hunter": HobbyHunter(), "attentive": None, "script": None}
    rows = evaluate(agents, split="vanilla/test", users=users, quiet=True, workers=1)
    Console(width=150).print(results_table(rows, f"{users} held-out users"))


if __name__ == "__main__":
    main()
