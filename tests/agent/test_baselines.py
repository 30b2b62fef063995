"""SFT and DPO: TRL trains on exactly the ids that were fed and sampled, pairs are best and worst of one state, both learn."""

from __future__ import annotations

import dataclasses
import json
from importlib.util import find_spec

import gymnasium as gym
import numpy as np
import pytest
import tiny_models
import torch

from rlpa_agent import baselines, cli
from rlpa_agent.answers import Pair, best_and_worst, best_rows, held_answers, read_answers, weights_key
from rlpa_agent.baseline_config import BASELINES, DPO, SFT, AnswersConfig, FitConfig, as_training
from rlpa_agent.baselines import IGNORED, dpo_trainer, lent, run_trainer, sft_trainer
from rlpa_agent.chat import Chat, Transcript
from rlpa_agent.config import shipped_start
from rlpa_agent.contexts import ContextKind
from rlpa_agent.lora import LoraSettings
from rlpa_agent.policy import Policy
from rlpa_agent.trajectory import Trajectory, Turn
from rlpa_agent.warm_start import batch_loss
from rlpa_env import ConfigError, instructions
from rlpa_env.errors import NotInstalledError

torch.set_num_threads(1)
needs_trl = pytest.mark.skipif(find_spec("trl") is None, reason="needs trl and accelerate: pip install '.[baselines]'")
TURNS = 3
DATA = AnswersConfig(dialogues=3, concurrent=2, samples=3, max_turns=TURNS, max_new_tokens=60, profile_weight=5.0)


@pytest.fixture(scope="module")
def start():
    return Policy.from_pretrained(shipped_start(), reference=False)


def make_env():
    return cli.environments(as_training(SFT(DATA)).rollout)()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("answers")


@pytest.fixture(scope="module")
def held(start, folder):
    return held_answers(start, make_env, SFT(DATA), folder)


def spans(row):
    """(start, end) of the stretches that the mask marks."""
    edges = np.flatnonzero(np.diff([False, *row.mask, False]))
    return [tuple(pair) for pair in edges.reshape(-1, 2).tolist()]


def test_rows_hold_what_the_chat_feeds_and_the_mask_the_paid_answers_and_nothing_else(start, held):
    rows, left_out = best_rows(held)
    by_start = iter(rows)
    for trajectory in held.values():
        pieces = start.chat.begin(trajectory.messages[:2])
        expected = []
        for k, turn in enumerate(trajectory.turns):
            fed = start.chat.context(pieces).tolist()
            assert fed == turn.context_ids.tolist()
            if turn.reward > 0:
                expected.append((len(fed), len(fed) + len(turn.action_ids)))
            if k + 1 < len(trajectory.turns):
                start.chat.extend(pieces, turn.action_ids, trajectory.messages[2 * k + 3][1])
        if expected:
            row = next(by_start)
            assert spans(row) == expected
            assert row.ids == [*trajectory.turns[-1].context_ids, *trajectory.turns[-1].action_ids]
    assert next(by_start, None) is None
    turns = [turn for trajectory in held.values() for turn in trajectory.turns]
    assert left_out == sum(turn.reward <= 0 for turn in turns) < len(turns)


@needs_trl
def test_trl_is_fed_these_ids_and_learns_these_tokens(start, held, tmp_path):
    rows, _ = best_rows(held)
    fit = FitConfig(batch=len(rows), micro_batch=len(rows))
    with lent(start):
        (batch,) = sft_trainer(start, rows, fit, tmp_path).get_train_dataloader()
    assert len(batch["input_ids"]) == len(rows)
    left = [(row.ids, [i if own else IGNORED for i, own in zip(row.ids, row.mask)]) for row in rows]
    for ids, labels, seen in zip(batch["input_ids"], batch["labels"], batch["attention_mask"]):
        n = int(seen.sum())
        assert bool(seen[:n].all())
        assert bool((labels[n:] == IGNORED).all())
        left.remove((ids[:n].tolist(), labels[:n].tolist()))
    assert not left


@needs_trl
def test_trl_compares_the_answers_as_they_were_sampled(start, held, tmp_path):
    pairs, _ = best_and_worst(held, 0.0)
    fit = FitConfig(batch=len(pairs), micro_batch=len(pairs))
    with lent(start):
        (batch,) = dpo_trainer(start, pairs, fit, tmp_path, beta=0.1).get_train_dataloader()
    half = len(pairs)
    left = [(p.prompt_ids, p.chosen_ids, p.rejected_ids) for p in pairs]
    for i in range(half):
        prompts, answers = [], []
        for row in (i, half + i):
            ids = batch["input_ids"][row][batch["attention_mask"][row].bool()].tolist()
            n = int(batch["completion_mask"][row].sum())
            assert batch["completion_mask"][row].tolist()[: len(ids)] == [0] * (len(ids) - n) + [1] * n
            prompts.append(ids[:-n])
            answers.append(ids[-n:])
        assert prompts[0] == prompts[1]
        left.remove((prompts[0], *answers))
    assert not left


def test_pairs_are_the_best_and_the_worst_of_one_state(start, held):
    """Played again without any branching, both answers of a pair earn what was written down."""
    pairs, dropped = best_and_worst(held, 0.0)
    assert len(pairs) + dropped == sum(len(trajectory.turns) for trajectory in held.values())
    assert len(pairs) >= 3
    people = np.random.default_rng([0, 1]).integers(2**31, size=DATA.dialogues).tolist()
    for pair in pairs:
        turns = held[pair.dialogue].turns
        rewards = [turn.reward for turn in (turns[pair.turn], *turns[pair.turn].others)]
        assert len(rewards) == DATA.samples
        assert (pair.chosen_reward, pair.rejected_reward) == (max(rewards), min(rewards))
        for ids, paid in ((pair.chosen_ids, pair.chosen_reward), (pair.rejected_ids, pair.rejected_reward)):
            env = make_env()
            env.reset(seed=people[pair.dialogue])
            for turn in turns[: pair.turn]:
                env.step(start.chat.decode(turn.action_ids))
            assert env.step(start.chat.decode(ids))[1] == pytest.approx(paid)


def test_the_margin_drops_pairs_and_says_how_many(held):
    every, none_dropped = best_and_worst(held, 0.0)
    gaps = sorted(pair.chosen_reward - pair.rejected_reward for pair in every)
    kept, dropped = best_and_worst(held, gaps[0])
    assert all(pair.chosen_reward - pair.rejected_reward > gaps[0] for pair in kept)
    assert len(kept) < len(every)
    assert len(kept) + dropped == len(every) + none_dropped


def turn(context, action, reward, others=(), valid=True):
    ids = np.asarray(action)
    return Turn(np.asarray(context), ids, np.zeros(len(ids), np.float32), reward, valid=valid, others=others)


def trajectory(*turns):
    return Trajectory(tuple(turns), np.zeros(0, dtype=np.int64), False, True)


def test_answers_that_earned_nothing_are_context_and_what_could_not_be_scored_is_cut():
    told = trajectory(turn([1, 2], [3, 4], 0.0), turn([1, 2, 3, 4, 5], [6], 1.0), turn([1, 2, 3, 4, 5, 6, 7], [8], 2.0, valid=False))
    rows, left_out = best_rows({0: told})
    assert [(row.ids, row.mask) for row in rows] == [([1, 2, 3, 4, 5, 6], [False] * 5 + [True])]
    assert left_out == 1
    rewritten = trajectory(turn([1, 2], [3, 4], 1.0), turn([1, 2, 9, 5], [6], 1.0))
    rows, _ = best_rows({0: rewritten})
    assert [(row.ids, row.mask) for row in rows] == [([1, 2, 3, 4], [False, False, True, True]), ([1, 2, 9, 5, 6], [False] * 4 + [True])]
    lost = turn([1], [4], 9.0, valid=False)
    pairs, dropped = best_and_worst({5: trajectory(turn([1], [2], 1.0, (turn([1], [3], 0.25), lost)))}, 0.5)
    assert pairs == [Pair([1], [2], [3], 1.0, 0.25, 5, 0)]
    assert dropped == 0
    assert best_and_worst({0: trajectory(lost)}, 0.0) == ([], 1)


def test_a_stopped_run_goes_on_with_its_answers(start, held, folder, tmp_path, monkeypatch):
    class Stop(Exception):
        pass

    def stop(_):
        raise Stop

    with pytest.raises(Stop):
        held_answers(start, make_env, SFT(DATA), tmp_path, report=stop)
    path = tmp_path / "answers.jsonl"
    before = path.read_text().splitlines()
    assert len(before) == 2
    path.write_text("\n".join([before[0], before[1][:200]]))  # the kill came while the second was written
    from rlpa_agent import rollout

    asked, collect = [], rollout.collect

    def counted(*args, **options):
        asked.extend(options["streams"])
        return collect(*args, **options)

    monkeypatch.setattr(rollout, "collect", counted)
    first = json.loads(before[0])["dialogue"]
    again = held_answers(start, make_env, SFT(DATA), tmp_path)
    assert asked == [(0, i) for i in range(3) if i != first]
    assert best_and_worst(again, 0.0) == best_and_worst(held, 0.0)  # what was held later is what would have been
    assert read_answers(tmp_path).keys() == {0, 1, 2}
    asked.clear()
    assert best_rows(held_answers(start, make_env, DPO(DATA), tmp_path)) == best_rows(held)  # another method shares them
    assert asked == []
    # Lines are plain data that people can read: the text of every answer, and what it earned.
    line = json.loads((folder / "answers.jsonl").read_text().splitlines()[0])
    kept = held[line["dialogue"]].turns[0]
    assert line["turns"][0]["answers"][0]["text"] == start.chat.decode(kept.action_ids)
    assert line["turns"][0]["answers"][0]["reward"] == kept.reward


def test_a_line_separator_in_what_somebody_said_tears_no_line_of_answers(tmp_path):
    said = [["user", "a\u2028b\x85c"]]
    line = {"dialogue": 4, "episode": "", "stop_reason": "", "messages": said, "turns": []}
    (tmp_path / "answers.jsonl").write_text(2 * (json.dumps(line, ensure_ascii=False) + "\n"), encoding="utf-8")
    assert [list(map(list, found.messages)) for found in read_answers(tmp_path).values()] == [said]


def test_answers_of_other_settings_or_another_start_are_refused(start, held, folder):
    with pytest.raises(ConfigError, match=r"samples=3, now 2.*choose another folder"):
        held_answers(start, make_env, SFT(dataclasses.replace(DATA, samples=2)), folder)
    with pytest.raises(ConfigError, match="seed=0, now 1"):
        held_answers(start, make_env, SFT(DATA, seed=1), folder)
    other = tiny_models.policy()
    assert weights_key(other) != weights_key(start)
    with pytest.raises(ConfigError, match="start="):
        held_answers(other, make_env, SFT(DATA), folder)


def test_contexts_that_are_rewritten_survive_the_file(start, tmp_path):
    start.chat.kept = ContextKind("latest")
    try:
        config = SFT(dataclasses.replace(DATA, dialogues=1, context="latest", samples=2))
        found = held_answers(start, make_env, config, tmp_path)[0]
    finally:
        start.chat.kept = ContextKind()
    read = read_answers(tmp_path)[0]
    assert len(found.turns) > 1
    for one, other in zip(found.turns, read.turns, strict=True):
        assert one.context_ids.tolist() == other.context_ids.tolist()
        assert one.action_ids.tolist() == other.action_ids.tolist()
        assert [o.action_ids.tolist() for o in one.others] == [o.action_ids.tolist() for o in other.others]
    assert read.messages == found.messages


def little_rows(chat):
    rows = []
    for number in (34, 51):
        row = Transcript()
        row.context(chat.opening([("user", f"I am {number}.")]))
        row.action([*chat.tokenizer.encode(f"<profile>\n- Age: {number}\n</profile>"), chat.end_id])
        rows.append(row)
    return rows


QUICK = FitConfig(lr=3e-3, schedule="constant", steps=8, batch=2, micro_batch=1)


@needs_trl
def test_sft_lowers_the_loss_and_leaves_the_policy_as_ours(tmp_path):
    policy = tiny_models.policy()
    rows = little_rows(policy.chat)
    config, before = policy.lm.config.to_dict(), float(batch_loss(policy, rows, bf16=False).detach())
    with lent(policy):
        logged = run_trainer(sft_trainer(policy, rows, QUICK, tmp_path), tmp_path)
    after = float(batch_loss(policy, rows, bf16=False).detach())
    # TRL's first loss is ours, but for the ids that are never sampled, which it counts in.
    assert logged[0]["loss"] == pytest.approx(before, abs=0.2)
    assert after < before - 2.0
    assert [line["step"] for line in logged] == list(range(1, 9))
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == logged
    assert "forward" not in vars(policy.lm)
    assert not policy.lm.training
    assert policy.lm.config.to_dict() == config
    policy.save(tmp_path / "policy")
    read = Policy.load(tmp_path / "policy", reference=False)
    assert float(batch_loss(read, rows, bf16=False).detach()) == pytest.approx(after, abs=1e-5)
    assert torch.equal(next(iter(read.parameters_value())), next(iter(policy.parameters_value())))


def answer_logp(policy, prompt, answer, reference=False):
    ids = torch.tensor([[*prompt, *answer]])
    pos = torch.arange(len(prompt), ids.shape[1])
    where = (ids, torch.tensor([ids.shape[1]]), torch.zeros_like(pos), pos)
    with torch.no_grad():
        if reference:
            return float(policy.reference_logp(*where, temperature=1.0).sum())
        return float(policy.score(*where, pos / 100, temperature=1.0, need=("logp",)).logp.sum())


def little_pairs(chat):
    good, bad = (row.ids for row in little_rows(chat))
    n = len(chat.opening([("user", "I am 34.")]))
    return [Pair(good[:n], good[n:], bad[n:], 1.0, 0.0, 0, 0), Pair(bad[:n], bad[n:], good[n:], 1.0, 0.0, 1, 0)]


def margin(policy, pair):
    """By how much the best gained on the worst since the reference, nats."""
    gained = [answer_logp(policy, pair.prompt_ids, ids) - answer_logp(policy, pair.prompt_ids, ids, True) for ids in (pair.chosen_ids, pair.rejected_ids)]
    return gained[0] - gained[1]


@needs_trl
def test_dpo_raises_the_best_over_the_worst_against_the_start(tmp_path):
    policy = tiny_models.policy()  # holds its start as the reference
    pairs = little_pairs(policy.chat)
    assert [margin(policy, pair) for pair in pairs] == pytest.approx([0.0, 0.0], abs=1e-4)
    with lent(policy):
        logged = run_trainer(dpo_trainer(policy, pairs, QUICK, tmp_path, beta=0.1), tmp_path)
    assert logged[0]["loss"] == pytest.approx(np.log(2), abs=1e-3)  # TRL's reference is the start too
    assert min(margin(policy, pair) for pair in pairs) > 1.0
    assert logged[-1]["rewards/margins"] > 0.1 * 0.5
    assert "forward" not in vars(policy.lm)


@needs_trl
@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_adapters_alone_are_trained(tmp_path, method):
    tiny_models.policy(sharpness=2.0).save(tmp_path / "base")
    plain = Policy.from_pretrained(tmp_path / "base", reference=False)
    policy = Policy.from_pretrained(tmp_path / "base", lora=LoraSettings(rank=4, alpha=8))
    assert weights_key(policy) == weights_key(plain)  # so both may share answers
    frozen = {name: p.clone() for name, p in policy.lm.named_parameters() if not p.requires_grad}
    pairs, rows = little_pairs(policy.chat), little_rows(policy.chat)
    with lent(policy):
        made = sft_trainer(policy, rows, QUICK, tmp_path) if method == "sft" else dpo_trainer(policy, pairs, QUICK, tmp_path, beta=0.1)
        run_trainer(made, tmp_path)
    assert all(torch.equal(p, frozen[name]) for name, p in policy.lm.named_parameters() if name in frozen)
    assert weights_key(policy) != weights_key(plain)
    if method == "dpo":
        assert min(margin(policy, pair) for pair in pairs) > 0.1
    policy.save(tmp_path / "policy")
    again = Policy.load(tmp_path / "policy", reference=False)
    assert answer_logp(again, pairs[0].prompt_ids, pairs[0].chosen_ids) == pytest.approx(answer_logp(policy, pairs[0].prompt_ids, pairs[0].chosen_ids), abs=1e-4)


@needs_trl
def test_the_deadline_ends_training_after_the_step_under_way(tmp_path):
    policy = tiny_models.policy()
    with lent(policy):
        assert len(run_trainer(sft_trainer(policy, little_rows(policy.chat), QUICK, tmp_path), tmp_path, deadline=0.0)) == 1


def test_the_deadline_ends_collecting_after_a_round(start, tmp_path):
    config = SFT(dataclasses.replace(DATA, dialogues=50, max_turns=1, max_new_tokens=8))
    assert held_answers(start, make_env, config, tmp_path, deadline=0.0).keys() == {0, 1}


LITTLE = ["--dialogues", "2", "--concurrent", "2", "--samples", "3", "--max-turns", "2", "--max-new-tokens", "60", "--steps", "2", "--batch", "2", "--micro-batch", "1"]


@needs_trl
def test_both_commands_leave_policies_that_evaluate(tmp_path, capsys):
    cli.main(["sft", "tiny", *LITTLE, "--out", str(tmp_path / "sft")])
    cli.main(["dpo", "tiny", *LITTLE, "--answers", str(tmp_path / "sft"), "--out", str(tmp_path / "dpo")])
    assert not (tmp_path / "dpo" / "answers.jsonl").exists()
    said = {name: json.loads((tmp_path / name / "baseline.json").read_text()) for name in ("sft", "dpo")}
    assert said["sft"]["start"] == said["dpo"]["start"]
    assert said["sft"]["dialogues"] == said["dpo"]["dialogues"] == 2
    assert said["sft"]["answers"] + said["sft"]["left_out"] == said["dpo"]["pairs"] + said["dpo"]["dropped"]
    keys = {weights_key(Policy.load(cli.policy_path(str(tmp_path / name)), reference=False)) for name in said}
    assert len(keys | {said["sft"]["start"]}) == 3
    with pytest.raises(SystemExit, match="finished one"):
        cli.main(["sft", "tiny", *LITTLE, "--out", str(tmp_path / "sft")])
    cli.main(["eval", "--policy", str(tmp_path / "dpo"), "--users", "1", "--max-new-tokens", "8", "--out", str(tmp_path / "eval")])
    assert "dpo" in capsys.readouterr().out


@needs_trl
def test_nothing_to_learn_is_an_error(start, tmp_path):
    policy = tiny_models.policy(context=2048)  # says nothing that earns anything
    data = dataclasses.replace(DATA, dialogues=1, max_turns=1, max_new_tokens=8)
    with pytest.raises(ConfigError, match="earned nothing"):
        baselines.run_baseline(SFT(data, out=tmp_path / "sft"), policy, make_env)
    with pytest.raises(ConfigError, match="differ by more than margin=0; dropped 1"):
        baselines.run_baseline(DPO(data, out=tmp_path / "dpo"), policy, make_env)


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_without_trl_the_error_says_what_to_install_before_anything_is_done(monkeypatch, tmp_path, method):
    from rlpa_env import errors

    monkeypatch.setattr(errors, "find_spec", lambda name: None if name == "trl" else object())
    with pytest.raises(SystemExit, match=r"pip install '\.\[baselines\]'"):
        cli.main([method, "tiny", "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()
    with pytest.raises(NotInstalledError), lent(None):
        pass


def test_the_paper_presets_are_the_papers_numbers():
    sft, dpo = BASELINES["sft"]["paper"], BASELINES["dpo"]["paper"]
    assert (sft.fit.lr, sft.fit.epochs, sft.fit.batch) == (1e-5, 1.0, 32)
    assert (dpo.fit.lr, dpo.fit.epochs, dpo.fit.batch, dpo.beta) == (5e-6, 1.0, 32, 0.01)
    for preset in (sft, dpo):
        assert preset.data.model == "Qwen/Qwen2.5-3B-Instruct"
        assert (preset.data.split, preset.data.dialogues, preset.data.max_turns, preset.data.samples) == ("vanilla/train", 3821, 10, 4)
        longest = {"turns": preset.data.max_turns, "max_new_tokens": preset.data.max_new_tokens}
        Chat(tiny_models.tokenizer(), instructions(10), preset.data.max_user_tokens).check_fits(32_768, **longest)
        assert (preset.fit.lora_rank, preset.fit.steps, preset.fit.bf16) == (0, None, True)


def test_both_methods_of_a_preset_learn_from_the_same_answers_as_training():
    for name in ("tiny", "paper"):
        assert BASELINES["sft"][name].data == BASELINES["dpo"][name].data
    from rlpa_agent.config import PRESETS

    ours, theirs = as_training(BASELINES["sft"]["tiny"]).rollout, PRESETS["tiny"].rollout
    same = ("env_id", "split", "max_turns", "max_new_tokens", "max_user_tokens", "temperature", "cues", "credit", "profile_weight", "response_weight")
    assert {name: getattr(ours, name) for name in same} == {name: getattr(theirs, name) for name in same}
    assert as_training(BASELINES["sft"]["tiny"]).context == PRESETS["tiny"].context
    tiny = BASELINES["sft"]["tiny"].data
    assert tiny.dialogues * tiny.samples == 28 * PRESETS["tiny"].rollout.dialogues  # as many answers as the runs of the tables


@needs_trl
def test_trl_gets_the_settings(tmp_path):
    policy = tiny_models.policy()
    preset = BASELINES["dpo"]["paper"]
    fit = dataclasses.replace(preset.fit, bf16=False, gradient_checkpointing=False)
    with lent(policy):
        args = dpo_trainer(policy, little_pairs(policy.chat), fit, tmp_path, beta=preset.beta, seed=7).args
    assert (args.learning_rate, args.num_train_epochs, args.beta, args.seed, args.max_length) == (5e-6, 1.0, 0.01, 7, None)
    assert args.per_device_train_batch_size * args.gradient_accumulation_steps == 32
    assert args.loss_type == ["sigmoid"]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: AnswersConfig(samples=1), "samples: expected at least 2"),
        (lambda: FitConfig(batch=6, micro_batch=4), "divisor of batch=6; got 4"),
        (lambda: FitConfig(schedule="fast"), "linear, cosine, constant; got 'fast'"),
        (lambda: DPO(beta=0.0), "beta: expected more than 0"),
        (lambda: DPO(margin=-1.0), "margin: expected at least 0"),
        (lambda: SFT(minutes=0.0), "minutes: expected more than 0"),
    ],
)
def test_settings_are_checked(make, said):
    with pytest.raises(ConfigError, match=said):
        make()


def test_help_teaches(capsys):
    with pytest.raises(SystemExit):
        cli.main(["dpo", "--help"])
    assert "paper: 3821 dialogues with 4 answers a turn" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["dpo", "tiny", "--help"])
    out = capsys.readouterr().out
    for flag in ("--minutes", "--steps", "--samples", "--dialogues", "--seed", "--out", "--margin", "--beta", "--model"):
        assert flag in out
    assert "Example: rlpa-agent dpo tiny" in out
    with pytest.raises(SystemExit, match="expected one of tiny, paper; got 'big'"):
        cli.main(["sft", "big"])


def test_environments_are_those_of_training():
    env = cli.environments(as_training(SFT(DATA)).rollout)()
    assert isinstance(env, gym.Env)
    assert env.spec is not None
    assert env.spec.max_episode_steps == TURNS
