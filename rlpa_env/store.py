"""Recorded answers: one small file per request, named by what was asked, so that a recorded run replays offline."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlpa_env.errors import ModelError


def sendable(text: str) -> str:
    """A text that can be encoded: half a surrogate pair, which models cut short do write, becomes a question mark."""
    return text.encode("utf-8", "replace").decode()


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
        """The recorded answer, or None. Raises ModelError if it cannot be read."""
        path = self.path(body)
        try:
            if not path.exists():
                return None
            answer = json.loads(path.read_text(encoding="utf-8", errors="surrogatepass"))["answer"]
            if not isinstance(answer, str):
                raise ValueError(f"an answer that is {type(answer).__name__} and no text")
            return answer
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ModelError(f"store {path}: expected a recorded answer; {_named(error)}. Delete the file to ask again.") from error

    def write(self, body: Mapping[str, Any], answer: str) -> str:
        """Keep the first answer to a request: what a run has seen is what it sees again. Raises ModelError if it cannot be kept.

        Returns:
            The answer that is kept: of equal requests at the same time one is, and all go on with it.
        """
        path = self.path(body)
        fresh = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps({"request": body, "answer": answer}, ensure_ascii=False, indent=1)
            fresh.write_text(text, encoding="utf-8", errors="surrogatepass")  # an answer replays as it came
            _place(fresh, path)
        except OSError as error:
            raise ModelError(f"store {self.folder}: expected a folder to write answers to; {_named(error)}. Free it or name another.") from error
        kept = self.read(body)
        return answer if kept is None else kept


def _place(fresh: Path, path: Path) -> None:
    """Give a whole file its name unless another process was first. A link, unlike a rename, never replaces."""
    try:
        os.link(fresh, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        os.replace(fresh, path)
    fresh.unlink(missing_ok=True)


def _named(error: Exception) -> str:
    return f"got {type(error).__name__}: {error}"
