import pytest

from errata_server.domain.checks import CheckKind
from errata_server.domain.edits import EditState
from errata_server.domain.errors import InvalidInputError
from tests.support.services import open_services
from tests.support.statements import counted_statements


@pytest.fixture
def edits(services):
    """One edit in each state, by state."""
    superseded = services.proposed(target="Paris")
    applied = services.proposed(target="Rome")
    reverted = services.proposed("Louvre", "Oslo")
    verified = services.proposed("Prado", "Oslo")
    services.engine.faults = {CheckKind.FLUENCY}
    rejected = services.proposed("Big Ben", "Oslo")
    services.engine.faults = set()
    services.apply(superseded)
    services.apply(applied, reverted)
    services.revert(reverted)
    return {
        EditState.SUPERSEDED: superseded,
        EditState.APPLIED: applied,
        EditState.REVERTED: reverted,
        EditState.VERIFIED: verified,
        EditState.REJECTED: rejected,
    }


def test_every_state_follows_from_what_happened(services, edits):
    for state, edit in edits.items():
        assert services.proposals.get(edit.id).state is state


def test_a_state_is_the_ledgers_though_a_server_has_not_caught_up(services, url):
    with open_services(url) as behind:
        edit = services.proposed()
        services.apply(edit)

        assert behind.serving.head().revision.sequence == 0
        assert behind.proposals.get(edit.id).state is EditState.APPLIED
        (listed,) = behind.proposals.list(state=EditState.APPLIED).items
        assert listed.edit == edit
        assert behind.proposals.list(state=EditState.REVERTED).items == ()


def test_edits_are_listed_newest_first_and_by_page(services, edits):
    first = services.proposals.list(page_size=2)
    second = services.proposals.list(page_size=2, page_token=first.next_token)
    last = services.proposals.list(page_size=2, page_token=second.next_token)

    listed = [view.edit.id for page in (first, second, last) for view in page.items]
    assert listed == [
        edits[state].id
        for state in (
            EditState.REJECTED,
            EditState.VERIFIED,
            EditState.REVERTED,
            EditState.APPLIED,
            EditState.SUPERSEDED,
        )
    ]
    assert last.next_token == ""


def test_edits_of_one_state_are_listed_however_far_they_lie_apart(services, edits):
    for state, edit in edits.items():
        page = services.proposals.list(state=state, page_size=1)
        assert [view.edit.id for view in page.items] == [edit.id]
        assert page.next_token == ""
    assert services.proposals.list(state=EditState.APPROVED).items == ()


@pytest.mark.parametrize("looked_through", [1, 3, 500])
def test_pages_of_one_state_hold_each_of_its_edits_once(services, monkeypatch, looked_through):
    monkeypatch.setattr("errata_server.service.edits.LOOKED_THROUGH", looked_through)
    made = [services.proposed(target=city) for city in ("Paris", "Rome", "London", "Oslo", "Bern")]
    services.apply(made[2])
    listed, token = [], ""

    while True:
        page = services.proposals.list(state=EditState.VERIFIED, page_size=2, page_token=token)
        listed += [view.edit.id for view in page.items]
        token = page.next_token
        if not token:
            break

    assert listed == [edit.id for edit in reversed(made) if edit is not made[2]]


def test_a_page_that_cannot_be_is_refused(services):
    with pytest.raises(InvalidInputError, match="page_size"):
        services.proposals.list(page_size=-1)
    with pytest.raises(InvalidInputError, match="page_token"):
        services.proposals.list(page_token="e-nothing")


def test_a_page_of_many_edits_takes_no_more_statements_than_one_of_few(services):
    for city in ("Paris", "Rome", "London", "Berlin"):
        services.proposed(target=city)

    def statements(page_size):
        services.serving.artifacts._payloads.clear()
        with counted_statements() as made:
            assert len(services.proposals.list(page_size=page_size).items) == page_size
        return len(made)

    assert statements(4) == statements(1)


def test_several_edits_take_no_more_statements_than_one(services, edits):
    ids = [edit.id for edit in edits.values()]
    taken = []
    for some in (ids[:1], ids, ids[::-1]):
        services.proposals.several(some)
        with counted_statements() as made:
            views = services.proposals.several(some)
        taken.append(len(made))
        assert [view.edit.id for view in views] == some

    assert taken[0] == taken[1] == taken[2]
