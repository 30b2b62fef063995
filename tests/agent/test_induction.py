"""A fresh model with the circuit repeats a random sequence that it sees for the second time; without it, it cannot."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from rlpa_agent.induction import REACH, induct
from rlpa_env.errors import ConfigError

torch.set_num_threads(1)
SHAPE = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4}


def fresh(seed, **changed):
    config = Qwen2Config(
        vocab_size=512,
        intermediate_size=64,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        **{**SHAPE, **changed},
    )
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()


def twice(length):
    once = torch.randint(0, 512, (2, length), generator=torch.Generator().manual_seed(0))
    return torch.cat([once, once], dim=1)


@torch.no_grad()
def repeated(lm, length):
    """How often the next token of the second round is the likeliest but for the present token itself."""
    ids = twice(length)
    logits = lm(input_ids=ids).logits.scatter(2, ids[..., None], -torch.inf)
    return float((logits[:, length:-1].argmax(-1) == ids[:, length + 1 :]).float().mean())


@pytest.mark.parametrize("seed", [0, 1])
def test_it_repeats_what_it_has_seen_once(seed):
    lm = fresh(seed)
    assert repeated(lm, 200) < 0.05
    induct(lm, seed=seed)
    assert repeated(lm, 200) > 0.9
    assert repeated(lm, 600) > 0.75


def test_each_look_back_head_attends_to_one_distance_and_each_match_head_to_the_continuation():
    lm = fresh(0)
    induct(lm)
    with torch.no_grad():
        first, second, _, _ = lm(input_ids=twice(200), output_attentions=True).attentions
    for head in range(REACH):
        assert float(first[:, head].diagonal(-(head + 1), 1, 2)[:, 5:].min()) > 0.7, head
        follow = second[:, head].diagonal(-199, 1, 2)[:, 5:]
        assert float(follow.mean()) > 0.5, head
    assert float(second[:, 3].diagonal(-199, 1, 2).mean()) < 0.05  # the last head is left to training


@pytest.mark.parametrize("changed", [{"num_hidden_layers": 2}, {"num_key_value_heads": 2}, {"num_attention_heads": 2, "num_key_value_heads": 2}])
def test_a_shape_without_room_for_the_circuit_is_refused(changed):
    with pytest.raises(ConfigError, match="at least three layers and 3 heads"):
        induct(fresh(0, **changed))
