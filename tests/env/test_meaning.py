"""What a value says: synonyms, numbers, negation, whom it is about, and things of one kind that exclude each other."""

from __future__ import annotations

import pytest

from rlpa_env import Point, load_split
from rlpa_env.meaning import comparable, meaning, value_score

MATCH = 0.6  # the threshold of the lexical matcher


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ping pong", "table tennis"),
        ("BSc in geography", "bachelor's degree in geography"),
        ("not married", "single"),
        ("eats no meat", "vegetarian"),
        ("grew up in a windmill", "raised in a windmill"),
        ("tinkers with robotics", "tinkers with robots"),
        ("a camper van", "campervan"),
        ("plays the banjo", "banjo"),
        ("scared of dogs", "afraid of dogs"),
        ("likes hiking with friends", "hiking"),
        ("left-handed", "left hander"),
        ("won it two times", "won it twice"),
        ("has one cat", "cat"),
        ("1 cat", "one cat"),
    ],
)
def test_the_same_in_other_words(one, other):
    assert value_score(one, other) >= MATCH
    assert value_score(other, one) >= MATCH


@pytest.mark.parametrize(
    ("guess", "truth"),
    [
        ("anything but shy", "shy"),
        ("gave up chess years ago", "chess"),
        ("gave the parrot away", "parrot"),
        ("bored by opera", "opera"),
        ("quit the job of plumber", "plumber"),
        ("moved away from Hanoi", "Hanoi"),
        ("left the choir", "choir"),
        ("never a left winger", "left winger"),
        ("has a smartphone", "no smartphone"),
        ("coal miner", "former coal miner"),
        ("tolerates lactose", "lactose intolerant"),
    ],
)
def test_a_negation_is_no_match_and_left_handed_is_none(guess, truth):
    assert not comparable(Point("", guess), Point("", truth))


@pytest.mark.parametrize(
    ("guess", "truth"),
    [
        ("nearly 49", "49"),
        ("two sisters", "three sisters"),
        ("won the lottery once", "won the lottery twice"),
        ("thirty-three", "34"),
        ("born in 1980", "born in 1981"),
        ("phone number 0551234567", "phone number 0551234568"),
        (f"member {'7' * 5000}", f"member {'7' * 4999}8"),
        ("aged ３４ baker", "aged ３５ baker"),
        ("aged ٣٤ baker", "aged ٣٥ baker"),
        ("-5 degrees", "5 degrees"),
        ("\u22125 degrees", "5 degrees"),
        ("minus 5", "5"),
        ("level IV climber", "level V climber"),
        ("Type II diabetes", "type 1 diabetes"),
    ],
)
def test_numbers_must_be_equal(guess, truth):
    assert not comparable(Point("Notes", guess), Point("Notes", truth))
    assert not comparable(Point("Notes", truth), Point("Notes", guess))
    assert value_score(guess, truth) < MATCH


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("phone number 0551234567", "phone number 0551234567, daily"),
        (f"member {'7' * 5000}", f"a member {'7' * 5000}"),
        ("aged ３４ baker", "baker aged 34"),
        ("\u22125 degrees", "minus 5 degrees"),
        ("level IV climber", "level 4 climber"),
        ("type II diabetes", "type 2 diabetes"),
        ("30-35 pupils", "30 \u2013 35 pupils"),
        ("30 -35 pupils", "30 to 35 pupils"),
        ("COVID-19 nurse", "COVID 19 nurse"),
        ("doesn\u00b4t smoke", "nonsmoker"),
    ],
)
def test_the_same_number_in_another_script_and_a_hyphen_is_no_sign(one, other):
    assert value_score(one, other) >= MATCH
    assert value_score(other, one) >= MATCH


def test_letters_that_are_no_number():
    assert meaning("IV's, X-ray, level X-ray, MIX and XXL").numbers == frozenset()
    assert meaning("-1 to 5 degrees").numbers != meaning("nearly 5 degrees").numbers


def test_words_around_the_right_number_are_forgiven_where_the_truth_is_a_number():
    assert value_score("turned 49 this year", "49") >= MATCH
    assert value_score("49 cats, 49 dogs and 49 birds", "49") < MATCH


@pytest.mark.parametrize(
    ("slot", "guess", "truth"),
    [
        ("Occupation", "married to a baker", "baker"),
        ("Occupation", "has a brother who is a baker", "baker"),
        ("Interests", "chess is the hobby of his uncle", "chess"),
        ("Personality Traits", "lives with a grumpy flatmate", "grumpy"),
        ("Family Background", "uncle is a diplomat", "diplomat parents"),
        ("Family Background", "wife's parents are musicians", "parents are musicians"),
        ("Family Background", "divorced early", "parents divorced early"),
        ("Family Background", "daughter is an only child", "only child"),
        ("Marital Status", "husband is divorced", "divorced"),
        ("Marital Status", "children are married", "married"),
        ("Interests", "loves opera", "my mother loves opera"),
        ("Occupation", "someone else is a nurse", "nurse"),
        ("Occupation", "somebody is a nurse", "nurse"),
        ("Occupation", "another person is a nurse", "nurse"),
        ("Occupation", "knows a nurse", "nurse"),
        ("Occupation", "knows an accountant", "accountant"),
        ("Interests", "everyone plays chess", "plays chess"),
        ("Interests", "people play chess", "plays chess"),
        ("Interests", "most other people play chess", "plays chess"),
        ("Interests", "the others play chess", "plays chess"),
        ("Marital Status", "everyone is married", "married"),
        *(("Occupation", f"{who} is a pastry chef", "pastry chef") for who in ("nana", "nan", "roomie", "landlady", "mate", "idol", "pal", "stepdad")),
    ],
)
def test_what_is_said_of_others_is_not_said_of_the_user(slot, guess, truth):
    assert not comparable(Point(slot, guess), Point(slot, truth))


@pytest.mark.parametrize(
    ("slot", "guess", "truth"),
    [
        ("Family Background", "musician parents", "parents are musicians"),
        ("Family Background", "parents worked in the circus", "circus family"),
        ("Family Background", "grandma and grandpa raised them", "raised by grandparents"),
        ("Marital Status", "has a husband", "married"),
        ("Interests", "plays chess with his son", "chess"),
        ("Interests", "someone who plays chess", "chess"),
        ("Personality Traits", "people person", "a people person"),
        ("Personality Traits", "People who know me say I'm nostalgic", "nostalgic"),
        ("Interests", "people watching in cafes", "watching people"),
        ("Personality Traits", "helps others", "helping others"),
        ("Other Information", "knows a bit of Latin", "Latin"),
        ("Other Information", "everyone laughs at the jokes", "everyone laughs about the jokes"),
        ("Interests", "sees films with his mates", "films"),
        ("Family Background", "raised by nana", "nana raised them"),
    ],
)
def test_ones_own_people_are_part_of_what_one_says(slot, guess, truth):
    assert comparable(Point(slot, guess), Point(slot, truth))


@pytest.mark.parametrize(
    ("guess", "truth"),
    [
        ("was a pastry chef", "pastry chef"),
        ("was once a pastry chef", "pastry chef"),
        ("once a pastry chef", "pastry chef"),
        ("pastry chef in the past", "pastry chef"),
        ("fake pastry chef", "pastry chef"),
        ("false pastry chef", "pastry chef"),
        ("anything except pastry chef", "pastry chef"),
        ("\uff4e\uff4f\uff54 a pastry chef", "pastry chef"),  # full-width
        ("wants to be a baker", "baker"),
        ("hopes to be a baker", "baker"),
        ("planning to become a baker", "baker"),
        ("would like to be a pastry chef", "pastry chef"),
        ("would love to be a pastry chef", "pastry chef"),
        ("dreams of being a pastry chef", "pastry chef"),
        ("on the way to becoming a baker", "baker"),
        ("aspiring pastry chef", "pastry chef"),
        ("would-be pastry chef", "pastry chef"),
        ("allergic to black cats", "likes black cats"),
        ("afraid of big dogs", "fond of big dogs"),
        ("likes big dogs", "scared of big dogs"),
    ],
)
def test_what_was_is_wished_or_dreaded_is_not_so(guess, truth):
    assert not comparable(Point("", guess), Point("", truth))


def test_what_is_dreaded_is_no_interest():
    assert not comparable(Point("Interests", "fear of deep water"), Point("Interests", "deep water"))
    assert comparable(Point("Allergies", "bee stings"), Point("Other Information", "allergic to bee stings"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("used to be a nurse", "former nurse"),
        ("was a nurse", "former nurse"),
        ("was a nurse", "used to be a nurse"),
        ("was an only child", "only child"),
        ("was raised in a windmill", "raised in a windmill"),
        ("chess once a week", "once a week chess"),
        ("dreams of becoming a marine biologist", "wants to become a marine biologist"),
        ("aspiring", "ambitious"),
        ("aspiring and driven", "ambitious"),
        ("wants to learn Japanese", "learning Japanese"),
        ("scared of big dogs", "afraid of big dogs"),
        ("likes to avoid big dogs", "avoids big dogs"),
    ],
)
def test_what_was_or_is_wished_is_the_same_in_other_words(one, other):
    assert value_score(one, other) >= MATCH
    assert value_score(other, one) >= MATCH


@pytest.mark.parametrize(
    ("guess", "truth"),
    [
        ("afraid of cats", "afraid of dogs"),
        ("younger half-brother", "older half-brother"),
        ("master's in geography", "bachelor's in geography"),
        ("wedding photographer", "wedding planner"),
        ("recovering from heart surgery", "recovering from knee surgery"),
    ],
)
def test_things_of_one_kind_exclude_each_other(guess, truth):
    assert not comparable(Point("", guess), Point("", truth))


def test_a_place_may_name_its_country_and_a_degree_its_subject():
    assert value_score("Porto in Portugal", "Porto", "Location") == 1
    assert value_score("lives in Porto", "Porto", "Location") == 1
    assert value_score("Degree in Law", "Degree in History", "Education Background") == 0


def test_a_planner_is_no_plane_though_their_stems_are_one():
    assert "aeroplan" in meaning("owns a plane").stems
    assert meaning("wedding planner").stems == {"wed", "plan"}


def test_every_bundled_value_means_itself():
    for person in load_split("vanilla/val")[:100]:
        for point in person.points:
            assert comparable(point, point)
            assert value_score(point.value.upper(), point.value) == 1
