import pytest

from errata_server.domain.crawls import (
    Belief,
    CrawlChange,
    CrawledRelation,
    CrawlRequest,
    belief,
    read_object,
)
from errata_server.domain.errors import InvalidInputError


@pytest.mark.parametrize(
    ("answer", "objects", "found"),
    [
        (" Paris. It is", (), "Paris"),
        (" Paris, France", (), "Paris"),
        (" New York City and more", ("New York", "New York City"), "New York City"),
        (" Parisian", ("Paris",), "Parisian"),
        (" Don't know", (), ""),
        (" Don\N{RIGHT SINGLE QUOTATION MARK}t know. Q: what", (), ""),
        (" unknown", (), ""),
        (" physics\n\nQ: Portugal", (), "physics"),
        ("", (), ""),
        (" " + "x" * 100, (), "x" * 60),
    ],
)
def test_the_object_is_what_an_answer_begins_with(answer, objects, found):
    assert read_object(answer, objects) == found


@pytest.mark.parametrize(
    ("answers", "found", "votes"),
    [
        (("Paris", "Paris.", "Rome"), "Paris", 2),
        (("paris", "Paris", "PARIS"), "paris", 3),
        (("Paris", "Rome", "Oslo"), "", 0),
        (("Paris", "Rome"), "", 0),
        (("Don't know", "Don't know", "Paris"), "", 0),
        ((), "", 0),
    ],
)
def test_most_wordings_have_to_agree(answers, found, votes):
    held = belief(answers, ())

    assert (held.object, held.votes) == (found, votes)
    assert held.answers == answers


@pytest.mark.parametrize(
    ("before", "after", "change"),
    [
        ("Paris", "paris", CrawlChange.SAME),
        ("Paris", "Rome", CrawlChange.OTHER),
        ("", "Rome", CrawlChange.GAINED),
        ("Paris", "", CrawlChange.LOST),
        ("", "", CrawlChange.UNKNOWN),
    ],
)
def test_a_change_is_told_by_the_two_objects(before, after, change):
    relation = CrawledRelation(
        subject="Louvre",
        relation="city",
        depth=1,
        questions=("Louvre is in the city of",),
        before=Belief(object=before, votes=2, answers=()),
        after=Belief(object=after, votes=2, answers=()),
        edit="",
        known="",
    )

    assert relation.change is change


@pytest.mark.parametrize(
    "given",
    [
        {"subject": ""},
        {"subject": "a {} b"},
        {"subject": "Louvre", "depth": 3},
        {"subject": "Louvre", "paraphrases": 0},
        {"subject": "Louvre", "max_prompts": 5_001},
    ],
)
def test_a_crawl_that_makes_no_sense_is_refused(given):
    with pytest.raises(InvalidInputError):
        CrawlRequest(**given)
