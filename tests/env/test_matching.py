"""Matching: what means the same counts, near misses and padding do not, and the assignment is one to one."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlpa_env import (
    ConfigError,
    EmbeddingMatcher,
    LexicalMatcher,
    LLMMatcher,
    Point,
    format_action,
    load_split,
)
from rlpa_env.clients import ChatClient
from rlpa_env.flows import finished
from rlpa_env.matching import assign, match_points
from rlpa_env.rewards import f1, profile_reward, profile_score, total_reward
from rlpa_env.testing import check_matcher
from rlpa_env.text import stems

MATCHER = LexicalMatcher()


def hit(guess: tuple[str, str], truth: tuple[str, str]) -> bool:
    return bool(match_points(MATCHER, [Point(*guess)], [Point(*truth)]))


@pytest.mark.parametrize(
    ("guess", "truth"),
    [
        (("Occupation", "works as a baker"), ("Occupation", "baker")),
        (("job", "Baker"), ("Occupation", "baker")),
        (("", "baker"), ("Occupation", "baker")),
        (("Hobby", "loves hiking"), ("Interests", "hiking")),
        (("Age", "thirty-four"), ("Age", "34")),
        (("Age", "34 years old"), ("Age", "34")),
        (("City", "lives in Ghent"), ("Location", "Ghent")),
        (("Pets", "two cats"), ("Persona", "i have two cats.")),
        (("Gender", "female"), ("Gender", "woman")),
        (("Interests", "gardenning"), ("Interests", "gardening")),
    ],
)
def test_the_same_in_other_words_matches(guess, truth):
    assert hit(guess, truth)


@pytest.mark.parametrize(
    ("guess", "truth"),
    [
        (("Age", "33"), ("Age", "34")),
        (("", "34"), ("Age", "34")),
        (("Location", "34"), ("Age", "34")),
        (("", "the"), ("Notes", "the")),
        (("Interests", "dog person"), ("Interests", "cat person")),
        (("Interests", "does not like hiking"), ("Interests", "hiking")),
        (("Interests", "hates hiking"), ("Interests", "likes hiking")),
        (("Family Background", "her sister is a nurse"), ("Family Background", "nurse")),
        (("Occupation", "baker"), ("Interests", "baker")),
        (("Interests", "hiking swimming chess opera sailing"), ("Interests", "chess")),
        (("Other Information", "two cats"), ("Other Information", "three cats")),
        (("Occupation", "former teacher"), ("Occupation", "teacher")),
        (("", "I am somebody who really enjoys long walks with a camera"), ("Interests", "camera")),
    ],
)
def test_near_misses_padding_and_other_people_do_not(guess, truth):
    assert not hit(guess, truth)


def test_a_named_slot_outside_the_schema_goes_with_other_information():
    assert hit(("Quirk", "afraid of heights"), ("Other Information", "afraid of heights"))
    assert hit(("Shoe size", "43"), ("Shoe size", "43"))
    assert not hit(("", "43"), ("Shoe size", "43"))


def test_it_passes_its_own_conformance_check():
    check_matcher(MATCHER)
    assert 0 < MATCHER.threshold <= 1
    scores = MATCHER.scores(load_split("vanilla/val")[0].points, load_split("vanilla/val")[1].points)
    assert scores.min() >= 0
    assert scores.max() <= 1
    assert MATCHER.scores([], [Point("Age", "3")]).shape == (0, 1)


@given(st.integers(0, 2**31), st.integers(1, 5), st.integers(1, 5))
@settings(max_examples=80, deadline=None)
def test_the_assignment_is_the_best_of_all(seed, rows, columns):
    scores = np.random.default_rng(seed).choice([0.0, 0.3, 0.61, 0.8, 1.0], size=(rows, columns))
    pairs = assign(scores, 0.6)
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
    assert all(scores[pair] >= 0.6 for pair in pairs)
    good = np.where(scores >= 0.6, scores, 0.0)
    small, large = min(rows, columns), max(rows, columns)
    table = good if rows <= columns else good.T
    best = max(sum(table[i, p[i]] for i in range(small)) for p in itertools.permutations(range(large), small))
    assert sum(scores[pair] for pair in pairs) == pytest.approx(best)


PEOPLE = load_split("vanilla/train")[:60]


@given(st.sampled_from(PEOPLE), st.sampled_from(PEOPLE), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_f1_is_bounded_order_free_and_1_only_for_the_same_set(one, other, shuffler):
    guess, truth = list(one.points), list(other.points)
    reward = profile_reward(guess, truth, MATCHER)
    assert 0 <= reward <= 1
    assert (reward == 1) == (set(guess) == set(truth))
    shuffler.shuffle(guess)
    shuffler.shuffle(truth)
    assert profile_reward(guess, truth, MATCHER) == reward
    assert profile_reward(truth, truth, MATCHER) == 1
    assert profile_reward([], truth, MATCHER) == 0
    assert profile_reward(truth[:5], truth, MATCHER) == pytest.approx(10 / (5 + len(truth)))


def test_no_two_different_people_share_a_point_by_accident():
    """Among authored values of one slot, different values do not match: a wrong guess is wrong."""
    from rlpa_env.world import world

    wrong = []
    for spec in world().slots.values():
        points = [Point(spec.name, value.value) for value in spec.values]
        scores = MATCHER.scores(points, points)
        np.fill_diagonal(scores, 0)
        wrong += [(points[i], points[j]) for i, j in zip(*np.nonzero(scores >= MATCHER.threshold), strict=True)]
    assert not wrong


def test_grounded_invented_and_ceiling_by_hand():
    truth = [Point("Age", "34"), Point("Occupation", "baker"), Point("Interests", "chess"), Point("Location", "Ghent")]
    guess = [Point("Age", "34"), Point("Occupation", "baker"), Point("Interests", "opera")]
    said = ("I am 34.", "My sister goes to the opera.")
    score = profile_score(guess, truth, MATCHER, revealed=[truth[0], truth[3]], said=said)
    assert score.precision == pytest.approx(2 / 3)
    assert score.recall == 0.5
    assert score.f1 == pytest.approx(4 / 7)
    assert score.grounded_f1 == pytest.approx(2 / 7)  # baker is right, but nobody had said so
    assert score.invented == pytest.approx(1 / 3)  # baker; opera was mentioned, if of somebody else
    assert score.ceiling == 0.5
    assert f1(0, 0, 0) == 0
    assert total_reward(0.5, 1.0, 2.0, 3.0) == 4.0


def test_listing_everything_does_not_pay():
    """64 common guesses earn less than the five points that were read."""
    from rlpa_env.agents import frequencies

    stuffed = list(frequencies("vanilla/train"))[:64]
    for person in load_split("vanilla/test")[:20]:
        read = list(person.points[3:8])
        assert profile_reward(stuffed, person.points, MATCHER) < profile_reward(read, person.points, MATCHER)


@pytest.fixture
def rewritten(monkeypatch):
    """The cases of benchmarks/matcher_quality, by each of its writers."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks" / "matcher_quality"))
    import cases as written

    monkeypatch.delitem(sys.modules, "cases")
    found = [case for writer, split in written.WRITERS.items() for case in written.cases(load_split(split), writer, 150, seed=1)]
    for case in found:
        assert 0 <= case.count <= written.MOST >= len(case.guess) - case.count
        assert [(meant >= 0) for meant in case.meant] == [kind in written.WAYS for kind in case.kinds]
    return found


def test_rewritten_profiles_never_match_by_another_number_or_a_negation(rewritten):
    altered = 0
    for case in rewritten:
        pairs = dict(match_points(MATCHER, case.guess, case.truth))
        for index, kind in enumerate(case.kinds):
            if kind in ("number", "negation"):
                altered += 1
                assert index not in pairs, (case.guess[index], case.truth[pairs[index]])
    assert altered > 200


class PairsAll(ChatClient):
    """A model to which every guess means every truth."""

    def begin(self, messages, **settings):
        data = json.loads(messages[1]["content"])
        return finished(json.dumps({"pairs": [{"guess": guess["id"], "truth": truth["id"]} for guess in data["guesses"] for truth in data["truths"]]}))


def test_no_model_can_pair_a_denial_with_what_it_denies(rewritten):
    model = LLMMatcher(PairsAll(base_url="http://localhost:1/v1", model="pairs-all"))
    denied = said = 0
    for case in rewritten:
        scores_GT = model.scores(case.guess, case.truth)
        for (row, kind), (column, truth) in itertools.product(enumerate(case.kinds), enumerate(case.truth)):
            if stems(truth.value) and stems(truth.value) <= stems(case.guess[row].value):  # the guess holds all that the truth says
                denied += kind == "negation"
                said += bool(kind == "near" and scores_GT[row, column])
                assert kind != "negation" or not scores_GT[row, column], (case.guess[row], truth)
    assert denied > 200 < said


# By embedding ---------------------------------------------------------------------------------------------------------


class Alike:
    """An encoder to which every text means the same."""

    def __init__(self):
        self.asked: list[str] = []

    def __call__(self, texts):
        self.asked += texts
        return np.ones((len(texts), 1))


def believing() -> EmbeddingMatcher:
    matcher = EmbeddingMatcher()
    matcher.encoder = Alike()
    return matcher


@pytest.mark.parametrize(
    ("guess", "truth"),
    [
        (("Age", "33"), ("Age", "34")),
        (("", "34"), ("Age", "34")),
        (("Other Information", "two cats"), ("Other Information", "three cats")),
        (("Other Information", "no pets"), ("Other Information", "has pets")),
        (("Interests", "gave up sailing"), ("Interests", "boats")),
        (("Occupation", "sister is a nurse"), ("Occupation", "works on a ward")),
        (("Occupation", "the"), ("Occupation", "nurse")),
        (("Interests", "afraid of cats"), ("Interests", "afraid of dogs")),
        (("Occupation", "nurse"), ("Location", "Lisbon")),
        (("Location", "dreams of moving to Lisbon"), ("Location", "Lisbon")),
    ],
)
def test_rules_stand_above_an_encoder_to_which_everything_is_the_same(guess, truth):
    assert believing().scores([Point(*guess)], [Point(*truth)]).tolist() == [[0.0]]


def test_where_the_rules_are_silent_the_embedding_decides():
    guess = [Point("Job", "works on a ward"), Point("Job", "baker")]
    matcher = believing()
    assert matcher.scores(guess, [Point("Occupation", "nurse")]).tolist() == [[1.0], [0.0]]  # a baker is no nurse: one kind
    assert set(matcher.encoder.asked) == {"works on a ward (occupation)", "nurse (occupation)", "works", "ward", "nurse"}
    matcher.encoder.asked.clear()
    assert matcher.scores([Point("", "baker")], [Point("Occupation", "baker")]).tolist() == [[1.0]]
    assert matcher.encoder.asked == []  # the words decide without it


def test_the_score_is_the_mean_of_the_whole_and_of_the_word_covered_least():
    known = {"fixes roofs": (1, 0), "roof repair": (0.6, 0.8), "fixes": (0, 1), "roofs": (1, 0), "roof": (1, 0), "repair": (0.8, 0.6)}
    matcher = EmbeddingMatcher()
    matcher.encoder = lambda texts: np.array([known[text] for text in texts], dtype=float)
    found = matcher.scores([Point("", "fixes roofs")], [Point("", "roof repair")])
    assert found.tolist() == [[pytest.approx((0.6 + 0.8) / 2)]]  # "repair": 0.6 by "fixes", 0.8 by "roofs"


@pytest.mark.parametrize(("guess", "price"), [("works ward", 0.0), ("works ward golf", 0.1), ("works ward golf yoga oboe", 0.3)])
def test_words_beside_the_point_cost_so_that_several_values_are_no_guess_at_each(guess, price):
    known = {"works": (0.3, 0.954), "ward": (0.95, 0.312), "golf": (0.1, 0.995), "yoga": (0.0, 1.0), "oboe": (0.2, 0.98), "nurse": (1.0, 0.0)}
    matcher = EmbeddingMatcher()
    matcher.encoder = lambda texts: np.array([known.get(text, (0.9, 0.436)) for text in texts], dtype=float)
    found = matcher.scores([Point("", guess)], [Point("", "nurse")])
    assert found[0, 0] == pytest.approx((0.9 + 0.95) / 2 - price, abs=0.002)


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory):
    """A random transformer of 16 dimensions as a folder; sentence-transformers averages its token vectors."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    letters = "abcdefghijklmnopqrstuvwxyz0123456789()-'"
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters)]))
    tokenizer = BertTokenizerFast(vocab=str(folder / "vocab.txt"))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, max_position_embeddings=64
    )
    BertModel(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder / "model"


def test_a_local_model_matches_in_the_environment(tiny_model):
    env = gym.make("RLPA-v0", matcher="embedding", embedding_model=str(tiny_model))
    env.reset(seed=3, options={"profile": {"id": "p", "slots": {"Age": "34", "Occupation": "nurse", "Interests": ["chess"]}}})
    info = env.step(format_action([("Age", "34"), ("Job", "nurse"), ("Interests", "never chess")], "Hi there."))[4]
    assert info["profile/recall"] == pytest.approx(2 / 3)
    assert info["profile/precision"] == pytest.approx(2 / 3)
    matcher = env.unwrapped._matcher
    check_matcher(matcher)
    vectors = matcher.encoder(["long walks", "nurse", "long walks"])
    assert vectors.shape == (3, 16)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.array_equal(vectors[0], vectors[2])
    assert gym.make("RLPA-v0", matcher="embedding", embedding_model=str(tiny_model)).unwrapped._matcher.encoder is matcher.encoder


def test_an_embedding_model_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match="there is none at /no/such/folder"):
        gym.make("RLPA-v0", matcher="embedding", embedding_model="/no/such/folder")
    with pytest.raises(ConfigError, match="matcher='embedding'"):
        gym.make("RLPA-v0", embedding_model=str(tmp_path))
    empty = EmbeddingMatcher(str(tmp_path))
    with pytest.raises(ConfigError, match="did not load"):
        empty.scores([Point("", "fixes roofs")], [Point("", "roof repair")])


def test_an_encoder_forgets_the_oldest_texts(tiny_model, monkeypatch):
    from rlpa_env import encoders

    monkeypatch.setattr(encoders, "_KEPT", 2)
    encoder = encoders.SentenceEncoder(str(tiny_model))
    first = encoder(["one", "two", "three"])
    assert len(encoder._known) == 2
    assert np.allclose(encoder(["one"]), first[:1], atol=1e-5)
    assert encoder([]).shape[0] == 0
