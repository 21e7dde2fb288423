"""The part of the audit that walks the history: revisions, what they name, and branches.

Invariant: branches are walked side by side, each as far as what it needs of others is known, so
that a branch may start anywhere and be promoted to and fro, and every revision is seen once.
"""

from collections import deque
from collections.abc import Iterator

from sqlalchemy import Connection, select

from errata_server.domain import canonical
from errata_server.domain.errors import LedgerCorruptError
from errata_server.domain.ids import MAIN, ModelId
from errata_server.domain.revisions import Revision, RevisionKind
from errata_server.ledger import tables
from errata_server.ledger.bodies import parse_body, short
from errata_server.ledger.branch_audit import BranchWalk, ChangeTree, Standing, Uses
from errata_server.ledger.findings import Findings
from errata_server.ledger.record_audit import ROWS_AT_ONCE, Evidence
from errata_server.ledger.revisions import branch_row, revision_row
from errata_server.ledger.tables import StoredRow


class HistoryAudit:
    """One model's revisions and branches, held against the evidence."""

    def __init__(
        self, connection: Connection, model: ModelId, findings: Findings, evidence: Evidence
    ) -> None:
        self._connection = connection
        self._model = model
        self._findings = findings
        self._evidence = evidence
        self._uses: dict[str, Uses] = {}
        self._heads: dict[str, tuple[str, int]] = {}
        self._named: dict[tuple[str, int], str] = {}
        """Branch and sequence to the revision of another branch that it names."""

        self._wanted: set[str] = set()
        self._standings: dict[str, Standing | None] = {}
        """What the revisions that others name came to, as far as they have been walked."""

        self.known: set[str] = set()
        """Ids of the revisions that are there."""

    def check(self) -> int:
        """Check every revision and branch; how many revisions there are."""
        self._collect_uses()
        branches = self._collect_links()
        tree = ChangeTree()
        waiting = deque(
            (BranchWalk(branch, self._findings, self._evidence, tree), self._rows(branch))
            for branch in branches
        )
        since_progress = 0
        held: dict[str, StoredRow] = {}
        while waiting:
            walk, rows = waiting.popleft()
            first = held.pop(walk.branch, None) or next(rows, None)
            left, moved = self._walk(walk, rows, first, patient=since_progress <= len(waiting))
            since_progress = 0 if moved else since_progress + 1
            if left is not None:
                held[walk.branch] = left
                waiting.append((walk, rows))
        self._check_orphaned_uses()
        self._check_branches()
        return len(self.known)

    def _walk(
        self, walk: BranchWalk, rows: Iterator[StoredRow], row: StoredRow | None, *, patient: bool
    ) -> tuple[StoredRow | None, bool]:
        """Go on to the end, or to a row that names one not walked yet; that row.

        Returns:
            The row it waits at, if any, and whether any was walked.
        """
        moved = False
        while row is not None:
            named = self._named.get((walk.branch, row.sequence))
            if named in self.known and named not in self._standings and (patient or moved):
                return row, moved
            if named is not None and named not in self._standings:
                self._findings.add(
                    revision_row(walk.branch, row.sequence),
                    "the revision it takes its state from is missing, or follows from it",
                )
            elsewhere = None if named is None else self._standings.get(named)
            walk.step(row, self._uses.pop(row.id, []), elsewhere)
            self._keep(walk, row)
            row, moved = next(rows, None), True
        return None, True

    def _keep(self, walk: BranchWalk, row: StoredRow) -> None:
        self._heads[row.branch] = (row.id, row.sequence)
        for identifier in (row.id, canonical.digest(row.body)):
            if identifier in self._wanted:
                self._standings[identifier] = walk.standing

    def _collect_links(self) -> list[str]:
        """Learn which revisions there are and which name others; the branches."""
        columns = tables.revisions.c
        statement = select(columns.id, columns.branch).where(columns.model == self._model)
        branches: set[str] = set()
        for row in self._connection.execute(statement):
            self.known.add(row.id)
            branches.add(row.branch)
        naming = select(tables.revisions).where(
            columns.model == self._model,
            (columns.sequence == 0) | (columns.kind == RevisionKind.PROMOTE.value),
        )
        for row in self._connection.execute(naming):
            try:
                name = revision_row(row.branch, row.sequence)
                body = parse_body(name, row.body, Revision.from_body)
            except LedgerCorruptError:
                continue  # found when the row is walked
            named = body.source or ("" if row.sequence else body.parent)
            if named and isinstance(named, str):
                self._named[row.branch, row.sequence] = named
        self._wanted = set(self._named.values())
        return sorted(branches)

    def _rows(self, branch: str) -> Iterator[StoredRow]:
        columns = tables.revisions.c
        last = -1
        while True:
            found = self._connection.execute(
                select(tables.revisions)
                .where(columns.model == self._model, columns.branch == branch)
                .where(columns.sequence > last)
                .order_by(columns.sequence)
                .limit(ROWS_AT_ONCE)
            ).all()
            yield from found
            if len(found) < ROWS_AT_ONCE:
                return
            last = found[-1].sequence

    def _collect_uses(self) -> None:
        """Rows of `revision_edits`: this model's, and those that belong to no revision."""
        uses, made = tables.revision_edits, tables.revisions
        statement = (
            select(uses)
            .outerjoin(made, made.c.id == uses.c.revision)
            .where((made.c.model == self._model) | made.c.id.is_(None))
            .order_by(uses.c.revision, uses.c.position)
        )
        for row in self._connection.execute(statement):
            self._uses.setdefault(row.revision, []).append((row.position, row.edit, row.report))

    def _check_orphaned_uses(self) -> None:
        for revision, rows in self._uses.items():
            for position, _, _ in rows:
                self._findings.add(
                    f"revision_edits[{short(revision)}#{position}]", "its revision is missing"
                )

    def _check_branches(self) -> None:
        columns = tables.branches.c
        statement = select(tables.branches).where(columns.model == self._model)
        expected = {MAIN: None} | self._heads
        for row in self._connection.execute(statement.order_by(columns.name)):
            name = branch_row(row.name)
            last = expected.pop(row.name, None)
            if row.head not in self.known:
                self._findings.add(name, f"its head {short(row.head)} is missing")
            elif last is not None and last != (row.head, row.sequence):
                self._findings.add(
                    name,
                    f"it is at {short(row.head)} (sequence {row.sequence}), but its last "
                    f"revision is {short(last[0])} (sequence {last[1]})",
                )
        for branch in expected:
            self._findings.add(branch_row(branch), "missing")
