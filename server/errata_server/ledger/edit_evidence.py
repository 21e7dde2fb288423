"""What the ledger knows of many edits beside their rows, in a few statements for all of them.

Invariants: each edit gets what `edits.latest_report` and `edits.approvals` would give it alone;
what is applied and what ever was are read at one head.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, func, select

from errata_server.domain.checks import Report
from errata_server.domain.edits import AppliedSet, Approval
from errata_server.domain.ids import BranchName, EditId, ModelId
from errata_server.ledger import revisions, tables
from errata_server.ledger.applied import ever_applied, fold
from errata_server.ledger.bodies import StoredApproval, corrupt, read_body
from errata_server.ledger.edits import approval_row, edit_row, report_row


@dataclass(frozen=True, slots=True, kw_only=True)
class EditEvidence:
    """What other rows say of an edit."""

    report: Report
    """The one stored last."""

    approvals: tuple[Approval, ...] = field(default=())
    """Oldest first."""

    was_applied: bool
    """Whether a revision on the line of the branch asked about has ever applied it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a branch has applied at its head, and what else there is of some edits."""

    applied: AppliedSet
    of: Mapping[EditId, EditEvidence]


def gather(
    connection: Connection, model: ModelId, edits: Sequence[EditId], branch: BranchName
) -> Evidence:
    """The evidence of each of ``edits``, which are ``model``'s, at the head of its ``branch``.

    Raises:
        BranchNotFoundError: the model has no such branch.
        LedgerCorruptError: an edit has no report, or a body is not what its digest says.
    """
    head = revisions.head(connection, model, branch)
    reports = _latest_reports(connection, edits)
    approvals = _approvals(connection, edits)
    applied = ever_applied(connection, edits, head)
    for edit in edits:
        if edit not in reports:
            raise corrupt(edit_row(edit), "it has no report")
    return Evidence(
        applied=fold(connection, head),
        of={
            edit: EditEvidence(
                report=reports[edit],
                approvals=tuple(approvals.get(edit, ())),
                was_applied=edit in applied,
            )
            for edit in edits
        },
    )


def _latest_reports(connection: Connection, edits: Sequence[EditId]) -> dict[str, Report]:
    columns = tables.reports.c
    # A join of the table with its own maxima reads all of it for every few edits asked about.
    age = func.row_number().over(partition_by=columns.edit, order_by=columns.position.desc())
    ranked = select(columns.id, columns.edit, columns.body, age.label("age"))
    newest = ranked.where(columns.edit.in_(edits)).subquery()
    rows = connection.execute(select(newest).where(newest.c.age == 1))
    return {
        row.edit: read_body(report_row(row.id), row.body, row.id, Report.from_body) for row in rows
    }


def _approvals(connection: Connection, edits: Sequence[EditId]) -> dict[str, list[Approval]]:
    columns = tables.approvals.c
    statement = select(tables.approvals).where(columns.edit.in_(edits)).order_by(columns.position)
    found: dict[str, list[Approval]] = {}
    for row in connection.execute(statement):
        name = approval_row(row.edit, row.position)
        stored = read_body(name, row.body, row.digest, StoredApproval.from_body)
        found.setdefault(row.edit, []).append(stored.approval)
    return found
