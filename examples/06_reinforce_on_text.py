"""REINFORCE in sixty lines, on text: a policy over ready replies learns what to say when, from the reward alone.

    python examples/06_reinforce_on_text.py [--episodes 2000] [--smoke]

The action is text like any other; here it is chosen from a few candidates by a linear softmax over words of the user's
message. Nothing but numpy.
"""

import argparse

import gymnasium as gym
import numpy as np

import rlpa_env  # noqa: F401
from rlpa_env import attentive, format_action, replies

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--episodes", type=int, default=2000, help="dialogues of training")
parser.add_argument("--smoke", action="store_true", help="a few episodes, to see that it runs")
args = parser.parse_args()
episodes = 20 if args.smoke else args.episodes

SLOTS = ("Occupation", "Interests", "Location", "Education Background", "Personality Traits", "Other Information")


def candidates(messages):
    """Replies to choose from: an echo, small talk, an idea, or a reaction with a question for some slot."""
    last, key = messages[-1]["content"], str(len(messages))
    known = attentive.listed(messages)
    idea = replies.suggestion(known[-1], key) if known else "How about a walk and a warm drink?"
    reaction = replies.pick_up(last, key)
    return [last, replies.nth(replies.lines()["small"], key), idea, *(f"{reaction} {replies.question_for(s, key)}" for s in SLOTS)]


def features(messages):
    """A bias, the turn, whether the user asks, whether they told something; and which slots are known."""
    last = messages[-1]["content"]
    known = {point.slot for point in attentive.listed(messages)}
    request, question = attentive.wants(last)
    turn = np.eye(11)[min(10, len(messages) // 2)]
    return np.array([1.0, request, question, bool(attentive.read(last)), *(slot in known for slot in SLOTS), *turn])


rng = np.random.default_rng(0)
weights = np.zeros((3 + len(SLOTS), 4 + len(SLOTS) + 11))
env = gym.make("RLPA-v0")
baseline, returns = 0.0, []
for episode in range(episodes):
    _, info = env.reset(seed=episode)
    trace, rewards, over = [], [], False
    while not over:
        x = features(info["messages"])
        logits = weights @ x
        p = np.exp(logits - logits.max())
        p /= p.sum()
        choice = int(rng.choice(len(p), p=p))
        action = format_action(attentive.listed(info["messages"]), candidates(info["messages"])[choice])
        _, reward, terminated, truncated, info = env.step(action)
        trace.append((x, p, choice))
        rewards.append(reward)
        over = terminated or truncated
    togo = np.cumsum(rewards[::-1])[::-1]  # the return from each turn on
    for turn, (x, p, choice) in enumerate(trace):
        weights += 0.01 * (togo[turn] - baseline * (1 - turn / 10)) * np.outer(np.eye(len(p))[choice] - p, x)
    baseline += 0.02 * (togo[0] - baseline)
    returns.append(togo[0])
    if (episode + 1) % max(1, episodes // 10) == 0:
        print(f"episode {episode + 1}: mean return of the last tenth {np.mean(returns[-max(1, episodes // 10):]):.2f}")
