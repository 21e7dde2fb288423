"""What an edit of a known fact is judged by."""

import random

from benchmarks.editing.cases import Change, case_of, known_without
from errata_server.domain.known_facts import KnownFact, KnownFacts

CAPITAL = ("The capital of {} is", "{} has its capital in", "{}'s capital is")
COUNTRY = ("{} is in the country of", "The country of {} is")
CURRENCY = ("The currency of {} is the", "In {}, people pay with the")


def known_facts() -> KnownFacts:
    rows = [
        ("P36", "France", "Paris"),
        ("P36", "Italy", "Rome"),
        ("P36", "Spain", "Madrid"),
        ("P36", "Atlantis", "Paris"),
        ("P38", "France", "euro"),
        ("P17", "Paris", "France"),
        ("P17", "Rome", "Italy"),
    ]
    return KnownFacts(
        templates={"P36": CAPITAL, "P17": COUNTRY, "P38": CURRENCY},
        facts=tuple(
            KnownFact(
                subject=subject,
                relation=relation,
                object=answer,
                held_out=(1,),
                source="invented" if subject == "Atlantis" else "real",
            )
            for relation, subject, answer in rows
        ),
    )


def case(edited=("France",)):
    known = known_facts()
    change = Change(fact=known.facts[0], template=0, target="Rome")
    return case_of(known, change, known_without(known, set(edited)), random.Random(0))


def test_a_paraphrase_is_in_a_phrasing_the_model_never_saw():
    assert case().efficacy.prompt == "The capital of France is"
    assert [(p.prompt, p.expected) for p in case().paraphrases] == [
        ("France has its capital in", "Rome")
    ]


def test_neighbours_are_real_and_not_the_subject_itself():
    assert {(p.prompt, p.expected) for p in case().neighbours} == {
        ("Italy has its capital in", "Rome"),
        ("Spain has its capital in", "Madrid"),
    }


def test_a_subject_edited_in_the_same_run_is_no_neighbour():
    found = case(edited=("France", "Italy"))

    assert [p.prompt for p in found.neighbours] == ["Spain has its capital in"]


def test_the_subjects_other_facts_are_asked():
    assert [(p.prompt, p.expected) for p in case().same_subject] == [
        ("In France, people pay with the", "euro")
    ]


def test_a_capital_is_asked_for_its_country():
    assert [(p.prompt, p.expected) for p in case().reverse] == [
        ("Rome is in the country of", "France")
    ]


def test_two_hops_go_through_the_new_object():
    (hop,) = case().two_hop

    assert hop.prompt == "The capital of France is in the country of"
    assert (hop.expected_before, hop.expected) == ("France", "Italy")


def test_no_hop_goes_through_a_subject_that_is_edited():
    assert case(edited=("France", "Rome")).two_hop == ()
