"""What every benchmark shares: where a result was measured, and how it is written."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
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


def commit() -> str:
    """The commit measured, with "+" if the tree had changes; "" outside a checkout."""
    here = Path(__file__).parent
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True)
    changed = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=here, capture_output=True, text=True)
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def finish(name: str, figures: dict[str, Any], seeds: list[int], out: Path | None) -> None:
    """Print the figures as the last line, one line of JSON, and write them with their circumstances."""
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
    print(json.dumps(figures))
