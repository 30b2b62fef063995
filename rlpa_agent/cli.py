"""`rlpa-agent train | sft | dpo | eval | chat | replay | inspect`: teach a policy, score it, talk to it, look into what it learned."""

from __future__ import annotations

import dataclasses
import itertools
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import gymnasium as gym
import tyro
from rich.console import Console
from rich.markup import escape

import rlpa_env
from rlpa_agent.baseline_config import BASELINES, DPO, SFT, as_training
from rlpa_agent.config import PRESETS, SHIPPED, TrainConfig
from rlpa_agent.registered import moved, registered, sibling
from rlpa_agent.tasks import build_trainer, environments, load_policy, models_of, policy_path
from rlpa_env import ConfigError, RLPAError, evaluate, instructions, parse_action
from rlpa_env.agents import make_agent
from rlpa_env.encoders import MINILM
from rlpa_env.errors import check_number
from rlpa_env.evaluate import results_table
from rlpa_env.parts import check_choice


@dataclass(frozen=True)
class Train:
    """Train a policy with token-level PPO in the RLPA environment.

    Leaves in OUT: metrics.jsonl (a line an iteration), tensorboard/, validation.jsonl, config.json, best/ and last/ (each
    with policy/, which transformers loads). Ctrl-C (twice: at once) and SIGTERM drop the dialogues that are being held, let an
    update end, and save; --resume goes on and holds those dialogues again, from the same seeds.

    Example: rlpa-agent train tiny --minutes 5 --seed 0 --out runs/tiny
    """

    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    resume: bool = False
    """Go on from OUT/last instead of starting anew."""
    dry_run: bool = False
    """Train nothing and write nothing: print parameters, tokens, memory and, after about 20 s of trying, seconds an iteration."""


@dataclass(frozen=True)
class Eval:
    """Score policies, and reference agents beside them, on held-out users.

    The agents `prior` (the floor) and `oracle` (the scale of the normalised score) are run beside them; the oracle not where
    user, matcher or judge is a model, which it would ask hundreds of times a turn.

    Example: rlpa-agent eval --policy runs/tiny --split extended/test --out runs/tiny-extended
    """

    policy: tuple[str, ...] = (SHIPPED,)
    """Runs, policy folders, or Hugging Face models; "shipped" is the start checkpoint that comes with the package."""
    prompting: tuple[Literal["base", "reminder", "self-critic", "cot", "rag"], ...] = ()
    """Score every policy also with these prompting baselines on top; see `rlpa_env.prompting`. cot needs --max-new-tokens for
    its thoughts, rag the extra `embed`."""
    embedding_model: str = MINILM
    """Of rag: name or local folder of a sentence-transformers model."""
    agent: tuple[str, ...] = ()
    """Reference agents by name, scored on the same users."""
    env: str = "RLPA-v0"
    """Environment id; RLPA-LLM-v0 takes its user and judge from BASE_URL."""
    base_url: str | None = None
    """Of an OpenAI-compatible server, such as http://localhost:8000/v1."""
    model_name: str | None = None
    """Name of a model that it serves."""
    matcher: str = "lexical"
    """lexical, embedding, or llm: the model at BASE_URL."""
    al_judge: Literal["rules", "llm"] = "rules"
    """Judges every reply with the true profile, for AL, whatever the training judge is: the rules, or the model at BASE_URL."""
    split: str | None = None
    """A bundled split, or the path of a JSONL file of profiles; if not given, the test split of the environment's people:
    extended/test for RLPA-Extended-v0, else vanilla/test."""
    users: int | None = None
    """The first N profiles in file order; all of them if not given."""
    seed: tuple[int, ...] = (0,)
    """One dialogue per user and seed."""
    temperature: float | None = None
    """Sampling temperature; 0 is greedy; the policy's own if not given."""
    max_new_tokens: int | None = None
    """Tokens a turn, at most; as in the run that trained a policy if not given, 160 for other models."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of all weights; if not given, float32, or of a frozen base that of its files where the processor is fast in it."""
    out: Path = Path("runs/eval")
    """Folder for episodes.jsonl (resumed if there) and results.json."""


@dataclass(frozen=True)
class Chat:
    """Talk to a policy and see after every answer what it believes about you. An empty line ends the dialogue."""

    policy: str = SHIPPED
    """A run, a policy folder or a Hugging Face model."""
    temperature: float | None = None
    """Sampling temperature; 0 is greedy; the policy's own if not given."""
    seed: int = 0
    """Seed of the sampling."""
    turns: int = 10
    """Turn limit that the policy is told about."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of all weights; if not given, float32, or of a frozen base that of its files where the processor is fast in it."""


@dataclass(frozen=True)
class Replay:
    """Compare estimators on the same kept dialogues: noise of each one's gradient, and where it points.

    Needs a run trained with --keep-rollouts; ppo needs a critic; grpo and rloo need --rollout.group 2 or more and, beside the
    others, --ppo.profile-paid turn --ppo.gamma-turn 1, so that all are about one objective. Dialogues of several iterations
    may be pooled while the policy stands still, e.g. --iterations 8 --ppo.critic-warmup 8.

    Example: rlpa-agent replay runs/tiny --algo ppo rloo --iteration 7 8
    """

    run: Annotated[Path, tyro.conf.Positional]
    algo: tuple[str, ...] = ()
    """Of ppo, grpo, rloo, reinforce; if none are named, all that the run has a critic, groups and one objective for."""
    iteration: tuple[int, ...] = ()
    """Kept iterations to pool; the newest if none are named."""
    seed: int = 0
    """Of the resampling."""


@dataclass(frozen=True)
class Inspect:
    """Show a kept dialogue token by token: mask, turn, log-probabilities, KL, V, reward, δ, advantage, return.

    Needs a run trained with --keep-rollouts.

    Example: rlpa-agent inspect runs/tiny --episode 3 --html dialogue.html
    """

    run: Annotated[Path, tyro.conf.Positional]
    episode: int = 0
    """Dialogue of the iteration, from 0."""
    iteration: int | None = None
    """Kept iteration; the newest if not given."""
    html: Path | None = None
    """Write a page that stands alone instead of a table in the terminal."""


def run_training(config: TrainConfig, *, resume: bool = False, quiet: bool = False) -> dict[str, Any]:
    """Everything between a configuration and a trained policy in ``config.out``; returns the last figures."""
    return build_trainer(config, resume=resume, quiet=quiet).run()


def _train(args: Train) -> None:
    if args.dry_run:
        from rlpa_agent.dry_run import predict, table

        with tempfile.TemporaryDirectory() as folder:  # the run's own folder may exist, and is not touched
            config = dataclasses.replace(args.config, out=Path(folder) / "run")
            Console(width=None if sys.stdout.isatty() else 120).print(table(predict(build_trainer(config, quiet=True))))
        return
    from rlpa_agent.checks import why_ended

    figures = run_training(args.config, resume=args.resume, quiet=not sys.stderr.isatty())
    if figures and os.environ.get("RANK", "0") == "0":
        print(f"iteration {figures['iteration']}: return {figures['return']:.2f}, health: {figures['health']}")
        print(f"ended: {why_ended(args.config, figures)}")
    print(f"policy: {args.config.out / 'last' / 'policy'}   metrics: {args.config.out / 'metrics.jsonl'}")


def _baseline(config: SFT | DPO) -> None:
    from rlpa_agent.baselines import require_trl, run_baseline
    from rlpa_agent.checks import check_people
    from rlpa_agent.loading import flush_denormals

    require_trl()
    flush_denormals()
    training = as_training(config)
    check_people(training.rollout.split)
    policy = load_policy(training, policy_path(config.data.model))
    run_baseline(config, policy, environments(training.rollout), report=lambda line: print(line, flush=True))
    print(f"policy: {config.out / 'last' / 'policy'}   metrics: {config.out / 'metrics.jsonl'}   what was done: {config.out / 'baseline.json'}")


def _eval(args: Eval) -> None:
    from rlpa_agent.evaluate import policy_agent
    from rlpa_agent.prompted import PromptedPolicy

    check_number("eval temperature", args.temperature, 0, whole=False, optional=True)
    check_number("eval max_new_tokens", args.max_new_tokens, 1, optional=True)
    list(map(make_agent, args.agent))  # a wrong name is known before the policies have played for an hour
    shared: dict[str, Any] = {"dtype": args.dtype, "temperature": args.temperature, "max_new_tokens": args.max_new_tokens}
    agents: dict[str, Any] = {name: policy_agent(policy_path(name), **shared) for name in args.policy}
    for name, method in itertools.product(args.policy, args.prompting):
        agents[f"{name}, {method}"] = PromptedPolicy(agents[name], method, args.embedding_model)
    agents |= dict.fromkeys(args.agent)
    split = args.split or sibling(registered(args.env)["split"], "test")
    setting: dict[str, Any] = {"env_id": args.env, "split": split, "users": args.users, "seeds": args.seed}
    models = models_of(args.env, args.matcher, args.base_url, args.model_name, args.al_judge)
    rows = evaluate(agents, env_kwargs=models, al_judge=args.al_judge, out=args.out, **setting)
    title = f"{args.env} · {split} · {rows[0]['users']} users · seeds {list(args.seed)} · AL by {args.al_judge}"
    Console(width=None if sys.stdout.isatty() else 160).print(results_table(rows, title))
    print(f"results: {args.out / 'results.json'}   episodes: {args.out / 'episodes.jsonl'}")


def _chat(args: Chat) -> None:
    from rlpa_agent.evaluate import policy_agent

    agent = policy_agent(policy_path(args.policy), dtype=args.dtype, temperature=args.temperature, seed=args.seed)
    agent.chat.state_limit(args.turns)
    console = Console(emoji=False)
    messages = [{"role": "system", "content": instructions(args.turns)}]
    for _ in range(args.turns):
        console.print("[bold cyan]You[/]: ", end="")
        line = sys.stdin.readline().strip()
        if not line:
            break
        messages.append({"role": "user", "content": line})
        messages.append({"role": "assistant", "content": agent.act(messages)})
        action = parse_action(messages[-1]["content"])
        believed = " · ".join(f"{point.slot}: {point.value}" if point.slot else point.value for point in action.profile)
        console.print(f"[bold magenta]Policy[/]: {escape(action.reply)}", highlight=False)  # a model may well say "[/INST]"
        console.print(f"believes: {believed or 'nothing yet'}{f' ({action.error})' if action.error else ''}", style="dim", markup=False)


def _replay(args: Replay) -> None:
    from rlpa_agent.loading import flush_denormals
    from rlpa_agent.replay import replay, replay_table

    flush_denormals()
    found = replay(args.run, load_policy, args.algo, args.iteration, seed=args.seed)
    Console(width=None if sys.stdout.isatty() else 120).print(replay_table(found))
    print(f"figures: {args.run / 'replay.json'}")


def _inspect(args: Inspect) -> None:
    from transformers import AutoTokenizer

    from rlpa_agent.checkpoint import checkpointed_policy
    from rlpa_agent.rollout_files import load_rollout
    from rlpa_agent.token_table import episode_notes, html_page, terminal_table, token_lines

    kept = load_rollout(args.run, args.iteration)
    tokenizer = AutoTokenizer.from_pretrained(checkpointed_policy(args.run, "last"))
    lines = token_lines(kept, args.episode, TrainConfig.read(args.run), tokenizer)
    title, notes = episode_notes(kept, args.episode)
    if args.html is not None:
        args.html.parent.mkdir(parents=True, exist_ok=True)
        args.html.write_text(html_page(lines, title, notes), encoding="utf-8")
        print(f"page: {args.html}")
        return
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(terminal_table(lines, title))
    console.print("\n".join(notes), markup=False, highlight=False)


def parse_preset(verb: str, argv: Sequence[str]) -> Any:
    """Options of a verb whose first word is a preset: a `Train`, `SFT` or `DPO`."""
    presets: Mapping[str, Any] = BASELINES[verb] if verb in BASELINES else {name: Train(preset) for name, preset in PRESETS.items()}
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: rlpa-agent {verb} PRESET [options]   (rlpa-agent {verb} PRESET --help lists them)\n\npresets:")
        for name, preset in presets.items():
            print(f"  {name}: {_summary(preset)}")
        raise SystemExit(0 if argv else 2)
    if argv[0] not in presets:
        raise ConfigError(f"preset: expected one of {', '.join(presets)}; got {argv[0]!r}.")

    def parsed(default: Any) -> Any:
        return tyro.cli(type(default), args=list(argv[1:]), prog=f"rlpa-agent {verb} {argv[0]}", default=default, description=type(default).__doc__)

    preset = presets[argv[0]]
    chosen = parsed(preset)  # read once more where the environment that it names has a turn limit or people of its own
    at_home = _at_home(preset, chosen)
    chosen = chosen if at_home == preset else parsed(at_home)
    given = {word.partition("=")[0].replace("_", "-") for word in argv[1:]}
    if isinstance(chosen, Train) and "--iterations" not in given and given & {"--minutes", "--action-tokens"}:
        return dataclasses.replace(chosen, config=dataclasses.replace(chosen.config, iterations=None))  # the preset's would end it unasked
    return chosen


def _at_home(preset: Any, chosen: Any) -> Any:
    """A preset with what the environment of the chosen options is registered with, where that differs from its own."""
    if not isinstance(preset, Train):
        return dataclasses.replace(preset, data=moved(preset.data, chosen.data.env_id))
    config = preset.config
    rollout = moved(config.rollout, chosen.config.rollout.env_id)
    others = rollout.split != config.rollout.split
    judged = dataclasses.replace(config.eval, split=sibling(rollout.split, "val")) if others else config.eval
    return dataclasses.replace(preset, config=dataclasses.replace(config, rollout=rollout, eval=judged))


def _summary(preset: Train | SFT | DPO) -> str:
    if isinstance(preset, Train):
        return f"{preset.config.rollout.dialogues} dialogues an iteration, from {preset.config.model.path}"
    return f"{preset.data.dialogues} dialogues with {preset.data.samples} answers a turn, from {preset.data.model}, rate {preset.fit.lr:g}"


_VERBS = """usage: rlpa-agent VERB [options]     (rlpa-agent VERB --help says more)

  train PRESET       teach a policy by PPO, or by another of --algo; presets: {presets}
  sft, dpo PRESET    teach it by supervision or preferences instead; presets: {baselines}
  eval               score policies, and reference agents beside them, on held-out people
  chat               talk to a policy and see what it believes about you
  inspect RUN        one kept dialogue token by token: log-probabilities, values, advantages
  replay RUN         estimators compared on the same kept dialogues

  rlpa-agent train tiny --minutes 5 --out runs/tiny
  rlpa-agent eval --policy runs/tiny --agent attentive --out runs/scores
  rlpa-agent chat --policy runs/tiny"""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `rlpa-agent`."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments == ["--version"]:
        print(f"rlpa-agent {rlpa_env.__version__}")
        return
    if arguments in ([], ["-h"], ["--help"]):
        print(_VERBS.format(presets=", ".join(PRESETS), baselines=", ".join(BASELINES["sft"])))
        raise SystemExit(0 if arguments else 2)
    try:
        if arguments[:1] == ["train"]:
            _train(parse_preset("train", arguments[1:]))
        elif arguments[:1] and arguments[0] in BASELINES:
            _baseline(parse_preset(arguments[0], arguments[1:]))
        else:
            does: dict[Any, Any] = {Eval: _eval, Chat: _chat, Replay: _replay, Inspect: _inspect}
            check_choice("verb", arguments[0], ("train", *BASELINES, *(kind.__name__.lower() for kind in does)))
            commands: Any = Union[tuple(Annotated[kind, tyro.conf.subcommand(kind.__name__.lower())] for kind in does)]  # noqa: UP007
            does[type(args := tyro.cli(commands, args=arguments, prog="rlpa-agent"))](args)
    except (RLPAError, OSError, gym.error.Error) as error:
        raise SystemExit(f"rlpa-agent: {error}") from error
    except KeyboardInterrupt:
        kept = {"train": "; --resume goes on", "eval": "; the same command goes on"}.get(arguments[0], "")
        print(f"rlpa-agent: interrupted{kept}.", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
