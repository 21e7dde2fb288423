"""Statements on revisions and on the branches that point at them.

Invariants: a branch's sequences are gapless from 0 and each revision's parent is the one
before it, or for the first of a branch the one it starts from; numbers are given out under the
branch's row lock, never by the database's own counters, so that commit order is number order.
"""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.exc import IntegrityError

from errata_server.domain.errors import (
    BranchNotFoundError,
    InvalidInputError,
    ReportNotFoundError,
    RequestIdReusedError,
    StaleRevisionError,
)
from errata_server.domain.ids import (
    MAIN,
    BranchName,
    Digest,
    ModelId,
    RequestId,
    RevisionId,
)
from errata_server.domain.log import LogKind
from errata_server.domain.revisions import NO_PARENT, EditReference, Revision, RevisionKind
from errata_server.ledger import log, models, tables, wakeups
from errata_server.ledger.bodies import corrupt, read_body
from errata_server.ledger.edits import missing_edit
from errata_server.ledger.tables import RowsQuery, StoredRow

LARGEST: Final = 2**31 - 1
"""What the column of sequences can hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """A name for the newest revision of a line of history."""

    name: BranchName
    head: Revision


def revision_row(branch: str, sequence: int) -> str:
    """How findings and errors name a row of `revisions`."""
    return f"revisions[{branch}@{sequence}]"


def branch_row(branch: str) -> str:
    """How findings and errors name a row of `branches`."""
    return f"branches[{branch}]"


def read(row: StoredRow) -> Revision:
    """The revision a row holds.

    Raises:
        LedgerCorruptError: the bytes are not what the id says.
    """
    return read_body(revision_row(row.branch, row.sequence), row.body, row.id, Revision.from_body)


def require_genesis(model: ModelId, genesis: Revision) -> None:
    """Do nothing if ``genesis`` can be the first revision of ``model``.

    Raises:
        InvalidInputError: it cannot.
    """
    first = (genesis.kind, genesis.branch, genesis.sequence, genesis.parent, genesis.edits)
    if genesis.model != model or first != (RevisionKind.GENESIS, MAIN, 0, NO_PARENT, ()):
        raise InvalidInputError(
            f"the genesis revision of {model!r} must be revision 0 of its branch {MAIN!r}, "
            "without parent or edits",
            field="genesis",
        )


def begin(connection: Connection, first: Revision) -> None:
    """Insert a branch with its first revision."""
    _insert(connection, first)
    connection.execute(
        insert(tables.branches).values(
            model=first.model, name=first.branch, head=first.id, sequence=0
        )
    )


def lock_head(connection: Connection, model: ModelId, branch: BranchName) -> StoredRow:
    """The branch's row (head, sequence), held until the transaction ends.

    Raises:
        ModelNotFoundError: the ledger does not know the model.
        BranchNotFoundError: the model has no such branch.
    """
    columns = tables.branches.c
    row = connection.execute(
        select(columns.head, columns.sequence)
        .where(columns.model == model, columns.name == branch)
        .with_for_update()
    ).one_or_none()
    if row is None:
        raise _missing_branch(connection, model, branch)
    return row


def append(connection: Connection, revision: Revision) -> Revision:
    """Put ``revision`` on top of its branch, or return what its request made earlier.

    Raises:
        StaleRevisionError: ``revision.parent`` is not the branch's head.
        RequestIdReusedError: the request id made another revision before.
        ModelMismatchError: it belongs to another checkpoint than the history.
        EditNotFoundError, ReportNotFoundError: it vouches for what the ledger does not hold.
        InvalidInputError: it has no request id, or not the next sequence.
    """
    head = lock_head(connection, revision.model, revision.branch)
    earlier = repeated(connection, revision)
    if earlier is not None:
        return earlier
    if revision.parent != head.head:
        raise stale(revision, head=head.head, sequence=head.sequence)
    _require_next(connection, revision, head.sequence)
    _require_evidence(connection, revision)
    try:
        _insert(connection, revision)
    except IntegrityError as error:
        # The lock keeps writers of one branch apart; keys and triggers catch whoever has
        # not taken it, or sends one request id to two branches at once.
        raise stale(revision, head=head.head, sequence=head.sequence) from error
    connection.execute(
        update(tables.branches)
        .where(tables.branches.c.model == revision.model)
        .where(tables.branches.c.name == revision.branch)
        .values(head=revision.id, sequence=revision.sequence)
    )
    return revision


def repeated(connection: Connection, revision: Revision) -> Revision | None:
    """What the request behind ``revision`` made earlier, if it did.

    Raises:
        RequestIdReusedError: that was another request with the same id.
    """
    earlier = by_request(connection, revision.model, revision.request_id)
    if earlier is not None and earlier.request_digest != revision.request_digest:
        raise RequestIdReusedError(
            f"the request id {revision.request_id!r} made revision {earlier.id} from another "
            "request; use a new one",
            request_id=revision.request_id,
            revision=earlier.id,
        )
    return earlier


def stale(revision: Revision, *, head: RevisionId, sequence: int) -> StaleRevisionError:
    """The error for a revision made on top of something that is not the head."""
    return StaleRevisionError(
        f"branch {revision.branch!r} is at revision {head} (sequence {sequence}) or has just "
        f"left it, and the change was made on top of {revision.parent}; read the head and retry",
        branch=revision.branch,
        expected=revision.parent,
        head=head,
        sequence=sequence,
    )


def vouched_for(revision: Revision) -> tuple[EditReference, ...]:
    """The edits a revision names with their evidence, as rows of `revision_edits` number them."""
    return (*revision.edits, *revision.removed)


def _require_next(connection: Connection, revision: Revision, head_sequence: int) -> None:
    if not revision.request_id:
        raise InvalidInputError("a revision needs a request id", field="request_id")
    if revision.sequence != head_sequence + 1:
        raise InvalidInputError(
            f"the revision after sequence {head_sequence} must have sequence "
            f"{head_sequence + 1}, not {revision.sequence}",
            field="sequence",
            sequence=revision.sequence,
        )
    stored = models.digest(connection, revision.model)
    models.require_same_checkpoint(revision.model, stored=stored, given=revision.model_digest)


def _require_evidence(connection: Connection, revision: Revision) -> None:
    """Refuse a revision that vouches for an edit, patch or report the ledger has not."""
    edits, reports = tables.edits.c, tables.reports.c
    vouched = vouched_for(revision)
    named = [reference.edit for reference in vouched]
    found = connection.execute(
        select(edits.id, edits.digest, edits.patch).where(
            edits.id.in_(named), edits.model == revision.model
        )
    )
    stored = {row.id: (row.digest, row.patch) for row in found}
    shown = [reference.report for reference in vouched]
    subjects = connection.execute(select(reports.id, reports.edit).where(reports.id.in_(shown)))
    edit_of = {row.id: row.edit for row in subjects}
    for reference in vouched:
        if stored.get(reference.edit) != (reference.edit_digest, reference.patch):
            raise missing_edit(reference.edit)
        if edit_of.get(reference.report) != reference.edit:
            raise ReportNotFoundError(
                f"the ledger has no report {reference.report!r} of edit {reference.edit}; "
                "verify the edit again",
                report=reference.report,
                edit=reference.edit,
            )


def _insert(connection: Connection, revision: Revision) -> None:
    connection.execute(
        insert(tables.revisions).values(
            id=revision.id,
            model=revision.model,
            branch=revision.branch,
            sequence=revision.sequence,
            parent=revision.parent,
            kind=revision.kind.value,
            request_id=revision.request_id,
            body=revision.body,
        )
    )
    uses = [
        {
            "revision": revision.id,
            "position": position,
            "edit": reference.edit,
            "report": reference.report,
        }
        for position, reference in enumerate(vouched_for(revision))
    ]
    if uses:
        connection.execute(insert(tables.revision_edits), uses)
    log.append(connection, revision.model, LogKind.REVISION, revision.id, Digest(revision.id))
    wakeups.announce(connection, revision)


def head(connection: Connection, model: ModelId, branch: BranchName) -> Revision:
    """The branch's newest revision.

    Raises:
        ModelNotFoundError: the ledger does not know the model.
        BranchNotFoundError: the model has no such branch.
        LedgerCorruptError: the head's row is missing or is not what its id says.
    """
    found = _branches(connection, model, only=branch)
    if not found:
        raise _missing_branch(connection, model, branch)
    return found[0].head


def branches(connection: Connection, model: ModelId) -> list[Branch]:
    """The model's branches by name.

    Raises:
        ModelNotFoundError: the ledger does not know the model.
        LedgerCorruptError: a head's row is missing or is not what its id says.
    """
    found = _branches(connection, model)
    if not found:
        raise _missing_branch(connection, model, MAIN)
    return found


def _branches(
    connection: Connection, model: ModelId, *, only: BranchName | None = None
) -> list[Branch]:
    names, made = tables.branches.c, tables.revisions.c
    statement = (
        select(names.name, made.id, made.branch, made.sequence, made.body)
        .select_from(tables.branches.outerjoin(tables.revisions, made.id == names.head))
        .where(names.model == model)
    )
    if only is not None:
        statement = statement.where(names.name == only)
    found = []
    for row in connection.execute(statement):
        if row.id is None:
            raise corrupt(branch_row(row.name), "its head revision is missing")
        found.append(Branch(name=BranchName(row.name), head=read(row)))
    return sorted(found, key=lambda branch: branch.name)  # databases order letters differently


def _missing_branch(connection: Connection, model: ModelId, branch: BranchName) -> Exception:
    if models.find(connection, model) is None:
        return models.missing(model)
    return BranchNotFoundError(
        f"model {model!r} has no branch {branch!r}; `errata branch list` shows those it has",
        model=model,
        branch=branch,
    )


def by_request(connection: Connection, model: ModelId, request_id: RequestId) -> Revision | None:
    """The revision this request made, if it made one."""
    columns = tables.revisions.c
    row = connection.execute(
        select(tables.revisions).where(columns.model == model, columns.request_id == request_id)
    ).one_or_none()
    return None if row is None else read(row)


def page(
    connection: Connection,
    model: ModelId,
    branch: BranchName,
    *,
    span: tuple[int, int | None],
    limit: int,
    newest_first: bool,
) -> list[Revision]:
    """At most ``limit`` revisions whose sequence is in ``span`` (its end excluded).

    Raises:
        ModelNotFoundError: the ledger does not know the model.
        BranchNotFoundError: the model has no such branch.
        LedgerCorruptError: a revision's bytes are not what its id says.
    """
    columns = tables.revisions.c
    # Numbers that callers were sent by others may be larger than a database's integers.
    start, end = (LARGEST if bound is None else min(bound, LARGEST) for bound in span)
    statement: RowsQuery = select(tables.revisions).where(
        columns.model == model,
        columns.branch == branch,
        columns.sequence >= start,
        columns.sequence < end,
    )
    order = columns.sequence.desc() if newest_first else columns.sequence.asc()
    rows = connection.execute(statement.order_by(order).limit(limit)).all()
    if not rows:
        _require_branch(connection, model, branch)
    return [read(row) for row in rows]


def _require_branch(connection: Connection, model: ModelId, branch: BranchName) -> None:
    columns = tables.branches.c
    statement = select(columns.name).where(columns.model == model, columns.name == branch)
    if connection.scalar(statement) is None:
        raise _missing_branch(connection, model, branch)
