"""Statements on edits, their reports and their approvals.

Invariants: an edit is stored after its artifact and together with its first report; rows
are numbered in commit order under the model's row lock.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, insert, select

from errata_server.domain import canonical
from errata_server.domain.checks import Report
from errata_server.domain.edits import Approval, Edit
from errata_server.domain.errors import (
    EditNotFoundError,
    InvalidInputError,
    NotCalibratedError,
    ReportNotFoundError,
    RequestIdReusedError,
)
from errata_server.domain.ids import Digest, EditId, ModelId, ReportId, RequestId
from errata_server.domain.log import LogKind
from errata_server.ledger import artifacts, log, models, tables
from errata_server.ledger.bodies import StoredApproval, corrupt, read_body, short
from errata_server.ledger.tables import StoredRow


def edit_row(edit: str) -> str:
    """How findings and errors name a row of `edits`."""
    return f"edits[{edit}]"


def report_row(report: str) -> str:
    """How findings and errors name a row of `reports`."""
    return f"reports[{short(report)}]"


def approval_row(edit: str, position: int) -> str:
    """How findings and errors name a row of `approvals`."""
    return f"approvals[{edit}#{position}]"


def add(connection: Connection, edit: Edit, report: Report) -> None:
    """Store a new edit with its first report; storing the same again changes nothing.

    Raises:
        InvalidInputError: the id belongs to another edit, or the report to another one.
        NotFoundError: the artifact is not stored yet.
        NotCalibratedError: the profile is not stored yet.
    """
    models.lock(connection, edit.model)
    if report.edit != edit.id or report.patch != edit.patch:
        raise InvalidInputError(
            f"report {report.id} is about edit {report.edit}, not {edit.id}", field="report"
        )
    stored = connection.scalar(select(tables.edits.c.digest).where(tables.edits.c.id == edit.id))
    if stored is None:
        _insert(connection, edit)
    elif stored != edit.digest:
        raise InvalidInputError(
            f"the edit id {edit.id} is taken by another edit; propose it again", edit=edit.id
        )
    add_report(connection, report)


def _insert(connection: Connection, edit: Edit) -> None:
    if not artifacts.exists(connection, edit.patch):
        raise artifacts.missing(edit.patch)
    if not models.has_profile(connection, edit.model, edit.profile):
        raise NotCalibratedError(
            f"the ledger has no profile {edit.profile!r} of model {edit.model!r}; store the "
            "profile before the edits made with it",
            profile=edit.profile,
            model=edit.model,
        )
    connection.execute(
        insert(tables.edits).values(
            id=edit.id,
            model=edit.model,
            position=models.next_position(connection, tables.edits, edit.model),
            digest=edit.digest,
            subject=edit.request.subject,
            patch=edit.patch,
            profile=edit.profile,
            body=edit.body,
        )
    )
    log.append(connection, edit.model, LogKind.EDIT, edit.id, edit.digest)


def add_report(connection: Connection, report: Report) -> None:
    """Make ``report`` the latest of its edit; storing the same again changes nothing.

    Raises:
        EditNotFoundError: the edit is not stored yet.
    """
    models.lock(connection, report.model)
    require_edit(connection, report.edit)
    columns = tables.reports.c
    if connection.scalar(select(columns.id).where(columns.id == report.id)) is not None:
        return
    connection.execute(
        insert(tables.reports).values(
            id=report.id,
            model=report.model,
            position=models.next_position(connection, tables.reports, report.model),
            edit=report.edit,
            body=report.body,
        )
    )
    log.append(connection, report.model, LogKind.REPORT, report.id, Digest(report.id))


def add_approval(connection: Connection, approval: Approval, request_id: RequestId) -> Approval:
    """Store ``approval``, or return the one this request gave earlier.

    Raises:
        EditNotFoundError: the edit is not in the ledger.
        ReportNotFoundError: the report is not in the ledger, or another edit's.
        RequestIdReusedError: the request gave another approval before.
    """
    model = require_edit(connection, approval.edit)
    models.lock(connection, model)
    columns = tables.approvals.c
    row = connection.execute(
        select(tables.approvals).where(columns.model == model, columns.request_id == request_id)
    ).one_or_none()
    if row is not None:
        return _repeated(_approval(row), approval, request_id)
    if report(connection, approval.report).edit != approval.edit:
        raise missing_report(approval.report)
    body = StoredApproval(approval=approval, request_id=request_id).body
    position = models.next_position(connection, tables.approvals, model)
    connection.execute(
        insert(tables.approvals).values(
            model=model,
            position=position,
            edit=approval.edit,
            report=approval.report,
            request_id=request_id,
            digest=canonical.digest(body),
            body=body,
        )
    )
    log.append(connection, model, LogKind.APPROVAL, position, canonical.digest(body))
    return approval


def _repeated(earlier: Approval, given: Approval, request_id: RequestId) -> Approval:
    # The server chose report and time, so a repeated request may differ in them.
    if (earlier.edit, earlier.actor, earlier.comment) != (given.edit, given.actor, given.comment):
        raise RequestIdReusedError(
            f"the request id {request_id!r} approved edit {earlier.edit} before; use a new one",
            request_id=request_id,
            edit=earlier.edit,
        )
    return earlier


def require_edit(connection: Connection, edit: EditId) -> ModelId:
    """The model the edit belongs to.

    Raises:
        EditNotFoundError: the edit is not in the ledger.
    """
    model = connection.scalar(select(tables.edits.c.model).where(tables.edits.c.id == edit))
    if model is None:
        raise missing_edit(edit)
    return ModelId(model)


def missing_edit(edit: EditId) -> EditNotFoundError:
    """The error for an edit the ledger does not hold."""
    return EditNotFoundError(
        f"the ledger has no edit {edit!r}; `errata list` shows those it has", edit=edit
    )


def missing_report(report_id: ReportId) -> ReportNotFoundError:
    """The error for a report the ledger does not hold."""
    return ReportNotFoundError(
        f"the ledger has no report {report_id!r} of this edit; verify the edit again",
        report=report_id,
    )


def get(connection: Connection, edit: EditId) -> Edit:
    """The edit of this id.

    Raises:
        EditNotFoundError: it is not in the ledger.
        LedgerCorruptError: its bytes are not what its digest says.
    """
    (found,) = several(connection, [edit])
    return found


def ids(
    connection: Connection, model: ModelId, *, limit: int, after: EditId | None
) -> list[EditId]:
    """At most ``limit`` edits, newest first, those older than ``after`` where it is given.

    Raises:
        EditNotFoundError: ``after`` is none of the model's.
    """
    columns = tables.edits.c
    statement = select(columns.id).where(columns.model == model)
    if after is not None:
        position = connection.scalar(
            select(columns.position).where(columns.id == after, columns.model == model)
        )
        if position is None:
            raise missing_edit(after)
        statement = statement.where(columns.position < position)
    found = connection.scalars(statement.order_by(columns.position.desc()).limit(limit))
    return [EditId(one) for one in found]


def several(connection: Connection, edits: Sequence[EditId]) -> list[Edit]:
    """The edits of these ids, in their order.

    Raises:
        EditNotFoundError: one of them is not in the ledger.
        LedgerCorruptError: an edit's bytes are not what its digest says.
    """
    rows = connection.execute(select(tables.edits).where(tables.edits.c.id.in_(edits)))
    found = {row.id: _edit(row) for row in rows}
    for edit in edits:
        if edit not in found:
            raise missing_edit(edit)
    return [found[edit] for edit in edits]


def _edit(row: StoredRow) -> Edit:
    return read_body(edit_row(row.id), row.body, row.digest, Edit.from_body)


def report(connection: Connection, report_id: ReportId) -> Report:
    """The report of this id.

    Raises:
        ReportNotFoundError: it is not in the ledger.
        LedgerCorruptError: its bytes are not what its id says.
    """
    body = connection.scalar(select(tables.reports.c.body).where(tables.reports.c.id == report_id))
    if body is None:
        raise missing_report(report_id)
    return read_body(report_row(report_id), body, report_id, Report.from_body)


def latest_report(connection: Connection, edit: EditId) -> Report:
    """The report stored last for ``edit``.

    Raises:
        EditNotFoundError: the edit is not in the ledger.
        LedgerCorruptError: the edit has no report, or its bytes are not what its id says.
    """
    columns = tables.reports.c
    row = connection.execute(
        select(columns.id, columns.body)
        .where(columns.edit == edit)
        .order_by(columns.position.desc())
        .limit(1)
    ).one_or_none()
    if row is None:
        require_edit(connection, edit)
        raise corrupt(edit_row(edit), "it has no report")
    return read_body(report_row(row.id), row.body, row.id, Report.from_body)


def approvals(connection: Connection, edit: EditId) -> list[Approval]:
    """The edit's approvals, oldest first.

    Raises:
        EditNotFoundError: the edit is not in the ledger.
        LedgerCorruptError: an approval's bytes are not what its digest says.
    """
    columns = tables.approvals.c
    rows = connection.execute(
        select(tables.approvals).where(columns.edit == edit).order_by(columns.position)
    ).all()
    if not rows:
        require_edit(connection, edit)
    return [_approval(row) for row in rows]


def _approval(row: StoredRow) -> Approval:
    name = approval_row(row.edit, row.position)
    return read_body(name, row.body, row.digest, StoredApproval.from_body).approval
