import pytest

from errata_server.domain.errors import InvalidInputError
from errata_server.domain.known_facts import NO_KNOWN_FACTS, KnownFact, KnownFacts
from tests.support import CITY, known_facts

FILE = {
    "relations": {"city": {"templates": ["{} is in"]}},
    "facts": [{"subject": "Louvre", "relation": "city", "object": "Paris", "held_out": [0]}],
}


def test_facts_are_found_by_relation_and_by_subject():
    known = known_facts()

    assert {fact.relation for fact in known.of_relation("maker")} == {"maker"}
    assert [fact.object for fact in known.of_subject("Space Needle")] == ["Seattle", "Pentagram"]


def test_what_is_not_known_has_no_facts():
    assert known_facts().of_relation("colour") == []
    assert known_facts().of_subject("Atlantis") == []
    assert NO_KNOWN_FACTS.relation_of("{} is in") is None


def test_a_template_belongs_to_its_relation():
    assert known_facts().relation_of(CITY[2]) == "city"
    assert known_facts().relation_of("{} is the colour of") is None


def test_a_fact_is_asked_with_any_template_of_its_relation():
    known = known_facts()
    (first, *_) = known.of_subject("Louvre")

    assert known.prompt(first, 1) == "Louvre can be found in"


def test_the_file_format_is_read():
    known = KnownFacts.from_json(FILE)

    assert known.facts == (
        KnownFact(subject="Louvre", relation="city", object="Paris", held_out=(0,)),
    )


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"relations": {}, "facts": [{"subject": "Louvre"}]},
        {"relations": {"city": {}}, "facts": []},
        {"relations": {"city": {"templates": ["{} is in"]}}, "facts": 3},
        {"relations": [], "facts": []},
    ],
)
def test_a_malformed_file_is_refused_with_the_format(value):
    with pytest.raises(InvalidInputError, match="known-facts file is malformed"):
        KnownFacts.from_json(value)


def test_a_template_without_a_placeholder_is_refused():
    with pytest.raises(InvalidInputError, match="needs templates"):
        KnownFacts(templates={"city": ("is in",)}, facts=())


def test_a_fact_of_an_unlisted_relation_is_refused():
    with pytest.raises(InvalidInputError, match="unknown relation"):
        KnownFacts(templates={}, facts=(KnownFact(subject="a", relation="b", object="c"),))
