"""Sentences, words, stems, questions, normal form and topics: literal cases, and properties on any string."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlpa_env.text import STOP_WORDS, is_question, normalise, sentences, stem, stems, words
from rlpa_env.topics import related, topic_words, topics_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        (" \n\t ", ()),
        ("One. Two! Three?", ("One.", "Two!", "Three?")),
        ("hey . how are you . . . fine", ("hey .", "how are you . . .", "fine")),
        ("It is (approx. Ten) miles to Prof. Lee. Or approx. Two.", ("It is (approx. Ten) miles to Prof. Lee.", "Or approx. Two.")),
        ("Dr. Lee and Mr. Wu left at 3.50.", ("Dr. Lee and Mr. Wu left at 3.50.",)),
        ('She said "Go." Then silence.', ('She said "Go."', "Then silence.")),
        ("I'm a baker... kidding, not even close.", ("I'm a baker... kidding, not even close.",)),
        ("I paused... Then I left.", ("I paused...", "Then I left.")),
        ("- one\n- two", ("- one", "- two")),
        ("Wait...really?! Yes", ("Wait...really?!", "Yes")),
    ],
)
def test_sentences(text, expected):
    assert sentences(text) == expected


def test_words_fold_quotes_and_case_and_split_hyphens():
    assert words("Don’t STOP, well-known 2nd_try!") == ("don't", "stop", "well", "known", "2nd", "try")


@pytest.mark.parametrize(
    "family",
    [
        "bake bakes baked baking baker bakers bakery",
        "run runs ran running runner",
        "story stories",
        "hike hiking hiked hiker",
        "child children",
        "marry married marriage",
        "travel travelling traveled traveller",
        "write wrote written writing writer",
        "movie movies",
        "photography photographer photograph",
        "box boxes",
        "call calling called",
        "quick quickly",
        "swim swam swimming swimmer",
    ],
)
def test_inflections_share_a_stem(family):
    assert len({stem(word) for word in family.split()}) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("corner", "corn"), ("number", "numb"), ("flower", "flow"), ("letter", "let"), ("wedding", "wing"), ("wine", "win"),
        ("family", "famous"), ("mother", "moth"), ("bus", "bush"), ("hundred", "hunger"), ("evening", "even"), ("shower", "show"),
    ],
)  # fmt: skip
def test_different_words_keep_different_stems(one, other):
    assert stem(one) != stem(other)


def test_stems_drop_what_says_nothing_and_keep_numbers():
    assert stems("I have been to the 34 shops, you know!") == {"34", "shop"}
    assert stems("What do you think of it?") == frozenset()
    assert {"the", "you're", "dont", "really"} <= STOP_WORDS


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("Really?", True),
        ("do you like it", True),
        ("what kind of music do you like", True),
        ("so, how about you", True),
        ('"Is that so?"', True),
        ("Have you been there", True),
        ("What a day!", False),
        ("Have a good day", False),
        ("Where I live it rains", False),
        ("How lovely!", False),
        ("I do.", False),
        ("", False),
    ],
)
def test_is_question(sentence, expected):
    assert is_question(sentence) is expected


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Rock-Climbing!", "rock  climbing", True),
        ("ＡＢＣ １２", "abc 12", True),
        ("Don't", "dont", True),
        ("Straße", "STRASSE", True),
        ("C++", "C", False),
        ("C#", "C", False),
        ("33", "34", False),
    ],
)
def test_normal_form(one, other, same):
    assert (normalise(one) == normalise(other)) is same


@given(st.text(max_size=300))
@settings(max_examples=200, deadline=None)
def test_any_string_is_read_without_loss_of_words(text):
    assert [w for s in sentences(text) for w in words(s)] == list(words(text))
    assert normalise(normalise(text)) == normalise(text)
    assert all(found == found.strip() and found for found in sentences(text))


def test_long_texts_are_not_kept():
    from rlpa_env import text

    before = text._stems.cache_info().currsize
    stems("bread " * 2_000)
    assert text._stems.cache_info().currsize == before


def test_every_topic_is_known_by_thirty_words():
    assert len(topic_words()) == 82
    assert {name: len(found) for name, found in topic_words().items() if len(set(found)) < 30} == {}
    assert all(word == word.lower() and " " not in word for found in topic_words().values() for word in found)


def test_topics_come_from_content_words():
    assert "baking" in topics_of("the dough has to rise")
    assert "dogs" in topics_of("My labrador sleeps all day")
    assert "cats" not in topics_of("My labrador sleeps all day")
    assert topics_of("It is what it is.") == frozenset()


def test_related_is_ordered_by_closeness():
    assert related("I bake bread", "bread again") == 1.0
    assert 0.0 < related("I bake rye", "the oven broke") < 1.0
    assert related("I bake rye", "my violin needs strings") == 0.0


def test_ideographs_have_no_spaces_and_stops_of_their_own():
    assert sentences("早上好。我是nurse！你呢？") == ("早上好。", "我是nurse！", "你呢？")
    assert sentences("“好。”他说。") == ("“好。”他说。",)
    assert words("我是nurse，34岁") == ("我是", "nurse", "34", "岁")
    assert is_question("你呢？")
    assert not is_question("我是护士。")
