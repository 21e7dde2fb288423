"""The line of a revision: the stretches of branches whose changes make up its state.

Invariants: the first revision of a branch and changes of policy leave a state as it is, so a
line goes through them to what is below; a promotion has the state of its source, so a line goes
on from there. Every branch therefore stands somewhere on one tree of changes, and promoting
moves it forward along that tree. What leads to a revision never changes, and an id is the hash of
all of it: a connection remembers by id, so that a line is not walked anew to its beginning, which
gets further away with every promotion.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from sqlalchemy import Connection, or_, select

from errata_server.domain.ids import BranchName, ModelId, RevisionId
from errata_server.domain.revisions import NO_PARENT, NO_SOURCE, Revision, RevisionKind
from errata_server.ledger import tables
from errata_server.ledger.bodies import corrupt
from errata_server.ledger.revisions import read, revision_row
from errata_server.ledger.tables import StoredRow

CHANGES: Final = (RevisionKind.GENESIS, RevisionKind.APPLY, RevisionKind.REVERT)
"""Kinds of revisions that make a state of their own."""

TURNS: Final = (RevisionKind.GENESIS, RevisionKind.BRANCH, RevisionKind.PROMOTE)
"""Kinds of revisions at which a line leaves their branch; all others follow their parent on it."""

KNOWN: Final = "lines"
"""Where a connection keeps lines: of what was asked for and of what those turn to."""

MAX_KNOWN: Final = 4_096
"""Lines a connection keeps; some hundred bytes each, as they share what is below them."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Revisions of one branch that follow each other."""

    branch: BranchName
    first: int
    last: int
    """Sequences; there are none where ``last`` is below ``first``."""

    def has(self, branch: str, sequence: int) -> bool:
        """Whether that revision is one of them."""
        return branch == self.branch and self.first <= sequence <= self.last


@dataclass(frozen=True, slots=True)
class Line:
    """What leads to a state: a stretch, and what leads to where it begins."""

    newest: Stretch
    below: "Line | None"

    def __iter__(self) -> Iterator[Stretch]:
        """Every stretch, newest first."""
        line: Line | None = self
        while line is not None:
            yield line.newest
            line = line.below


Known = OrderedDict[tuple[ModelId, RevisionId], Line]


def line(connection: Connection, revision: Revision) -> Line:
    """What leads to the state of ``revision``.

    Raises:
        LedgerCorruptError: what a branch starts from, or a promotion's source, is not there.
    """
    known: Known = connection.info.setdefault(KNOWN, OrderedDict())
    found = known.get((revision.model, revision.id))
    if found is None:
        turns = revision.kind in TURNS
        before = None if turns else known.get((revision.model, revision.parent))
        found = _longer(before) if before else _walked(connection, revision, known)
        known[revision.model, revision.id] = found
    while len(known) > MAX_KNOWN:
        known.popitem(last=False)
    return found


def _longer(line: Line) -> Line:
    """``line`` with the next revision of its newest stretch."""
    return replace(line, newest=replace(line.newest, last=line.newest.last + 1))


def _walked(connection: Connection, revision: Revision, known: Known) -> Line:
    """The line of ``revision`` from where it is ``known``, and from its beginning at most."""
    above: list[tuple[Stretch, RevisionId]] = []
    place = (revision.branch, revision.sequence)
    passed = {place}
    while True:
        branch, last = place
        turn = _turn(connection, revision.model, branch, last)
        promoted = turn.kind == RevisionKind.PROMOTE.value
        below = read(turn).source if promoted else RevisionId(turn.parent)
        if below == NO_PARENT and not promoted:
            found = Line(Stretch(branch, 0, last), None)
            break
        above.append((Stretch(branch, turn.sequence + 1, last), below))
        if (revision.model, below) in known:
            found = known[revision.model, below]
            break
        at = None if below == NO_SOURCE else _place(connection, revision.model, below)
        if at is None or at in passed:
            what = "source" if promoted else "parent"
            raise corrupt(revision_row(branch, turn.sequence), f"its {what} is missing")
        passed.add(at)
        place = at
    for stretch, below in reversed(above):
        known[revision.model, below] = found
        found = Line(stretch, found)
    return found


def _turn(connection: Connection, model: ModelId, branch: BranchName, last: int) -> StoredRow:
    """The newest revision at or below ``last`` at which a line leaves the branch."""
    columns = tables.revisions.c
    row = connection.execute(
        select(tables.revisions)
        .where(columns.model == model, columns.branch == branch, columns.sequence <= last)
        .where(or_(columns.sequence == 0, columns.kind == RevisionKind.PROMOTE.value))
        .order_by(columns.sequence.desc())
        .limit(1)
    ).one_or_none()
    if row is None:
        raise corrupt(revision_row(branch, 0), "it is missing, though later ones are there")
    return row


def _place(
    connection: Connection, model: ModelId, revision: RevisionId
) -> tuple[BranchName, int] | None:
    columns = tables.revisions.c
    row = connection.execute(
        select(columns.branch, columns.sequence).where(
            columns.id == revision, columns.model == model
        )
    ).one_or_none()
    return None if row is None else (BranchName(row.branch), int(row.sequence))


def leads_to(connection: Connection, earlier: Revision, later: Revision) -> bool:
    """Whether all that ``earlier`` has changed is on the line of ``later``.

    Raises:
        LedgerCorruptError: a line of theirs is broken.
    """
    branch, sequence = _last_change(connection, earlier)
    return any(stretch.has(branch, sequence) for stretch in line(connection, later))


def _last_change(connection: Connection, revision: Revision) -> tuple[BranchName, int]:
    columns = tables.revisions.c
    for stretch in line(connection, revision):
        sequence = connection.scalar(
            select(columns.sequence)
            .where(columns.model == revision.model, columns.branch == stretch.branch)
            .where(columns.sequence.between(stretch.first, stretch.last))
            .where(columns.kind.in_([kind.value for kind in CHANGES]))
            .order_by(columns.sequence.desc())
            .limit(1)
        )
        if sequence is not None:
            return stretch.branch, int(sequence)
    raise corrupt(revision_row(revision.branch, revision.sequence), "nothing leads to it")
