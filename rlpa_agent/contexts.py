"""What a policy is fed of the dialogue so far: everything, or a rewritten part. Which ids that gives, `chat` knows.

append   everything as it was fed and sampled; the history only grows
latest   everything, but only the latest answer keeps its profile block (as in the authors' code)
window   the system message, the newest profile block and the last W exchanges
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rlpa_env.errors import ConfigError, unknown_choice

KINDS = ("append", "latest", "window")
CONTEXT_FILE = "context.json"


@dataclass(frozen=True)
class ContextKind:
    """A kind by name; ``window`` counts exchanges (a user message and its answer) before the current user message."""

    kind: str = "append"
    window: int = 4

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown_choice("context", self.kind, KINDS)
        if self.window < 1:
            raise ConfigError(f"window: expected at least 1 exchange; got {self.window}.")

    def turns(self, limit: int) -> int:
        """Exchanges that a context can hold in a dialogue of ``limit`` turns, the current one included."""
        return min(limit, self.window + 1) if self.kind == "window" else limit


@dataclass
class Pieces:
    """The pieces of one dialogue as ids. ``users`` is one longer than ``answers`` while an answer is awaited."""

    head: list[int]  # everything before the first user text
    users: list[list[int]] = field(default_factory=list)
    answers: list[list[int]] = field(default_factory=list)  # as sampled, a sampled end token included
    blocks: list[int] = field(default_factory=list)  # leading ids of each answer that are its profile block


def save_context(folder: Path, kind: ContextKind) -> None:
    """Write the kind beside a saved policy; a folder without the file stands for append."""
    if kind.kind != "append":
        (Path(folder) / CONTEXT_FILE).write_text(json.dumps(asdict(kind)) + "\n", encoding="utf-8")


def read_context(folder: str | Path) -> ContextKind:
    """The kind that a policy in ``folder`` was trained with; append for other models."""
    path = Path(folder) / CONTEXT_FILE
    if not path.is_file():
        return ContextKind()
    try:
        return ContextKind(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path}: expected kind and window of a context; {error}.") from error
