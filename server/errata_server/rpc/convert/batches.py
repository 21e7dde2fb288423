"""Batches of proposals, and what came of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from errata.v1 import edits_pb2
from errata_server.domain.batches import Asked
from errata_server.domain.checks import CheckKind, Report
from errata_server.domain.errors import InvalidInputError
from errata_server.rpc.convert import edits, names, values
from errata_server.service.views import EditView


def requests(message: edits_pb2.ProposeEditsRequest) -> list[Asked]:
    """What a caller wants the model to believe, or why it cannot be, one a proposal.

    Raises:
        InvalidInputError: the reason or the ticket is malformed.
    """
    reason = values.short_text(message.reason, "reason")
    ticket = values.short_text(message.ticket, "ticket")
    return [_request(one, reason, ticket) for one in message.proposals]


def _request(message: edits_pb2.EditProposal, reason: str, ticket: str) -> Asked:
    try:
        return edits.edit_request(message, reason=reason, ticket=ticket)
    except InvalidInputError as error:
        return error


def proposed(view: EditView, report: Report, places: Sequence[int]) -> edits_pb2.ProposedEdit:
    """An edit of a batch, with what its first report came to."""
    conflicts = report.of_kind(CheckKind.CONFLICTS)
    return edits_pb2.ProposedEdit(
        edit=edits.edit_message(view),
        report=names.report_name(view.edit.model, report.id),
        passed=report.passed,
        failed_checks=[check.kind.value for check in report.failures],
        conflicts=conflicts.explanation if conflicts is not None else "",
        places=places,
    )


def response(
    result: Mapping[str, Any], found: Sequence[edits_pb2.ProposedEdit]
) -> edits_pb2.ProposeEditsResponse:
    """A batch's result with the messages of its edits."""
    return edits_pb2.ProposeEditsResponse(
        batch=result["batch"],
        edits=found,
        failures=[edits_pb2.FailedProposal(**failure) for failure in result["failures"]],
        near=[edits_pb2.NearSubjects(**pair) for pair in result["near"]],
    )
