import sqlite3
import threading

import pytest

from errata_server.domain.edits import EditState
from errata_server.domain.errors import (
    BranchNotFoundError,
    InvalidInputError,
    RevisionNotFoundError,
)
from errata_server.domain.ids import MAIN, BranchName
from tests.support.services import PATIENCE, open_services


@pytest.fixture
def history(services):
    """Five revisions: genesis, two applied, one superseding, one reverted."""
    needle, louvre = services.proposed(), services.proposed("Louvre", "Rome")
    services.apply(needle)
    services.apply(louvre)
    services.apply(services.proposed(target="Oslo"))
    services.revert(louvre)
    return services.history


def test_a_revision_is_found_by_every_way_of_naming_it(history):
    head = history.head()

    assert head.sequence == 4
    for reference in (head.id, head.id[:8], "4", "main", "main@4"):
        assert history.get(reference) == head
    assert history.get("base").sequence == 0


def test_what_names_no_revision_is_not_found(history):
    for reference in ("f" * 64, "99", "canary", "main@99"):
        with pytest.raises(RevisionNotFoundError):
            history.get(reference)


def test_revisions_are_listed_newest_first_and_by_page(history):
    first = history.list(page_size=2)
    second = history.list(page_size=2, page_token=first.next_token)
    last = history.list(page_size=2, page_token=second.next_token)

    pages = [[revision.sequence for revision in page.items] for page in (first, second, last)]
    assert pages == [[4, 3], [2, 1], [0]]
    assert last.next_token == ""


def test_a_page_that_cannot_be_is_refused(history):
    with pytest.raises(InvalidInputError, match="page_size"):
        history.list(page_size=-1)
    for token in ("x", "-1", "²"):
        with pytest.raises(InvalidInputError, match="page_token"):
            history.list(page_token=token)


def test_an_unknown_branch_has_no_history(history):
    canary = BranchName("canary")

    with pytest.raises(BranchNotFoundError):
        history.head(canary)
    with pytest.raises(BranchNotFoundError):
        history.list(canary)
    with pytest.raises(BranchNotFoundError):
        history.watch(canary, 0)


def test_branches_are_listed_with_their_heads(history):
    page = history.branches()

    assert [(branch.name, branch.head) for branch in page.items] == [(MAIN, history.head())]
    assert history.branches(page_token=MAIN).items == ()


def test_a_difference_names_what_each_side_has_alone(history):
    diff = history.diff("2", "4")

    assert [view.edit.request.facts[0].target for view in diff.added] == ["Oslo"]
    removed = {view.edit.request.facts[0].target for view in diff.removed}
    assert removed == {"Rome", "Paris"}
    assert diff.unchanged == 0
    assert (diff.start.sequence, diff.end.sequence) == (2, 4)
    assert {view.state for view in diff.added} == {EditState.APPLIED}


def test_a_difference_of_a_revision_with_itself_is_empty(history):
    diff = history.diff("2", "2")

    assert (diff.added, diff.removed, diff.unchanged) == ((), (), 2)


def test_a_watcher_gets_what_there_is_at_once(history):
    assert [revision.sequence for revision in history.watch(MAIN, 2)] == [2, 3, 4]


def test_a_watcher_is_woken_by_a_commit(services, history):
    edit = services.proposed("Prado", "Oslo")
    seen = []
    thread = threading.Thread(target=lambda: seen.extend(history.watch(MAIN, 5, timeout=PATIENCE)))
    thread.start()

    services.apply(edit)

    thread.join(PATIENCE)
    assert [revision.sequence for revision in seen] == [5]


def test_a_watcher_sees_what_another_server_commits(services, history, url):
    with open_services(url) as other:
        revision = other.apply(services.proposed("Prado", "Oslo"))

        assert history.watch(MAIN, 5, timeout=PATIENCE) == (revision,)


def test_a_watcher_waits_only_so_long(history):
    assert history.watch(MAIN, 5, timeout=0.01) == ()


def test_an_audit_of_an_honest_ledger_is_clean(history):
    audit = history.audit()

    assert audit.clean
    assert (audit.served_digest_matches, audit.base_digest_matches) == (True, True)
    assert (audit.ledger.revisions, audit.ledger.edits) == (5, 3)
    assert audit.served.revision == history.head()


def test_an_audit_sees_a_base_model_that_was_written_to(services, history):
    services.engine.base["Space Needle is in the city of"] = "Paris"

    audit = history.audit()

    assert not audit.base_digest_matches
    assert not audit.clean
    assert audit.ledger.clean


def tamper(url: str, table: str, change: str) -> None:
    with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
        for (name,) in connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = ?", (table,)
        ).fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute(f"UPDATE {table} SET {change}")
    connection.close()


def test_an_audit_composes_from_what_is_stored_whatever_the_server_remembers(history, url):
    history.audit()
    tamper(url, "edits", "patch = (SELECT patch FROM edits other WHERE other.id != edits.id)")

    audit = history.audit()

    assert not audit.served_digest_matches
    assert any("edits[" in finding.row for finding in audit.ledger.findings)


def test_an_audit_sees_an_artifact_that_was_changed(history, url):
    tamper(url, "artifacts", "payload = zeroblob(16)")

    audit = history.audit()

    assert not audit.served_digest_matches
    assert any("artifacts[" in finding.row for finding in audit.ledger.findings)
