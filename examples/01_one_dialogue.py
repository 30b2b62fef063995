"""Hold one dialogue with a simulated user and watch the rewards.

    python examples/01_one_dialogue.py [--seed 3] [--smoke]

The agent here is the rule-based `attentive`; the hidden profile is printed at the end.
"""

import argparse

import gymnasium as gym

import rlpa_env  # noqa: F401 - registers RLPA-v0
from rlpa_env.agents import make_agent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=3, help="who it is, and how they talk")
    parser.add_argument("--smoke", action="store_true", help="two turns only")
    args = parser.parse_args()

    turns = 2 if args.smoke else 10
    env = gym.make("RLPA-v0", split="vanilla/test", max_turns=turns, max_episode_steps=turns, render_mode="ansi")  # what is told, and what holds
    agent = make_agent("attentive")
    _, info = env.reset(seed=args.seed)
    total, over = 0.0, False
    while not over:
        action = agent.act(info["messages"])
        _, reward, terminated, truncated, info = env.step(action)
        total += reward
        over = terminated or truncated
        f1, passed = info["profile/f1"], info["reward/response"] == 1
        print(f"turn {info['turn']:2d}  reward {reward:.2f}  profile F1 {f1:.2f}  reply passed: {passed}")
    print(env.render())
    print(f"return {total:.2f}")


if __name__ == "__main__":
    main()
