"""The headline at the size of a laptop: a small model that RLPA trained, beside itself untrained and a larger one that is prompted.

    python benchmarks/headline/run.py --small DIR --small-start DIR --small-trained RUN --large DIR --aloe DIR
        [--methods base reminder self-critic cot] [--users 20] [--seeds 0] [--embedding DIR] [--out benchmarks/results/headline]

--small-start and --small-trained are what `benchmarks/qwen_cpu/run.py` leaves in RUNS/start and RUNS/run; --small and --large are models as they
come, which get the environment's instructions; --large once for each of --methods. The people are the first of those whom that
benchmark holds out. All get the same people, seeds, longest answer and judge: the rules of the environment, which is none of the
models, but which the trained one was trained with. So, with --embedding, there is a second opinion: the evaluator of `red_team`, which
shares no code with judge or matcher and which nobody was trained with. AL is judged with the hidden profile; an answer out of form, and a
turn after the person left, is not aligned. Untrained models often miss the form, so *form aside* judges the words that the person saw all the
same, by the same judge. Tokens a turn are all that was sampled for it, thoughts and drafts included.

Dialogues are kept in RUNS, and it goes on where it was stopped; --only holds and compares some of the contestants.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1] / "red_team"))
sys.path.insert(0, str(Path(__file__).parents[1] / "paper"))
import claims as say
import study
from evaluator import baselines, evaluate_episode
from published import rows as rows_of_paper

from rlpa_agent.demo import split_people
from rlpa_env import Message, Point, RuleJudge, parse_action
from rlpa_env.encoders import encoder_of
from rlpa_env.prompting import METHODS

TRAINED, START, SMALL = "small, trained", "small, start", "small"
LONGEST = 192  # tokens of an answer; cot thinks in it first


def contestants(args: Any) -> list[str]:
    """NAME=SOURCE of everybody, as `study` reads them."""
    found = [f"{TRAINED}={args.small_trained}", f"{START}={args.small_start}", f"{SMALL}={args.small}"]
    return found + [f"{large(method)}={'' if method == 'base' else f'{method}@'}{args.large}" for method in args.methods]


def large(method: str) -> str:
    """Name of the larger model under a method."""
    return "large" if method == "base" else f"large, {method}"


def second_opinion(records: dict[str, list[study.Records]], embedding: str) -> dict[str, np.ndarray]:
    """[S, U, 1] a contestant: what the evaluator of red_team gives a dialogue, in [0, 2 · turns]; NaN for one that a failure cut short."""
    encode = encoder_of(embedding, "--embedding")
    base = baselines([record for seeds in records.values() for own in seeds for record in own], encode)

    def heard(record: dict[str, Any]) -> float:
        return np.nan if record["stop_reason"] == "failure" else sum(evaluate_episode(record, encode, base))

    return {name: np.array([[[heard(record)] for record in own] for own in seeds]) for name, seeds in records.items()}


def form_aside(seeds: list[study.Records]) -> np.ndarray:
    """[S, U, K]: whether the words of a turn suit the hidden profile, in whatever form they came; 0 after the person left."""
    judge = RuleJudge()
    found = 0.0 * study.by_turn(seeds, "al")  # a failure's turns stay NaN
    for s, records in enumerate(seeds):
        for u, record in enumerate(records):
            truth = [Point(slot, value) for slot, values in record["truth"].items() for value in ([values] if isinstance(values, str) else values)]
            dialogue: list[Message] = []
            said = 0
            for message in record["messages"]:
                words = message["content"]
                if message["role"] == "assistant":
                    words = parse_action(words).reply
                    found[s, u, said] += judge.judge(truth, dialogue, words).passed
                    said += 1
                if message["role"] != "system":
                    dialogue.append(Message(message["role"], words))
    return found


def row_of(seeds: list[study.Records], worded: np.ndarray) -> dict[str, Any]:
    """Figures of one contestant, ``worded`` among them (`form_aside`); means over turns, 0 after the person left."""
    own = {name: say.estimate(study.by_turn(seeds, key), np.mean) for name, key in (("profile_f1", "f1"), ("response", "response"))}
    own["return"] = say.estimate(study.by_turn(seeds, "reward"), np.sum)
    own["form_aside"] = say.estimate(100.0 * worded, np.mean)
    turns = [turn for records in seeds for record in records for turn in record["turns"]]
    plain = {
        "tokens_per_turn": float(np.mean([turn["tokens"] for turn in turns])),
        "malformed": float(np.mean([bool(turn["parse_error"]) for turn in turns])),
        "left_early": float(np.mean([record["left"] for records in seeds for record in records])),
    }
    return say.alignment_figures(study.by_turn(seeds, "al")) | own | plain


def headline_claims(tables: dict[str, np.ndarray], figure: str = "AVG", unit: float = 100.0) -> list[say.Claim]:
    """What the paper's headline says: the trained one above itself untrained, and above the larger one however it is asked."""
    others = [START, SMALL, *(name for name in tables if name not in (TRAINED, START, SMALL))]
    return [say.above(f"{figure} of {TRAINED} above {name}", tables, TRAINED, name, unit=unit) for name in others]


def main() -> None:
    """Hold the dialogues, print, write."""
    found = study.parser(__doc__, model=())
    described = {"small": "the model as it comes", "small-start": "its warm start", "small-trained": "its run", "large": "a larger model as it comes"}
    for name, words in described.items():
        found.add_argument(f"--{name}", default="tiny", metavar="DIR", help=f"{words}; folder, run or id")
    found.add_argument("--aloe", type=Path, help="folder with ALOE's two files")
    found.add_argument("--methods", nargs="+", choices=METHODS, default=["base", "reminder", "self-critic", "cot"], help="how the larger one is asked")
    found.add_argument("--only", nargs="+", metavar="NAME", help="leave out all contestants but these")
    found.set_defaults(users=20, seeds=[0], max_new_tokens=LONGEST, workers=1, runs=Path("runs/headline"))
    args = study.read(found)
    if args.aloe is None and not args.smoke:
        found.error("--aloe: expected the folder with ALOE's profile.jsonl and personality.jsonl; got none.")
    people = "vanilla/test" if args.smoke else str(split_people(args.aloe, args.runs / "people")[2])
    args.contestants = study.contestants(contestants(args))
    if args.only:
        if strange := set(args.only) - set(args.contestants):
            found.error(f"--only: expected some of {', '.join(args.contestants)}; got {', '.join(sorted(strange))}")
        args.contestants = {name: args.contestants[name] for name in args.only}

    records = study.hold(args, ("RLPA-v0", people))
    tables = {name: study.by_turn(seeds, "al") for name, seeds in records.items()}
    worded = {name: form_aside(seeds) for name, seeds in records.items()}
    rows = {name: row_of(seeds, worded[name]) for name, seeds in records.items()}
    heard = second_opinion(records, args.embedding) if args.embedding else {}
    shown = Table("", "AL AVG", "form aside", "profile F1", "response", "return", "tokens a turn", "malformed", "left early", "second opinion", title=f"{args.users} held-out people")
    figures: dict[str, Any] = {}
    for name, own in rows.items():
        other = {"second_opinion": say.estimate(heard[name], np.mean)} if heard else {}
        scores = (own["avg"].text(1), own["form_aside"].text(1), own["profile_f1"].text(3), own["response"].text(2), own["return"].text(2))
        counts = (f"{own['tokens_per_turn']:.0f}", f"{own['malformed']:.1%}", f"{own['left_early']:.0%}")
        shown.add_row(name, *scores, *counts, other["second_opinion"].text(2) if heard else "")
        figures[name] = say.plain(own | other)
    Console(width=say.WIDTH).print(shown)
    print("paper, AVG on its own 74 people: " + ", ".join(f"{name} {value}" for name, value in headline_of_paper().items()))
    said = headline_claims(tables) + headline_claims(worded, "AVG, form aside,")
    said += headline_claims(heard, "second opinion", unit=1.0) if heard else []
    study.conclude("headline", {"rows": figures, "claims": say.print_claims(said)}, args)


def headline_of_paper() -> dict[str, float]:
    """AVG of the published rows that the headline is about."""
    return {f"{row.model} {row.method}": row.avg for row in rows_of_paper("vanilla")}


if __name__ == "__main__":
    main()
