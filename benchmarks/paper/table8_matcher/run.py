"""Table 8: does a matcher count what was meant? Whole profiles, a points paraphrased and the rest altered; it must count a.

    python benchmarks/paper/table8_matcher/run.py [--users 74] [--seeds 0 1 2] [--embedding FOLDER_OF_MINILM]
    python benchmarks/paper/table8_matcher/run.py --users 50 --seeds 0 --base-url http://localhost:8000/v1 --model-name NAME

The paper's protocol on our people (vanilla/val by two writers, extended/val by a third; benchmarks/matcher_quality), so that the
numbers are of the same kind but not of the same profiles. --users counts profiles for each writer. Paraphrases are "near" (the
key word stays) or "near and further". There is no --model here: a matcher sees no policy.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[2] / "matcher_quality"))
sys.path.insert(0, str(Path(__file__).parents[1]))
import claims as say
import study
from cases import WAYS, WRITERS, cases
from published import published

from rlpa_env import EmbeddingMatcher, LexicalMatcher, LLMMatcher, load_split
from rlpa_env.flows import run
from rlpa_env.matching import Matcher
from rlpa_env.parts import matching_flow

PARAPHRASES = {"near": ("near",), "near and further": WAYS}
NAMES = ("exact", "within_1", "mse", "rmse")
_TOGETHER = 32  # cases in flight


def errors(matcher: Matcher, ways: Sequence[str], users: int, seed: int) -> list[float]:
    """Counted − meant of each case, all writers; NaN where a model gave no answer."""
    found: list[float] = []
    for writer, split in WRITERS.items():
        chosen = list(cases(load_split(split), writer, users, seed, ways, whole=True))
        for start in range(0, len(chosen), _TOGETHER):
            part = chosen[start : start + _TOGETHER]
            outcomes = run([matching_flow(matcher, case.guess, case.truth) for case in part])
            found += [np.nan if isinstance(pairs, Exception) else float(len(pairs) - case.count) for pairs, case in zip(outcomes, part, strict=True)]
    return found


def figures_of(error_SU: np.ndarray) -> dict[str, say.Estimate]:
    """Exact accuracy, accuracy within 1, MSE and RMSE with intervals over seeds and cases."""
    known = np.where(np.isnan(error_SU), np.nan, 1.0)
    values = np.stack([(error_SU == 0) * known, (abs(error_SU) <= 1) * known, error_SU**2], axis=-1)
    plain = [say.estimate(values, lambda row, i=i: row[i]) for i in range(3)]
    return dict(zip(NAMES, [*plain, say.estimate(values, lambda row: row[2] ** 0.5)], strict=True))


def matchers(args: argparse.Namespace) -> dict[str, Matcher]:
    """Those that can be had here."""
    found: dict[str, Matcher] = {"lexical": LexicalMatcher()}
    if args.embedding:
        found["embedding"] = EmbeddingMatcher(args.embedding)
    if args.base_url:
        found[f"llm {args.model_name}"] = LLMMatcher(study.graded(args) | {"concurrency": _TOGETHER})
    return found


def main() -> None:
    """Count, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=74, help="profiles for each of the three writers")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of what is paraphrased and altered")
    parser.add_argument("--runs", type=Path, default=Path("runs/paper"), help="folder for a served model's answers; none is asked for twice")
    parser.add_argument("--out", type=Path, help="folder for the result as JSON")
    parser.add_argument("--smoke", action="store_true", help="two profiles and one seed, to see that it runs")
    study.served(parser)
    args = study.read(parser)
    shown = Table("matcher", "paraphrases", *NAMES, "no answer", title=f"matched points of rewritten profiles: 3 × {args.users} profiles, seeds {args.seeds}")
    rows: list[dict[str, Any]] = []
    said: list[say.Claim] = []
    paper = published()["matcher"]["rows"]
    for name, matcher in matchers(args).items():
        for ways in PARAPHRASES:
            error_SU = np.array([errors(matcher, PARAPHRASES[ways], args.users, seed) for seed in args.seeds])
            found = figures_of(error_SU)
            shown.add_row(name, ways, *(found[key].text(2) for key in NAMES), str(int(np.isnan(error_SU).sum())))
            rows.append({"matcher": name, "paraphrases": ways} | {key: value._asdict() for key, value in found.items()})
            said += [better(f"{name}, {ways}: counts exactly as often as {model} ({figures['exact']})", error_SU, figures["exact"]) for model, figures in paper.items()]
    for model, figures in paper.items():
        shown.add_row(f"[dim]paper: {model}[/]", "[dim]the paper's[/]", *(f"[dim]{figures[key]:.2f}[/]" for key in NAMES), "")
    Console(width=say.WIDTH).print(shown)
    study.conclude("table8_matcher", {"rows": rows, "claims": say.print_claims(said)}, args)


def better(sentence: str, error_SU: np.ndarray, than: float) -> say.Claim:
    """Exact accuracy at least ``than``, in percentage points."""
    if lacking := say.needs(sentence, {"cases": error_SU}, ("cases",), "cases"):
        return lacking
    found, alone = say.change(np.where(np.isnan(error_SU), np.nan, 100.0 * (error_SU == 0) - 100 * than))
    text = f"{found.value:+.1f} [{found.low:+.1f}, {found.high:+.1f}]"
    return say.reaches(sentence, found, 0.0, text, alone, "the paper's figure")


if __name__ == "__main__":
    main()
