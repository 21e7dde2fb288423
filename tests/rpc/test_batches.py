"""ProposeEdits on the wire."""

import grpc

from errata.v1 import edits_pb2 as pb
from errata.v1 import types_pb2
from tests.support.wire import PARENT, failure


def request(*subjects, target="Oslo", **fields):
    return pb.ProposeEditsRequest(
        parent=PARENT,
        proposals=[
            pb.EditProposal(
                subject=subject,
                facts=[types_pb2.Fact(template="{} is in the city of", target=target)],
            )
            for subject in subjects
        ],
        actor="ana",
        **fields,
    )


def ended(wire, asked):
    response = pb.ProposeEditsResponse()
    assert wire.ended(wire.edits.ProposeEdits(asked)).response.Unpack(response)
    return response


def test_a_batch_names_its_edits_and_their_reports(wire):
    found = ended(wire, request("Louvre", "Prado", batch="b-1", reason="moved"))

    assert found.batch == "b-1"
    assert [(one.edit.subject, one.places) for one in found.edits] == [
        ("Louvre", [0]),
        ("Prado", [1]),
    ]
    for one in found.edits:
        report = wire.edits.GetReport(pb.GetReportRequest(name=one.report)).report
        assert one.passed
        assert report.edit == one.edit.name
        assert one.edit.reason == "moved"


def test_a_malformed_proposal_fails_alone(wire):
    asked = request("Louvre", "Prado")
    asked.proposals[0].facts[0].template = "no place for it"

    found = ended(wire, asked)

    (failed,) = found.failures
    assert (failed.places, failed.reason) == ([0], "SUBJECT_NOT_FOUND")
    assert failed.metadata["field"].startswith("facts[0]") or failed.metadata["field"]
    assert [one.edit.subject for one in found.edits] == ["Prado"]


def test_near_subjects_are_named(wire):
    found = ended(wire, request("Tower", "Eiffel Tower"))

    (pair,) = found.near
    assert (pair.first, pair.second, pair.first_fires, pair.second_fires) == (
        "Tower",
        "Eiffel Tower",
        True,
        False,
    )
    assert "fire on it" in found.edits[0].conflicts


def test_an_empty_batch_is_refused(wire):
    refused = failure(lambda: wire.edits.ProposeEdits(request()))

    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.reason == "INVALID_INPUT"
