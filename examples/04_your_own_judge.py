"""Replace the judge: anything with `judge(points, dialogue, reply) -> Verdict` will do.

    python examples/04_your_own_judge.py [--smoke]
    PYTHONPATH=examples rlpa-agent train tiny --rollout.env-id 04_your_own_judge:Brevity-v0 --minutes 5 --out runs/brevity

This one only wants short replies. `rlpa_env.testing.check_judge` says whether a judge keeps its promises. Training and evaluation find it
by an id that this module registers. A reward of another form: an `entry_point` that wraps RLPAEnv in a `gymnasium.RewardWrapper`.
"""

import argparse

import gymnasium as gym

from rlpa_env import Verdict
from rlpa_env.agents import make_agent
from rlpa_env.testing import check_judge


class BrevityJudge:
    """Passes replies of 1 to 17 words."""

    def judge(self, points, dialogue, reply):
        short = 1 <= len(reply.split()) <= 17
        reason = f"{len(reply.split())} words"
        return Verdict(short, True, True, True, True, reasons={"naturalness": reason})


gym.register("Brevity-v0", entry_point="rlpa_env:RLPAEnv", kwargs={"judge": BrevityJudge()}, max_episode_steps=10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="two turns only")
    args = parser.parse_args()
    check_judge(BrevityJudge())
    env, agent = gym.make("Brevity-v0", split="vanilla/val"), make_agent("attentive")
    _, info = env.reset(seed=1)
    for _ in range(2 if args.smoke else 6):
        _, _, left, _, info = env.step(agent.act(info["messages"]))
        reason = env.unwrapped.last_verdict.reasons["naturalness"]
        print(f"turn {info['turn']}: response reward {info['reward/response']:.0f} ({reason})")
        if left:
            break


if __name__ == "__main__":
    main()
