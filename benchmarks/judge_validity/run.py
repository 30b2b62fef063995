"""Does the rule judge prefer what people really said? Human next replies against random ones and three attacks.

The data are PersonaChat-style dialogues, one JSON object a line:
``{"persona": [sentence, ...], "turns": [{"partner": ..., "self": ...}, ...]}``. The persona's owner ("self") is the user,
the partner is the agent; persona sentences are the points. They are not part of this repository.

    python benchmarks/judge_validity/run.py --data personachat.jsonl
    python benchmarks/judge_validity/run.py --smoke          # a few dialogues of our own, to see that it runs

Dialogues with an even index were looked at while the rules were written; the figures to quote are those of the odd ones.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import finish

from rlpa_env.judges import RuleJudge
from rlpa_env.text import stems, words
from rlpa_env.types import CRITERIA, Message, Point

POOL = 50  # random replies among which the one with most shared words is picked
INVENTED = (
    ("falconry", "Since falconry is your thing, how about a day with hawks? I would love to see one land on a glove."),
    ("beekeeping", "I would give you a new smoker for the hives, beekeeping people like you always need one."),
    ("glassblowing", "Maybe visit a glass furnace on Sunday, I think your glassblowing hands would itch at once."),
    ("ice sculpture", "I keep thinking of your ice sculptures, how about carving a swan for the winter fair?"),
)
OWN_DIALOGUES = (
    (
        ("I bake bread for a living.", "I have two cats."),
        (
            ("hi , how are you tonight ?", "tired , i was up at four to bake bread ."),
            ("four is early ! do you run a bakery ?", "yes , a small bakery with my sister . do you have pets ?"),
            ("no pets , i am allergic to fur . you ?", "two cats , they sleep in the flour sacks ."),
            ("cats in the flour , that must look funny .", "it does , one of them is black ."),
        ),
    ),
    (
        ("I drive a night bus.", "I collect old maps."),
        (
            ("hello there , what do you do for work ?", "i drive a bus , mostly at night ."),
            ("night buses must have odd passengers .", "very odd , one man sings opera to me ."),
            ("ha , does he sing well ?", "no , but he tips . what do you do for fun ?"),
            ("i paint small boats . any hobby of yours ?", "i collect old maps of harbours ."),
            ("maps of harbours go well with my boats .", "i could send you one for your wall ."),
        ),
    ),
    (
        ("I moved to Lisbon last year.", "I teach piano."),
        (
            ("good evening , where are you from ?", "i moved to lisbon last year , i love the trams ."),
            ("lisbon has lovely trams , do you speak portuguese ?", "a little , my piano students teach me ."),
            ("so you teach piano ? i play a bit of jazz .", "jazz is hard for me , i am a bach person ."),
            ("bach is hard too , all those fugues .", "true , my fingers hurt after an hour ."),
        ),
    ),
)


@dataclass(frozen=True)
class Case:
    """One place in a dialogue where the agent has to reply."""

    points: tuple[Point, ...]
    history: tuple[Message, ...]  # ends with a user message
    human: str  # what the partner really said next
    dialogue: int


def load(path: Path | None) -> list[tuple[tuple[str, ...], tuple[tuple[str, str], ...]]]:
    """(persona, ((partner, self), ...)) for each dialogue; our own ones without a path."""
    if path is None:
        return list(OWN_DIALOGUES)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    return [(tuple(row["persona"]), tuple((turn["partner"], turn["self"]) for turn in row["turns"])) for row in rows]


def cases_of(dialogues, parity: int | None) -> list[Case]:
    """All cases of the dialogues with this parity (None: all)."""
    found = []
    for index, (persona, turns) in enumerate(dialogues):
        if parity is not None and index % 2 != parity:
            continue
        history: tuple[Message, ...] = ()
        for now, later in pairwise(turns):
            history += (Message("assistant", now[0]), Message("user", now[1]))
            found.append(Case(tuple(Point("", line) for line in persona), history, later[0], index))
    return found


def candidates(case: Case, cases: list[Case], rng: np.random.Generator, count: int) -> list[str]:
    """Replies drawn from other dialogues."""
    found: list[str] = []
    while len(found) < count:
        other = cases[int(rng.integers(len(cases)))]
        if other.dialogue != case.dialogue:
            found.append(other.human)
    return found


def overlap(reply: str, case: Case) -> float:
    """Share of content words that reply and newest message have in common (Jaccard): the baseline."""
    ours, theirs = stems(reply), stems(case.history[-1].content)
    return len(ours & theirs) / len(ours | theirs) if ours | theirs else 0.0


def replies_for(case: Case, index: int, cases: list[Case], rng: np.random.Generator) -> dict[str, tuple[tuple[Point, ...], str]]:
    """Name -> (points shown, reply): the human's, a random one and the attacks."""
    message = case.history[-1].content
    word = max(words(message) or ("that",), key=len)
    pool = candidates(case, cases, rng, POOL)
    hobby, line = INVENTED[index % len(INVENTED)]
    return {
        "human": (case.points, case.human),
        "random": (case.points, pool[0]),
        "keyword template": (case.points, f"Ah, {word} sounds like a good part of your life! Tell me more about {word}, I like it."),
        "bare template": (case.points, f"Ah, {word} sounds like a good part of your life!"),
        "invented point": ((*case.points, Point("Interests", hobby)), line),
        "picked for overlap": (
            case.points,
            max(pool, key=lambda reply: len(stems(reply) & stems(message))),
        ),
    }


def auc(positive: list[float], negative: list[float]) -> float:
    """Probability that a positive scores above a negative, ties counted half."""
    ours, theirs = np.array(positive)[:, None], np.array(negative)[None]
    return float((ours > theirs).mean() + 0.5 * (ours == theirs).mean())


def measure(cases: list[Case], seed: int) -> dict[str, object]:
    """All figures of one half of the dialogues."""
    rng = np.random.default_rng(seed)
    judge = RuleJudge()
    passed: dict[str, dict[str, list[float]]] = {}
    relevance: dict[str, list[float]] = {"human": [], "random": []}
    baseline: dict[str, list[float]] = {"human": [], "random": []}
    for index, case in enumerate(cases):
        for name, (points, reply) in replies_for(case, index, cases, rng).items():
            verdict = judge.judge(points, case.history, reply)
            row = passed.setdefault(name, {key: [] for key in (*CRITERIA, "all")})
            for key in CRITERIA:
                row[key].append(float(getattr(verdict, key)))
            row["all"].append(float(verdict.passed))
            if name in relevance:
                relevance[name].append(verdict.scores["relevance"])
                baseline[name].append(overlap(reply, case))
    started = time.process_time()
    for case in cases:  # everything cached but what only depends on the pair
        judge.judge(case.points, case.history, case.human)
    return {
        "cases": len(cases),
        "auc_relevance": round(auc(relevance["human"], relevance["random"]), 4),
        "auc_word_overlap": round(auc(baseline["human"], baseline["random"]), 4),
        "pass": {name: {key: round(float(np.mean(found)), 4) for key, found in row.items()} for name, row in passed.items()},
        "microseconds_warm": round(1e6 * (time.process_time() - started) / len(cases), 1),
    }


def table(halves: dict[str, dict]) -> str:
    """Figures as text."""
    lines = []
    for half, figures in halves.items():
        lines.append(f"{half}: {figures['cases']} cases, AUC relevance {figures['auc_relevance']:.3f}, word overlap "
                     f"{figures['auc_word_overlap']:.3f}, {figures['microseconds_warm']:.0f} us a judgement (warm)")  # fmt: skip
        lines.append(f"  {'reply':20s}" + "".join(f"{key[:12]:>14s}" for key in (*CRITERIA, "all")))
        for name, row in figures["pass"].items():
            lines.append(f"  {name:20s}" + "".join(f"{row[key]:14.3f}" for key in (*CRITERIA, "all")))
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="PersonaChat-style dialogues, JSONL")
    parser.add_argument("--smoke", action="store_true", help="a few dialogues of our own, seconds")
    parser.add_argument("--out", type=Path, help="folder for judge_validity.json")
    parser.add_argument("--seed", type=int, default=0, help="draws the random replies")
    options = parser.parse_args(arguments)
    if options.data is None and not options.smoke:
        parser.error("expected --data FILE or --smoke; got neither")
    dialogues = load(None if options.smoke else options.data)
    if options.smoke:
        halves = {"own dialogues": measure(cases_of(dialogues, None), options.seed)}
    else:
        halves = {name: measure(cases_of(dialogues, parity), options.seed) for name, parity in (("seen", 0), ("held_out", 1))}
    print(table(halves))
    sys.argv = [sys.argv[0], *(Path(part).name if Path(part).is_file() else part for part in sys.argv[1:])]
    finish("judge_validity", {"overlap_pool": POOL, **halves}, [options.seed], options.out)


if __name__ == "__main__":
    main(sys.argv[1:])
