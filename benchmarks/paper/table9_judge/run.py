"""Table 9: does the judge decide as people do? Accuracy, precision, recall, F1 and Cohen's kappa.

    python benchmarks/paper/table9_judge/run.py --model rlpa=DIR --sheet sheet.jsonl      # 300 replies for people to label
    python benchmarks/paper/table9_judge/run.py --labels sheet.jsonl                      # with "label": 0 or 1 filled in
    python benchmarks/paper/table9_judge/run.py [--data personachat.jsonl] [--base-url URL --model-name NAME]

The paper had 300 human labels, which are not public. A sheet holds replies of the compared policies with profile and dialogue
and without any verdict. Without labels, two weaker things are measured: replies that are good or bad by construction (what a
person really said next, against random replies and three attacks; benchmarks/judge_validity, dialogues of our own without
--data), and how far the training reward, whose judge is shown the inferred profile, agrees with the verdict given the hidden one.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
import claims as say
import study
from published import published

from rlpa_env import (
    ConfigError,
    Judge,
    LLMJudge,
    Message,
    ModelError,
    Point,
    Profile,
    RuleJudge,
    parse_action,
)
from rlpa_env.flows import run

NAMES = ("accuracy", "precision", "recall", "f1", "kappa")
SHEET = 300  # replies, as in the paper


@dataclass(frozen=True)
class Item:
    """One reply in its place."""

    points: tuple[Point, ...]
    dialogue: tuple[Message, ...]  # ends with a user message
    reply: str
    label: int | None  # 1: good


def agreement(verdict_I: np.ndarray, label_I: np.ndarray) -> np.ndarray:
    """The five of NAMES for 0/1 arrays; NaN where undefined (no positives, or chance agreement is 1)."""
    both = float((verdict_I * label_I).sum())
    said, true, total = float(verdict_I.sum()), float(label_I.sum()), len(label_I)
    accuracy = float((verdict_I == label_I).mean())
    chance = (said * true + (total - said) * (total - true)) / total**2
    precision = both / said if said else np.nan
    recall = both / true if true else np.nan
    f1 = 2 * both / (said + true) if said + true else np.nan
    return np.array([accuracy, precision, recall, f1, (accuracy - chance) / (1 - chance) if chance < 1 else np.nan])


def with_intervals(verdict_I: Sequence[int], label_I: Sequence[int], person_I: Sequence[Hashable], repeats: int = 1000) -> dict[str, say.Estimate]:
    """The five figures with 95 % intervals over people, each with all their dialogues: replies of one dialogue are alike."""
    verdicts, labels = np.asarray(verdict_I), np.asarray(label_I)
    own: dict[Hashable, list[int]] = {}
    for i, person in enumerate(person_I):
        own.setdefault(person, []).append(i)
    rows_P = [np.array(rows) for rows in own.values()]
    drawn_B = np.random.default_rng(0).integers(len(rows_P), size=(repeats, len(rows_P)))
    draws = np.array([agreement(verdicts[rows], labels[rows]) for rows in (np.concatenate([rows_P[p] for p in drawn]) for drawn in drawn_B)])
    return {name: say.interval(float(value), draws[:, i]) for i, (name, value) in enumerate(zip(NAMES, agreement(verdicts, labels), strict=True))}


def items_of(records: study.Records) -> Iterator[Item]:
    """Every reply of these dialogues, with the hidden profile."""
    for record in records:
        points = Profile(record["profile"], record["truth"]).points
        said: list[Message] = []
        for message in record["messages"]:
            if message["role"] == "assistant":
                reply = parse_action(message["content"]).reply
                if reply:
                    yield Item(points, tuple(said), reply, None)
                said.append(Message("assistant", reply))
            elif message["role"] == "user":
                said.append(Message("user", message["content"]))


def write_sheet(path: Path, items: Sequence[Item], seed: int) -> int:
    """A blind sheet: replies of all policies, mixed; refuses to overwrite one, which may hold labels."""
    if path.exists():
        raise SystemExit(f"--sheet: expected a new file; {path} is there, and may hold labels")
    order = np.random.default_rng(seed).permutation(len(items))[:SHEET]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for number, index in enumerate(order.tolist()):
            item = items[index]
            line = {
                "id": number,
                "profile": [list(point) for point in item.points],
                "dialogue": [list(message) for message in item.dialogue],
                "reply": item.reply,
                "label": None,
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    return len(order)


def read_labels(path: Path) -> list[Item]:
    """The labelled lines of a sheet. Raises ConfigError with file and line."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):  # a reply may hold U+2028, a line end to splitlines()
        if not line:
            continue
        try:
            data = json.loads(line)
            points = tuple(Point(*point) for point in data["profile"])
            item = Item(points, tuple(Message(*message) for message in data["dialogue"]), data["reply"], data["label"])
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path}:{number}: expected a line of a sheet with profile, dialogue, reply and label; {error!r}.") from error
        if item.label not in (0, 1, None) or isinstance(item.label, float):
            raise ConfigError(f"{path}:{number}: expected label 0, 1 or null; got {item.label!r}.")
        if item.label is not None:
            found.append(item)
    if not found:
        raise ConfigError(f"{path}: expected at least one line with a label; got none.")
    return found


def constructed(data: Path | None, limit: int, seed: int) -> list[Item]:
    """What a person really said next (1) and what is bad by construction (0), in equal numbers."""
    validity = _validity()
    pool = validity.cases_of(validity.load(data), None)  # random replies come from any other dialogue
    rng = np.random.default_rng(seed)
    found = []
    for index, case in enumerate(pool[:limit]):
        replies = validity.replies_for(case, index, pool, rng)
        bad = [name for name in replies if name not in ("human", "picked for overlap")]
        for name, label in (("human", 1), (bad[index % len(bad)], 0)):
            points, reply = replies[name]
            found.append(Item(points, case.history, reply, label))
    return found


def _validity() -> Any:
    spec = importlib.util.spec_from_file_location("judge_validity_run", Path(__file__).parents[2] / "judge_validity" / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def verdicts(judge: Judge, items: Sequence[Item]) -> list[int | None]:
    """1 or 0 for each reply; None where a model gave no answer on schema."""
    if hasattr(judge, "judge_flow"):
        outcomes = run([judge.judge_flow(item.points, item.dialogue, item.reply) for item in items])
        return [None if isinstance(outcome, ModelError) else int(outcome.passed) for outcome in outcomes]
    return [int(judge.judge(item.points, item.dialogue, item.reply).passed) for item in items]


def main() -> None:
    """Judge, print, write."""
    parser = study.parser(__doc__, ("attentive=attentive",))
    parser.add_argument("--sheet", type=Path, help="write a sheet of replies for people to label")
    parser.add_argument("--labels", type=Path, help="a sheet with labels")
    parser.add_argument("--data", type=Path, help="PersonaChat-style dialogues, JSONL; see benchmarks/judge_validity")
    args = study.read(parser)
    judges: dict[str, Judge] = {"rules": RuleJudge()}
    if args.base_url:
        judges[args.model_name] = LLMJudge(study.graded(args))
    records = study.hold(args, study.VANILLA)
    replies = [item for seeds in records.values() for part in seeds for item in items_of(part)]
    if args.sheet:
        print(f"{write_sheet(args.sheet, replies, args.seeds[0])} replies to label in {args.sheet}")
    try:
        labelled = read_labels(args.labels) if args.labels else []
    except ConfigError as error:
        raise SystemExit(f"table9_judge: {error}") from error
    sets = {"people's labels": labelled, "by construction": constructed(args.data, 2 if args.smoke else SHEET // 2, args.seeds[0])}
    shown = Table("judge", "against", "replies", *NAMES, title="agreement")
    figures: dict[str, Any] = {"rows": []}
    found: dict[str, dict[str, say.Estimate]] = {}

    def add(who: str, against: str, pairs: Sequence[tuple[int | None, int | None]], people: Sequence[Hashable]) -> None:
        known = [(a, b, person) for (a, b), person in zip(pairs, people, strict=True) if a is not None and b is not None]
        if not known:
            return
        own = with_intervals(*zip(*known, strict=True))
        found[f"{who} against {against}"] = own
        shown.add_row(who, against, f"{len(known)} of {len(pairs)}", *(own[name].text(2) for name in NAMES))
        figures["rows"].append({"judge": who, "against": against, "replies": len(known)} | {name: value._asdict() for name, value in own.items()})

    for who, judge in judges.items():
        for against, items in sets.items():
            add(who, against, list(zip(verdicts(judge, items), [item.label for item in items], strict=True)), [item.points for item in items])
    for name, seeds in records.items():
        turns = [(turn, record["profile"]) for part in seeds for record in part for turn in record["turns"] if turn["valid"]]
        decided = [(int(turn["response"]), int(turn["al"])) for turn, _ in turns]
        add("training reward", f"hidden profile, replies of {name}", decided, [person for _, person in turns])
    if args.base_url:
        some = [replies[i] for i in np.random.default_rng(args.seeds[0]).permutation(len(replies))[:SHEET]]
        both = list(zip(verdicts(judges[args.model_name], some), verdicts(judges["rules"], some), strict=True))
        add(args.model_name, "rules, replies of all policies", both, [item.points for item in some])
    paper = published()["judge"]
    shown.add_row("[dim]paper's judge[/]", "[dim]people's labels[/]", str(paper["labels"]), *(f"[dim]{paper[name]:.2f}[/]" for name in NAMES))
    Console(width=say.WIDTH).print(shown)
    said = [as_people(f"{who} agrees with people as the paper's judge does (kappa {paper['kappa']})", found.get(f"{who} against people's labels"), len(labelled), paper["kappa"]) for who in judges]
    study.conclude("table9_judge", figures | {"claims": say.print_claims(said)}, args)


def as_people(sentence: str, own: dict[str, say.Estimate] | None, labels: int, than: float) -> say.Claim:
    """Kappa not below the paper's: so if the whole interval is above it, not so if it is below, open in between."""
    if own is None:
        return say.Claim(sentence, say.UNKNOWN, "no labels by people: --sheet, then --labels")
    if labels < say.LEAST_USERS:
        return say.Claim(sentence, say.UNKNOWN, f"{labels} labels are too few: at least {say.LEAST_USERS}")
    kappa = own["kappa"]
    text = f"{kappa.value:.2f} [{kappa.low:.2f}, {kappa.high:.2f}]"
    if np.isnan(kappa.value):
        return say.Claim(sentence, say.UNKNOWN, "all labels and verdicts are alike")
    return say.reaches(sentence, kappa, than, text, what="the paper's figure")


if __name__ == "__main__":
    main()
