"""The policy scores what it sampled, however rows are padded, and survives saving."""

from __future__ import annotations

import json
import math
import re

import pytest
import tiny_models
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GPT2Config, LlamaConfig

from rlpa_agent import head as head_module
from rlpa_agent.advantages import explained_variance
from rlpa_agent.chat import Chat
from rlpa_agent.config import shipped_start
from rlpa_agent.policy import Policy
from rlpa_agent.value import TABLE_RATE, ValueHead, head_file
from rlpa_env.errors import ConfigError

torch.set_num_threads(1)


def rows(count, *, seed=0, shortest=30, longest=60):
    """Random rows of ordinary token ids."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(shortest, longest, (count,), generator=generator)
    return [torch.randint(0, 500, (int(n),), generator=generator) for n in lengths]


def packed(rows, *, left=0, right=0, pad=509):
    """Rows -> ids [B, L], lengths, starts; padded by ``left`` and at least ``right``."""
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), left + longest + right), pad)
    for i, row in enumerate(rows):
        ids[i, left : left + len(row)] = row
    return ids, torch.tensor([left + len(row) for row in rows]), torch.full((len(rows),), left)


def awake(made):
    """Give the value head an output that is not 0."""
    with torch.no_grad():
        for weight in (made.value_head.outer.weight, made.value_head.table):
            weight.normal_(generator=torch.Generator().manual_seed(5))
    return made


def evaluate(made, batch, chosen, pos, *, left=0, right=0):
    """logp, V, loss and gradients at positions ``pos`` of row ``chosen`` of a batch."""
    ids, lengths, starts = packed(batch, left=left, right=right)
    for parameter in [*made.lm.parameters(), *made.value_head.parameters()]:
        parameter.grad = None
    scored = made.score(
        ids,
        lengths,
        torch.full((len(pos),), chosen),
        torch.tensor(pos) + left,
        torch.linspace(0.1, 1.0, len(pos)),
        temperature=0.8,
        starts_B=starts if left else None,
    )
    weights = torch.linspace(-1, 2, len(pos))
    loss = (weights * scored.logp).sum() + (scored.value - 1).square().sum() + scored.entropy.sum()
    loss.backward()
    grads = [p.grad.flatten() for p in [*made.lm.parameters(), *made.value_head.parameters()]]
    return [scored.logp.detach(), scored.value.detach(), loss.detach()[None], torch.cat(grads)]


@pytest.mark.parametrize("value_grad", ["detach", "shared"])
def test_T7_padding_and_batching_change_nothing(value_grad):
    made = awake(tiny_models.policy(value_grad=value_grad))
    batch = rows(5)
    pos = [1, 2, 9, 20, len(batch[3]) - 1]
    alone = evaluate(made, batch[3:4], 0, pos)
    others = {
        "left": evaluate(made, batch[3:4], 0, pos, left=13),
        "right": evaluate(made, batch[3:4], 0, pos, right=13),
        "batch": evaluate(made, batch, 3, pos),
        "batch and left": evaluate(made, batch, 3, pos, left=13),
    }
    for name, other in others.items():
        for a, b in zip(alone, other):
            assert (a - b).abs().max() <= 1e-5 * a.abs().max(), name


def test_T7_one_row_or_a_row_for_every_turn():
    """The tokens of three turns of one growing history, in one row or in three that extend each other."""
    made = awake(tiny_models.policy())
    (row,) = rows(1, shortest=60, longest=61)
    spans = [range(10, 20), range(30, 35), range(50, 60)]
    pos = [p for span in spans for p in span]
    one = evaluate(made, [row], 0, pos)
    ids, lengths, _ = packed([row[: span.stop] for span in spans])
    which = torch.tensor([k for k, span in enumerate(spans) for _ in span])
    for parameter in made.lm.parameters():
        parameter.grad = None
    made.value_head.zero_grad()
    scored = made.score(
        ids, lengths, which, torch.tensor(pos), torch.linspace(0.1, 1, len(pos)), temperature=0.8
    )
    loss = (torch.linspace(-1, 2, len(pos)) * scored.logp).sum()
    (loss + (scored.value - 1).square().sum() + scored.entropy.sum()).backward()
    grads = torch.cat([p.grad.flatten() for p in [*made.lm.parameters(), *made.value_head.parameters()]])
    for a, b in [(one[0], scored.logp), (one[1], scored.value), (one[3], grads)]:
        assert (a - b).abs().max() <= 1e-5 * a.abs().max()


def test_scores_are_those_of_plain_transformers_with_banned_ids_removed():
    made = tiny_models.policy(sharpness=3.0)
    (row,) = rows(1)
    pos = torch.arange(1, len(row))
    scored = made.score(
        row[None], torch.tensor([len(row)]), torch.zeros_like(pos), pos, pos / 100, temperature=0.7
    )
    with torch.no_grad():
        logits = made.lm(input_ids=row[None]).logits[0, :-1].double() / 0.7
    allowed = [i for i in range(520) if i not in (510, *range(512, 520))]  # <|im_start|>, rows without token
    logp = logits[:, allowed] - logits[:, allowed].logsumexp(-1, keepdim=True)
    expected = torch.stack([logp[i, allowed.index(int(row[i + 1]))] for i in range(len(row) - 1)])
    assert (scored.logp - expected).abs().max() < 1e-5
    entropy = -(logp.exp() * logp).sum(-1)
    assert (scored.entropy - entropy).abs().max() < 1e-5
    assert float(entropy.min()) < 0.9 * math.log(
        511
    )  # not a uniform distribution, which would hide a wrong one


def test_value_starts_at_zero_sees_the_turn_but_never_the_token_itself():
    made = tiny_models.policy()
    (row,) = rows(1)
    length, first, at = torch.tensor([len(row)]), torch.zeros(1, dtype=torch.long), torch.tensor([9])

    def value(ids, fraction=0.3):
        return made.score(
            ids[None], length, first, at, torch.tensor([fraction]), temperature=1.0, need=("value",)
        ).value.item()

    assert value(row) == 0.0
    awake(made)
    token, before = row.clone(), row.clone()
    token[9], before[8] = (row[9] + 1) % 500, (row[8] + 1) % 500
    assert value(token) == value(row)
    assert value(before) != value(row)
    assert value(row, 0.4) != value(row)
    at_state = made.value_at(row[None], length, first, torch.tensor([8]), torch.tensor([0.3])).item()
    assert at_state == pytest.approx(value(row), abs=1e-6)


def test_detached_value_gradient_never_reaches_the_trunk():
    (row,) = rows(1)
    for value_grad, reached in [("detach", False), ("shared", True)]:
        made = awake(tiny_models.policy(value_grad=value_grad))
        scored = made.score(
            row[None],
            torch.tensor([len(row)]),
            torch.tensor([0]),
            torch.tensor([9]),
            torch.tensor([0.5]),
            temperature=1.0,
            need=("value",),
        )
        assert scored.logp is None
        assert scored.entropy is None
        scored.value.sum().backward()
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in made.parameters_policy()) is reached
        assert all(p.grad is not None for p in made.parameters_value())


def test_chunks_of_the_head_change_nothing(monkeypatch):
    made = awake(tiny_models.policy())
    batch = rows(3)
    pos = list(range(1, 25))
    whole = evaluate(made, batch, 1, pos)
    monkeypatch.setattr(head_module, "CHUNK_LOGITS", 520 * 7)
    for a, b in zip(whole, evaluate(made, batch, 1, pos)):
        assert (a - b).abs().max() <= 1e-5 * a.abs().max()


def test_bf16_autocast_keeps_heads_in_fp32():
    made = awake(tiny_models.policy())
    (row,) = rows(1)
    pos = torch.arange(1, 20)
    arguments = (row[None], torch.tensor([len(row)]), torch.zeros_like(pos), pos, pos / 20)
    exact = made.score(*arguments, temperature=1.0)
    with torch.autocast("cpu", torch.bfloat16):
        rough = made.score(*arguments, temperature=1.0)
    assert rough.logp.dtype == rough.value.dtype == rough.entropy.dtype == torch.float32
    assert 0 < (rough.logp - exact.logp).abs().max() < 0.2
    # log_softmax of bf16 logits would not sum to 1 this closely: check that exp(logp) is a distribution
    hidden = made.lm.base_model(input_ids=row[None]).last_hidden_state[0, :1].to(torch.bfloat16)
    every = torch.tensor([i for i in range(520) if not made.banned_V[i]])
    with torch.autocast("cpu", torch.bfloat16):
        logp, _ = made._head(made.lm, hidden.expand(len(every), -1), every, 1.0, False)
    assert float(logp.detach().exp().sum()) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(("longest", "width"), [(50, 64), (64, 64), (65, 128), (130, 150), (150, 150)])
def test_widths_of_bf16_passes_repeat_and_change_nothing(monkeypatch, longest, width):
    made = awake(tiny_models.policy(context=150))
    ids, lengths, _ = packed([row[: longest + 1] for row in rows(3, shortest=151, longest=170)])
    widths = []
    forward = made.lm.base_model.forward

    def noted(*, input_ids, **others):
        widths.append(input_ids.shape[1])
        return forward(input_ids=input_ids, **others)

    def scored():
        place = (torch.tensor([0, 1, 2]), torch.tensor([3, 17, longest]))  # the last is told from what is before it
        with torch.no_grad():
            found = made.score(ids, lengths, *place, torch.zeros(3), temperature=1.0)
        return torch.stack([found.logp, found.value, found.entropy])

    monkeypatch.setattr(made.lm.base_model, "forward", noted)
    exact = scored()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        near = scored()
    assert widths == [longest, width]  # fp32 compiles nothing, so it is as narrow as can be
    torch.testing.assert_close(near, exact, atol=0.05, rtol=0)


def test_reference_stays_while_the_policy_moves():
    made = tiny_models.policy()
    (row,) = rows(1)
    pos = torch.arange(1, 20)
    where = (row[None], torch.tensor([len(row)]), torch.zeros_like(pos), pos)

    def current():
        return made.score(*where, pos / 20, temperature=0.9, need=("logp",)).logp.detach()

    start = current()
    assert torch.equal(made.reference_logp(*where, temperature=0.9), start)
    with torch.no_grad():
        for parameter in made.parameters_policy():
            parameter.add_(0.02)
    assert torch.equal(made.reference_logp(*where, temperature=0.9), start)
    assert not torch.allclose(current(), start, atol=1e-3)
    bare = tiny_models.policy()
    bare.reference = None
    with pytest.raises(ConfigError, match="freeze_reference"):
        bare.reference_logp(*where, temperature=0.9)
    bare.freeze_reference(made)
    assert torch.allclose(bare.reference_logp(*where, temperature=0.9), current(), atol=1e-6)


@pytest.mark.parametrize("system_prompt", [None, "", "Learn who\r\nthey are. é"])
def test_save_load_keeps_everything(tmp_path, system_prompt):
    made = awake(tiny_models.policy(system_prompt=system_prompt, temperature=0.7))
    made.save(tmp_path / "a")
    again = Policy.load(tmp_path / "a", reference=False)
    again.save(tmp_path / "b")
    final = Policy.load(tmp_path / "b")
    assert final.system_prompt == system_prompt
    assert final.temperature == 0.7
    assert again.reference is None
    assert final.lm.lm_head.weight is final.lm.model.embed_tokens.weight
    for name, tensor in made.lm.state_dict().items():
        assert torch.equal(tensor, final.lm.state_dict()[name]), name
    for name, tensor in made.value_head.state_dict().items():
        assert torch.equal(tensor, final.value_head.state_dict()[name]), name
    for name in ("model.safetensors", "value_head.weights"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert str(tmp_path) not in "".join(
        path.read_text(encoding="utf-8", errors="replace") for path in (tmp_path / "b").iterdir()
    )


def test_saved_folder_loads_in_plain_transformers(tmp_path):
    made = tiny_models.policy(temperature=0.6)
    made.save(tmp_path)
    model, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["unexpected_keys"]
    assert not report["missing_keys"]
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        stored = set(file.keys())
    assert "model.embed_tokens.weight" in stored
    assert "lm_head.weight" not in stored  # tied: stored once
    (row,) = rows(1)
    with torch.no_grad():
        assert torch.equal(model(input_ids=row[None]).logits, made.lm(input_ids=row[None]).logits)
    generation = GenerationConfig.from_pretrained(tmp_path)
    assert (generation.temperature, generation.top_k, generation.top_p) == (0.6, 0, 1.0)
    assert tuple(generation.eos_token_id) == made.chat.end_ids
    assert Chat(AutoTokenizer.from_pretrained(tmp_path), "").glue == made.chat.glue


def test_a_server_that_takes_every_safetensors_of_a_folder_finds_the_model_alone(tmp_path):
    tiny_models.policy().save(tmp_path)
    for folder in (tmp_path, shipped_start()):
        assert [path.name for path in folder.glob("*.safetensors")] == ["model.safetensors"]
        assert head_file(folder) == folder / "value_head.weights"


def test_a_folder_of_an_earlier_version_loads_and_is_saved_as_of_this_one(tmp_path):
    made = awake(tiny_models.policy())
    made.save(tmp_path)
    (tmp_path / "value_head.weights").unlink()
    save_file(made.value_head.state_dict(), tmp_path / "value_head.safetensors", metadata={"format": "pt"})
    again = Policy.load(tmp_path)
    assert torch.equal(again.value_head.outer.weight, made.value_head.outer.weight)
    assert again.value_head.units == (0.0, 1.0)
    again.save(tmp_path)
    assert not (tmp_path / "value_head.safetensors").exists()
    assert torch.equal(Policy.load(tmp_path).value_head.outer.weight, made.value_head.outer.weight)


@pytest.mark.parametrize("name", ["model.safetensors", "value_head.weights", "tokenizer.json"])
def test_a_file_that_was_cut_short_is_an_error_that_names_the_folder(tmp_path, name):
    tiny_models.policy().save(tmp_path)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:100])
    with pytest.raises(ConfigError, match=re.escape(str(tmp_path)) + ".*expected"):
        Policy.load(tmp_path)


def test_an_entropy_that_nobody_learns_from_is_the_same_figure_without_a_graph():
    made = awake(tiny_models.policy())
    (row,) = rows(1)
    place = (row[None], torch.tensor([len(row)]), torch.tensor([0, 0]), torch.tensor([1, 3]), torch.tensor([0.5, 0.5]))
    learned, told = (made.score(*place, temperature=0.7, entropy_grad=grad) for grad in (True, False))
    assert learned.entropy.requires_grad
    assert not told.entropy.requires_grad
    assert torch.equal(learned.entropy, told.entropy)
    assert told.logp.requires_grad


def test_half_size_storage_reloads_as_fp32(tmp_path):
    made = tiny_models.policy()
    made.save(tmp_path, dtype=torch.bfloat16)
    again = Policy.load(tmp_path)
    assert again.lm.dtype == made.lm.dtype == torch.float32
    for name, tensor in made.lm.state_dict().items():
        assert torch.equal(tensor.bfloat16().float(), again.lm.state_dict()[name]), name
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"


def test_weights_in_several_files_load_as_one_model(tmp_path):
    made = tiny_models.policy()
    largest = max(weight.numel() * 4 for weight in made.lm.parameters())
    made.save(tmp_path, largest=f"{largest // 1000 + 1}KB")
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) > 1
    assert max(file.stat().st_size for file in files) < 1.2 * largest + 10_000
    again = Policy.load(tmp_path)
    assert again.lm.get_output_embeddings().weight is again.lm.get_input_embeddings().weight
    for name, tensor in made.lm.state_dict().items():
        assert torch.equal(tensor, again.lm.state_dict()[name]), name


def test_equal_seeds_give_equal_weights_and_leave_the_global_stream_alone():
    state = torch.random.get_rng_state()
    a, b, c = tiny_models.policy(seed=3), tiny_models.policy(seed=3), tiny_models.policy(seed=4)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(a.lm.model.embed_tokens.weight, b.lm.model.embed_tokens.weight)
    assert torch.equal(a.value_head.inner.weight, b.value_head.inner.weight)
    assert not torch.equal(a.lm.model.embed_tokens.weight, c.lm.model.embed_tokens.weight)


def test_dropout_is_zero_everywhere():
    config = tiny_models.policy().lm.config
    config.attention_dropout = 0.5
    made = Policy.from_config(config, tiny_models.tokenizer(), system_prompt="")
    assert made.lm.model.layers[0].self_attn.attention_dropout == 0.0
    assert config.attention_dropout == 0.5  # the caller's object is not edited


def test_rescaling_keeps_denormalised_values():
    head = ValueHead(8, seed=1)
    for weight in (head.outer.weight, head.table):
        torch.nn.init.normal_(weight, generator=torch.Generator().manual_seed(0))
    torch.nn.init.constant_(head.outer.bias, 0.3)
    hidden, fraction = torch.linspace(-1, 1, 32).view(4, 8), torch.tensor([0.1, 0.4, 0.7, 1.0])
    before = head(hidden, fraction) * 2.0 + 5.0
    head.rescale((5.0, 2.0), (7.0, 0.5))
    assert torch.allclose(head(hidden, fraction) * 0.5 + 7.0, before, atol=1e-5)


def test_a_head_fitted_to_few_dialogues_knows_the_turns_of_others():
    """Returns are the turns left plus luck; the hidden states of a dialogue tell which dialogue it is, and nothing else."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(64, 32, generator=generator).repeat_interleave(10, 0)  # 64 dialogues of 10 turns
    fraction = torch.arange(10).repeat(64) / 10
    target = (0.5 - fraction) * 3 + 0.7 * torch.randn(64, generator=generator).repeat_interleave(10)
    head, seen = ValueHead(32, seed=0), torch.arange(640) < 320
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0)
    for _ in range(50):
        optimizer.zero_grad()
        (head(hidden[seen], fraction[seen]) - target[seen]).square().mean().backward()
        optimizer.step()
    # The turns explain .65 of these returns. A perceptron that gets the turn as one more input explains −.1.
    assert explained_variance(head(hidden, fraction).detach()[~seen], target[~seen]) > 0.4


def test_the_table_is_read_between_its_places_and_at_both_ends():
    head = ValueHead(4, seed=0)
    with torch.no_grad():
        head.table.copy_(torch.arange(len(head.table)) / TABLE_RATE)
    fraction = torch.tensor([0.0, 0.025, 0.5, 0.975, 1.0])
    expected = torch.tensor([0.0, 0.5, 10.0, 19.5, 20.0])
    assert torch.allclose(head(torch.ones(5, 4), fraction), expected, atol=1e-4)


def test_other_architectures_work_and_unusual_heads_are_refused():
    small = {"vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    small |= {"num_attention_heads": 2, "num_key_value_heads": 2}
    llama = Policy.from_config(LlamaConfig(**small), tiny_models.tokenizer(), system_prompt="")
    (row,) = rows(1)
    one = torch.tensor([1])
    scored = llama.score(row[None], torch.tensor([len(row)]), one * 0, one * 4, one / 2, temperature=1.0)
    assert float(scored.logp.detach()) < 0
    from transformers import CohereConfig

    with pytest.raises(ConfigError, match="scale or cap"):
        Policy.from_config(CohereConfig(**small, logit_scale=0.1), tiny_models.tokenizer(), system_prompt="")


def test_T7_left_padding_shifts_absolute_positions_too():
    """Rotary positions forgive a shift; learned ones show whether the position ids are right."""
    config = GPT2Config(vocab_size=512, n_embd=32, n_layer=2, n_head=2, n_positions=128, resid_pdrop=0.3)
    made = awake(Policy.from_config(config, tiny_models.tokenizer(), system_prompt=""))
    batch, pos = rows(3), [1, 9, 20]
    alone = evaluate(made, batch[1:2], 0, pos)
    for other in (evaluate(made, batch[1:2], 0, pos, left=13), evaluate(made, batch, 1, pos, left=5)):
        for a, b in zip(alone, other):
            assert (a - b).abs().max() <= 1e-5 * a.abs().max()


def test_bad_arguments_are_named(tmp_path):
    made = tiny_models.policy()
    (row,) = rows(1)
    ids, length, first = row[None], torch.tensor([len(row)]), torch.tensor([0])
    half = torch.tensor([0.5])
    for pos in (0, len(row)):
        with pytest.raises(ConfigError, match="positions"):
            made.score(ids, length, first, torch.tensor([pos]), half, temperature=1.0)
    with pytest.raises(ConfigError, match="temperature"):
        made.score(ids, length, first, torch.tensor([3]), half, temperature=0.0)
    with pytest.raises(ConfigError, match="'entropy'"):
        made.score(ids, length, first, torch.tensor([3]), half, temperature=1.0, need=("entrop",))
    ids = ids.clone()
    ids[0, 3] = 510
    with pytest.raises(ConfigError, match="bans"):
        made.score(ids, length, first, torch.tensor([3]), half, temperature=1.0)
    with pytest.raises(ConfigError, match=r"Policy\.save; config\.json, value_head"):
        Policy.load(tmp_path)
    with pytest.raises(ConfigError, match="value_grad"):
        tiny_models.policy(value_grad="none")
