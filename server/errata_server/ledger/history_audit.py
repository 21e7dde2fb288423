"""The part of the audit that walks the history: revisions, what they name, and branches.

Invariant: a broken row is named once where it stands; what follows it is still checked
against its own digest, but no longer replayed.
"""

from collections.abc import Iterator

from sqlalchemy import Connection, select

from errata_server.domain import canonical
from errata_server.domain.edits import AppliedEdit, AppliedSet
from errata_server.domain.errors import PreconditionError
from errata_server.domain.ids import MAIN, EditId, ModelId
from errata_server.domain.revisions import NO_PARENT, EditReference, Revision, RevisionKind
from errata_server.ledger import tables
from errata_server.ledger.bodies import short
from errata_server.ledger.edits import edit_row, report_row
from errata_server.ledger.findings import Findings
from errata_server.ledger.record_audit import ROWS_AT_ONCE, Evidence
from errata_server.ledger.revisions import branch_row, revision_row
from errata_server.ledger.tables import StoredRow

Uses = list[tuple[int, str, str]]
"""Position, edit and report of the rows that belong to one revision."""


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
        self.known: set[str] = set()
        """Ids of the revisions that are there."""

    def check(self) -> int:
        """Check every revision and branch; how many revisions there are."""
        self._collect_uses()
        walk: BranchWalk | None = None
        for row in self._revision_rows():
            if walk is None or walk.branch != row.branch:
                walk = BranchWalk(row.branch, self._findings, self._evidence)
            self.known.add(row.id)
            walk.step(row, self._uses.pop(row.id, []))
            self._heads[row.branch] = (row.id, row.sequence)
        self._check_orphaned_uses()
        self._check_branches()
        return len(self.known)

    def _revision_rows(self) -> Iterator[StoredRow]:
        columns = tables.revisions.c
        statement = (
            select(tables.revisions)
            .where(columns.model == self._model)
            .order_by(columns.branch, columns.sequence)
        )
        return iter(self._connection.execute(statement.execution_options(yield_per=ROWS_AT_ONCE)))

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


class BranchWalk:
    """A walk along one branch from its first revision, with the active set as it goes."""

    def __init__(self, branch: str, findings: Findings, evidence: Evidence) -> None:
        self.branch = branch
        self._findings = findings
        self._evidence = evidence
        self._sequence = 0
        self._parents: set[str] | None = {NO_PARENT}
        """What the next revision may name as parent; nothing where that is not known."""

        self._applied: AppliedSet | None = AppliedSet()
        """What is applied so far; nothing where that is not known."""

        self._active: set[EditId] = set()

    def step(self, row: StoredRow, uses: Uses) -> None:
        """Check the next row of the branch."""
        name = revision_row(self.branch, row.sequence)
        self._check_gap(row.sequence)
        revision = self._findings.read(name, row.body, row.id, Revision.from_body)
        before, self._applied = self._applied, None
        if revision is not None:
            with self._findings.reading_values(name):
                self._check_columns(name, row, revision)
                self._check_evidence(name, revision, uses)
                if before is not None:
                    self._applied = self._replayed(name, revision, before)
        # Where id and body disagree, either may be the one its child was made from.
        self._parents = {row.id, canonical.digest(row.body)}

    def _check_gap(self, sequence: int) -> None:
        if sequence > self._sequence:
            last = "" if sequence == self._sequence + 1 else f"..{sequence - 1}"
            self._findings.add(f"revisions[{self.branch}@{self._sequence}{last}]", "missing")
            self._parents = self._applied = None
        self._sequence = sequence + 1

    def _check_columns(self, name: str, row: StoredRow, revision: Revision) -> None:
        self._findings.compare(
            name,
            {
                "model": (row.model, revision.model),
                "branch": (row.branch, revision.branch),
                "sequence": (row.sequence, revision.sequence),
                "parent": (row.parent, revision.parent),
                "kind": (row.kind, revision.kind.value),
                "request_id": (row.request_id, revision.request_id),
            },
        )
        if self._parents is not None and revision.parent not in self._parents:
            self._findings.add(name, "its parent is not the revision before it")
        if revision.model_digest != self._evidence.model_digest:
            self._findings.add(name, "it was made for another checkpoint than the model's")

    def _check_evidence(self, name: str, revision: Revision, uses: Uses) -> None:
        vouched = [
            (position, reference.edit, reference.report)
            for position, reference in enumerate(revision.edits)
        ]
        for position, edit, _ in sorted(set(vouched) ^ set(uses)):
            self._findings.add(
                f"revision_edits[{self.branch}@{revision.sequence}#{position}]",
                f"edit {edit} and its report are not in the row and in the revision's body alike",
            )
        for reference in revision.edits:
            self._check_reference(name, reference)

    def _check_reference(self, name: str, reference: EditReference) -> None:
        row = edit_row(reference.edit)
        found = self._evidence.edits.get(reference.edit)
        if found is None:
            self._findings.add(row, f"missing, though {name} names it")
        elif self._evidence.edit_digests[reference.edit] != reference.edit_digest:
            self._findings.add(row, f"it is not the edit that {name} vouches for")
        elif found.patch != reference.patch:
            self._findings.add(row, f"its patch is not the one that {name} vouches for")
        if self._evidence.report_edits.get(reference.report) != reference.edit:
            self._findings.add(
                report_row(reference.report),
                f"missing, or another edit's, though {name} names it",
            )

    def _replayed(self, name: str, revision: Revision, before: AppliedSet) -> AppliedSet | None:
        """What the revision makes of ``before``, once compared with what it says itself."""
        try:
            after = self._changed(before, revision)
        except (PreconditionError, KeyError) as error:
            self._findings.add(name, f"it cannot follow the revision before it: {error}")
            return None
        was_active, self._active = self._active, {edit.edit for edit in after.active()}
        hidden = {edit.edit for edit in after.applied} - self._active
        was_hidden = {edit.edit for edit in before.applied} - was_active
        expected = {
            "active_count": (revision.active_count, len(self._active)),
            "superseded": (set(revision.superseded), was_active & hidden),
            "restored": (set(revision.restored), was_hidden & self._active),
            "active_set_digest": (
                revision.active_set_digest,
                after.digest(model=revision.model_digest, composition=revision.composition),
            ),
        }
        for what, (stored, replayed) in expected.items():
            if stored != replayed:
                self._findings.add(name, f"its {what} is not what the history gives")
        return after

    def _changed(self, before: AppliedSet, revision: Revision) -> AppliedSet:
        named = [reference.edit for reference in revision.edits]
        if revision.kind is RevisionKind.APPLY:
            added: list[AppliedEdit] = [self._evidence.edits[edit] for edit in named]
            return before.apply(added)
        if revision.kind is RevisionKind.REVERT:
            return before.revert(named)
        if named:
            raise PreconditionError(f"a {revision.kind} revision names no edits")
        return before
