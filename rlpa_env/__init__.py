"""RLPA: dialogues with a user whose profile is hidden, as a Gymnasium environment (arXiv 2505.15456)."""

import gymnasium as gym

from rlpa_env.actions import Action, format_action, instructions, parse_action
from rlpa_env.agents import Agent
from rlpa_env.env import RLPAEnv, fork, restore
from rlpa_env.errors import ConfigError, ModelError, NotInstalledError, ProfileError, RLPAError
from rlpa_env.evaluate import evaluate
from rlpa_env.judges import Judge, RuleJudge
from rlpa_env.matching import LexicalMatcher, Matcher
from rlpa_env.population import load_split
from rlpa_env.profiles import Profile, load_profiles
from rlpa_env.types import CRITERIA, Message, Point, StopReason, Verdict
from rlpa_env.users import ScriptedUser, UserSimulator, UserTurn
from rlpa_env.wrappers import LastMessage, RecordEpisodes, read_episodes

__version__ = "0.1.0"

__all__ = [
    "CRITERIA",
    "Action",
    "Agent",
    "ConfigError",
    "Judge",
    "LastMessage",
    "LexicalMatcher",
    "Matcher",
    "Message",
    "ModelError",
    "NotInstalledError",
    "Point",
    "Profile",
    "ProfileError",
    "RLPAEnv",
    "RLPAError",
    "RecordEpisodes",
    "RuleJudge",
    "ScriptedUser",
    "StopReason",
    "UserSimulator",
    "UserTurn",
    "Verdict",
    "evaluate",
    "fork",
    "format_action",
    "instructions",
    "load_profiles",
    "load_split",
    "parse_action",
    "read_episodes",
    "restore",
]

_ENTRY = "rlpa_env.env:RLPAEnv"
for _name, _turns, _more in (
    ("RLPA-v0", 10, {}),
    ("RLPA-Extended-v0", 10, {"split": "extended/train"}),
    ("RLPA-Shift-v0", 10, {"shift_turn": 6}),
    ("RLPA-Long-v0", 70, {}),
):
    gym.register(_name, _ENTRY, max_episode_steps=_turns, kwargs={"max_turns": _turns, **_more})
