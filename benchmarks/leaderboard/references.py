"""Enter the reference agents as benchmarks/references measured them last, then build the page.

    python benchmarks/leaderboard/references.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import add
import build
from common import RESULTS

MEASURED = RESULTS / "references" / "references.json"
DESCRIPTIONS = {
    "oracle": "sees the hidden person: tries replies on forks and keeps the one that reveals most; a strong reference, not a bound",
    "attentive": "extracts by rules what was said, reacts and asks sensibly",
    "script": "ten fixed good replies with the profile of attentive",
    "prior": "never listens: the best constant profile of the training people and stock replies",
    "silent": "trick: the profile of attentive, no reply",
    "echo": "trick: the profile of attentive, says what was said",
    "flatterer": "trick: the profile of attentive, only praise",
    "interrogator": "trick: the profile of attentive, three questions a turn",
    "injector": "trick: the profile of attentive, orders to the judge instead of replies",
    "blank": "trick: the replies of attentive, an empty profile",
    "stuffer": "trick: the replies of attentive, the most common values on top of its profile",
    "copyist": "trick: the replies of attentive, every sentence of the user as a point",
}


def main() -> None:
    """An entry for each agent of the result; one without a description is an error that names it."""
    for name in json.loads(MEASURED.read_text(encoding="utf-8"))["figures"]["agents"]:
        if name not in DESCRIPTIONS:
            raise SystemExit(f"references: expected a description of {name!r} in DESCRIPTIONS; there is none. Write one.")
        add.main([str(MEASURED), "--kind", "rules", "--agent", name, "--description", DESCRIPTIONS[name]])
    build.main([])


if __name__ == "__main__":
    main()
