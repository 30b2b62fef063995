"""Recorded answers: one small file per request, named by what was asked, so that a recorded run replays offline."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Store:
    """A folder of answers. Written beside and renamed: an interrupted write leaves nothing half."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Nothing is created before the first write."""
        self.folder = Path(folder)

    def path(self, body: Mapping[str, Any]) -> Path:
        """Where the answer to a request lies: its SHA-256, the same on every machine."""
        text = json.dumps(body, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        name = hashlib.sha256(text.encode()).hexdigest()
        return self.folder / name[:2] / f"{name}.json"

    def read(self, body: Mapping[str, Any]) -> str | None:
        """The recorded answer, or None."""
        path = self.path(body)
        return json.loads(path.read_text(encoding="utf-8"))["answer"] if path.exists() else None

    def write(self, body: Mapping[str, Any], answer: str) -> None:
        """Keep the first answer to a request: what a run has seen is what it sees again."""
        path = self.path(body)
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(f".{os.getpid()}.tmp")
        fresh.write_text(json.dumps({"request": body, "answer": answer}, ensure_ascii=False, indent=1), encoding="utf-8")
        os.replace(fresh, path)
