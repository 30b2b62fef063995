"""`rlpa-env eval | play | report`: score agents on held-out users, talk to a user yourself, or look at what runs have left."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import gymnasium as gym
import tyro
from rich.console import Console
from rich.markup import escape

import rlpa_env
from rlpa_env.agents import AGENTS, make_agent
from rlpa_env.clients import ChatConfig
from rlpa_env.encoders import MINILM
from rlpa_env.errors import ConfigError, ModelError, RLPAError, unknown_choice, without_credentials
from rlpa_env.evaluate import evaluate, results_table
from rlpa_env.prompting import METHODS, PromptingAgent
from rlpa_env.rendering import summary
from rlpa_env.report import DIALOGUES, write_report
from rlpa_env.setting import made, registered
from rlpa_env.types import CRITERIA


@dataclass(frozen=True)
class Models:
    """Models behind user, judge, matcher and prompted agents."""

    base_url: str | None = None
    """An OpenAI-compatible server, such as http://localhost:8000/v1."""
    model: str | None = None
    """Name of a model that it serves."""
    api_key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key."""
    llm: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="KEY=VALUE")] = ()
    """A further setting of the model, once for each: temperature=0, timeout=120, concurrency=8, language=zh, mode=record,
    store=FOLDER, price=0.15,0.6 (per million prompt and completion tokens) with budget=5 (in the same money), or another of
    docs/models.md."""
    matcher: Literal["lexical", "embedding", "llm"] | None = None
    """Decides which guessed points are true ones: by words (the default), by EMBEDDING_MODEL, or by the model at BASE_URL."""
    embedding_model: str = MINILM
    """Of the matcher embedding and the agent rag: name or local folder of a sentence-transformers model."""


@dataclass(frozen=True)
class Eval:
    """Score reference agents on held-out users and write episodes.jsonl and results.json.

    The agents `prior` (the floor) and `oracle` (the scale of the normalised score) are run beside them; see --references.

    Examples:

    rlpa-env eval --agent attentive script --split vanilla/test --users 74 --out runs/references

    rlpa-env eval --agent base --env RLPA-LLM-v0 --base-url http://localhost:8000/v1 --model NAME --llm temperature=0
    """

    agent: tuple[str, ...] = ("attentive",)
    """Reference agents (oracle, attentive, script, prior), a cheat (echo, stuffer, silent, …), or base, reminder, self-critic, cot
    and rag, which prompt the model at BASE_URL."""
    env: str = "RLPA-v0"
    """Environment id; RLPA-LLM-v0 takes its user and judge from BASE_URL."""
    models: Annotated[Models, tyro.conf.arg(name="")] = field(default_factory=Models)
    al_judge: Literal["rules", "llm"] = "rules"
    """Judges every reply with the true profile, for AL, whatever the training judge is: the rules, or the model at BASE_URL."""
    references: Literal["auto", "all", "prior", "none"] = "auto"
    """Who is played along for the normalised scores: all (prior and oracle), prior, or none. auto is all, but prior where
    user, judge or matcher is a model: the oracle asks it hundreds of times a turn."""
    split: str | None = None
    """A bundled split, or the path of a JSONL file of profiles; if not given, the test split of the environment's people:
    extended/test for RLPA-Extended-v0, else vanilla/test."""
    users: int | None = None
    """The first N profiles in file order; all of them if not given."""
    seed: tuple[int, ...] = (0,)
    """One dialogue per user and seed."""
    out: Path = Path("runs/eval")
    """Folder for episodes.jsonl (resumed if there) and results.json."""
    workers: int = 2
    """Processes."""


@dataclass(frozen=True)
class Play:
    """Talk to a simulated user yourself; your profile guess is what you type after '-'.

    Type a reply, or lines beginning with '- ' for guesses and then a reply. Guesses stand until a line with '-' alone drops them all.
    An empty line sends; Ctrl-D ends. Then the truth is shown.

    Examples:

    rlpa-env play --agent attentive --seed 3

    rlpa-env play --env RLPA-LLM-v0 --base-url http://localhost:8000/v1 --model NAME --llm temperature=0.3
    """

    env: str = "RLPA-v0"
    """Environment id; RLPA-LLM-v0 takes its user and judge from BASE_URL."""
    models: Annotated[Models, tyro.conf.arg(name="")] = field(default_factory=Models)
    split: str | None = None
    """Whom to meet: a split, or a JSONL file of profiles; by default the environment's test split."""
    profile: str | None = None
    """A profile id; drawn if not given."""
    seed: int = 0
    """Seed of the user."""
    agent: str | None = None
    """Watch this reference agent instead of playing."""
    style: Annotated[str | None, tyro.conf.arg(help="plain, terse, chatty, evasive or impatient")] = field(default=None)


@dataclass(frozen=True)
class Report:
    """Make one HTML file of evaluations and training runs; it opens anywhere and needs no network.

    RUN is a folder that `rlpa-env eval`, `rlpa-agent eval`, `rlpa-agent train` or the demo wrote (or one above several
    of them), or a file that RecordEpisodes wrote. The page has a leaderboard with ties, alignment by turn, training
    curves, and the dialogues turn by turn with guess against truth. Agents are compared within one task only.

    Examples:

    rlpa-env report runs/references

    rlpa-env report runs/references runs/tiny --out compare.html --dialogues 500
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN…")]
    """Folders or files of runs."""
    out: Path = Path("report.html")
    """The page to write."""
    dialogues: int = DIALOGUES
    """The most dialogues on the page, about 10 kB each, the same people for every agent; 0 for none."""


def _report(args: Report) -> None:
    written = write_report(args.runs, args.out, args.dialogues)
    for note in written.notes:
        print(f"note: {note}")
    left = "" if written.dialogues == written.of else f"; {written.of - written.dialogues} left off, see --dialogues"
    print(f"report: {written.path} ({written.bytes / 1e6:.1f} MB, {written.dialogues} of {written.of} dialogues{left})")


def _eval(args: Eval) -> None:
    if not args.agent:
        raise ConfigError(f"--agent: expected at least one of {', '.join((*AGENTS, *METHODS))}; got none.")
    if unknown := [name for name in args.agent if name not in (*AGENTS, *METHODS)]:
        raise unknown_choice("--agent", unknown[0], (*AGENTS, *METHODS))
    split = args.split or _test_split(args.env)
    methods = [name for name in args.agent if name in METHODS]
    env_kwargs = _env_kwargs(args.env, args.models, args.al_judge)
    prompted = {name: PromptingAgent(_llm(args.models, name), name, args.models.embedding_model) for name in methods}
    rows = evaluate(
        {name: prompted.get(name) for name in args.agent},
        env_kwargs=env_kwargs,
        al_judge=args.al_judge,
        references=args.references,
        env_id=args.env,
        split=split,
        users=args.users,
        seeds=args.seed,
        out=args.out,
        workers=args.workers,
    )
    title = f"{args.env} · {split} · {rows[0]['users']} users · seeds {list(args.seed)} · AL by {args.al_judge}"
    Console(width=None if sys.stdout.isatty() else 160).print(results_table(rows, title))
    print(f"results: {args.out / 'results.json'}   episodes: {args.out / 'episodes.jsonl'}")


def _test_split(env: str) -> str:
    """The test split of the people whom an environment is registered with."""
    family = registered(env).get("split") or "vanilla/train"
    return f"{family.split('/')[0]}/test"


def _env_kwargs(env: str, models: Models, al_judge: str = "rules") -> dict[str, Any]:
    """Arguments of the environment that name its models, and that of ``al_judge``."""
    found: dict[str, Any] = {"matcher": models.matcher} if models.matcher else {}
    if models.matcher == "embedding":
        found["embedding_model"] = models.embedding_model
    parts = registered(env)
    asks = env if "llm" in (parts.get("user"), parts.get("judge")) else "matcher llm" if models.matcher == "llm" else "al-judge llm" if al_judge == "llm" else ""
    llm_settings(models.llm)  # a setting with a typing error is one, whether or not anybody is asked
    return found | ({"llm": _llm(models, asks)} if asks else {})


def _llm(models: Models, who: str) -> dict[str, Any]:
    """Settings of the served model for the one who asks it."""
    named = {"base_url": models.base_url, "model": models.model, "api_key_env": models.api_key_env}
    found = {key: value for key, value in named.items() if value} | llm_settings(models.llm)
    if not found.get("base_url") or not found.get("model"):
        raise ConfigError(f"{who}: expected --base-url and --model of a served model; got {without_credentials(str(models.base_url))} and {models.model}.")
    return found


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(f"expected true or false; got {text!r}")
    return text.lower() == "true"


def _two_numbers(text: str) -> tuple[float, float]:
    first, second = map(float, text.split(","))
    return first, second


_READERS: dict[str, Callable[[str], Any]] = {  # declared type of a setting -> its value from text; of any other: JSON
    "str": str, "str | None": str, "int": int, "float": float, "float | None": float, "bool": _truth,
    "tuple[float, float]": _two_numbers,
}  # fmt: skip


def llm_settings(texts: tuple[str, ...]) -> dict[str, Any]:
    """KEY=VALUE texts as settings of a served model, each with the type of the field of `ChatConfig`.

    >>> llm_settings(("temperature=0", "price=0.15,0.6", "seeds=true"))
    {'temperature': 0.0, 'price': (0.15, 0.6), 'seeds': True}
    """
    types = {spec.name: str(spec.type) for spec in fields(ChatConfig)}
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if key not in types:
            raise unknown_choice("--llm KEY=VALUE", key, types)
        try:
            if not equals:
                raise ValueError("no value")
            found[key] = _READERS.get(types[key], json.loads)(value)
        except ValueError as error:
            raise ConfigError(f"--llm {key}: expected {key}=VALUE with a value of type {types[key]}; got {text!r}.") from error
    return found


def _play(args: Play) -> None:
    models = _env_kwargs(args.env, args.models)
    given = models if args.style is None else {**models, "style": args.style}
    env: Any = made(args.env, split=args.split or _test_split(args.env), **given)
    options = {"profile": args.profile} if args.profile else None
    _, info = env.reset(seed=args.seed, options=options)
    agent = make_agent(args.agent) if args.agent else None
    if agent is not None and hasattr(agent, "attach"):
        agent.attach(env)
    console, core, over = Console(highlight=False), env.unwrapped, False
    if agent is None:
        console.print("[dim]Lines such as '- Occupation: baker' guess, and stand till '-' alone; the rest is your reply. An empty line sends; Ctrl-D ends and shows the truth.[/]")
    guesses: list[rlpa_env.Point] = []
    while True:
        _say(console, "cyan", "User", info["messages"][-1]["content"])
        text = None if over else agent.act(info["messages"]) if agent else _typed(console, guesses)
        if text is None:
            break
        _, _, terminated, truncated, info = env.step(text)
        if agent:
            _say(console, "magenta", "Assistant", core.last_action.reply)
            believed = " · ".join(": ".join(filter(None, (point.slot, point.value))) for point in core.last_action.profile)
            console.print(f"believes: {believed or 'nothing yet'}", style="italic", markup=False)
        reasons = core.last_verdict.reasons
        failed = [f"{c} ({reasons[c]})" if c in reasons else c for c in CRITERIA if not info[f"judge/{c}"]]
        why = [info["parse_error"]] if info["parse_error"] else failed
        note = " · ".join([f"profile reward {info['reward/profile']:.2f}", f"response reward {info['reward/response']:.0f}", *why])
        console.print(note, style="dim", markup=False)
        if terminated or truncated:
            if info["messages"][-1]["role"] != "user":
                break
            over = True
    console.print(summary(core))
    if info["error"]:
        raise ModelError(f"the dialogue ended: {info['error']}")


def _say(console: Console, colour: str, who: str, text: str) -> None:
    console.print(f"[bold {colour}]{who}[/]: {escape(text)}")


def _typed(console: Console, guesses: list[rlpa_env.Point]) -> str | None:
    """All guesses so far and a reply, from the lines up to an empty one, as a completion; None where the input has ended."""
    lines: list[str] = []
    console.print("[bold magenta]You[/]: ", end="")
    for line in sys.stdin:
        if not line.strip():
            break
        lines.append(line.strip())
    else:
        if not lines:
            console.print()
            return None
    for line in lines:
        if line == "-":
            guesses.clear()
        elif line.startswith("-") and (point := rlpa_env.Point(*_slot_value(line))) not in guesses:
            guesses.append(point)
    return rlpa_env.format_action(guesses, " ".join(line for line in lines if not line.startswith("-")))


def _slot_value(line: str) -> tuple[str, str]:
    slot, colon, value = line.lstrip("- ").partition(":")
    return (slot.strip(), value.strip()) if colon else ("", slot.strip())


def main(argv: list[str] | None = None) -> None:
    """Entry point of `rlpa-env`."""
    if (sys.argv[1:] if argv is None else argv) == ["--version"]:
        print(f"rlpa-env {rlpa_env.__version__}")
        return
    defaults = {"eval": Eval(), "play": Play(), "report": Report(())}
    told = {name: inspect.getdoc(default) or "" for name, default in defaults.items()}
    commands: Any = tyro.extras.subcommand_type_from_defaults(defaults, told)
    args: Eval | Play | Report = tyro.cli(commands, args=argv, prog="rlpa-env", description=__doc__)
    try:
        if isinstance(args, Report):
            _report(args)
        else:
            _eval(args) if isinstance(args, Eval) else _play(args)
    except (RLPAError, OSError, gym.error.Error) as error:
        raise SystemExit(f"rlpa-env: {error}") from error
    except KeyboardInterrupt:
        kept = f" Finished episodes are in {args.out}; the same command goes on from there." if isinstance(args, Eval) else ""
        print(f"rlpa-env: interrupted.{kept}", file=sys.stderr)
        raise SystemExit(130) from None


__all__ = ["AGENTS", "Eval", "Models", "Play", "Report", "llm_settings", "main"]

if __name__ == "__main__":
    main()
