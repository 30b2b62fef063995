"""Whom a value is about, if not the user: relatives and friends, somebody named by a pronoun, people at large, those one knows."""

from __future__ import annotations

_RELATIVES = {
    word: base
    for base, others in {
        "parent": "mother mom mum mummy mommy mama father dad daddy papa parent parents stepmother stepmom stepmum stepfather stepdad",
        "sibling": "sister sisters stepsister stepsisters brother brothers stepbrother sibling siblings",
        "grandparent": "grandparent grandparents grandmother grandfather grandma grandpa granny gran granddad nana nan gramps",
        "spouse": "spouse spouses wife husband partner boyfriend girlfriend fiance fiancee",
        "child": "son sons daughter daughters stepson stepdaughter grandson granddaughter grandchildren",
        "relative": "uncle uncles aunt aunts cousin cousins nephew niece",
        "acquaintance": "acquaintance acquaintances friend friends neighbour neighbours neighbor neighbors colleague colleagues boss roommate roommates flatmate "
        "flatmates postman landlord coworker classmate housemate buddy landlady roomie roomies mate mates pal pals bestie idol stranger",
    }.items()
    for word in others.split()
}
_SOMEBODY = frozenset("he she they his her their".split())
_INDEFINITE = frozenset("someone somebody everyone everybody anyone anybody others".split())
_ONESELF = frozenset("who that with".split())  # someone who plays chess: the user
_CROWD = frozenset("the all some most many few other".split())
_FIRST_PERSON = frozenset("i i'm i've i'd i'll me my".split())  # people say I'm shy
_NO_VERB = ("person", "smart", "oriented", "focused", "management", "s", "ing", "er", "or")  # a people person says nothing of others
_COMPANY = frozenset("with for to from".split())  # hiking with friends is about oneself
_JOINED = frozenset("a an the his her their my own some other".split())
_TIED = (("married", "to"), ("engaged", "to"), ("friends", "with"), ("love", "with"), ("lives", "with"), ("living", "with"), ("works", "for"))
_SOME = frozenset("lot bit little few thing great".split())  # knows a bit of Latin


def _begins_with_others(tokens: list[str]) -> bool:
    """Whether a value says something of people at large: others play chess; but someone who plays chess is the user."""
    if tokens[:1] == ["another"]:
        return tokens[1:2] in (["person"], ["man"], ["woman"], ["guy"])
    first = next((place for place, token in enumerate(tokens) if token not in _CROWD), len(tokens))
    who, does = tokens[first : first + 1], tokens[first + 1 : first + 2]
    if not does or not _FIRST_PERSON.isdisjoint(tokens):
        return False
    if who[0] in _INDEFINITE:
        return does[0] not in _ONESELF
    return who[0] in ("people", "folks") and not does[0].endswith(_NO_VERB)


def _tied(tokens: list[str]) -> bool:
    """Whether a value says whom one is with or knows: married to a baker, knows a nurse."""
    for place, token in enumerate(tokens):
        if any(tokens[place : place + 2] == list(tie) and tokens[place + 2 : place + 3] in (["a"], ["an"], ["the"]) for tie in _TIED):
            return True
        if token in ("know", "knows") and tokens[place + 1 : place + 2] in (["a"], ["an"]) and _SOME.isdisjoint(tokens[place + 2 : place + 3]):
            return True
    return False


def people(tokens: list[str]) -> tuple[set[str], set[str], set[str]]:
    """Other people in a value: those it is about, all, those it begins with."""
    about, named, subject = set(), set(), set()
    for place, token in enumerate(tokens):
        own = token.endswith(("'s", "s'"))
        who = _RELATIVES.get(token.removesuffix("'s").removesuffix("'")) or ("child" if not place and token in ("children", "kids") else None)
        if who is None:
            continue
        named.add(who)
        before = [t for t in tokens[:place] if t not in _JOINED]
        if own or not (before and before[-1] in _COMPANY):
            about.add(who)
        if own or not before or (len(before) == 1 and before[0] in ("best", "old", "little", "elder")):
            subject.add(who)
    if _SOMEBODY.intersection(tokens[:1]) or (not named and _SOMEBODY.intersection(tokens[:4])):
        about.add("somebody")
    if _tied(tokens):
        about.add("tie")
    if _begins_with_others(tokens):
        for whom in (about, named, subject):
            whom.add("others")
    return about, named, subject
