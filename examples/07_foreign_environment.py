"""Train on an environment that knows nothing of this project: TextArena's GuessTheNumber, a number of 1 … 20 in five guesses.

    pip install '.[agent,textarena]'
    python examples/07_foreign_environment.py [--iterations 100] [--smoke]

What the trainer wants of an environment is Gymnasium's reset and step with texts (`rlpa_agent.protocols.TextEnv`). The
policy is a small Qwen2 built here, with a word for every number. Guessing at random wins one game in five; halving wins all.
"""

import argparse
import re
import tempfile
from pathlib import Path

import textarena
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config

from rlpa_agent import Policy, TrainConfig, Trainer
from rlpa_agent.config import EvalConfig, OptimConfig, PPOConfig, RolloutConfig
from rlpa_agent.tokenizer import SPECIALS, TEMPLATE

GUESSES = 5
WORDS = ("?", "higher", "lower", "already", "outside", *map(str, range(1, 21)))


class GuessTheNumber:
    """TextArena's game as a `TextEnv`: its new messages are the observation, a won game is paid 1."""

    def __init__(self):
        self.game = textarena.make("GuessTheNumber-v0-raw")

    def reset(self, *, seed=None, options=None):
        self.game.reset(num_players=1, seed=seed)  # seeds Python's own random numbers, from which it draws
        return self.heard(), {}

    def step(self, text):
        over, _ = self.game.step(f"[{text}]")  # as its wrapper for training does
        # For a lost game TextArena pays how near the last guess was: 0.65 for giving up at once. That is not paid here.
        won = over and self.game.close()[0][0] == 1
        return self.heard(), float(won), over, False, {}

    def heard(self):
        texts = [text for sender, text, _ in self.game.get_observation()[1] if sender == textarena.GAME_ID]
        return " ".join(word for word in re.findall(r"\w+", " ".join(texts)) if word in WORDS)  # the policy reads no others


def small_policy():
    """Two layers and a vocabulary of the words that matter; every other word is "?"."""
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.add_special_tokens(list(SPECIALS))
    ends = {"pad_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, clean_up_tokenization_spaces=False, **ends)
    tokenizer.chat_template = TEMPLATE
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=512, tie_word_embeddings=True, initializer_range=0.1,
    )  # fmt: skip
    return Policy.from_config(config, tokenizer, system_prompt="", max_user_tokens=16)


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--iterations", type=int, default=100, help="of training, 512 games each")
parser.add_argument("--smoke", action="store_true", help="two small iterations, to see that it runs")
args = parser.parse_args()
games = 8 if args.smoke else 512
config = TrainConfig(
    rollout=RolloutConfig(dialogues=games, concurrent=games, max_turns=GUESSES, max_new_tokens=1),  # an answer is a word
    ppo=PPOConfig(beta=0.0, lam_turn=1.0, epochs=3, minibatches=16, critic_warmup=0, critic_steps=20, entropy=0.003, target_kl=None, max_kl=None),
    optim=OptimConfig(policy_lr=1e-3, critic_lr=1e-3),
    eval=EvalConfig(every=0),
    out=Path(tempfile.mkdtemp()),
)
trainer = Trainer(config, small_policy(), GuessTheNumber, quiet=True)
for iteration in range(1, 1 + (2 if args.smoke else args.iterations)):
    figures = trainer.one_iteration()
    if args.smoke or iteration == 1 or iteration % 10 == 0:
        print(f"iteration {iteration}: games won {figures['return']:.2f}, guesses {figures['turns']:.1f}", flush=True)
