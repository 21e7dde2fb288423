"""EditService over the wire."""

from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from errata.v1 import edits_pb2 as pb
from errata.v1 import types_pb2
from errata_server.domain.checks import CheckKind
from tests.support.wire import PARENT, failure, proposal


def test_a_proposal_becomes_an_edit_with_patch_report_and_proposer(wire):
    operation = wire.ended(wire.start(reason="it was moved", ticket="T-1", request_id="one"))
    response = pb.ProposeEditResponse()
    assert operation.response.Unpack(response)

    edit = response.edit
    assert edit.name.startswith(f"{PARENT}/edits/e-")
    assert (edit.subject, edit.facts[0].target) == ("Space Needle", "Paris")
    assert (edit.proposer, edit.reason, edit.ticket) == ("ana", "it was moved", "T-1")
    assert edit.state == types_pb2.EDIT_STATE_VERIFIED
    assert edit.patch.converged
    assert edit.patch.size_bytes > 0
    assert edit.report == response.report.name
    assert response.report.edit == edit.name
    assert response.report.passed
    assert {check.kind for check in response.report.checks} >= {"efficacy", "neighbourhood"}
    assert wire.edits.GetEdit(pb.GetEditRequest(name=edit.name)).edit == edit
    report = wire.edits.GetReport(pb.GetReportRequest(name=edit.report)).report
    assert report == response.report


def test_a_repeated_request_id_gives_the_same_operation(wire):
    first = wire.start(request_id="same")
    wire.ended(first)

    assert wire.start(request_id="same").name == first.name


def test_a_request_id_used_for_something_else_is_refused(wire):
    wire.ended(wire.start(request_id="same"))

    refused = failure(lambda: wire.start(target="Rome", request_id="same"))

    assert refused.code is grpc.StatusCode.ALREADY_EXISTS
    assert refused.reason == "REQUEST_ID_REUSED"


def test_validate_only_ends_with_nothing_stored(wire):
    operation = wire.ended(wire.start(validate_only=True))

    assert operation.done
    assert operation.response.Is(pb.ProposeEditResponse.DESCRIPTOR)
    assert not wire.edits.ListEdits(pb.ListEditsRequest(parent=PARENT)).edits


def test_failed_checks_reject_the_edit_and_say_which(server, wire):
    server.engine.faults.add(CheckKind.EFFICACY)

    edit = wire.proposed()

    assert edit.state == types_pb2.EDIT_STATE_REJECTED
    refused = failure(lambda: wire.applied(edit))
    assert refused.code is grpc.StatusCode.FAILED_PRECONDITION
    assert refused.reason == "VERIFICATION_FAILED"
    assert refused.metadata["failed"] == "efficacy"
    (precondition,) = refused.details
    assert isinstance(precondition, error_details_pb2.PreconditionFailure)
    assert precondition.violations[0].type == "VERIFICATION_FAILED"


def test_an_override_with_a_reason_applies_what_failed_and_is_recorded(server, wire):
    server.engine.faults.add(CheckKind.EFFICACY)
    edit = wire.proposed()

    request = pb.ApplyEditsRequest(parent=PARENT, names=[edit.name], override_reason="we must")
    revision = wire.edits.ApplyEdits(request).revision

    assert revision.override_reason == "we must"


def test_verifying_again_makes_a_new_report(wire):
    edit = wire.proposed()
    wire.applied(edit)

    operation = wire.ended(wire.edits.VerifyEdit(pb.VerifyEditRequest(name=edit.name)))

    response = pb.VerifyEditResponse()
    assert operation.response.Unpack(response)
    assert response.report.name != edit.report
    assert response.edit.report == response.report.name


def test_an_approval_names_who_gave_it_and_what_they_saw(wire):
    edit = wire.proposed()

    request = pb.ApproveEditRequest(name=edit.name, comment="read it", actor="ben")
    approved = wire.edits.ApproveEdit(request).edit

    assert approved.state == types_pb2.EDIT_STATE_APPROVED
    (approval,) = approved.approvals
    assert (approval.actor, approval.comment) == ("ben", "read it")
    assert approval.report == edit.report


def test_applying_and_reverting_answer_with_the_revision_that_is_served(wire):
    edit = wire.proposed()

    applied = wire.applied(edit)
    request = pb.RevertEditsRequest(parent=PARENT, names=[edit.name], reason="it was wrong")
    reverted = wire.edits.RevertEdits(request)

    assert applied.revision.kind == types_pb2.REVISION_KIND_APPLY
    assert list(applied.revision.edits) == [edit.name]
    assert applied.served.revision == applied.revision.name
    assert applied.served.weights_digest == applied.revision.weights_digest
    assert reverted.revision.parent == applied.revision.name
    assert reverted.revision.reason == "it was wrong"
    assert reverted.revision.sequence == 2
    assert reverted.served.weights_digest != applied.served.weights_digest
    state = wire.edits.GetEdit(pb.GetEditRequest(name=edit.name)).edit.state
    assert state == types_pb2.EDIT_STATE_REVERTED


def test_reverting_to_a_revision_takes_back_what_came_after_it(wire):
    first = wire.applied(wire.proposed()).revision
    wire.applied(wire.proposed("Eiffel Tower", "Rome"))

    request = pb.RevertEditsRequest(parent=PARENT, to_revision=first.name)
    reverted = wire.edits.RevertEdits(request)

    assert reverted.revision.active_set_digest == first.active_set_digest


def test_validate_only_applies_nothing(wire):
    edit = wire.proposed()

    request = pb.ApplyEditsRequest(parent=PARENT, names=[edit.name], validate_only=True)
    would = wire.edits.ApplyEdits(request)

    assert would.revision.sequence == 1
    state = wire.edits.GetEdit(pb.GetEditRequest(name=edit.name)).edit.state
    assert state == types_pb2.EDIT_STATE_VERIFIED


def test_an_expected_revision_that_is_not_the_head_is_aborted(wire):
    edit = wire.proposed()
    old = wire.applied(wire.proposed("Eiffel Tower", "Rome")).revision.parent

    request = pb.ApplyEditsRequest(parent=PARENT, names=[edit.name], expected_revision=old)
    refused = failure(lambda: wire.edits.ApplyEdits(request))

    assert refused.code is grpc.StatusCode.ABORTED
    assert refused.reason == "STALE_REVISION"
    assert {"expected", "head", "sequence"} <= set(refused.metadata)


def test_a_list_is_paged_to_its_end_without_gaps_or_repeats(wire):
    subjects = ["Space Needle", "Smith Tower", "Museum of Flight"]
    names = [wire.proposed(subject, "Rome").name for subject in subjects]

    seen, token = [], ""
    while True:
        request = pb.ListEditsRequest(parent=PARENT, page_size=2, page_token=token)
        page = wire.edits.ListEdits(request)
        assert len(page.edits) <= 2
        seen += [edit.name for edit in page.edits]
        token = page.next_page_token
        if not token:
            break

    assert seen == names[::-1]


def test_a_list_can_be_filtered_by_state(wire):
    applied = wire.proposed()
    wire.applied(applied)
    wire.proposed("Smith Tower", "Rome")

    request = pb.ListEditsRequest(parent=PARENT, state=types_pb2.EDIT_STATE_APPLIED)

    assert [edit.name for edit in wire.edits.ListEdits(request).edits] == [applied.name]


def test_a_page_token_of_another_list_is_refused(wire):
    for subject in ("Space Needle", "Smith Tower"):
        wire.proposed(subject, "Rome")
    token = wire.edits.ListEdits(pb.ListEditsRequest(parent=PARENT, page_size=1)).next_page_token

    request = pb.ListEditsRequest(
        parent=PARENT, page_token=token, state=types_pb2.EDIT_STATE_VERIFIED
    )
    refused = failure(lambda: wire.edits.ListEdits(request))

    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.fields == ["page_token"]


UNKNOWN_STATE: Any = 99
FACT = types_pb2.Fact(template="{} is in", target="Paris")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"parent": "scripted"}, "parent"),
        ({"parent": ""}, "parent"),
        ({"subject": ""}, "subject"),
        ({"subject": "Space\x00Needle"}, "subject"),
        ({"facts": []}, "facts"),
        ({"facts": [FACT, types_pb2.Fact(template="no subject", target="x")]}, "facts[1].template"),
        ({"facts": [types_pb2.Fact(template="{} is in", target="")]}, "facts[0].target"),
        ({"neighbours": [types_pb2.CheckPrompt(prompt="a")]}, "neighbours[0].expected"),
        ({"paraphrases": [types_pb2.CheckPrompt(prompt="a", expected="b")] * 201}, "paraphrases"),
        ({"reason": "x" * 2_001}, "reason"),
        ({"actor": "x" * 201}, "actor"),
        ({"request_id": "white space"}, "request_id"),
    ],
)
def test_a_malformed_proposal_names_the_field(wire, fields, field):
    refused = failure(lambda: wire.edits.ProposeEdit(proposal(**fields)))

    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.fields == [field]


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.ListEditsRequest(parent=PARENT, page_size=-1), "page_size"),
        (pb.ListEditsRequest(parent=PARENT, page_token="nonsense"), "page_token"),
        (pb.ListEditsRequest(parent=PARENT, state=UNKNOWN_STATE), "state"),
    ],
)
def test_a_malformed_list_request_names_the_field(wire, request_, field):
    refused = failure(lambda: wire.edits.ListEdits(request_))

    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.fields == [field]


@pytest.mark.parametrize(
    ("names", "field"),
    [
        ([], "names"),
        (["e-1"], "names[0]"),
        ([f"{PARENT}/edits/e-1", f"{PARENT}/edits/e-1"], "names[1]"),
        (["models/other/edits/e-1"], "names[0]"),
    ],
)
def test_a_malformed_change_names_the_field(wire, names, field):
    request = pb.ApplyEditsRequest(parent=PARENT, names=names)
    refused = failure(lambda: wire.edits.ApplyEdits(request))

    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.fields == [field]


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda w: w.edits.GetEdit(pb.GetEditRequest(name=f"{PARENT}/edits/e-0")), "EDIT"),
        (lambda w: w.edits.GetReport(pb.GetReportRequest(name=f"{PARENT}/reports/0")), "REPORT"),
        (lambda w: w.edits.GetEdit(pb.GetEditRequest(name="models/other/edits/e-0")), "MODEL"),
        (lambda w: w.start(parent="models/other"), "MODEL"),
    ],
)
def test_what_does_not_exist_is_not_found(wire, call, reason):
    refused = failure(lambda: call(wire))

    assert refused.code is grpc.StatusCode.NOT_FOUND
    assert refused.reason == f"{reason}_NOT_FOUND"
