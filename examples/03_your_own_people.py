"""Let the agent meet people of your own: a JSONL file of profiles with any slot names.

    python examples/03_your_own_people.py [--profiles FILE.jsonl] [--smoke]
"""

import argparse
import json
import tempfile
from pathlib import Path

import gymnasium as gym

import rlpa_env  # noqa: F401 - registers RLPA-v0
from rlpa_env.agents import make_agent

PEOPLE = [
    {"id": "ada", "slots": {"Occupation": "lighthouse keeper", "Interests": ["chess", "kites"], "Shoe Size": "43"}},
    {"id": "bo", "slots": {"Location": "Trondheim", "Boat": "a red dinghy", "Interests": ["knots", "weather maps"]}},
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profiles", type=Path, help="one JSON object a line: id and slots")
    parser.add_argument("--smoke", action="store_true", help="one person, three turns")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = args.profiles or Path(folder) / "people.jsonl"
        if args.profiles is None:
            path.write_text("".join(json.dumps(person) + "\n" for person in PEOPLE))
        turns = 3 if args.smoke else 10
        env = gym.make("RLPA-v0", split=str(path), cues="explicit", max_turns=turns, max_episode_steps=turns)
        for person in env.unwrapped.profiles[: 1 if args.smoke else None]:
            agent = make_agent("attentive")
            _, info = env.reset(seed=0, options={"profile": person.id})
            over = False
            while not over:
                _, _, terminated, truncated, info = env.step(agent.act(info["messages"]))
                over = terminated or truncated
            told = ", ".join(f"{point.slot}: {point.value}" for point in env.unwrapped.revealed) or "nothing"
            print(f"{person.id} told {told}; the agent's last profile F1 is {info['profile/f1']:.2f}")


if __name__ == "__main__":
    main()
