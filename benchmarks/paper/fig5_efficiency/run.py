"""Figure 5: what the profile costs. Tokens a turn spent on the profile and on the reply, against a reasoning model's thinking.

    python benchmarks/paper/fig5_efficiency/run.py --model start=tiny rlpa=runs/ppo-{seed} [--users 74]
    python benchmarks/paper/fig5_efficiency/run.py --model rlpa=DIR --base-url http://localhost:8000/v1 --model-name qwq-32b

Tokens are those of each policy's own tokenizer (a small vocabulary needs more of them), so words are printed beside them. With
a served model, it is asked to reply in the same dialogues and what it writes inside <think> is counted by its own usage report.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
import claims as say
import study
from published import published

from rlpa_env import ChatClient, ModelError

BLOCK = re.compile(r"<profile>.*?(?:</profile>|(?=<response>)|\Z)", re.DOTALL)
THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL | re.IGNORECASE)
ASKED = 20  # dialogues that a served model is asked to go on with
REQUEST = "You chat with somebody you want to get to know. Answer their newest message so that it suits them."


def lengths(seeds: list[study.Records], count: Any) -> np.ndarray:
    """[S, U, 2]: mean a turn of the profile block and of the rest, in ``count``'s unit."""
    found = []
    for records in seeds:
        rows = []
        for record in records:
            texts = [message["content"] for message in record["messages"] if message["role"] == "assistant"]
            blocks = ["".join(BLOCK.findall(text)) for text in texts]
            profile = float(np.mean([count(block) if block else 0 for block in blocks]))
            rows.append([profile, float(np.mean([count(text) for text in texts])) - profile])
        found.append(rows)
    return np.array(found)


def words(text: str) -> int:
    """Whitespace-separated words."""
    return len(text.split())


def thinking(client: ChatClient, records: study.Records) -> dict[str, float]:
    """Mean tokens a turn that a served model spends inside <think> and in all, in the middle of these dialogues."""
    contexts = []
    for record in records[:ASKED]:
        said = [message for message in record["messages"] if message["role"] == "user"]
        heard = " / ".join(message["content"] for message in said[: max(1, len(said) // 2)])
        contexts.append([{"role": "system", "content": REQUEST}, {"role": "user", "content": heard}])
    answers = [future.result() for future in [client.begin(context) for context in contexts]]
    total = client.usage.completion_tokens / len(answers)
    thought = sum(len("".join(THOUGHT.findall(answer))) for answer in answers) / max(1, sum(map(len, answers)))
    return {"asked": len(answers), "tokens": total, "thinking_tokens": total * thought}


def main() -> None:
    """Count, print, write."""
    args = study.read(study.parser(__doc__, trained=("rlpa",)))
    records = study.hold(args, study.VANILLA)
    shown = Table("policy", "unit", "profile, a turn", "reply, a turn", "profile, words", "reply, words", "malformed", title=f"{args.users} people")
    figures: dict[str, Any] = {}
    tables: dict[str, np.ndarray] = {}
    for name, seeds in records.items():
        who = study.source_of(args.contestants[name], args.seeds[0], args)
        count = who.agent.count_tokens if who.unit == "tokens" else words
        own = lengths(seeds, count)
        in_words = own if who.unit == "words" else lengths(seeds, words)
        cells = [say.estimate(values, lambda pair, i=i: pair[i]) for values in (own, in_words) for i in (0, 1)]
        malformed = float(np.mean([bool(turn["parse_error"]) for r in seeds for record in r for turn in record["turns"]]))
        shown.add_row(name, who.unit, *(cell.text(1) for cell in cells), f"{malformed:.0%}")
        names = ("profile", "reply", "profile_words", "reply_words")
        figures[name] = {"unit": who.unit, "malformed": malformed, **{key: cell._asdict() for key, cell in zip(names, cells, strict=True)}}
        if who.unit == "tokens":
            tables[name] = own
    limit = published()["efficiency"]["thinking_tokens_more_than"]["QwQ-32B"]
    shown.add_row("[dim]paper: QwQ-32B[/]", "tokens", f"> {limit} of thinking")
    said = [cheaper("rlpa spends fewer tokens a turn on the profile than QwQ-32B on thinking (paper: more than 300)", tables, limit)]
    sentence = "rlpa spends fewer tokens a turn on the profile than the served model on thinking"
    if args.base_url:
        client = ChatClient(base_url=args.base_url, model=args.model_name, temperature=0.0, max_tokens=2048)
        try:
            figures["served"] = {"model": args.model_name} | thinking(client, next(iter(records.values()))[0])
        except ModelError as error:
            raise SystemExit(f"fig5_efficiency: the served model failed; dialogues are kept, run it again. {error}") from error
        shown.add_row(args.model_name, "tokens", f"{figures['served']['thinking_tokens']:.1f} of thinking")
        thought = figures["served"]["thinking_tokens"]
        said.append(cheaper(sentence, tables, thought) if thought else say.Claim(sentence, say.UNKNOWN, f"{args.model_name} wrote no <think>"))
    else:
        said.append(say.Claim(sentence, say.UNKNOWN, "no served model: --base-url"))
    Console(width=say.WIDTH).print(shown)
    study.conclude("fig5_efficiency", {"rows": figures, "claims": say.print_claims(said)}, args)


def cheaper(sentence: str, tables: dict[str, np.ndarray], limit: float) -> say.Claim:
    """Profile tokens of rlpa below a number."""
    if lacking := say.needs(sentence, tables, ("rlpa",)):
        return lacking
    return say.decided(sentence, *say.change(limit - tables["rlpa"][..., 0]))


if __name__ == "__main__":
    main()
