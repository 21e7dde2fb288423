"""What a revision has applied, folded from the history below it.

Invariant: the fold equals applying and reverting one revision after the other on
`AppliedSet`, in time linear in the history.
"""

from collections.abc import Iterator

from sqlalchemy import Connection, select

from errata_server.domain.edits import AppliedEdit, AppliedSet
from errata_server.domain.ids import BranchName, Digest, EditId, ModelId
from errata_server.domain.revisions import NO_PARENT, Revision, RevisionKind
from errata_server.ledger import tables
from errata_server.ledger.bodies import corrupt
from errata_server.ledger.revisions import revision_row
from errata_server.ledger.tables import StoredRow


def fold(connection: Connection, revision: Revision) -> AppliedSet:
    """The edits applied and not reverted at ``revision``, oldest first.

    Raises:
        LedgerCorruptError: the history applies an edit twice, reverts what is not applied,
            or names an edit that is not there.
    """
    applied: dict[EditId, AppliedEdit] = {}
    for branch, sequence in _segments(connection, revision):
        for row in _changes(connection, revision.model, branch, sequence):
            _fold_one(applied, row, revision_row(branch, row.sequence))
    return AppliedSet(applied=tuple(applied.values()))


def _segments(connection: Connection, revision: Revision) -> list[tuple[BranchName, int]]:
    """The stretches of branches that lead to ``revision``, oldest first."""
    columns = tables.revisions.c
    segments = [(revision.branch, revision.sequence)]
    while True:
        parent = connection.scalar(
            select(columns.parent).where(
                columns.model == revision.model,
                columns.branch == segments[-1][0],
                columns.sequence == 0,
            )
        )
        if parent == NO_PARENT:
            return segments[::-1]
        row = connection.execute(
            select(columns.branch, columns.sequence).where(columns.id == parent)
        ).one_or_none()
        if row is None or (row.branch, row.sequence) in segments:
            raise corrupt(revision_row(segments[-1][0], 0), "its parent is missing")
        segments.append((row.branch, row.sequence))


def _changes(
    connection: Connection, model: ModelId, branch: BranchName, last: int
) -> Iterator[StoredRow]:
    made, uses, edits = tables.revisions, tables.revision_edits, tables.edits
    statement = (
        select(made.c.sequence, made.c.kind, uses.c.edit, edits.c.subject, edits.c.patch)
        .select_from(
            made.join(uses, uses.c.revision == made.c.id).outerjoin(
                edits, edits.c.id == uses.c.edit
            )
        )
        .where(made.c.model == model, made.c.branch == branch, made.c.sequence <= last)
        .order_by(made.c.sequence, uses.c.position)
    )
    return iter(connection.execute(statement))


def _fold_one(applied: dict[EditId, AppliedEdit], row: StoredRow, name: str) -> None:
    if row.subject is None:
        raise corrupt(name, f"it names edit {row.edit}, which is missing")
    present = row.edit in applied
    if row.kind == RevisionKind.APPLY.value and not present:
        applied[row.edit] = AppliedEdit(
            edit=EditId(row.edit), subject=row.subject, patch=Digest(row.patch)
        )
    elif row.kind == RevisionKind.REVERT.value and present:
        del applied[row.edit]
    else:
        state = "is" if present else "is not"
        raise corrupt(name, f"its kind is {row.kind!r}, but edit {row.edit} {state} applied")
