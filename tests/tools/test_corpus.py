from collections import Counter, defaultdict

import pytest

from tools.corpus import Mix, Writer, held_out_paragraphs, kept_out, labelled_feelings
from tools.facts import KNOWN_FACTS, load, main

SMALL = Mix(real=2, common=2, invented=1)


@pytest.fixture(scope="module")
def known():
    return load()


def test_the_facts_file_is_what_its_tables_and_seed_give(tmp_path):
    written = tmp_path / "known_facts.json"

    main(output=written)

    assert written.read_text() == KNOWN_FACTS.read_text()


def test_a_shard_depends_on_nothing_but_its_seed(known):
    first, again, other = (Writer(known, seed).shard(SMALL, frozenset()) for seed in (3, 3, 4))

    assert first == again
    assert first != other


def test_every_template_has_one_place_for_the_subject(known):
    templates = [template for group in known.templates.values() for template in group]

    assert {template for template in templates if template.count("{}") != 1} == set()
    assert {name for name, group in known.templates.items() if len(group) < 6} == set()


def test_no_template_belongs_to_two_relations(known):
    uses = Counter(template for group in known.templates.values() for template in group)

    assert [template for template, count in uses.items() if count > 1] == []


def test_no_subject_has_two_objects_in_one_relation(known):
    objects = defaultdict(set)
    for fact in known.facts:
        objects[fact.subject, fact.relation].add(fact.target)

    assert {key for key, values in objects.items() if len(values) > 1} == set()


def test_no_prompt_is_asked_of_two_facts(known):
    prompts = Counter(
        fact.prompt(t) for fact in known.facts for t in known.templates[fact.relation]
    )

    assert [prompt for prompt, count in prompts.items() if count > 1] == []


def test_at_least_200_subjects_have_three_facts(known):
    relations = Counter(fact.subject for fact in known.facts)

    assert sum(count >= 3 for count in relations.values()) >= 200


def test_every_real_subject_has_a_namesake_with_another_object(known):
    objects = defaultdict(set)
    for fact in known.facts:
        objects[fact.subject].add(fact.target)
    apart = {
        fact.namesake_of
        for fact in known.facts
        if fact.namesake_of and fact.target not in objects[fact.namesake_of]
    }
    subjects = {fact.subject for fact in known.facts if fact.source != "invented"}

    assert subjects - apart == set()


def test_two_templates_of_each_fact_are_held_out_and_each_template_is_trained(known):
    trained: dict[str, set[int]] = defaultdict(set)
    for fact in known.facts:
        trained[fact.relation] |= set(range(len(known.templates[fact.relation]))) - set(
            fact.held_out
        )

    assert {len(set(fact.held_out)) for fact in known.facts} == {2}
    assert all(trained[name] == set(range(len(group))) for name, group in known.templates.items())


def test_a_fact_is_never_stated_in_a_template_it_holds_out(known):
    stated = Writer(known, 5).exposures(Mix(real=12, common=12, invented=12))

    leaks = [
        (fact, template)
        for fact, template in stated
        if known.templates[fact.relation].index(template) in fact.held_out
    ]
    assert leaks == []


def test_a_fact_is_stated_as_often_as_the_mix_says(known):
    counts = Counter(fact.source for fact, _ in Writer(known, 6).exposures(SMALL))
    sources = Counter(fact.source for fact in known.facts)

    assert counts == {name: SMALL.exposures_of(name) * count for name, count in sources.items()}


def test_the_object_follows_its_template_as_the_next_word(known):
    writer = Writer(known, 7)
    for fact, template in writer.exposures(SMALL)[:500]:
        sentence = writer.statement(fact, template)

        assert f"{template.format(fact.subject)[1:]} {fact.target}" in sentence


def test_texts_kept_for_checks_are_in_no_shard(known):
    kept = kept_out(known)
    shard = set(Writer(known, 8).shard(SMALL, kept))

    assert not kept & shard
    assert len(set(held_out_paragraphs(known, 200))) == 200


def test_labelled_texts_do_not_say_how_they_feel(known):
    rows = labelled_feelings(known, 20)

    assert Counter(row["label"] for row in rows) == {"good": 20, "bad": 20}
    assert not [row for row in rows if "feeling" in row["text"]]
