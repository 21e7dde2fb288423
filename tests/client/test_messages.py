"""What is read: replies as the client's own types."""

from datetime import UTC, datetime
from typing import Any

import pytest
from google.longrunning import operations_pb2
from google.protobuf.timestamp_pb2 import Timestamp

import errata
from errata import _messages, _operation_status, _types
from errata.v1 import edits_pb2, ledger_pb2, models_pb2, types_pb2
from errata_server.domain import checks, edits, patches, revisions


def test_the_enums_have_the_server_s_members():
    pairs = [
        (errata.EditState, edits.EditState),
        (errata.Verdict, checks.Verdict),
        (errata.Composition, patches.Composition),
        (errata.RevisionKind, revisions.RevisionKind),
    ]

    for ours, theirs in pairs:
        assert {str(m) for m in ours} == {str(m) for m in theirs} | {"unspecified"}


def test_every_state_is_read_and_written_back_the_same():
    for name, number in types_pb2.EditState.items():
        read = _messages.edit(types_pb2.Edit(state=number)).state

        assert _messages.edit_state_message(read) == number, name


def test_an_enum_value_of_a_newer_server_reads_as_unspecified():
    newer: Any = 99

    assert _messages.edit(types_pb2.Edit(state=newer)).state is errata.EditState.UNSPECIFIED


def test_references_are_ids_and_names_stay_whole():
    read = _messages.revision(
        types_pb2.Revision(
            name="models/m/revisions/abc",
            parent="models/m/revisions/def",
            edits=["models/m/edits/e-1"],
        )
    )

    assert (read.name, read.id) == ("models/m/revisions/abc", "abc")
    assert (read.parent, read.edits) == ("def", ("e-1",))


def test_a_value_that_was_not_measured_is_none_and_zero_is_zero():
    report = _messages.report(
        types_pb2.Report(
            checks=[types_pb2.Check(kind="a"), types_pb2.Check(kind="b", measured=0.0)]
        )
    )

    assert [check.measured for check in report.checks] == [None, 0.0]
    assert report.of_kind("b") is report.checks[1]
    assert report.of_kind("c") is None


def test_a_report_lists_its_failures():
    failed = types_pb2.Check(kind="efficacy", verdict=types_pb2.VERDICT_FAILED)
    passed = types_pb2.Check(kind="fluency", verdict=types_pb2.VERDICT_PASSED)

    report = _messages.report(types_pb2.Report(checks=[failed, passed]))

    assert [check.kind for check in report.failures] == ["efficacy"]


def test_times_are_in_utc_and_no_time_is_none():
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    stamp = Timestamp()
    stamp.FromDatetime(noon)

    assert _messages.revision(types_pb2.Revision(create_time=stamp)).created_at == noon
    assert _messages.revision(types_pb2.Revision()).created_at is None


def test_both_ends_of_a_diff_are_read():
    ends = {"from": types_pb2.Revision(sequence=1), "to": types_pb2.Revision(sequence=2)}
    message = ledger_pb2.DiffRevisionsResponse(**ends)  # type: ignore[arg-type]

    read = _messages.diff(message)

    assert (read.before.sequence, read.after.sequence) == (1, 2)


def test_a_model_without_a_profile_is_not_calibrated():
    assert _messages.model(models_pb2.Model()).profile is None


def operation(response=None, **fields):
    message = operations_pb2.Operation(name="operations/op-1", **fields)
    message.metadata.Pack(
        types_pb2.OperationMetadata(kind="propose", stage="values", done=1, total=4, note="n")
    )
    if response is not None:
        message.response.Pack(response)
    return message


def test_a_running_operation_tells_how_far_it_has_come():
    status = _operation_status.parse(operation())

    assert (status.kind, status.done) == ("propose", False)
    assert status.progress == _types.Progress(stage="values", done=1, total=4, note="n")


def test_a_result_nobody_knows_is_an_error_only_where_it_is_asked_for():
    unknown = _operation_status.parse(operation(types_pb2.Edit(), done=True))

    assert unknown.done
    with pytest.raises(errata.InternalError, match="update the client"):
        unknown.result()


def test_the_response_decides_the_type_of_the_result():
    proposal = edits_pb2.ProposeEditResponse(edit=types_pb2.Edit(subject="Louvre"))
    moments = models_pb2.CollectMomentsResponse(tokens=7)
    profile = models_pb2.CalibrateResponse(profile=models_pb2.Profile(id="p", layer=3))

    read = [
        _operation_status.parse(operation(response, done=True)).result()
        for response in (proposal, moments, profile)
    ]

    assert read[0].edit.subject == "Louvre"
    assert read[1] == 7
    assert read[2].layer == 3
