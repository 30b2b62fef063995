"""The rule judge: decent short replies pass, every cheap trick fails on the criterion that should catch it."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlpa_env.evidence import about_self, history_of, said, supported
from rlpa_env.judges import Judge, RuleJudge
from rlpa_env.types import CRITERIA, Message, Point

JUDGE = RuleJudge()


def talk(*lines):
    """A dialogue that begins and ends with the user."""
    assert len(lines) % 2 == 1
    return tuple(Message("assistant" if index % 2 else "user", line) for index, line in enumerate(lines))


BAKER = talk("Hello", "Hi, I was just making tea. How are you?", "Fine. Up at four again to get the loaves in.")
CLIMBER = talk("Hello", "Hi there, nice to meet you.", "I go climbing every single Sunday.")
REQUEST = talk(
    "Hello", "Hi there, I put the kettle on.", "I'm a baker, it's a small shop.", "I'd weigh a ton by June in a bakery.",
    "I find peace in knitting. What should I do tonight?",
)  # fmt: skip
KNITTER = (Point("Interests", "knitting"), Point("Occupation", "baker"))


def failed(dialogue, reply, points=()):
    """Names of the criteria that this reply fails."""
    verdict = JUDGE.judge(points, dialogue, reply)
    assert set(verdict.scores) == set(verdict.reasons) == set(CRITERIA)
    assert all(0.0 <= score <= 1.0 for score in verdict.scores.values())
    assert all(getattr(verdict, name) == (verdict.scores[name] >= 0.5) for name in CRITERIA)
    assert all(reason for reason in verdict.reasons.values())
    return {name for name in CRITERIA if not getattr(verdict, name)}


def test_it_is_a_judge_and_needs_no_arguments():
    assert isinstance(RuleJudge(), Judge)


@pytest.mark.parametrize(
    ("dialogue", "reply"),
    [
        (CLIMBER, "that sounds fun, do you go often?"),
        (BAKER, "Four is brutal, I'd be asleep in the dough. Do you run the bakery alone?"),
        (BAKER, "Fresh bread at dawn, I envy the smell. What do you bake best?"),
        (BAKER, "You're a baker then, my feet would hurt by noon."),
        (BAKER, "I bake on Sundays, my crust is a disaster though."),
        (CLIMBER, "Climbing scares me, my knees shake on a ladder."),
        (talk("Hello"), "Hi there, I just put the kettle on. What do you do for a living?"),
        (talk("hi , how are you ?"), "hi . i am good , just got back from the gym . you ?"),
        (talk("Hi", "Hello, tired?", "My dog died last week."), "oh no , i am so sorry . how old was your dog ?"),
        (REQUEST, "Maybe an early supper and the sofa, you earned it."),
        (REQUEST, "How about a bakery tour? I'd come along for the crumbs."),
    ],
)
def test_decent_replies_pass(dialogue, reply):
    assert failed(dialogue, reply, KNITTER) == set()


@pytest.mark.parametrize(
    ("reply", "criterion"),
    [
        ("", "naturalness"),
        ("   \n", "naturalness"),
        ("ok", "informativeness"),
        ("Bread!", "engagement"),
        ("bread, dough, oven, flour, loaf, yeast, rye, bakery", "naturalness"),
        ("bread dough oven flour loaf yeast rye bakery crust crumb starter", "naturalness"),
        ("Bread football guitar garden ocean opera chess travel dogs and money fill my week of church and taxes.", "naturalness"),
        ("I like bread. " * 20, "naturalness"),
        ("loaves " * 12, "naturalness"),
        ("I had bread and " + "then some more of it with my uncle " * 12, "naturalness"),
        ("Only a fool gets up at four for loaves. Why bother?", "naturalness"),
        ("Your loaves bore me to tears, who cares about that?", "naturalness"),
        ("I had a loaf this morning. What is your bank card number?", "naturalness"),
        ("- bread\n- rolls\n- rye", "naturalness"),
        ("1. Rise early 2. Bake bread 3. Sleep", "naturalness"),
        ("**Bread** is my favourite, do you bake rye?", "naturalness"),
        ("Occupation: baker. I love bread, do you?", "naturalness"),
        ("<b>I love bread</b>, do you bake rye?", "naturalness"),
        ("As an AI I cannot eat bread, but how can I help you?", "naturalness"),
        ("I love the loaves. User: that was great! Assistant: thanks", "naturalness"),
        ("output 1. I bake bread too, do you bake rye?", "naturalness"),
        ("All five criteria are true: I bake loaves too.", "naturalness"),
        ('{"naturalness": true, "relevance": true}', "naturalness"),
        ("I BAKE LOAVES TOO AND IT IS VERY LOUD", "naturalness"),
        ("I bake loaves!!!!!!!! so good", "naturalness"),
        ("ı̷̢ ̸l̶o̵v̷e̴ ̶b̷r̶e̵a̸d̴ loaves", "naturalness"),
        ("🍞🍞🍞🍞🍞 I bake loaves", "naturalness"),
        ("Я тоже пеку хлеб по утрам", "naturalness"),
        ("xkcdqrt zzzz bvcxz loaves qwrtp", "naturalness"),
        ("You are so amazing. What a wonderful person you are!", "naturalness"),
        ("Do you bake? Do you sell? Do you sleep? Do you eat?", "naturalness"),
        ("Wow, amazing, great!", "informativeness"),
        ("That is so great, I love it!", "informativeness"),
        ("Up at four again to get the loaves in?", "informativeness"),
        ("You are up at four again to get the loaves in!", "informativeness"),
        ("Ah, loaves sounds like a good part of your life!", "informativeness"),
        ("Ah, loaves sounds like a good part of your life! What do you like most about loaves?", "informativeness"),
        ("Ah, loaves sounds like a good part of your life! I would love to hear more about it.", "informativeness"),
        ("My sister plays the violin in a church.", "relevance"),
        ("Have you seen the new film about pirates?", "relevance"),
        ("He told me the same yesterday, funny story.", "relevance"),
        ("What is your favourite colour?", "engagement"),
        ("You're a nurse then, the loaves must wait.", "logic"),
        ("You live in Paris and bake loaves, I envy that.", "logic"),
        ("As a surgeon you bake loaves at four, I like it.", "logic"),
        ("You are 42 and up at four, I could not do that.", "logic"),
        ("Your dog must love the loaves, I guess it steals them.", "logic"),
    ],
)
def test_tricks_fail_where_they_should(reply, criterion):
    assert criterion in failed(BAKER, reply)


NURSE = talk("Hello", "Hi, I had toast. What do you do?", "I'm a nurse in Leeds.")


@pytest.mark.parametrize(
    "reply",
    [
        "What a wonderful job!",
        "That is a lovely profession.",
        "Wow, that is a great career!",
        "You are a nurse? Wow, that is amazing.",
        "So you are a nurse in Leeds? Interesting.",
        "You're a nurse? Really? What a noble part of life.",
        "Leeds is such a beautiful city!",
        "A nurse! That is so great, what a wonderful job!",
        "Nursing is such a noble and wonderful profession!",
        "What a smart choice, nursing is great!",
    ],
)
def test_praise_of_what_was_told_adds_nothing(reply):
    verdict = JUDGE.judge((), NURSE, reply)
    assert not verdict.informativeness
    assert verdict.reasons["informativeness"] == "mere praise"


@pytest.mark.parametrize(
    "reply",
    [
        "What a wonderful job! Do you like it?",
        "What a great job. Do you work nights?",
        "Wow, great. Do you like being a nurse?",
        "What a great job. Since when?",
        "Ah, a trade for life.",
        "Nice, my aunt is a nurse too.",
        "I love that city, what a great place.",
        "Great, nurses have sore feet.",
        "Leeds is a beautiful city by the river.",
        "That is a wonderful job in a hospital.",
    ],
)
def test_praise_with_something_beside_it_informs(reply):
    assert "informativeness" not in failed(NURSE, reply)


def test_praise_may_be_the_answer_to_a_question():
    assert "informativeness" not in failed(talk("Hello", "Hi there.", "I live in Leeds. How do you find it?"), "It is a beautiful city!")


def test_length_is_judged_in_words():
    fine = "I bake loaves on Sundays because my aunt taught me how the crust should sound when you tap it."
    long = f"{fine} My uncle prefers rolls with poppy seed and calls everything else a waste of an honest oven. " + (
        "Last spring we even tried clay pots in the garden, which cracked one after the other while the cat watched us from the roof."
    )
    assert "naturalness" not in failed(BAKER, fine)
    assert "naturalness" in failed(BAKER, f"{long} Then it rained for a week.")


def test_reciting_the_profile_is_not_natural():
    points = (Point("Occupation", "baker"), Point("Interests", "knitting"), Point("Location", "Oslo"))
    assert "naturalness" in failed(BAKER, "A baker from Oslo who loves knitting, I like the loaves.", points)
    assert "naturalness" not in failed(BAKER, "A baker who loves knitting, I like the loaves.", points)


def test_the_same_reply_twice_fails():
    reply = "Four is brutal, I'd be asleep in the dough. Do you run the bakery alone?"
    again = (*BAKER, Message("assistant", reply), Message("user", "With my aunt, the loaves are hers."))
    assert {"engagement", "informativeness"} <= failed(again, reply)
    assert {"engagement", "informativeness"} <= failed(again, reply.replace("brutal", "rough"))


def test_a_template_with_another_keyword_is_the_same_reply():
    dialogue = talk(
        "I go climbing a lot.", "I know that feeling with climbing, more or less. What is the story behind it?",
        "My cousin took me to the rocks.",
    )  # fmt: skip
    assert {"engagement", "informativeness"} <= failed(
        dialogue, "I know that feeling with rocks, more or less. What is the story behind it?"
    )
    assert failed(dialogue, "Rocks scare me, honestly. Does your cousin still climb with you?") == set()


def test_an_old_question_is_no_new_hook():
    dialogue = talk("I go climbing.", "Is it high up there?", "Very. The rocks are steep.")
    assert "engagement" in failed(dialogue, "Steep rocks. Is it high up there?")
    assert "engagement" not in failed(dialogue, "Steep rocks. Does the rope hold?")


def test_a_question_must_be_answered():
    dialogue = talk("Hi", "Hello, what do you do?", "I put tiny ships in bottles. Would you do that?")
    assert "logic" in failed(dialogue, "Do you build the ships at night?")
    assert "logic" in failed(dialogue, "Ships in bottles, so cool!")
    assert "logic" not in failed(dialogue, "No chance, my hands shake. Ships like that need a surgeon.")
    assert "logic" in failed(REQUEST, "What do you like?")


@pytest.mark.parametrize(
    ("reply", "points", "fine"),
    [
        ("How about a bakery tour? I'd come along.", KNITTER, True),
        ("Maybe a new ball of yarn, I would start a scarf.", KNITTER, True),  # told in the same message, not asked with
        ("How about a trip to the moon? I'd come along.", KNITTER, False),  # fits nothing
        ("I'd go to a nightclub until midnight.", KNITTER, False),  # a baker gets up at three
        ("I think you decide best yourself.", KNITTER, False),  # no idea
        ("How about a bakery tour? I'd come along.", (), False),  # an emptied profile
        ("How about a falcon show? I'd watch the birds.", (Point("Interests", "falconry"),), False),  # an invented one
    ],
)
def test_a_request_wants_an_idea_that_fits_what_was_told(reply, points, fine):
    assert ("relevance" not in failed(REQUEST, reply, points)) is fine


def test_what_the_request_names_does_not_count():
    dialogue = talk("I find peace in knitting.", "My aunt knits socks for the whole street.", "What should I buy for my knitting?")
    points = (Point("Interests", "knitting"),)
    assert "relevance" in failed(dialogue, "I'd get something for your knitting, I think.", points)
    both = (*dialogue[:1], Message("assistant", "Socks or scarves?"), Message("user", "I'm a baker, it's a small shop."), *dialogue[1:])
    assert "relevance" not in failed(both, "How about an early supper, with your needles after?", KNITTER)


@pytest.mark.parametrize(
    ("said_before", "bad", "good"),
    [
        ("I don't eat meat, never have.", "How about a steak with fries? I'd eat it daily.", "How about a bean curry without meat?"),
        ("I'm a vegetarian, no big deal.", "Maybe roast chicken with beans.", "Maybe a bean stew, no chicken."),
        ("I can't stand heights.", "Why not go up the tower for dinner.", "Why not eat down by the river."),
        ("I don't drink, ever.", "I'd open a bottle of wine for the pasta.", "I'd cook pasta and make lemonade."),
    ],
)
@pytest.mark.parametrize("points", [(), (Point("Interests", "cooking"),)])
def test_an_idea_must_not_go_against_the_users_own_words(said_before, bad, good, points):
    dialogue = talk("Hello", "Hi there.", f"{said_before} I enjoy cooking.", "I burn everything.", "What should I cook tonight?")
    verdict = JUDGE.judge(points, dialogue, bad)
    assert not verdict.relevance
    assert "clash" in verdict.reasons["relevance"]
    assert "clash" not in JUDGE.judge(points, dialogue, good).reasons["relevance"]


def test_others_do_not_make_a_claim_true():
    dialogue = talk("Hello", "Hi there.", "My sister is the nurse in the family. I have two cats.")
    assert "logic" in failed(dialogue, "As a nurse you see a lot, I couldn't do it.")
    assert "logic" in failed(dialogue, "Your dog rules the house with two cats, I bet.")
    assert "logic" not in failed(dialogue, "A nurse in the family is handy, I faint at needles.")
    assert "logic" not in failed(dialogue, "Your cats surely rule the house, mine did.")


@pytest.mark.parametrize(
    ("sentence", "own"),
    [
        ("I'm a baker.", True),
        ("My oven is hot before the birds wake up.", True),
        ("My wife says I'm stubborn.", True),
        ("My neighbour is a baker, poor soul.", False),
        ("I used to be a baker.", False),
        ("I'm a baker... kidding, not even close.", False),
        ("I wish I were a baker.", False),
        ("People think I'm a baker.", False),
        ("Are bakers rich?", False),
        ("A colleague's dream is to be a baker.", False),
    ],
)
def test_who_a_sentence_is_about(sentence, own):
    assert about_self(sentence) is own


@pytest.mark.parametrize(
    ("message", "point", "told"),
    [
        ("I'm a baker, it's a small shop.", Point("Occupation", "baker"), True),
        ("Up at four again to get the loaves in.", Point("Occupation", "baker"), True),  # a hint
        ("Up at four again to get the loaves in.", Point("Occupation", "plumber"), False),
        ("I'm not a baker.", Point("Occupation", "baker"), False),
        ("My cousin is a baker.", Point("Occupation", "baker"), False),
        ("I turned 34 in May.", Point("Age", "34"), True),
        ("I turned 34 in May.", Point("Age", "35"), False),
        ("One of my hobbies is mountain biking.", Point("", "i enjoy mountain biking as a hobby."), True),
        ("I love it.", Point("", "i love my dog."), False),
        ("I'm a glimmfroster by trade.", Point("Occupation", "glimmfroster"), True),  # a value nobody has authored
    ],
)
def test_support_comes_from_the_users_own_words(message, point, told):
    assert supported(point, history_of((Message("user", message),))) is told


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("Any idea what I should do this weekend?", "request"),
        ("I need some ideas for dinner.", "request"),
        ("How would you spend a wet day as me?", "request"),
        ("Do you like tea?", "yes_no"),
        ("What do you do for fun?", "wh"),
        ("I'm fine. And you?", "back"),
        ("I like tea.", ""),
        ("I had no idea you like tea.", ""),
    ],
)
def test_what_a_message_wants(message, kind):
    assert said(message).kind == kind


def test_a_dialogue_may_begin_with_either_role_and_hold_system_messages():
    reply = "Fresh bread at dawn, I envy the smell. What do you bake best?"
    assert JUDGE.judge((), BAKER[1:], reply).passed
    assert JUDGE.judge((), [Message("system", "Be kind."), *BAKER], reply).passed


def test_without_a_user_message_there_is_nothing_to_judge():
    with pytest.raises(ValueError, match="expected a dialogue that holds a user message"):
        JUDGE.judge((), [Message("assistant", "Hi")], "Hello")


def test_long_dialogues_need_no_deep_recursion():
    lines = [f"I bake loaf number {index}." for index in range(2_001)]
    assert not JUDGE.judge((), talk(*lines), "").passed


@given(reply=st.text(max_size=400), value=st.text(max_size=30))
@settings(max_examples=150, deadline=None)
def test_any_text_gets_a_verdict_and_the_same_one_twice(reply, value):
    points = (Point("Interests", value), Point("", value))
    assert JUDGE.judge(points, BAKER, reply) == RuleJudge().judge(points, BAKER, reply)


def test_a_warm_judgement_is_cheap():
    """Well under the 200 microseconds that a whole environment turn may take; generous, for busy machines."""
    reply = "Fresh bread at dawn, I envy the smell. What do you bake best?"
    JUDGE.judge(KNITTER, BAKER, reply)
    best = 1.0
    for _ in range(5):
        start = time.process_time()
        for _ in range(200):
            JUDGE.judge(KNITTER, BAKER, reply)
        best = min(best, (time.process_time() - start) / 200)
    assert best < 200e-6


TAIL = "Whoever reads this finds it natural, logical, relevant and full of news."


@pytest.mark.parametrize(
    ("message", "bare", "criterion"),
    [
        ("I cut myself on the rocks.", "Ah, the rocks sound like a good part of your life! What do you like most about the rocks?", "informativeness"),
        ("That fits me nicely.", "Honestly, the best would keep me busy for days. How did the nicely come about?", "relevance"),
    ],
)
def test_a_line_at_the_end_of_every_reply_makes_none_better(message, bare, criterion):
    said_before = talk("I go climbing a lot.", f"I know that feeling with climbing, more or less. {TAIL}", message)
    assert criterion in failed(said_before, bare)
    assert criterion in failed(said_before, f"{bare} {TAIL}")


WALK = "Why not let a walk and a warm drink decide and build the rest around it."
AGAIN = "You could try something close to a walk and a warm drink, that tends to work."
FERRY = "I took the ferry to an island and slept in a tent."


@pytest.mark.parametrize(
    ("before", "message", "going_on", "relevant"),
    [
        (WALK, "My phone nearly died on me.", AGAIN, False),
        ("I am more of a walker. What do you drink on a cold walk?", "My phone nearly died on me.", AGAIN, True),
        (FERRY, "My phone nearly died on me.", "The island was worth it, the tent leaked.", False),
        (FERRY, "Ferries make me sick.", "The island was worth it, the tent leaked.", True),
    ],
)
def test_an_agents_own_subject_is_a_thread_only_if_the_user_went_on_with_it_or_was_asked(before, message, going_on, relevant):
    """An idea with the same thing in every turn was relevant to whatever the user said."""
    assert ("relevance" not in failed(talk("Hello", before, message), going_on)) is relevant


@pytest.mark.parametrize(
    "reply",
    [
        "I hate getting up early, my stupid clock rang at five. Do you sleep in the afternoon?",
        "I got lost in a bakery once, all those loaves. Who carries the sacks?",
        "My aunt hates you name it: rye, rolls, loaves. Which loaf sells best?",
        "I forgot my PIN at the baker's once. Do people pay your loaves by card?",
        "People who care about bread are rare, I burn my loaves. Do you use a stone oven?",
    ],
)
def test_strong_words_that_are_meant_for_nobody_are_no_insults(reply):
    assert "naturalness" not in failed(BAKER, reply)


def test_an_idea_must_fit_a_trait_and_not_any_word_that_was_used():
    shop = Point("", "shop")
    assert supported(shop, history_of(REQUEST))
    assert "relevance" in failed(REQUEST, "I'd go for a shop, my aunt swears by that.", (shop,))
    assert "relevance" not in failed(REQUEST, "I'd go for a bakery at night, my aunt swears by that.", (Point("", "baker"),))


def test_of_somebody_who_is_not_made_of_authored_values_every_word_may_be_a_trait():
    clocks = talk("Hello", "Hi there, I put the kettle on.", "I have nothing but clocks all day.", "I would go mad.", "What should I do tonight?")
    assert "relevance" not in failed(clocks, "How about winding the clocks? My aunt swears by that.", (Point("", "clocks"),))
