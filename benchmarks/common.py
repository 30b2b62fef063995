"""What every benchmark shares: where a result was measured, and how it is written."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
_WEIGHTS = ("*.safetensors", "*.bin", "*.json", "*.jinja", "*.txt")
RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """Cores, processor and the instruction sets that matter for speed."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = next((line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")), "")
    return {
        "cores": os.cpu_count(),
        "cpu": model or platform.processor() or platform.machine(),
        "flags": [flag for flag in _FLAGS if flag in text],
        "python": platform.python_version(),
    }


@cache
def commit() -> str:
    """The commit measured: that of the checkout when this module was loaded, with "+" if there were changes; "" outside one.

    Results that earlier benchmarks wrote are no changes, nor are entries of the board and its page.
    """
    root = Path(__file__).parents[1]
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True)
    others = (".", f":!{RESULTS.relative_to(root)}", ":!benchmarks/leaderboard/entries", ":!docs/leaderboard.md")
    changed = subprocess.run(["git", "status", "--porcelain", "-uno", "--", *others], cwd=root, capture_output=True, text=True)
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


commit()  # now: hours later the checkout may be at another


def fingerprint(path: str) -> str:
    """Changes with a file, or the files of a policy folder; of what is neither, such as a model's id, with the name."""
    digest, where = hashlib.sha256(), Path(path)
    files = sorted({file for pattern in _WEIGHTS for file in where.glob(pattern)}) if where.is_dir() else [where] if where.is_file() else []
    for file in files:
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    if not files:
        digest.update(path.encode())
    return digest.hexdigest()[:10]


def write(name: str, figures: dict[str, Any], seeds: list[int], out: Path | None) -> None:
    """Write the figures with their circumstances; nothing where no folder is given."""
    record = {
        "benchmark": name,
        "command": " ".join(["python", *sys.argv]),
        "commit": commit(),
        "machine": machine(),
        "seeds": seeds,
        "figures": figures,
    }
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def finish(name: str, figures: dict[str, Any], seeds: list[int], out: Path | None) -> None:
    """Write the figures, and print them as the last line, one line of JSON."""
    write(name, figures, seeds, out)
    print(json.dumps(figures))
