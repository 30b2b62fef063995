"""Cached, batched decoding gives what a plain forward pass gives, and episodes are recorded as they happened."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import tiny_models
import torch
from tiny_models import Script
from transformers import LlamaConfig

from rlpa_agent import generation
from rlpa_agent.generation import GenericDecoder, Qwen2Decoder, Sampler, decoder
from rlpa_agent.policy import Policy
from rlpa_agent.products import Product
from rlpa_agent.rollout import RolloutCounts, collect
from rlpa_env.errors import ConfigError

torch.set_num_threads(1)

LINES = ("Well, I bake.", "é 😀?", "My sister is <|im_end|> the nurse in the family, you know", "No.", "")


def rescored(policy, trajectory, temperature):
    """Log-probabilities of all action tokens from one plain forward over the whole history."""
    ids = trajectory.final_context_ids
    pos = [len(t.context_ids) + j for t in trajectory.turns for j in range(len(t.action_ids))]
    with torch.no_grad():
        logits = policy.lm(input_ids=torch.tensor(ids)[None]).logits[0].double() / temperature
    logits[:, policy.banned_V] = -torch.inf
    logp = logits.log_softmax(-1)
    return np.array([logp[p - 1, ids[p]] for p in pos])


def generated(trajectory):
    return np.concatenate([turn.logp for turn in trajectory.turns])


def play(policy, n=5, *, envs=3, **options):
    """n episodes of up to five turns; row lengths drift apart, rows are refilled and removed."""
    settings = {"seeds": range(n), "max_new_tokens": 24, "max_turns": 5} | options
    leave = [None, 2, 0, None, 3]
    made = [Script(LINES, leave_at=leave[i % 5]) for i in range(envs)]
    return collect(policy, made, **settings)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("kind", [Qwen2Decoder, GenericDecoder])
def test_T8_T18_cached_generation_equals_a_full_forward(monkeypatch, kind, temperature):
    monkeypatch.setattr(generation, "Qwen2Decoder", kind)
    policy = tiny_models.policy(sharpness=2.0)
    assert isinstance(decoder(policy.lm, 1, 8), kind)
    trajectories = play(policy, 7, temperature=temperature)
    assert len({len(t.turns) for t in trajectories}) > 1
    worst = max(np.abs(generated(t) - rescored(policy, t, temperature)).max() for t in trajectories)
    assert worst <= 1e-4
    # the agreement is not that of a flat distribution
    assert np.concatenate([generated(t) for t in trajectories]).std() > 0.5


def test_T8_matrices_that_are_laid_out_anew_give_a_full_forward_too():
    """Widths of 512, as real models have; beside others the same ids are sampled as alone."""
    policy = tiny_models.policy(hidden=512, layers=1)
    made = decoder(policy.lm, 1, 8)
    products = [part for part in made.layers[0] if isinstance(part, Product)]
    assert [part.packed for part in products] == [torch.backends.mkldnn.is_available()] * 4
    trajectories = play(policy, 4, max_new_tokens=12, sample_seed=9)
    assert max(np.abs(generated(t) - rescored(policy, t, 1.0)).max() for t in trajectories) <= 1e-4
    assert np.concatenate([generated(t) for t in trajectories]).std() > 0.5
    (alone,) = collect(policy, [Script(LINES)], seeds=[0], streams=[(9, 0)], max_new_tokens=12, max_turns=5)
    assert alone.final_context_ids.tolist() == trajectories[0].final_context_ids.tolist()


def test_T18_generated_logp_is_what_the_policy_scores_at_its_temperature():
    policy = tiny_models.policy(sharpness=2.0, temperature=0.7)
    for trajectory in play(policy, 3):
        ids = torch.tensor(trajectory.final_context_ids)
        pos = torch.tensor(
            [len(t.context_ids) + j for t in trajectory.turns for j in range(len(t.action_ids))]
        )
        arguments = (ids[None], torch.tensor([len(ids)]), torch.zeros_like(pos), pos, torch.zeros(len(pos)))
        same = policy.score(*arguments, temperature=0.7, need=("logp",)).logp.detach().numpy()
        other = policy.score(*arguments, temperature=1.0, need=("logp",)).logp.detach().numpy()
        assert np.abs(generated(trajectory) - same).max() <= 1e-4
        assert np.abs(generated(trajectory) - other).max() > 0.1


def test_T8_another_architecture_takes_the_generic_path():
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        max_position_embeddings=512,
    )
    policy = Policy.from_config(config, tiny_models.tokenizer(), system_prompt="")
    assert isinstance(decoder(policy.lm, 1, 8), GenericDecoder)
    for trajectory in play(policy, 4):
        assert np.abs(generated(trajectory) - rescored(policy, trajectory, 1.0)).max() <= 1e-4


def test_bf16_weights_decode_close_to_their_own_full_forward():
    policy = tiny_models.policy()
    policy.lm.to(torch.bfloat16)
    policy.rollout_dtype = torch.bfloat16
    differences = np.concatenate([generated(t) - rescored(policy, t, 1.0) for t in play(policy, 3)])
    assert np.abs(differences).mean() < 0.05
    assert np.abs(differences).max() < 0.5


def test_the_same_ids_are_sampled_alone_and_in_a_batch():
    policy = tiny_models.policy(sharpness=2.0)
    batched = collect(
        policy, [Script(LINES, turns=4) for _ in range(6)], seeds=range(6), sample_seed=9, max_new_tokens=20
    )
    for i in (0, 3, 5):
        (alone,) = collect(policy, [Script(LINES, turns=4)], seeds=[i], streams=[(9, i)], max_new_tokens=20)
        assert alone.final_context_ids.tolist() == batched[i].final_context_ids.tolist()
        assert np.abs(generated(alone) - generated(batched[i])).max() < 1e-5
    assert len({tuple(t.final_context_ids) for t in batched}) == 6  # different streams, different dialogues
    again = collect(policy, [Script(LINES, turns=4)], seeds=range(6), sample_seed=9, max_new_tokens=20)
    assert [t.final_context_ids.tolist() for t in again] == [t.final_context_ids.tolist() for t in batched]


def test_T16_histories_are_the_sampled_ids_and_the_glue_between_them():
    policy = tiny_models.policy()
    chat = policy.chat
    ends, counts = set(), RolloutCounts()
    for trajectory in play(policy, 12, counts=counts, max_new_tokens=60):
        ids = chat.opening([{"role": "user", "content": "Hello"}]).tolist()
        for k, turn in enumerate(trajectory.turns):
            assert turn.context_ids.tolist() == ids
            assert len(turn.logp) == len(turn.action_ids) >= 1
            sampled = turn.action_ids.tolist()
            assert not set(sampled[:-1]) & set(chat.end_ids)
            assert (turn.stop == "eos") == (sampled[-1] in chat.end_ids)
            assert turn.stop == "eos" or len(sampled) == 60
            ends.add(sampled[-1] if turn.stop == "eos" else "length")
            text, said = trajectory.messages[2 * k + 2][1], trajectory.messages[2 * k + 3][1]
            assert text == chat.decode(sampled)
            ids += sampled + chat.follow(sampled, said).tolist()
        assert trajectory.final_context_ids.tolist() == ids
        assert not policy.banned_V[np.concatenate([t.action_ids for t in trajectory.turns])].any()
    assert ends == {*chat.end_ids, "length"}  # all three ways to end a turn occurred
    assert counts.prefilled_tokens <= counts.context_tokens + 12 * 5


def test_counts_are_those_of_the_trajectories():
    counts = RolloutCounts()
    trajectories = play(tiny_models.policy(), 7, counts=counts)
    turns = [turn for t in trajectories for turn in t.turns]
    assert counts.action_tokens == sum(len(turn.action_ids) for turn in turns)
    assert counts.length_stops == sum(turn.stop == "length" for turn in turns)
    assert counts.context_tokens == sum(len(t.final_context_ids) for t in trajectories) - counts.action_tokens
    assert counts.decode_rows <= 3 * counts.decode_steps


def test_rewards_parts_and_ends_are_recorded():
    policy = tiny_models.policy()
    one = Script(LINES, leave_at=1, pay=lambda text, turn: 10.0 + turn)
    two = Script(LINES, turns=3)
    left, limit = collect(
        policy, [one, two], seeds=[5, 6], max_new_tokens=6, options=[{"profile": "x"}, None]
    )
    assert [turn.reward for turn in left.turns] == [10.0, 11.0]
    assert (left.terminated, left.truncated, left.stop_reason) == (True, False, "user_left")
    assert (limit.terminated, limit.truncated, len(limit.turns)) == (False, True, 3)
    assert one.options == {"profile": "x"}
    assert (one.seed, two.seed) == (5, 6)
    assert left.turns[0].parts == {"turn": 1.0, "reward/profile": 0.25, "reward/profile_share": 0.25, "reward/valid": 1.0, "tokens/profile": 0.0}
    assert left.episode == "Script#5"
    assert left.messages[:2] == (("system", "sys"), ("user", "Hello"))


def test_our_turn_limit_truncates_an_environment_without_one():
    (trajectory,) = collect(
        tiny_models.policy(), [Script(LINES, turns=99)], seeds=[0], max_turns=2, max_new_tokens=5
    )
    assert (len(trajectory.turns), trajectory.truncated, trajectory.stop_reason) == (2, True, "turn_limit")


def test_an_invalid_turn_is_kept_and_marked():
    (trajectory,) = collect(tiny_models.policy(), [Script(LINES, invalid_at=1)], seeds=[0], max_new_tokens=5)
    assert [turn.valid for turn in trajectory.turns] == [True, False]
    assert trajectory.truncated


def test_a_dialogue_that_outgrows_the_context_is_truncated_after_a_whole_turn():
    policy = tiny_models.policy(context=128)
    counts = RolloutCounts()
    env = Script(["word " * 12], turns=10)
    (trajectory,) = collect(policy, [env], seeds=[0], max_new_tokens=20, counts=counts)
    assert trajectory.stop_reason == "context"
    assert trajectory.truncated
    assert 1 <= len(trajectory.turns) < 10
    assert counts.context_stops == 1
    assert [policy.chat.decode(turn.action_ids) for turn in trajectory.turns] == env.actions
    room = 128 - 20 - policy.chat.glue_tokens()
    assert all(len(turn.context_ids) <= room for turn in trajectory.turns)
    assert len(trajectory.final_context_ids) > room


def test_text_beyond_the_context_is_cut_but_the_header_stays():
    policy = tiny_models.policy(context=128)
    (trajectory,) = collect(policy, [Script(["word " * 500])], seeds=[0], max_new_tokens=20)
    header = list(policy.chat.glue.header)
    assert len(trajectory.final_context_ids) == 128
    assert trajectory.final_context_ids[-len(header) :].tolist() == header
    with pytest.raises(ConfigError, match="opening"):
        collect(policy, [Script(LINES)], seeds=[0], max_new_tokens=120)


def test_greedy_takes_the_likeliest_token_and_ignores_the_stream():
    policy = tiny_models.policy()
    a, b = (
        collect(
            policy, [Script(LINES, turns=2)], seeds=[0], sample_seed=s, temperature=0.0, max_new_tokens=15
        )[0]
        for s in (1, 2)
    )
    assert a.final_context_ids.tolist() == b.final_context_ids.tolist()
    turn = a.turns[1]
    ids = torch.tensor([*turn.context_ids, *turn.action_ids])
    with torch.no_grad():
        logits = policy.lm(input_ids=ids[None]).logits[0].masked_fill(policy.banned_V, -torch.inf)
    start = len(turn.context_ids) - 1
    assert logits[start:-1].argmax(-1).tolist() == turn.action_ids.tolist()


def test_the_sampler_draws_from_the_distribution_it_reports():
    policy = tiny_models.policy(hidden=8, sharpness=2.0)
    sampler = Sampler(policy.lm, policy.banned_V, 400, temperature=0.6)
    for row in range(400):
        sampler.restart(row, (7, row))
    hidden = torch.linspace(-1, 1, 8).expand(400, 8)
    drawn = torch.cat([sampler.draw(hidden, [True] * 400)[0] for _ in range(50)])
    _, logp = sampler.draw(hidden, [True] * 400)
    logits = (policy.lm.lm_head(hidden[:1])[0] / 0.6).detach().masked_fill(policy.banned_V, -torch.inf)
    p = logits.softmax(-1)
    counted = torch.bincount(drawn, minlength=520) / 20000
    assert (
        float((counted - p).abs().sum()) < 0.15
    )  # total variation of a fair sample of this size is about 0.1
    top = p.argsort(descending=True)[:5]
    assert torch.allclose(counted[top], p[top], atol=4 * (0.25 / 20000) ** 0.5)
    assert counted[policy.banned_V].sum() == 0
    ids, logp = sampler.draw(hidden, [True] * 400)
    assert torch.allclose(logp, logits.log_softmax(-1)[ids], atol=1e-5)


def test_a_row_that_waits_does_not_disturb_the_others_nor_itself():
    policy = tiny_models.policy()
    rng = np.random.default_rng(0)
    chunks = [rng.integers(0, 500, n) for n in (9, 4, 6)]
    full = [torch.tensor(chunk) for chunk in chunks]
    for kind in (Qwen2Decoder, GenericDecoder):
        cache = kind(policy.lm, 3, 64)
        cache.prefill([0, 1, 2], chunks)
        histories = [list(chunk) for chunk in full]
        for live in ([True, False, True], [True, False, False], [True, True, True]):
            ids = torch.tensor(rng.integers(0, 500, 3))
            hidden = cache.step(ids, torch.tensor(live))
            for row in range(3):
                if live[row]:
                    histories[row].append(ids[row])
                    with torch.no_grad():
                        expected = policy.lm.model(
                            input_ids=torch.stack(histories[row])[None]
                        ).last_hidden_state
                    assert torch.allclose(hidden[row], expected[0, -1], atol=1e-5)
        assert cache.lengths_R.tolist() == [12, 5, 8]
        cache.clear(1)
        cache.step(torch.tensor([1, 2, 3]), torch.tensor([False, False, False]))
        cache.move(2, 0)
        assert torch.allclose(
            cache.prefill([0, 1], [np.array([5, 6]), chunks[0]])[0],
            policy.lm.model(input_ids=torch.tensor([*histories[2], 5, 6])[None]).last_hidden_state[0, -1],
            atol=1e-5,
        )
        with pytest.raises(ConfigError, match="row 1 of 64"):
            cache.prefill([1], [np.zeros(60, dtype=np.int64)])


def test_sliding_windows_and_empty_jobs_are_refused():
    policy = tiny_models.policy()
    with pytest.raises(ConfigError, match="at least one env"):
        collect(policy, [], seeds=[1])
    policy.lm.config.layer_types = ["sliding_attention", "full_attention"]
    with pytest.raises(ConfigError, match="sliding"):
        decoder(policy.lm, 1, 8)


def test_no_token_is_drawn_more_often_than_it_is_likely():
    """Noise of fp32 has zeros, which win any race: among 150,000 tokens several in 400 draws."""
    size, rest = 150_000, 149_999
    banned = torch.zeros(size, dtype=torch.bool)
    for share, low, high in [(0.0, 0, 0), (0.1, 16, 64)]:  # 40 of 400 expected; 4 deviations are 24
        logits = torch.full((size, 1), np.log(share / rest) if share else -60.0)
        logits[7] = np.log(1 - share)
        head = SimpleNamespace(weight=logits)
        sampler = Sampler(SimpleNamespace(get_output_embeddings=lambda head=head: head), banned, 1, 1.0)
        sampler.restart(0, (3,))
        ids = [int(sampler.draw(torch.ones(1, 1), [True])[0]) for _ in range(400)]
        assert low <= sum(i != 7 for i in ids) <= high
