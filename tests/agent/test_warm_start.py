"""The warm start learns what the assistant says, resumes bitwise, and its copy measure tells copying from guessing."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny_models
import torch

from rlpa_agent.tokenizer import main as tokenizer_main
from rlpa_agent.tokenizer import train_tokenizer
from rlpa_agent.warm_start import (
    Schedule,
    Stage,
    batch_loss,
    batches,
    encode,
    forced_copy,
    padded,
    warm_start,
)
from rlpa_env.errors import ConfigError

torch.set_num_threads(1)


def source(rng):
    """One to three turns of a fixed question game with a random number in it."""
    said = []
    for _ in range(int(rng.integers(1, 4))):
        number = int(rng.integers(10, 99))
        said += [("user", f"I am {number}."), ("assistant", f"<profile>\n- Age: {number}\n</profile>")]
    return said


def weights(policy):
    return torch.cat([parameter.detach().flatten() for parameter in policy.parameters_policy()])


def test_only_what_the_assistant_says_is_learned():
    policy = tiny_models.policy()
    chat = policy.chat
    transcript = encode(
        chat, [("user", "Hello"), ("assistant", "Oh <|im_end|>"), ("user", "x"), ("assistant", "No")]
    )
    said = [i for i, own in zip(transcript.ids, transcript.mask) if own]
    first = chat.tokenizer.encode("Oh <|im_end|>", split_special_tokens=True)
    assert said == [*first, chat.end_id, *chat.tokenizer.encode("No"), chat.end_id]
    assert (
        transcript.ids[: len(chat.opening([("user", "Hello")]))] == chat.opening([("user", "Hello")]).tolist()
    )
    rest = [i for i, own in zip(transcript.ids, transcript.mask) if not own]
    assert rest == [*chat.opening([("user", "Hello")]), *chat.follow([chat.end_id], "x")]


def test_a_slip_is_read_and_not_learned_nor_is_one_before_the_rest_of_a_turn():
    chat = tiny_models.policy().chat
    whole = encode(chat, [("user", "Hello"), ("slip", "Hm"), ("user", "x"), ("slip", "No\n"), ("assistant", "Yes")])
    plain = encode(chat, [("user", "Hello"), ("assistant", "Hm"), ("user", "x"), ("assistant", "No\nYes")])
    assert whole.ids == plain.ids
    assert [i for i, own in zip(whole.ids, whole.mask) if own] == [*chat.tokenizer.encode("Yes"), chat.end_id]


def test_loss_is_the_mean_over_assistant_tokens_whatever_the_padding():
    policy = tiny_models.policy()
    rng = np.random.default_rng(0)
    batch = [encode(policy.chat, source(rng)) for _ in range(4)]
    _, lengths, rows, _ = padded(batch, policy.chat.pad_id)
    assert len(rows) == sum(sum(transcript.mask) for transcript in batch)
    assert lengths.tolist() == [len(transcript.ids) for transcript in batch]
    total, count = 0.0, 0
    for transcript in batch:
        with torch.no_grad():
            logits = policy.lm(input_ids=torch.tensor(transcript.ids)[None]).logits[0].double()
        logp = logits.masked_fill(policy.banned_V, -torch.inf).log_softmax(-1)
        for position, own in enumerate(transcript.mask):
            if own:
                total, count = total - float(logp[position - 1, transcript.ids[position]]), count + 1
    assert float(batch_loss(policy, batch, bf16=False).detach()) == pytest.approx(total / count, abs=1e-5)


def test_it_learns_and_reports():
    policy = tiny_models.policy()
    losses = []
    warm_start(
        policy,
        [Stage(source, 30, batch=4), Stage(source, 30, batch=2)],
        schedule=Schedule(lr=3e-3, warmup_steps=5),
        report=losses.append,
    )
    assert [progress.step for progress in losses] == list(range(1, 61))
    assert losses[0].loss > 4.0
    assert np.mean([progress.loss for progress in losses[-5:]]) < 1.2
    assert losses[-1].tokens > losses[0].tokens > 0
    assert not any(bool(p.grad is not None and p.grad.abs().max() > 0) for p in policy.parameters_value())


@pytest.mark.parametrize("muon_lr", [None, 0.02])
def test_a_stopped_run_resumes_bitwise(tmp_path, muon_lr):
    stages = [Stage(source, 5, batch=2), Stage(source, 20, batch=3)]
    settings = {"schedule": Schedule(warmup_steps=3, muon_lr=muon_lr), "seed": 7, "save_every": 9}
    whole = tiny_models.policy()
    warm_start(whole, stages, **settings)

    class Stop(Exception):
        pass

    def stop(progress):
        if progress.step == 13:
            raise Stop

    with pytest.raises(Stop):
        warm_start(tiny_models.policy(), stages, **settings, out=tmp_path, report=stop)
    assert json.loads((tmp_path / "last" / "progress.json").read_text())["step"] == 9
    (tmp_path / "last").rename(tmp_path / "previous")  # as a kill during the next save leaves it
    resumed = tiny_models.policy(seed=99)  # its weights are replaced by the checkpoint's
    steps = []
    warm_start(resumed, stages, **settings, out=tmp_path, resume=True, report=lambda p: steps.append(p.step))
    assert steps == list(range(10, 26))
    assert torch.equal(weights(resumed), weights(whole))
    assert [path.name for path in tmp_path.iterdir()] == ["last"]
    with pytest.raises(ConfigError, match="seed 8 and 25 steps"):
        warm_start(resumed, stages, **(settings | {"seed": 8}), out=tmp_path, resume=True)


def test_seeds_decide():
    ends = []
    for seed in (1, 1, 2):
        policy = tiny_models.policy()
        warm_start(policy, [Stage(source, 3, batch=2)], seed=seed)
        ends.append(weights(policy))
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_batches_hold_rows_of_like_length_and_too_long_dialogues_end_earlier():
    policy = tiny_models.policy()
    made = list(batches(policy.chat, [Stage(source, 16, batch=4)], 0, 10_000))
    assert [step for step, _ in made] == list(range(16))
    spread = np.mean([max(len(t.ids) for t in batch) - min(len(t.ids) for t in batch) for _, batch in made])
    overall = [len(t.ids) for _, batch in made for t in batch]
    assert spread < 0.35 * (max(overall) - min(overall))
    limit = (min(overall) + max(overall)) // 2
    cut = [t for _, batch in batches(policy.chat, [Stage(source, 16, batch=4)], 0, limit) for t in batch]
    assert max(len(t.ids) for t in cut) <= limit
    assert all(t.mask[-1] for t in cut)  # still ends with the assistant
    tail = list(batches(policy.chat, [Stage(source, 16, batch=4)], 0, 10_000, start=11))
    assert [step for step, _ in tail] == list(range(11, 16))
    assert [[t.ids for t in batch] for _, batch in tail] == [[t.ids for t in batch] for _, batch in made[11:]]


def test_forced_copy_counts_values_written_on_a_line_of_their_slot(monkeypatch):
    """The greedy decoder is replaced by one that writes what a table says; everything else is the shipped code."""
    from rlpa_agent import warm_start as module

    policy = tiny_models.policy()
    tok = policy.tokenizer
    answers = iter([[" chess\n", " 34\n"], [" Hiking\n"]])
    fed = []

    def lines(policy, cache, rows, chunks):
        fed.append([tok.decode(chunk) for chunk in chunks])
        return [tok.encode(text) for text in next(answers)]

    monkeypatch.setattr(module, "greedy_lines", lines)
    told = [[("Interests", "hiking"), ("Interests", "golf")], [], [("Age", "43")]]
    histories = [[("user", "Hello")]] * 3
    hits = forced_copy(policy, histories, told)
    assert hits == [[True, False], [], [False]]
    assert fed[0][0].endswith("<|im_start|>assistant\n<profile>\n- Interests:")
    assert fed[0][1].endswith("- Age:")
    assert fed[1] == ["\n- Interests:"]


def test_forced_copy_is_greedy_decoding():
    policy = tiny_models.policy()
    ids = policy.chat.opening([("user", "Hello")]).tolist() + policy.tokenizer.encode("<profile>\n- Age:")
    (newline,) = policy.tokenizer.encode("\n")
    line = []
    with torch.no_grad():
        while len(line) < 32 and (not line or line[-1] != newline):
            logits = policy.lm(input_ids=torch.tensor([ids + line])).logits[0, -1]
            line.append(int(logits.masked_fill(policy.banned_V, -torch.inf).argmax()))
            if line[-1] in policy.chat.end_ids:
                break
    value = policy.tokenizer.decode([*line[:-1], newline]).strip()
    history = [("user", "Hello")]
    assert forced_copy(policy, [history], [[("Age", value)]]) == [[True]]
    assert forced_copy(policy, [history], [[("Age", value + "x")]]) == [[False]]


@pytest.mark.parametrize("roles", [[], ["user"], ["user", "user"], ["assistant", "user"], ["user", "assistant", "slip"], ["user", "slip", "slip"]])
def test_dialogues_must_alternate(roles):
    with pytest.raises(ConfigError, match="expected user, assistant"):
        encode(tiny_models.policy().chat, [(role, "x") for role in roles])


def test_tokenizer_round_trips_any_text_and_keeps_digits_single():
    tok = tiny_models.tokenizer()
    assert len(tok) == 512
    text = "é😀\n\n  ab\t12 'x <|im_start|> \x00 <profile>\r\n"
    assert tok.decode(tok.encode(text, split_special_tokens=True)) == text
    assert len(tok.encode("2024", add_special_tokens=False)) == 4
    assert tok.pad_token_id != tok.eos_token_id
    with pytest.raises(ConfigError, match="at least 259"):
        train_tokenizer(["a"], 258)
    with pytest.raises(ConfigError, match="enough different text"):
        train_tokenizer(["aaa"], 512)


def test_tokenizer_command_writes_a_folder(tmp_path, capsys):
    (tmp_path / "texts.txt").write_text("".join(tiny_models.corpus()), encoding="utf-8")
    tokenizer_main([str(tmp_path / "texts.txt"), str(tmp_path / "out"), "--vocab-size", "300"])
    from transformers import AutoTokenizer

    assert len(AutoTokenizer.from_pretrained(tmp_path / "out")) == 300
    assert "300 ids" in capsys.readouterr().out
