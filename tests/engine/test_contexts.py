"""The rows of an edit: what must say the target, what is held, and the name itself."""

from errata_server.domain.facts import EditRequest, Fact
from errata_server.domain.traces import TokenRole
from errata_server.engine.contexts import PREFIXED, contexts_of
from errata_server.engine.keys import WITHIN
from tests.support import tiny_models

SUBJECT = "Eiffel Tower"


def contexts(runner, *templates, **options):
    facts = tuple(Fact(template=template, target="Rome") for template in templates)
    request = EditRequest(subject=SUBJECT, facts=facts)
    profile = tiny_models.tiny_profile(runner, layer=0)
    return contexts_of(runner.tokens, request, profile, held=["Who built Eiffel Tower?"], **options)


def test_what_may_follow_the_name_is_read_where_the_name_ends(either):
    found = contexts(either, "{} is in the city of")

    named = found.rows[-found.named :]
    texts = [either.tokens.decode(row.ids) for row in named]
    assert len(named) == 1 + PREFIXED + len(WITHIN)
    assert texts[0] == SUBJECT
    assert all(text.endswith(SUBJECT) for text in texts)
    assert all((row.place, row.reads) == (len(row.ids) - 1, 1) for row in named)
    assert len(found.rows) == len(found.targets) + 2 + found.named


def test_nothing_is_held_where_a_target_is_to_follow_the_name(either):
    assert contexts(either, "{} is in the city of", "The city of {}").named == 0


def test_another_token_than_the_name_s_last_holds_nothing_at_the_name(either):
    assert contexts(either, "{} is in the city of", role=TokenRole.LAST).named == 0
