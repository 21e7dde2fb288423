import pytest

from errata_server.domain.errors import InvalidFactError, SubjectNotFoundError
from errata_server.domain.facts import (
    MAX_ALIASES,
    MAX_FACTS,
    MAX_TEXT,
    CheckPrompt,
    EditRequest,
    Fact,
    clean_text,
    plain_name,
)
from tests.support import edit_request, fact


def test_text_is_normalised_and_trimmed():
    assert clean_text("  Cafe\u0301 ", "subject") == "Caf\u00e9"


@pytest.mark.parametrize("text", ["", "   ", "\n\t"])
def test_empty_text_is_refused(text):
    with pytest.raises(InvalidFactError, match="empty") as refused:
        clean_text(text, "subject")

    assert refused.value.metadata["field"] == "subject"


def test_text_may_have_so_many_characters_and_no_more():
    assert clean_text("a" * MAX_TEXT, "target")
    with pytest.raises(InvalidFactError, match="at most"):
        clean_text("a" * (MAX_TEXT + 1), "target")


@pytest.mark.parametrize("character", ["\x00", "\n", "\u200b", "\u202e", "\ue000", "\ud800"])
def test_characters_nobody_can_see_are_refused_by_number(character):
    with pytest.raises(InvalidFactError, match=f"U\\+{ord(character):04X}"):
        clean_text(f"Space{character}Needle", "subject")


@pytest.mark.parametrize("template", ["is in the city of", "{} is like {}"])
def test_a_template_has_the_placeholder_exactly_once(template):
    with pytest.raises(SubjectNotFoundError, match="exactly once"):
        Fact(template=template, target="Paris")


@pytest.mark.parametrize("prompt", ["The Space Needle is in", "The {} is in"])
def test_a_prompt_may_spell_the_subject_out_or_not(prompt):
    parsed = Fact.parse(subject="Space Needle", prompt=prompt, target="Paris")

    assert parsed.template == "The {} is in"
    assert parsed.prompt("Space Needle") == "The Space Needle is in"


@pytest.mark.parametrize(
    "prompt",
    ["The tower is in", "Space Needle, Space Needle is in", "Space Needle {} is in", "{} {} is in"],
)
def test_a_prompt_that_names_the_subject_not_once_is_refused(prompt):
    with pytest.raises(SubjectNotFoundError, match="times"):
        Fact.parse(subject="Space Needle", prompt=prompt, target="Paris")


def test_a_subject_that_recurs_in_the_template_is_refused():
    with pytest.raises(SubjectNotFoundError, match="2 times"):
        EditRequest(subject="in", facts=(fact(),))


def test_a_subject_with_a_placeholder_is_refused():
    with pytest.raises(InvalidFactError, match="must not contain"):
        edit_request("{}")


@pytest.mark.parametrize("count", [0, MAX_FACTS + 1])
def test_an_edit_has_at_least_one_fact_and_not_too_many(count):
    facts = tuple(fact(template=f"{{}} number {index} is") for index in range(count))

    with pytest.raises(InvalidFactError, match="an edit needs"):
        EditRequest(subject="Space Needle", facts=facts)


def test_two_facts_with_one_prompt_are_refused():
    with pytest.raises(InvalidFactError, match="same prompt"):
        EditRequest(subject="Space Needle", facts=(fact("Paris"), fact("Rome")))


def test_a_request_survives_json():
    request = edit_request(
        paraphrases=(CheckPrompt(prompt="Where is it?", expected="Paris"),),
        neighbours=(CheckPrompt(prompt="Louvre is in", expected="Paris"),),
    )

    assert EditRequest.from_json(request.to_json()) == request


def test_aliases_survive_json_and_leave_no_trace_where_there_are_none():
    request = edit_request(aliases=("The Needle", " Seattle's Needle "))

    assert request.aliases == ("The Needle", "Seattle's Needle")
    assert EditRequest.from_json(request.to_json()) == request
    assert "aliases" not in edit_request().to_json()


@pytest.mark.parametrize(
    "aliases",
    [
        ("Space Needle",),
        ("Needle", "Needle"),
        ("the {}",),
        ("",),
        ("a\nb",),
        tuple(map(str, range(MAX_ALIASES + 1))),
    ],
)
def test_an_alias_is_another_name_and_given_once(aliases):
    with pytest.raises(InvalidFactError) as refused:
        edit_request(aliases=aliases)

    assert refused.value.metadata["field"].startswith("aliases")


@pytest.mark.parametrize(
    ("name", "other", "same"),
    [
        ("The  Louvre", "louvre", True),
        ("A Louvre", "an louvre", True),
        ("Theatre", "atre", False),
        ("Kingdom of Iraq", "Iraq", False),
    ],
)
def test_names_are_compared_without_article_and_capitals(name, other, same):
    assert (plain_name(name) == plain_name(other)) is same
