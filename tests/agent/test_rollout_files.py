"""Kept rollouts come back as they were, are shown token by token, and are compared under all estimators."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_models
import torch
from rich.console import Console
from tiny_models import Script
from toy import toy_config

from rlpa_agent import cli, tasks
from rlpa_agent import replay as replay_module
from rlpa_agent.batch import make_batch, micro_batches
from rlpa_agent.config import PRESETS, TrainConfig
from rlpa_agent.replay import (
    Sketch,
    _under,
    compare,
    noise_figures,
    one_objective,
    open_run,
    replay,
    units_of,
)
from rlpa_agent.rollout_files import joined, kept_iterations, load_rollout, save_rollout
from rlpa_agent.token_table import episode_notes, html_page, terminal_table, token_lines
from rlpa_agent.trainer import Trainer
from rlpa_agent.trajectory import Trajectory, Turn
from rlpa_env import ConfigError

ATTACK = '<script>alert("x")</script>'
LINES = ("Well, I bake.", ATTACK)


def trainer_of(tmp_path, **changes):
    rollout = {"dialogues": 8, "concurrent": 4, "group": 2, "max_new_tokens": 8}
    options = {"keep_rollouts": True, "iterations": 2, "ppo": {"beta": 0.05, "lam_token": 0.9}} | changes
    config = toy_config(tmp_path, 3, rollout=rollout | options.pop("rollout", {}), **options)
    pay = lambda text, turn: float(len(text) % 5)  # noqa: E731
    leave = iter([None, 1, None, 0])
    envs = lambda: Script(LINES, turns=3, leave_at=next(leave), pay=pay)  # noqa: E731
    return Trainer(config, tiny_models.policy(sharpness=2.0), envs, quiet=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of two iterations, and what each was updated on."""
    trainer = trainer_of(tmp_path_factory.mktemp("kept"))
    seen, update = [], trainer.learner.update

    def kept(batch, iteration, done):
        result = update(batch, iteration, done)
        seen.append((batch, result[0]))
        return result

    trainer.learner.update = kept
    trainer.run()
    return trainer.config.out, seen


def same(a, b):
    for field in dataclasses.fields(type(a)):
        mine, theirs = getattr(a, field.name), getattr(b, field.name)
        if field.name == "rows":
            assert [row.tolist() for row in mine] == [row.tolist() for row in theirs]
        elif isinstance(mine, torch.Tensor):
            assert mine.dtype == theirs.dtype
            assert torch.equal(mine, theirs), field.name
        else:
            assert mine == theirs, field.name


def test_a_kept_iteration_comes_back_bit_for_bit(run):
    from safetensors.torch import load_file

    out, seen = run
    assert kept_iterations(out) == [1, 2]
    for number, (batch, estimates) in enumerate(seen, 1):
        kept = load_rollout(out, number)
        same(batch, kept.batch)
        same(dataclasses.replace(estimates, hidden_AH=None), kept.estimates)
    tensors = load_file(out / "rollouts" / "iteration-0002.safetensors")
    assert int(tensors["mask"].sum()) == batch.tokens
    firsts = np.cumsum([0, *tensors["row_lengths"].tolist()])[batch.row_A.numpy()] + batch.pos_A.numpy()
    assert tensors["mask"][torch.from_numpy(firsts)].all()
    line = load_rollout(out).episodes[0]
    assert line["messages"][1] == ["user", "Hello"]
    last = [int(((batch.chain_A == 0) & (batch.turn_A == k)).nonzero()[-1]) for k in range(len(line["turns"]))]
    assert [turn["reward"] for turn in line["turns"]] == batch.reward_A[last].tolist()
    assert line["turns"][0]["parts"]["reward/profile"] == 0.25


def test_what_is_missing_or_damaged_is_named(run, tmp_path):
    with pytest.raises(ConfigError, match=r"kept rollouts; there are none\. Train with --keep-rollouts"):
        load_rollout(tmp_path)
    out, seen = run
    with pytest.raises(ConfigError, match=r"iteration 7 .* there are \[1, 2\]"):
        load_rollout(out, 7)
    batch, estimates = seen[0]
    path = save_rollout(tmp_path, 1, batch, estimates, [])
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ConfigError, match="damaged"):
        load_rollout(tmp_path)


def test_keeping_changes_nothing_that_is_learned_and_a_resumed_run_drops_later_files(tmp_path):
    kept, plain = trainer_of(tmp_path / "a", iterations=1), trainer_of(tmp_path / "b", iterations=1, keep_rollouts=False)
    assert kept.config.hash() == plain.config.hash()
    kept.run()
    plain.run()
    for a, b in zip(kept.policy.parameters_policy(), plain.policy.parameters_policy(), strict=True):
        assert torch.equal(a, b)
    assert not (plain.config.out / "rollouts").exists()
    folder = kept.config.out / "rollouts"
    for suffix in ("safetensors", "jsonl"):
        (folder / f"iteration-0002.{suffix}").write_bytes((folder / f"iteration-0001.{suffix}").read_bytes())
    kept.run()  # nothing left to do, at iteration 1
    assert sorted(path.name for path in folder.iterdir()) == ["iteration-0001.jsonl", "iteration-0001.safetensors"]


def test_batches_are_joined_by_numbering_on(run):
    _, seen = run
    first, second = (batch for batch, _ in seen)
    both = joined([first, second], [8, 8])
    assert both.tokens == first.tokens + second.tokens
    assert both.starts_C.tolist() == [*first.starts_C.tolist(), *(second.starts_C + first.tokens).tolist()]
    assert both.group_C.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7]
    for i in (0, first.tokens, both.tokens - 1):
        origin, j = (first, i) if i < first.tokens else (second, i - first.tokens)
        row = origin.rows[int(origin.row_A[j])]
        assert both.rows[int(both.row_A[i])].tolist() == row.tolist()
    same(joined([first], [8]), first)


def test_units_of_two_iterations_stay_apart_where_the_last_dialogue_of_the_first_failed(run):
    context = np.arange(3)
    turns = [Turn(context, np.arange(5, 7), np.zeros(2, np.float32), 1.0, valid=valid) for valid in (True, False)]
    whole, failed = (Trajectory((turn,), context, turn.valid, not turn.valid) for turn in turns)
    first, second = (make_batch(held, max_turns=1, group=2) for held in ([whole, whole, whole, failed], [whole] * 4))
    assert units_of(joined([first, second], [4, 4]), 2) == [[0, 1], [2], [3, 4], [5, 6]]


def test_line_ends_that_json_leaves_as_they_are_tear_no_line(run, tmp_path):
    text, (batch, estimates) = "a\u2028b\x85c\u2029", run[1][0]
    held = Trajectory((), np.arange(3), True, False, messages=(("user", text), ("assistant", "Well.")))
    save_rollout(tmp_path, 1, batch, estimates, [held, held])
    assert [line["messages"][0] for line in load_rollout(tmp_path, 1).episodes] == [["user", text]] * 2


def test_the_configuration_of_a_run_is_read_back(run, tmp_path):
    out, _ = run
    config = TrainConfig.read(out)
    assert config.hash() == trainer_of(tmp_path).config.hash()
    assert config.out == out
    (tmp_path / "config.json").write_text('{"model": {"colour": 1}}')
    with pytest.raises(ConfigError, match="colour"):
        TrainConfig.read(tmp_path)


def naive_lines(batch, estimates, chain, config):
    """δ, A and return of one chain by the definition, token by token from the end."""
    where = (batch.chain_A == chain).nonzero()[:, 0].tolist()
    values, turns = estimates.values_A.tolist(), batch.turn_A.tolist()
    kl = (estimates.logp_old_A - estimates.logp_ref_A).tolist()
    after, trace, found = float(estimates.bootstrap_C[chain]), 0.0, []
    for n, i in reversed(list(enumerate(where))):
        last = n + 1 == len(where) or turns[where[n + 1]] != turns[i]
        lam = config.ppo.lam_turn if last else config.ppo.lam_token
        delta = float(batch.reward_A[i]) - config.ppo.beta * kl[i] + after - values[i]
        trace = delta + lam * trace
        found.append((delta, trace, trace + values[i]))
        after = values[i]
    return found[::-1]


def test_every_figure_of_a_dialogue_is_shown(run):
    out, seen = run
    config, kept = TrainConfig.read(out), load_rollout(out)
    tokenizer = tiny_models.tokenizer()
    batch, estimates = seen[1]
    for episode in (0, 5):
        lines = token_lines(kept, episode, config, tokenizer)
        assert "".join(line.text for line in lines) == tokenizer.decode(batch.rows[episode])
        own = [line for line in lines if line.mask]
        where = (batch.chain_A == episode).nonzero()[:, 0]
        assert [line.figures["logp_old"] for line in own] == estimates.logp_old_A[where].tolist()
        assert [line.turn for line in own] == batch.turn_A[where].tolist()
        found = [(line.figures["delta"], line.figures["advantage"], line.figures["return"]) for line in own]
        for mine, expected in zip(found, naive_lines(batch, estimates, episode, config), strict=True):
            assert mine == pytest.approx(expected, abs=1e-4)
        assert sum(line.figures["reward"] for line in own) == pytest.approx(sum(t["reward"] for t in kept.episodes[episode]["turns"]))
    assert any(abs(line.figures["kl"]) > 1e-6 for line in own)  # the policy has moved since
    with pytest.raises(ConfigError, match=r"0 … 7"):
        token_lines(kept, 8, config, tokenizer)


def test_what_people_wrote_is_text_in_the_page(run):
    out, _ = run
    kept, tokenizer = load_rollout(out), tiny_models.tokenizer()
    lines = token_lines(kept, 0, TrainConfig.read(out), tokenizer)
    assert ATTACK in "".join(line.text for line in lines)
    whole = [dataclasses.replace(lines[0], text=ATTACK), *lines]  # as one token, and as the title
    page = html_page(whole, ATTACK, [ATTACK])
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(&quot;x&quot;)") == 4
    assert not re.search(r"(src|href)=", page)
    assert page.count('class="fed"') + page.count('class="own"') + page.count('class="end"') == len(whole)
    console = Console(width=200, record=True)
    console.print(terminal_table([dataclasses.replace(lines[0], text="[red]x[/]"), *lines], "[bold]t[/]"))
    shown = console.export_text()
    assert "[red]x[/]" in shown
    assert "[bold]t[/]" in shown
    _, notes = episode_notes(kept, 0)
    assert "reward/profile 0.25" in notes[0]


def test_a_sketch_keeps_inner_products():
    generator = torch.Generator().manual_seed(0)
    shapes = [(30, 7), (5,), (64, 33)]
    a, b = ([torch.randn(shape, generator=generator) for shape in shapes] for _ in range(2))
    exact = [float(sum((x * y).sum() for x, y in zip(p, q, strict=True))) for p, q in ((a, a), (a, b))]
    for size, error in ((4096, 1e-3), (512, 0.25 * exact[0])):
        sketch = Sketch(a, size)
        assert float(sketch(a) @ sketch(a)) == pytest.approx(exact[0], abs=error)
        assert float(sketch(a) @ sketch(b)) == pytest.approx(exact[1], abs=error)
    ones = [torch.ones(shape) for shape in shapes]  # alike in all places: only random signs keep them from adding up
    assert float(Sketch(ones, 512)(ones).square().sum()) == pytest.approx(2327, rel=0.25)
    assert torch.equal(Sketch(a, 512)([a[0], None, a[2]]), Sketch(a, 512)([a[0], torch.zeros(5), a[2]]))


def test_noise_figures_know_signal_and_noise():
    rng = np.random.default_rng(0)
    signal, noise = rng.normal(size=2000) / np.sqrt(2000), rng.normal(size=(64, 2000)) / np.sqrt(2000)
    tokens = torch.full((64,), 10)
    clear = noise_figures(torch.tensor(np.tile(signal, (64, 1))), tokens)
    assert clear["relative_variance"] == pytest.approx(0, abs=1e-9)
    assert clear["cosine_halves"] == pytest.approx(1)
    assert clear["norm"] == pytest.approx(0.1 * np.linalg.norm(signal))
    found = noise_figures(torch.tensor(2 * signal + 4 * noise), tokens)
    # |μ|² = 4, tr Σ = 16: a mean of 64 has variance ¼ of 4.25; halves of 32 have ½ beside 4; 8 against 56 have 2, 2/7
    assert found["relative_variance"] == pytest.approx(0.25 / 4.25, rel=0.15)
    assert found["cosine_halves"] == pytest.approx(4 / 4.5, abs=0.03)
    assert found["cosine_large"] == pytest.approx(4 / np.sqrt(6 * (4 + 2 / 7)), abs=0.04)
    with pytest.raises(ConfigError, match="at least two"):
        noise_figures(torch.ones(1, 4), torch.ones(1))


@pytest.mark.parametrize("algo", ["ppo", "grpo", "rloo", "reinforce"])
def test_the_gradient_compared_is_the_one_trained_with(run, algo):
    out, seen = run
    learner = open_run(out, cli.load_policy)
    batch = seen[1][0]
    found = compare(learner, batch, [algo])
    assert found["units"] == 4
    assert found["dialogues"] == 8
    # by the trainer's own path: the loss of the whole batch in one step, ratios to the log-probabilities at sampling
    fixed = dataclasses.replace(learner.config, algo=algo)
    own = type(learner)(learner.policy, fixed)
    own.normaliser = learner.normaliser
    if algo != "ppo":
        ref = learner.estimate(batch, 0)
        estimates = own.conclude(batch, ref.logp_old_A, ref.logp_ref_A, None, None)
    else:
        estimates = own.estimate(batch, 0)
    estimates = dataclasses.replace(estimates, logp_old_A=batch.logp_old_A)
    learner.policy.lm.zero_grad()
    for micro in micro_batches(batch, range(len(batch.rows)), 10_000):
        own.loss(batch, micro, estimates, batch.tokens)[0].backward()
    norm = torch.cat([p.grad.flatten() for p in learner.policy.parameters_policy()]).norm()
    assert found["rows"][0]["norm"] == pytest.approx(float(norm), rel=1e-3)


def test_replay_compares_all_estimators_and_leaves_its_figures(run, capsys):
    out, _ = run
    cli.main(["replay", str(out), "--iteration", "1", "2"])
    shown = capsys.readouterr().out
    found = json.loads((out / "replay.json").read_text())
    assert [row["algo"] for row in found["rows"]] == ["ppo", "grpo", "rloo", "reinforce"]
    assert all(algo in shown for algo in found["between"])
    assert found["units"] == 8
    for row in found["rows"]:
        assert -1 <= row["cosine_large"] <= 1
        assert row["relative_variance"] > 0
    assert found["between"]["grpo"]["rloo"] == pytest.approx(found["between"]["rloo"]["grpo"])
    assert found["between"]["ppo"]["ppo"] == pytest.approx(1)
    with pytest.raises(SystemExit, match="algo: expected one of"):
        cli.main(["replay", str(out), "--algo", "dpo"])


def test_replay_of_a_served_run_weighs_no_token_twice(run):
    """Ratios are to what the server said when it sampled, which is all that the weights of training make up for."""
    out, seen = run
    learner, batch = open_run(out, cli.load_policy), seen[0][0]
    plain = compare(learner, batch, ["rloo", "reinforce"])
    learner.config = dataclasses.replace(learner.config, rollout=dataclasses.replace(learner.config.rollout, server="http://localhost:1"))
    assert plain["sampling_mismatch"] > 1e-6
    assert compare(learner, batch, ["rloo", "reinforce"]) == plain


def test_estimators_are_compared_on_one_objective_or_not_at_all(tmp_path):
    def config(algo="ppo", mode="mdp", **ppo):
        samples = {"samples": 2} if mode == "official" else {}
        return toy_config(tmp_path, 3, algo=algo, mode=mode, rollout={"group": 2, **samples}, ppo=ppo)

    everybody = ("ppo", "grpo", "rloo", "reinforce")
    for one in (config(), config(profile_paid="block"), config(mode="official", gamma_turn=0.0)):
        assert one_objective(one, everybody) == ""
    assert "(1.0, 0.0)" in one_objective(config(gamma_turn=0.0), everybody)
    assert "(0.5, 1.0)" in one_objective(config(gamma_token=0.5), ["reinforce", "rloo"])
    assert "line by line" in one_objective(config(profile_paid="line"), ["ppo", "rloo"])
    assert "line by line" in one_objective(config(profile_paid="auto"), ["rloo"])  # as the preset "tiny" pays
    assert one_objective(config(gamma_turn=0.0, profile_paid="line"), ["ppo", "reinforce"]) == ""
    assert one_objective(config(gamma_turn=0.0), ["grpo", "rloo"]) == ""  # neither discounts
    for kl_in, under in (("loss", ["loss"] * 4), ("auto", ["reward", "loss", "loss", "reward"])):
        assert [_under(config(kl_in=kl_in), algo).kl_in for algo in everybody] == under


def test_replay_of_a_run_with_own_credit_for_every_line_leaves_the_group_estimators_out(tmp_path):
    trainer = trainer_of(tmp_path, iterations=1, ppo={"gamma_turn": 0.0, "profile_paid": "auto", "beta": 0.1, "kl_in": "loss", "kl_kind": "k2"})
    trainer.run()
    found = replay(trainer.config.out, cli.load_policy)
    assert [row["algo"] for row in found["rows"]] == ["ppo", "reinforce"]
    with pytest.raises(ConfigError, match=r"one objective for ppo, rloo.* --ppo\.profile-paid turn --ppo\.gamma-turn 1"):
        replay(trainer.config.out, cli.load_policy, ["ppo", "rloo"])


def test_the_commands_of_the_docs_give_a_run_that_replay_compares(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "agent.md").read_text(encoding="utf-8").replace("\\\n", " ")
    train = re.search(r"^rlpa-agent train (.*--keep-rollouts.*)$", page, re.MULTILINE).group(1).split()
    algos = re.search(r"^rlpa-agent replay .*--algo (.*)$", page, re.MULTILINE).group(1).split()
    config = cli.parse_preset("train", train).config
    assert one_objective(config, algos) == ""
    assert config.group > 1


def test_estimators_that_the_run_cannot_give_are_refused(tmp_path):
    trainer = trainer_of(tmp_path, algo="reinforce", rollout={"group": 1}, iterations=1, ppo={"beta": 0.05})
    trainer.run()
    found = replay(trainer.config.out, cli.load_policy)
    assert [row["algo"] for row in found["rows"]] == ["reinforce"]
    assert found["units"] == 8
    with pytest.raises(ConfigError, match="critic for ppo"):
        replay(trainer.config.out, cli.load_policy, ["ppo"])
    with pytest.raises(ConfigError, match=r"rollout\.group: expected at least 2"):
        replay(trainer.config.out, cli.load_policy, ["rloo"])


def test_dialogues_that_a_failure_cut_short_are_compared_for_estimators_with_a_critic_alone(tmp_path):
    trainer = trainer_of(tmp_path, iterations=1, rollout={"group": 1})
    trainer.run()
    texts = next((trainer.config.out / "rollouts").glob("*.jsonl"))
    lines = [json.loads(line) for line in texts.read_text().splitlines()]
    lines[0]["turns"][-1]["valid"] = False
    texts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ConfigError, match=r"expected whole dialogues for reinforce.*iterations \[1\] have kept"):
        replay(trainer.config.out, tasks.load_policy, ["ppo", "reinforce"])
    assert [row["algo"] for row in replay(trainer.config.out, tasks.load_policy, ["ppo"])["rows"]] == ["ppo"]


def test_inspect_shows_and_writes(run, tmp_path, capsys):
    out, _ = run
    cli.main(["inspect", str(out), "--episode", "2"])
    shown = capsys.readouterr().out
    assert "dialogue 2" in shown
    assert "turn 0: reward" in shown
    cli.main(["inspect", str(out), "--episode", "2", "--iteration", "1", "--html", str(tmp_path / "deep" / "page.html")])
    page = (tmp_path / "deep" / "page.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "iteration 1" in page
    with pytest.raises(SystemExit, match="got 99"):
        cli.main(["inspect", str(out), "--episode", "99"])


def test_units_are_groups(run):
    _, seen = run
    batch = seen[0][0]
    assert units_of(batch, 2) == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert units_of(batch, 1) == [[row] for row in range(8)]


def test_a_run_that_took_sampled_logp_is_replayed_by_scoring(tmp_path, monkeypatch):
    """Its states are not kept, and the policy has moved on since; nor does it matter here what multiplies faster."""
    monkeypatch.setattr("rlpa_agent.learner.update_dtype", lambda device, width: "bfloat16")
    ppo = {"beta": 0.05, "old_logp": "sampled", "critic_steps": 2}
    trainer = trainer_of(tmp_path, iterations=1, ppo=ppo, model={"update_dtype": "auto"}, optim={"policy_lr": 1e-2})
    trainer.run()
    assert trainer.learner.update_dtype == "float32"
    found = replay(trainer.config.out, cli.load_policy, ["ppo", "reinforce"])
    assert [row["algo"] for row in found["rows"]] == ["ppo", "reinforce"]
    assert found["sampling_mismatch"] > 1e-3  # scored by the last policy


@pytest.mark.parametrize(("group", "samples", "compared"), [(2, 1, False), (1, 2, True)])
def test_answers_of_a_turn_are_the_groups_of_official_mode(monkeypatch, tmp_path, group, samples, compared):
    config = PRESETS["qwen2.5-3b-paper"]
    config = dataclasses.replace(config, rollout=dataclasses.replace(config.rollout, samples=samples, group=group))
    asked = []
    monkeypatch.setattr(replay_module, "open_run", lambda *_: SimpleNamespace(config=config))
    monkeypatch.setattr(replay_module, "load_rollout", lambda *_: SimpleNamespace(batch=None, episodes=()))
    monkeypatch.setattr(replay_module, "joined", lambda *_: None)
    monkeypatch.setattr(replay_module, "compare", lambda learner, batch, algos, seed: asked.extend(algos) or {})
    replay_module.replay(tmp_path, None)
    assert "ppo" in asked
    assert bool({"grpo", "rloo"} & set(asked)) is compared
