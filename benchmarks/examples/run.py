"""Do the examples that train learn? Each as it is, in a process of its own, one after the other; what they print is the result.

    python benchmarks/examples/run.py [--only ppo a2c dqn foreign] [--out benchmarks/results/examples]

ppo, a2c, dqn    stable-baselines3 on dialogue acts, beside the reference agents on the same held-out people (example 5)
foreign          our PPO on TextArena's GuessTheNumber: games won, by iteration (example 7)

Seconds are of the processor, over all threads, so a busy machine does not change them much. Needs the extras ``sb3`` and ``textarena``.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import finish

EXAMPLES = Path(__file__).parents[2] / "examples"
COMMANDS = {algo: ("05_stable_baselines3.py", "--algo", algo) for algo in ("ppo", "a2c", "dqn")} | {"foreign": ("07_foreign_environment.py",)}
_RETURN = re.compile(r"^(\w+)(?: after \d+ turns: return|:) (-?\d+\.\d+)", re.M)
_WON = re.compile(r"^iteration (\d+): games won (\d\.\d+)", re.M)


def read(printed: str) -> dict[str, float]:
    """The figures that an example prints: return by agent, or share of games won by iteration.

    >>> read("ppo after 600 turns: return 7.54 with 3 held-out users\\nscript: 4.50")
    {'ppo': 7.54, 'script': 4.5}
    >>> read("iteration 1: games won 0.23, guesses 4.6\\niteration 10: games won 0.61, guesses 3.9")
    {'1': 0.23, '10': 0.61}
    """
    return {name: float(figure) for name, figure in (_WON.findall(printed) or _RETURN.findall(printed))}


def learned(name: str, figures: dict[str, float]) -> bool:
    """Above `script` with dialogue acts; nine games of ten, where chance wins one of five."""
    return figures[max(figures, key=int)] >= 0.9 if name == "foreign" else figures[name] > figures["script"]


def played(name: str) -> dict[str, Any]:
    """Run one example; what it printed, and the seconds of processor that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    script, *options = COMMANDS[name]
    done = subprocess.run([sys.executable, str(EXAMPLES / script), *options], stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise SystemExit(f"{script}: expected it to end well; it returned {done.returncode}. Its message is above.")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    figures = read(done.stdout)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"printed": figures, "seconds": round(seconds, 1), "learned": learned(name, figures)}


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(COMMANDS), default=list(COMMANDS))
    parser.add_argument("--out", type=Path, help="folder for the result as JSON")
    args = parser.parse_args()
    found = {name: played(name) for name in args.only}
    table = Table("example", "figures", "seconds of processor", "learned", title="examples that train")
    for name, result in found.items():
        table.add_row(name, " · ".join(f"{key} {figure:.2f}" for key, figure in result["printed"].items()), f"{result['seconds']:.0f}", str(result["learned"]))
    Console(width=150).print(table)
    finish("examples", found, [0], args.out)


if __name__ == "__main__":
    main()
