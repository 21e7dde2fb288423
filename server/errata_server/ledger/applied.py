"""What a revision has applied, folded from the history below it.

Invariant: the fold equals applying and reverting one revision after the other on
`AppliedSet`, in time linear in the history; at a promotion it goes on from the source, whose
state a promotion has. A connection remembers the latest states by the revisions' ids, which are
hashes of all that led to them, so that the next change of a branch folds one revision.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

from sqlalchemy import Connection, select

from errata_server.domain.edits import AppliedEdit, AppliedSet
from errata_server.domain.ids import Digest, EditId, ModelId, RevisionId
from errata_server.domain.revisions import Revision, RevisionKind
from errata_server.ledger import tables
from errata_server.ledger.bodies import corrupt
from errata_server.ledger.lines import CHANGES, KNOWN, Stretch, line
from errata_server.ledger.revisions import revision_row
from errata_server.ledger.tables import StoredRow

STATES: Final = "states"
"""Where a connection keeps states."""

MAX_STATES: Final = 4
"""States each connection keeps: heads of branches, a megabyte each at some thousand live edits."""


def fold(connection: Connection, revision: Revision, *, anew: bool = False) -> AppliedSet:
    """The edits applied and not reverted at ``revision``, oldest first.

    Args:
        revision: One that is stored.
        anew: Whether to read all that led to it, whatever the connection remembers.

    Raises:
        LedgerCorruptError: the history applies an edit twice, reverts what is not applied,
            or names an edit or a revision that is not there.
    """
    if anew:
        connection.info.pop(STATES, None)
        connection.info.pop(KNOWN, None)
    states: OrderedDict[RevisionId, AppliedSet] = connection.info.setdefault(STATES, OrderedDict())
    state = states.pop(revision.id, None)
    if state is None:
        state = _folded(connection, revision, states.get(revision.source or revision.parent))
    states[revision.id] = state
    if len(states) > MAX_STATES:
        states.popitem(last=False)
    return state


def _folded(connection: Connection, revision: Revision, before: AppliedSet | None) -> AppliedSet:
    """The state of ``revision``, from that of its source or parent where it is known."""
    if before is not None and revision.kind not in CHANGES:
        return before
    applied = {edit.edit: edit for edit in before.applied} if before else {}
    last = Stretch(revision.branch, revision.sequence, revision.sequence)
    for stretch in [last] if before else reversed(list(line(connection, revision))):
        for row in _changes(connection, revision.model, stretch):
            _fold_one(applied, row, revision_row(stretch.branch, row.sequence))
    return AppliedSet(applied.values())


def _changes(connection: Connection, model: ModelId, stretch: Stretch) -> Iterator[StoredRow]:
    made, uses, edits = tables.revisions, tables.revision_edits, tables.edits
    statement = (
        select(made.c.sequence, made.c.kind, uses.c.edit, edits.c.subject, edits.c.patch)
        .select_from(
            made.join(uses, uses.c.revision == made.c.id).outerjoin(
                edits, edits.c.id == uses.c.edit
            )
        )
        .where(made.c.model == model, made.c.branch == stretch.branch)
        .where(made.c.sequence.between(stretch.first, stretch.last))
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


def ever_applied(
    connection: Connection, edits: Sequence[EditId], revision: Revision
) -> set[EditId]:
    """Those of ``edits``, all of its model, that the line up to ``revision`` has ever applied."""
    uses, made = tables.revision_edits, tables.revisions
    applying = connection.execute(
        select(uses.c.edit, made.c.branch, made.c.sequence)
        .select_from(uses.join(made, made.c.id == uses.c.revision))
        .where(uses.c.edit.in_(edits), made.c.kind == RevisionKind.APPLY.value)
    ).all()
    stretches: dict[str, list[Stretch]] = defaultdict(list)
    for stretch in line(connection, revision):
        stretches[stretch.branch].append(stretch)
    return {
        EditId(row.edit)
        for row in applying
        if any(stretch.has(row.branch, row.sequence) for stretch in stretches[row.branch])
    }
