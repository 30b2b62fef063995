"""The start checkpoint that ships: small, plain transformers, keeps the form, copies values that it has never seen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch

from rlpa_agent.config import PRESETS, shipped_start
from rlpa_agent.evaluate import PolicyAgent
from rlpa_agent.mixture import held
from rlpa_agent.policy import Policy
from rlpa_agent.start import sharpen
from rlpa_agent.warm_start import forced_copy
from rlpa_env import load_split
from rlpa_env.evaluate import Setting, collect

MEASURED = Path(__file__).parents[2] / "benchmarks" / "results" / "start_policy" / "start_policy.json"


@pytest.fixture(scope="module")
def start():
    return Policy.from_pretrained(shipped_start(), reference=False)


def test_it_is_small_and_loads_in_plain_transformers(start):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = shipped_start()
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 15_000_000
    assert not [path for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pkl")]
    lm, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert lm.config.model_type == "qwen2"
    assert sum(p.numel() for p in lm.parameters()) <= 6_000_000
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}], tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(tokenizer.encode("Grüße, 你好 <b>")) == "Grüße, 你好 <b>"
    for a, b in zip(lm.parameters(), start.lm.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_longest_dialogue_of_the_preset_fits(start):
    rollout = PRESETS["tiny"].rollout
    start.chat.max_user_tokens = rollout.max_user_tokens
    start.chat.check_fits(start.context_limit, turns=rollout.max_turns, max_new_tokens=rollout.max_new_tokens)
    start.chat.max_user_tokens = None


def test_it_copies_unseen_values_as_the_committed_result_says(start):
    """Held-out people, greedy, slot forced; the rate of this sample is near that of the committed measurement."""
    measured = json.loads(MEASURED.read_text())["figures"]
    histories, told, turns = [], [], []
    for i, person in enumerate(load_split("vanilla/test")[:12]):
        messages, before = held(person, np.random.default_rng([0, i]), 7)
        for turn in (2, 4, 6):
            if turn < len(before) and before[turn]:
                histories.append(messages[: 2 * turn + 1])
                told.append([tuple(point) for point in before[turn]])
                turns.append(turn)
    hits = forced_copy(start, histories, told)
    share = sum(map(sum, hits)) / sum(map(len, hits))
    expected = np.mean([measured["copied"][turn] for turn in turns])
    assert share >= expected - 0.15
    assert share >= 0.7


def test_it_keeps_the_form(start):
    records = collect({"start": PolicyAgent(start, seed=0)}, Setting(users=10), quiet=True)["start"]
    turns = [turn for record in records for turn in record["turns"]]
    assert np.mean([not turn["parse_error"] for turn in turns]) >= 0.92
    assert 0 < np.mean([turn["grounded_f1"] for turn in turns]) < 0.25
    assert 0.2 < np.mean([turn["response"] for turn in turns]) < 0.75


def test_sharpening_is_a_temperature_written_into_the_weights():
    made = tiny_models.policy()
    ids = torch.arange(20)[None]
    with torch.no_grad():
        before = made.lm(input_ids=ids).logits
        sharpen(made, 2.0)
        after = made.lm(input_ids=ids).logits
    assert torch.allclose(after, 2 * before, atol=1e-5)
    assert not torch.allclose(after, before, atol=1e-2)
