"""Classic RL on dialogue moves: PPO, A2C or DQN of stable-baselines3, one changed line between them.

    python examples/05_stable_baselines3.py [--algo ppo|a2c|dqn] [--steps 100000] [--smoke]

`DialogueActs` turns the dialogue into a vector and a move into words, so any algorithm for vectors will do. In some three
minutes on one core PPO passes the `script` agent: ten fixed questions, and a list of what it was told. Needs the extra [sb3].
"""

import argparse

import gymnasium as gym
from stable_baselines3 import A2C, DQN, PPO

import rlpa_env  # noqa: F401
from rlpa_env import DialogueActs
from rlpa_env.agents import make_agent

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--algo", choices=("ppo", "a2c", "dqn"), default="ppo")
parser.add_argument("--steps", type=int, default=100_000, help="turns of training")
parser.add_argument("--users", type=int, default=100, help="held-out users of the comparison")
parser.add_argument("--smoke", action="store_true", help="a few steps, to see that it runs")
args = parser.parse_args()
steps, users = (600, 3) if args.smoke else (args.steps, args.users)

env = DialogueActs(gym.make("RLPA-v0"), flat=args.algo == "dqn")
common = {"seed": 0, "device": "cpu", "gamma": 0.95, "verbose": 0}
if args.algo == "ppo":
    model = PPO("MlpPolicy", env, n_steps=2048 if steps > 2048 else 256, batch_size=256, learning_rate=1e-3, ent_coef=0.01, **common)
elif args.algo == "a2c":
    model = A2C("MlpPolicy", env, n_steps=20, ent_coef=0.01, **common)
else:
    model = DQN("MlpPolicy", env, learning_starts=500, exploration_fraction=0.3, **common)
model.learn(steps, progress_bar=False)


def mean_return(act, held_out):
    """Mean return over held-out users."""
    total = 0.0
    for seed in range(users):
        observation, info = held_out.reset(seed=seed)
        over = False
        while not over:
            observation, reward, terminated, truncated, info = held_out.step(act(observation, info))
            total += reward
            over = terminated or truncated
    return total / users


val = gym.make("RLPA-v0", split="vanilla/val")
learned = mean_return(lambda observation, _: model.predict(observation, deterministic=True)[0], DialogueActs(val, flat=args.algo == "dqn"))
print(f"{args.algo} after {steps} turns: return {learned:.2f} with {users} held-out users")
for name in ("prior", "script", "attentive"):
    agent = make_agent(name)
    print(f"{name}: {mean_return(lambda _, info, agent=agent: agent.act(info['messages']), val):.2f}")
