"""Episode records by hand for the report's tests: no environment, every figure chosen."""

from __future__ import annotations

import json
from pathlib import Path

from rlpa_env import Point, format_action
from rlpa_env.types import CRITERIA

TRUTH = {"Age": "34", "Interests": ["chess", "tea"], "Location": "Porto"}  # points 0 to 3


def turn(profile=0.5, response=1.0, **more):
    own = {"reward": profile + response, "valid": True, "profile": profile, "response": response, "al": response, "f1": profile}
    own |= {"grounded_f1": profile, "precision": 1.0, "recall": profile, "ceiling": 0.5, "revealed": 0.5, "invented": 0.0, "patience": 3.0}
    own |= {"tokens": 20, "parse_error": "", **dict.fromkeys(CRITERIA, response > 0), "hits": [], "told": []}
    return own | more


def record(agent="honest", profile="somebody", turns=(), said=None, truth=TRUTH, **more):
    """``said``: (message of the user, points listed, reply) of each turn."""
    turns = turns or [turn()]
    said = said or [("Hello", [Point("Age", "34")], "Hi there.")] * len(turns)
    messages = [{"role": "system", "content": "The rules."}]
    for user, points, reply in said:
        messages += [{"role": "user", "content": user}, {"role": "assistant", "content": format_action(points, reply)}]
    messages.append({"role": "user", "content": "Bye."})
    own = {"agent": agent, "setting": "abc", "env": "RLPA-v0", "split": "vanilla/test", "profile": profile, "seed": 0, "limit": len(turns)}
    own |= {"left": False, "stop_reason": "turn_limit", "error": "", "truth": truth, "messages": messages, "turns": list(turns)}
    return own | more


def write(path: Path, records, torn=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records) + torn, encoding="utf-8", errors="surrogatepass")
    return path.parent
