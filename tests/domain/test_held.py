"""Held prompts: the subject's other relations, the same for the same request."""

from dataclasses import replace

from errata_server.domain.facts import Fact
from errata_server.domain.held import PHRASINGS, held_prompts
from errata_server.domain.known_facts import NO_KNOWN_FACTS, KnownFact
from tests.support import MAKER, edit_request, known_facts


def test_the_subjects_other_facts_are_held_in_several_phrasings():
    held = held_prompts(known_facts(), edit_request("Space Needle", "Paris"))

    assert held == tuple(t.replace("{}", "Space Needle") for t in MAKER[:PHRASINGS])


def test_nothing_of_an_edited_relation_is_held():
    request = edit_request("Space Needle", "Paris")
    both = replace(request, facts=(*request.facts, Fact(template=MAKER[2], target="Sony")))

    assert held_prompts(known_facts(), both) == ()


def test_of_a_subject_without_other_known_facts_nothing_is_held():
    assert held_prompts(known_facts(), edit_request("Louvre", "Oslo")) == ()


def test_a_fact_that_says_the_same_in_other_words_is_not_held_against_the_edit():
    known = known_facts()
    same = KnownFact(subject="Space Needle", relation="maker", object="Seattle")
    relation = next(f.relation for f in known.facts if f.object == "Pentagram")
    facts = (*(f for f in known.facts if f.object != "Pentagram"), replace(same, relation=relation))

    assert held_prompts(replace(known, facts=facts), edit_request("Space Needle", "Paris")) == ()


def test_without_known_facts_nothing_is_held():
    assert held_prompts(NO_KNOWN_FACTS, edit_request()) == ()
