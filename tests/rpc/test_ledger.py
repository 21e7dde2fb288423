"""LedgerService over the wire."""

import sqlite3
import sys
import time

import grpc
import pytest

from errata.v1 import edits_pb2, types_pb2
from errata.v1 import ledger_pb2 as pb
from errata_server.domain import canonical
from errata_server.service.history import History
from tests.support.wire import PARENT, failure


def revision(wire, reference):
    request = pb.GetRevisionRequest(name=f"{PARENT}/revisions/{reference}")
    return wire.ledger.GetRevision(request).revision


def test_a_new_ledger_has_the_untouched_base_as_its_head(wire):
    head = wire.ledger.GetHead(pb.GetHeadRequest(parent=PARENT))

    assert head.revision.kind == types_pb2.REVISION_KIND_GENESIS
    assert head.revision.sequence == 0
    assert head.revision.parent == ""
    assert head.served.revision == head.revision.name
    assert head.served.weights_digest == head.revision.weights_digest


def test_a_revision_s_id_is_the_digest_of_its_body(wire):
    applied = wire.applied(wire.proposed()).revision

    assert applied.name == f"{PARENT}/revisions/{canonical.digest(applied.body)}"


def test_a_revision_is_found_by_id_prefix_sequence_and_branch(wire):
    applied = wire.applied(wire.proposed()).revision
    identifier = applied.name.rpartition("/")[2]

    for reference in (identifier, identifier[:8], "1", "main", "main@1"):
        assert revision(wire, reference) == applied
    assert revision(wire, "base").sequence == 0


def test_revisions_are_listed_newest_first_in_pages(wire):
    for subject in ("Space Needle", "Smith Tower"):
        wire.applied(wire.proposed(subject, "Rome"))

    request = pb.ListRevisionsRequest(parent=PARENT, page_size=2)
    first = wire.ledger.ListRevisions(request)
    request.page_token = first.next_page_token
    second = wire.ledger.ListRevisions(request)

    assert [r.sequence for r in first.revisions] == [2, 1]
    assert [r.sequence for r in second.revisions] == [0]
    assert second.next_page_token == ""


def test_a_diff_names_the_edits_two_revisions_differ_by(wire):
    first, second = wire.proposed(), wire.proposed("Eiffel Tower", "Rome")
    wire.applied(first)
    wire.applied(second)

    request = pb.DiffRevisionsRequest(parent=PARENT, **{"from": "1"}, to="main")
    there = wire.ledger.DiffRevisions(request)
    request = pb.DiffRevisionsRequest(parent=PARENT, **{"from": "main"}, to="base")
    back = wire.ledger.DiffRevisions(request)

    assert [edit.name for edit in there.added] == [second.name]
    assert (len(there.removed), there.unchanged_count) == (0, 1)
    assert getattr(there, "from").sequence == 1
    assert {edit.name for edit in back.removed} == {first.name, second.name}


def test_branches_are_listed_with_their_heads(wire):
    applied = wire.applied(wire.proposed()).revision

    (branch,) = wire.ledger.ListBranches(pb.ListBranchesRequest(parent=PARENT)).branches

    assert branch.name == f"{PARENT}/branches/main"
    assert branch.head == applied


def test_a_watcher_sees_history_and_then_every_commit_once_and_in_order(wire):
    edits = [wire.proposed(subject, "Rome") for subject in ("Space Needle", "Smith Tower")]
    wire.applied(edits[0])
    stream = wire.ledger.WatchRevisions(pb.WatchRevisionsRequest(parent=PARENT))
    past = [next(stream).revision.sequence for _ in range(2)]

    wire.applied(edits[1])
    names = [edit.name for edit in edits]
    wire.edits.RevertEdits(edits_pb2.RevertEditsRequest(parent=PARENT, names=names))
    coming = [next(stream).revision.sequence for _ in range(2)]
    stream.cancel()

    assert past + coming == [0, 1, 2, 3]


def test_a_watcher_may_begin_in_the_future(wire):
    edit = wire.proposed()
    request = pb.WatchRevisionsRequest(parent=PARENT, start_sequence=1)
    stream = wire.ledger.WatchRevisions(request)

    wire.applied(edit)

    assert next(stream).revision.sequence == 1
    stream.cancel()


def test_more_watchers_than_threads_all_see_a_commit(wire):
    edit = wire.proposed()
    request = pb.WatchRevisionsRequest(parent=PARENT, start_sequence=1)
    streams = [wire.ledger.WatchRevisions(request, timeout=30) for _ in range(40)]

    wire.applied(edit)

    assert {next(stream).revision.sequence for stream in streams} == {1}
    for stream in streams:
        stream.cancel()


def test_waiting_watchers_do_not_keep_others_from_being_served(wire):
    request = pb.WatchRevisionsRequest(parent=PARENT, start_sequence=1)
    streams = [wire.ledger.WatchRevisions(request) for _ in range(40)]

    head = wire.ledger.GetHead(pb.GetHeadRequest(parent=PARENT), timeout=10)

    assert head.revision.sequence == 0
    for stream in streams:
        stream.cancel()


def test_an_audit_of_an_untouched_ledger_is_clean(wire):
    wire.applied(wire.proposed())

    audit = wire.ledger.AuditLedger(pb.AuditLedgerRequest(parent=PARENT))

    assert audit.clean
    assert not audit.findings
    assert (audit.revisions_checked, audit.edits_checked) == (2, 1)
    assert audit.served_digest_matches
    assert audit.base_digest_matches
    assert audit.served.sequence == 1


def test_an_audit_names_the_row_that_was_tampered_with(server, wire):
    wire.applied(wire.proposed())
    with sqlite3.connect(server.folder / "ledger.db") as database:
        for (trigger,) in database.execute("SELECT name FROM sqlite_master WHERE type='trigger'"):
            database.execute(f'DROP TRIGGER "{trigger}"')
        database.execute("UPDATE artifacts SET payload = zeroblob(length(payload))")

    audit = wire.ledger.AuditLedger(pb.AuditLedgerRequest(parent=PARENT))

    assert not audit.clean
    assert any(finding.row.startswith("artifacts[") for finding in audit.findings)


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda w: w.ledger.GetHead(pb.GetHeadRequest(parent="x")), "parent"),
        (lambda w: w.ledger.GetHead(pb.GetHeadRequest(parent=PARENT, branch="a/b")), "branch"),
        (lambda w: revision(w, ""), "name"),
        (
            lambda w: w.ledger.ListRevisions(pb.ListRevisionsRequest(parent=PARENT, page_size=-1)),
            "page_size",
        ),
        (lambda w: w.ledger.DiffRevisions(pb.DiffRevisionsRequest(parent=PARENT)), "from"),
        (
            lambda w: next(
                w.ledger.WatchRevisions(pb.WatchRevisionsRequest(parent=PARENT, start_sequence=-1))
            ),
            "start_sequence",
        ),
    ],
)
def test_a_malformed_request_names_the_field(wire, call, field):
    refused = failure(lambda: call(wire))

    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.fields == [field]


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda w: revision(w, "77"), "REVISION_NOT_FOUND"),
        (lambda w: revision(w, "f" * 64), "REVISION_NOT_FOUND"),
        (
            lambda w: w.ledger.GetHead(pb.GetHeadRequest(parent=PARENT, branch="none")),
            "BRANCH_NOT_FOUND",
        ),
        (
            lambda w: next(
                w.ledger.WatchRevisions(pb.WatchRevisionsRequest(parent=PARENT, branch="none"))
            ),
            "BRANCH_NOT_FOUND",
        ),
    ],
)
def test_what_does_not_exist_is_not_found(wire, call, reason):
    refused = failure(lambda: call(wire))

    assert refused.code is grpc.StatusCode.NOT_FOUND
    assert refused.reason == reason


def test_a_cancelled_watch_leaves_its_thread(wire):
    request = pb.WatchRevisionsRequest(parent=PARENT, start_sequence=1)
    stream = wire.ledger.WatchRevisions(request)
    time.sleep(0.2)

    stream.cancel()

    deadline = time.monotonic() + 20
    while _watching() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _watching()


def _watching() -> bool:
    frames = sys._current_frames().values()
    return any(_runs(frame, History.watch.__code__) for frame in frames)


def _runs(frame, code) -> bool:
    while frame is not None:
        if frame.f_code is code:
            return True
        frame = frame.f_back
    return False
