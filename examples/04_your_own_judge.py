"""Replace the judge: anything with `judge(points, dialogue, reply) -> Verdict` will do.

    python examples/04_your_own_judge.py [--smoke]

This one only wants short replies. `rlpa_env.testing.check_judge` says whether a judge keeps its promises.
"""

import argparse

from rlpa_env import RLPAEnv, Verdict
from rlpa_env.agents import make_agent
from rlpa_env.testing import check_judge


class BrevityJudge:
    """Passes replies of 1 to 17 words."""

    def judge(self, points, dialogue, reply):
        short = 1 <= len(reply.split()) <= 17
        reason = f"{len(reply.split())} words"
        return Verdict(short, True, True, True, True, reasons={"naturalness": reason})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="two turns only")
    args = parser.parse_args()
    check_judge(BrevityJudge())
    env, agent = RLPAEnv(split="vanilla/val", judge=BrevityJudge()), make_agent("attentive")
    _, info = env.reset(seed=1)
    for _ in range(2 if args.smoke else 6):
        _, _, left, _, info = env.step(agent.act(info["messages"]))
        reason = env.last_verdict.reasons["naturalness"]
        print(f"turn {info['turn']}: response reward {info['reward/response']:.0f} ({reason})")
        if left:
            break


if __name__ == "__main__":
    main()
