"""RLPA: dialogues with a user whose profile is hidden, as a Gymnasium environment (arXiv 2505.15456)."""

import gymnasium as gym

from rlpa_env.actions import Action, format_action, instructions, parse_action
from rlpa_env.agents import Agent
from rlpa_env.clients import ChatClient, ChatConfig
from rlpa_env.env import RLPAEnv
from rlpa_env.errors import (
    BudgetError,
    ConfigError,
    ContextError,
    ModelError,
    NotInstalledError,
    OffSchemaError,
    ProfileError,
    RLPAError,
)
from rlpa_env.evaluate import evaluate
from rlpa_env.forking import fork, restore
from rlpa_env.judges import Judge, RuleJudge
from rlpa_env.llm import LLMJudge, LLMMatcher, LLMUser
from rlpa_env.matching import EmbeddingMatcher, LexicalMatcher, Matcher
from rlpa_env.numeric import DialogueActs, TokenLevel
from rlpa_env.population import load_split
from rlpa_env.profiles import Profile, load_profiles
from rlpa_env.prompting import PromptingAgent
from rlpa_env.scripted import ScriptedUser
from rlpa_env.types import CRITERIA, Message, Point, StopReason, Verdict
from rlpa_env.users import UserSimulator, UserTurn
from rlpa_env.vector import RLPAVectorEnv
from rlpa_env.wrappers import LastMessage, RecordEpisodes, read_episodes

__version__ = "0.1.0"

__all__ = [
    "CRITERIA",
    "Action",
    "Agent",
    "BudgetError",
    "ChatClient",
    "ChatConfig",
    "ConfigError",
    "ContextError",
    "DialogueActs",
    "EmbeddingMatcher",
    "Judge",
    "LLMJudge",
    "LLMMatcher",
    "LLMUser",
    "LastMessage",
    "LexicalMatcher",
    "Matcher",
    "Message",
    "ModelError",
    "NotInstalledError",
    "OffSchemaError",
    "Point",
    "Profile",
    "ProfileError",
    "PromptingAgent",
    "RLPAEnv",
    "RLPAError",
    "RLPAVectorEnv",
    "RecordEpisodes",
    "RuleJudge",
    "ScriptedUser",
    "StopReason",
    "TokenLevel",
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

_LLM = {"user": "llm", "judge": "llm"}
for _name, _turns, _more in (
    ("RLPA-v0", 10, {}),
    ("RLPA-Extended-v0", 10, {"split": "extended/train"}),
    ("RLPA-Shift-v0", 10, {"shift_turn": 6}),
    ("RLPA-Long-v0", 70, {}),
    ("RLPA-Sessions-v0", 10, {"sessions": 3}),
    ("RLPA-LLM-v0", 10, _LLM),
):
    gym.register(
        _name,
        "rlpa_env.env:RLPAEnv",
        vector_entry_point="rlpa_env.vector:RLPAVectorEnv",
        max_episode_steps=_turns,
        nondeterministic=_more is _LLM,
        kwargs={"max_turns": _turns, **_more},
    )
