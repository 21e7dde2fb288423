"""Branches over the wire: CreateBranch, PromoteBranch, SetBranchProtection."""

import grpc
import pytest

from errata.v1 import edits_pb2, types_pb2
from errata.v1 import ledger_pb2 as pb
from errata_server.domain import canonical
from tests.support.wire import PARENT, failure


def create(wire, branch="canary", **fields):
    request = pb.CreateBranchRequest(parent=PARENT, branch=branch, actor="ana", **fields)
    return wire.ledger.CreateBranch(request).branch


def apply(wire, edit, branch="canary"):
    request = edits_pb2.ApplyEditsRequest(
        parent=PARENT, names=[edit.name], branch=branch, actor="ana"
    )
    return wire.edits.ApplyEdits(request).revision


def promote(wire, source="canary", **fields):
    return wire.ledger.PromoteBranch(
        pb.PromoteBranchRequest(parent=PARENT, source=source, actor="ana", **fields)
    )


def protect(wire, branch="main", *, protected=True, reason="it is in production", **fields):
    request = pb.SetBranchProtectionRequest(
        name=f"{PARENT}/branches/{branch}",
        protected=protected,
        reason=reason,
        actor="ana",
        **fields,
    )
    return wire.ledger.SetBranchProtection(request).branch


def branches(wire, **fields):
    reply = wire.ledger.ListBranches(pb.ListBranchesRequest(parent=PARENT, **fields))
    return [(branch.name.rpartition("/")[2], branch.protected) for branch in reply.branches]


def test_a_branch_is_made_changed_and_promoted(wire):
    edit = wire.proposed()
    made = create(wire, reason="to try", ticket="T-1")
    source = apply(wire, edit)

    reply = promote(wire, reason="it held")

    assert made.name == f"{PARENT}/branches/canary"
    assert made.head.kind == types_pb2.REVISION_KIND_BRANCH
    assert (made.head.reason, made.head.ticket, made.head.sequence) == ("to try", "T-1", 0)
    revision = reply.revision
    assert revision.kind == types_pb2.REVISION_KIND_PROMOTE
    assert (revision.source, list(revision.edits)) == (source.name, [edit.name])
    assert revision.name.rpartition("/")[2] == canonical.digest(revision.body)
    assert reply.served.revision == revision.name
    assert reply.served.weights_digest == source.weights_digest
    assert reply.live_verification == ""
    assert wire.ledger.GetHead(pb.GetHeadRequest(parent=PARENT)).served == reply.served
    assert wire.ledger.AuditLedger(pb.AuditLedgerRequest(parent=PARENT)).clean


def test_promoting_several_edits_to_main_begins_to_verify_what_is_live(wire):
    create(wire)
    for subject in ("Space Needle", "Smith Tower"):
        apply(wire, wire.proposed(subject, "Rome"))

    assert promote(wire, validate_only=True).live_verification == ""
    assert promote(wire).live_verification.startswith("operations/")


def test_what_a_promotion_takes_back_is_listed(wire):
    edit = wire.proposed()
    wire.applied(edit)
    create(wire)
    wire.edits.RevertEdits(
        edits_pb2.RevertEditsRequest(parent=PARENT, names=[edit.name], branch="canary")
    )

    revision = promote(wire).revision

    assert (list(revision.edits), list(revision.removed)) == ([], [edit.name])


def test_protection_is_listed_and_asks_for_an_approval(wire):
    create(wire)
    edit = wire.proposed()
    made = protect(wire)

    refused = failure(lambda: apply(wire, edit, branch="main"))

    assert (made.protected, made.head.protected) == (True, True)
    assert made.head.kind == types_pb2.REVISION_KIND_POLICY
    assert branches(wire) == [("canary", False), ("main", True)]
    assert (refused.code, refused.reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "APPROVAL_REQUIRED",
    )
    wire.edits.ApproveEdit(edits_pb2.ApproveEditRequest(name=edit.name, actor="ben"))
    assert apply(wire, edit, branch="main").protected
    assert not protect(wire, protected=False).protected


def test_an_edit_s_state_is_that_on_the_branch_asked_about(wire):
    edit = wire.proposed()
    create(wire)
    apply(wire, edit)

    def state(branch):
        return wire.edits.GetEdit(edits_pb2.GetEditRequest(name=edit.name, branch=branch)).edit

    listed = wire.edits.ListEdits(
        edits_pb2.ListEditsRequest(
            parent=PARENT, branch="canary", state=types_pb2.EDIT_STATE_APPLIED
        )
    ).edits

    assert state("").state == types_pb2.EDIT_STATE_VERIFIED
    assert state("canary").state == types_pb2.EDIT_STATE_APPLIED
    assert [one.name for one in listed] == [edit.name]


def test_a_repeated_request_gives_what_it_made_before(wire):
    first = create(wire, request_id="r-1")
    apply(wire, wire.proposed())
    promoted = promote(wire, request_id="r-2")
    protected = protect(wire, request_id="r-3")

    assert create(wire, request_id="r-1") == first
    assert promote(wire, request_id="r-2").revision == promoted.revision
    assert protect(wire, request_id="r-3") == protected
    refused = failure(lambda: create(wire, "trial", request_id="r-1"))
    assert (refused.code, refused.reason) == (
        grpc.StatusCode.ALREADY_EXISTS,
        "REQUEST_ID_REUSED",
    )


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda w: create(w, ""), "branch"),
        (lambda w: create(w, "a/b"), "branch"),
        (lambda w: create(w, "base"), "branch"),
        (lambda w: create(w, "é" * 3), "branch"),
        (lambda w: create(w, start="a b"), "start"),
        (lambda w: promote(w, ""), "source"),
        (lambda w: promote(w, "a b"), "source"),
        (lambda w: promote(w, "main"), "target"),
        (lambda w: promote(w, target="a@b"), "target"),
        (lambda w: promote(w, expected_revision="a b"), "expected_revision"),
        (lambda w: protect(w, "a b"), "name"),
        (lambda w: protect(w, reason=" "), "reason"),
        (lambda w: protect(w, reason="x" * 3_000), "reason"),
    ],
)
def test_a_malformed_request_names_the_field(wire, call, field):
    refused = failure(lambda: call(wire))

    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.fields == [field]


@pytest.mark.parametrize(
    ("call", "code", "reason"),
    [
        (lambda w: create(w, "main"), "ALREADY_EXISTS", "BRANCH_EXISTS"),
        (lambda w: create(w, start="77"), "NOT_FOUND", "REVISION_NOT_FOUND"),
        (lambda w: promote(w, "nothing"), "NOT_FOUND", "BRANCH_NOT_FOUND"),
        (lambda w: protect(w, "nothing"), "NOT_FOUND", "BRANCH_NOT_FOUND"),
        (lambda w: protect(w, protected=False), "FAILED_PRECONDITION", "FAILED_PRECONDITION"),
    ],
)
def test_what_cannot_be_done_is_refused_with_its_reason(wire, call, code, reason):
    refused = failure(lambda: call(wire))

    assert (refused.code.name, refused.reason) == (code, reason)


def test_diverged_branches_are_a_failed_precondition_and_stale_heads_aborted(wire):
    create(wire)
    apply(wire, wire.proposed())
    wire.applied(wire.proposed("Smith Tower", "Rome"))

    diverged = failure(lambda: promote(wire))
    stale = failure(lambda: promote(wire, expected_revision="0"))

    assert (diverged.code.name, diverged.reason) == ("FAILED_PRECONDITION", "DIVERGED")
    assert (stale.code.name, stale.reason) == ("ABORTED", "STALE_REVISION")
