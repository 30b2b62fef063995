"""How the start checkpoint of the preset "tiny" was made: tokenizer, model, and passes over `mixture`.

    python -m rlpa_agent.start OUT [--seed 0] [--scale 1.0] [--resume]

About an hour and a half on two cores. OUT/policy is what ships as rlpa_agent/data/tiny. The shipped file is of this
recipe, not byte for byte of this code: its first pass and 1,800 steps of the second still wrote one value a line, and
its slips were drawn anew every turn, where a pupil's stay now.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from rlpa_agent.induction import induct
from rlpa_agent.policy import Policy
from rlpa_agent.tokenizer import train_tokenizer
from rlpa_agent.warm_start import Progress, Schedule, Source, Stage, newest, warm_start

VOCABULARY = 1536
"""Ids of the tokenizer. After 400 steps of the first pass, with induction heads written in, the nats of a batch were
1,459 with 512 ids, 1,285 with 1,536 and 1,606 with 3,072; a batch of 1,536 also takes three quarters of the time of 512."""

SHARPNESS = 1.5
"""What the final norm's weight is multiplied by, last: the shipped model at temperature 1 is the warm-started one at ⅔.
Half of the mixture's words are drawn at random; a model fitted to that hedges everywhere, in the middle of a word that
it copies too. With 48 people of vanilla/train and temperatures 1, .8, .65, .5, .35, .2 a dialogue earned 4.8, 5.4, 6.2,
7.1, 7.6 and 6.5 (one seed). It stops short of the best, to leave something to explore; other factors were not compared."""


def fresh_policy(texts: Sequence[str], *, seed: int = 0, context: int = 3072) -> Policy:
    """The untrained tiny model: its tokenizer learned from ``texts``, 3.8 M parameters, induction heads."""
    from transformers import Qwen2Config

    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=context,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=True,
    )
    policy = Policy.from_config(
        config, train_tokenizer(texts, VOCABULARY, context), system_prompt="", seed=seed, reference=False
    )
    induct(policy.lm, seed=seed)
    return policy


@torch.no_grad()
def sharpen(policy: Policy, factor: float) -> None:
    """Multiply all logits by ``factor``, inside the weights."""
    policy.lm.get_submodule("model.norm").weight.mul_(factor)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the start checkpoint of the tiny preset."""
    import argparse

    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    from rlpa_agent.mixture import dialogue, drill, recovery, rehearsal

    parser = argparse.ArgumentParser(prog="python -m rlpa_agent.start", description=main.__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the steps of every stage")
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args(arguments)
    # Hearing and copying are practised first, densely and with a teacher that lists everything; then in histories full
    # of mistakes, as the model's own will be. The last pass is the weak one, whose ways the start is to have. Each pass
    # anneals to zero.
    passes: list[tuple[Schedule, list[tuple[Source, int, int]]]] = [
        (Schedule(muon_lr=0.02, warmup_steps=50, decay_share=0.6), [(drill, 1500, 8), (rehearsal, 2500, 8)]),
        (Schedule(muon_lr=0.015, warmup_steps=30, decay_share=0.8), [(recovery, 2900, 8)]),
        (Schedule(muon_lr=0.005, lr=3e-4, warmup_steps=20, decay_share=0.9), [(dialogue, 250, 8)]),
    ]
    begun = newest(options.out / "pass1")
    if options.resume and begun.exists():  # its tokenizer too: texts, and so merges, may have changed since
        policy = Policy.load(begun, reference=False)
    else:
        rng = np.random.default_rng([options.seed, 1])
        policy = fresh_policy([f"{role}\n{text}\n" for _ in range(1000) for role, text in dialogue(rng)], seed=options.seed)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    for number, (schedule, plan) in enumerate(passes, 1):
        stages = [Stage(source, max(1, round(steps * options.scale)), batch) for source, steps, batch in plan]
        with Bar(*columns) as bar:
            task = bar.add_task("loss", total=sum(stage.steps for stage in stages))
            losses: list[float] = []

            def report(progress: Progress, bar=bar, task=task, losses=losses) -> None:
                losses.append(progress.loss)
                speed = progress.tokens / progress.seconds
                text = f"loss {np.mean(losses[-25:]):.3f}  {speed:,.0f} tokens/s"
                bar.update(task, completed=progress.step, description=text)

            folder, seed = options.out / f"pass{number}", options.seed + number - 1
            warm_start(policy, stages, schedule=schedule, seed=seed, out=folder, resume=options.resume, report=report)
    sharpen(policy, SHARPNESS)
    policy.save(options.out / "policy", dtype=torch.bfloat16)
    print(f"start policy: {options.out / 'policy'}")


if __name__ == "__main__":
    main()
