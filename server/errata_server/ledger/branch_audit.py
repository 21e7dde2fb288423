"""The audit of one branch: each revision against its row, its evidence, and what it follows.

Invariants: a broken row is named once where it stands; what follows it is still checked against
its own digest, but no longer replayed. A promotion is held against what its source had applied
and against the rule that nothing of the target is lost.
"""

from dataclasses import dataclass, field
from typing import Final

from errata_server.domain import canonical
from errata_server.domain.edits import AppliedEdit, AppliedSet
from errata_server.domain.errors import PreconditionError
from errata_server.domain.ids import MAIN, Digest
from errata_server.domain.revisions import NO_PARENT, EditReference, Revision, RevisionKind
from errata_server.ledger.edits import edit_row, report_row
from errata_server.ledger.findings import Findings
from errata_server.ledger.lines import CHANGES
from errata_server.ledger.protection import GUARDED
from errata_server.ledger.record_audit import Evidence
from errata_server.ledger.revisions import revision_row, vouched_for
from errata_server.ledger.tables import StoredRow

Uses = list[tuple[int, str, str]]
"""Position, edit and report of the rows that belong to one revision."""

BEGINNINGS: Final = (RevisionKind.GENESIS, RevisionKind.BRANCH)
UNCHANGED: Final = (RevisionKind.BRANCH, RevisionKind.PROMOTE, RevisionKind.POLICY)
"""Kinds whose weights are those of the revision they take their state from."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What a revision came to when the history was replayed."""

    applied: AppliedSet
    weights: Digest
    change: str
    """The newest revision on its line that changed what is applied."""


@dataclass(slots=True)
class ChangeTree:
    """Every change that was replayed, with the one below it."""

    _below: dict[str, tuple[str, int]] = field(default_factory=dict)

    def add(self, change: str, below: str) -> None:
        """Put ``change`` on top of ``below``."""
        self._below[change] = (below, self._depth(below) + 1)

    def leads_to(self, change: str, later: str) -> bool:
        """Whether ``change`` is ``later``, or below it."""
        depth = self._depth(change)
        while later != change and self._depth(later) > depth:
            later, _ = self._below[later]
        return later == change

    def _depth(self, change: str) -> int:
        return self._below[change][1] if change in self._below else 0


class BranchWalk:
    """A walk along one branch from its first revision, with the active set as it goes."""

    def __init__(
        self, branch: str, findings: Findings, evidence: Evidence, tree: ChangeTree
    ) -> None:
        self.branch = branch
        self.standing: Standing | None = None
        """What is there so far; nothing where that is not known."""

        self._findings = findings
        self._evidence = evidence
        self._tree = tree
        self._sequence = 0
        self._parents: set[str] | None = None
        """What the next revision may name as parent; nothing where that is not known."""

        self._protected: bool | None = False

    def step(self, row: StoredRow, uses: Uses, elsewhere: Standing | None) -> None:
        """Check the next row of the branch.

        Args:
            row: The revision's.
            uses: Its rows of edits.
            elsewhere: What the revision on another branch that it names came to, if it names
                one and that is known.
        """
        name = revision_row(self.branch, row.sequence)
        self._check_gap(row.sequence)
        revision = self._findings.read(name, row.body, row.id, Revision.from_body)
        before, self.standing = self.standing, None
        protected, self._protected = self._protected, None
        if revision is not None:
            with self._findings.reading_values(name):
                self._check_columns(name, row, revision)
                self._check_evidence(name, revision, uses)
                self._check_protection(name, revision, before=protected)
                self.standing = self._replayed(name, revision, before, elsewhere)
        # Where id and body disagree, either may be the one its child was made from.
        self._parents = {row.id, canonical.digest(row.body)}

    def _check_gap(self, sequence: int) -> None:
        if sequence > self._sequence:
            last = "" if sequence == self._sequence + 1 else f"..{sequence - 1}"
            self._findings.add(f"revisions[{self.branch}@{self._sequence}{last}]", "missing")
            self._parents = self.standing = self._protected = None
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
        if (revision.kind in BEGINNINGS) is not (row.sequence == 0):
            self._findings.add(name, f"its kind is {revision.kind}, which its place does not allow")
        if (revision.kind is RevisionKind.GENESIS) is not (revision.parent == NO_PARENT):
            self._findings.add(name, "the base's revision, and no other, has no parent")
        if (revision.kind is RevisionKind.PROMOTE) is not bool(revision.source):
            self._findings.add(name, "a promotion, and nothing else, has a source")
        if revision.removed and revision.kind is not RevisionKind.PROMOTE:
            self._findings.add(name, "it lists removed edits, which only a promotion does")
        if revision.model_digest != self._evidence.model_digest:
            self._findings.add(name, "it was made for another checkpoint than the model's")

    def _check_evidence(self, name: str, revision: Revision, uses: Uses) -> None:
        vouched = [
            (position, reference.edit, reference.report)
            for position, reference in enumerate(vouched_for(revision))
        ]
        for position, edit, _ in sorted(set(vouched) ^ set(uses)):
            self._findings.add(
                f"revision_edits[{self.branch}@{revision.sequence}#{position}]",
                f"edit {edit} and its report are not in the row and in the revision's body alike",
            )
        for reference in vouched_for(revision):
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

    def _check_protection(self, name: str, revision: Revision, *, before: bool | None) -> None:
        self._protected = revision.protected
        if revision.kind is RevisionKind.POLICY and before is not None:
            before = not before
        if before is not None and revision.protected is not before:
            self._findings.add(name, "its protection is not what the history gives")
        if not revision.protected or revision.kind not in GUARDED:
            return
        for reference in revision.edits:
            approvers = self._evidence.approvers.get(reference.report, set())
            if not approvers - {self._evidence.proposers.get(reference.edit)}:
                self._findings.add(
                    name,
                    f"it applies edit {reference.edit} to a protected branch without an approval "
                    "by another than its proposer",
                )

    def _replayed(
        self, name: str, revision: Revision, before: Standing | None, elsewhere: Standing | None
    ) -> Standing | None:
        """What the revision comes to, once compared with what it says itself."""
        if revision.kind is RevisionKind.BRANCH:
            before = elsewhere
        if revision.kind is RevisionKind.GENESIS and self.branch == MAIN:
            before = Standing(AppliedSet(), revision.weights_digest, "")
        if before is None or (revision.kind is RevisionKind.PROMOTE and elsewhere is None):
            return None
        source = elsewhere if revision.kind is RevisionKind.PROMOTE and elsewhere else before
        try:
            after = self._changed(source.applied, revision)
        except (PreconditionError, KeyError) as error:
            self._findings.add(name, f"it cannot follow the revision before it: {error}")
            return None
        self._compare(name, revision, before.applied, after)
        if revision.kind in UNCHANGED and revision.weights_digest != source.weights:
            self._findings.add(name, "its weights_digest is not what the history gives")
        if revision.kind is RevisionKind.PROMOTE:
            self._check_promotion(name, revision, before, source)
        if revision.kind not in CHANGES:
            return Standing(after, revision.weights_digest, source.change)
        self._tree.add(revision.id, before.change)
        return Standing(after, revision.weights_digest, revision.id)

    def _compare(
        self, name: str, revision: Revision, before: AppliedSet, after: AppliedSet
    ) -> None:
        # A promotion may leave the same edits applied in another order, which decides as well.
        promoted = revision.kind is RevisionKind.PROMOTE
        named = [self._evidence.edits[one.edit].subject for one in revision.edits if not promoted]
        superseded, restored = after.shifted_since(before, None if promoted else named)
        expected = {
            "active_count": (revision.active_count, after.active_count),
            "superseded": (set(revision.superseded), set(superseded)),
            "restored": (set(revision.restored), set(restored)),
            "active_set_digest": (
                revision.active_set_digest,
                after.digest(model=revision.model_digest, composition=revision.composition),
            ),
        }
        for what, (stored, replayed) in expected.items():
            if stored != replayed:
                self._findings.add(name, f"its {what} is not what the history gives")

    def _check_promotion(
        self, name: str, revision: Revision, before: Standing, source: Standing
    ) -> None:
        expected = {
            "edits": (revision.edits, source.applied.without(before.applied)),
            "removed": (revision.removed, before.applied.without(source.applied)),
        }
        for what, (listed, replayed) in expected.items():
            if [one.edit for one in listed] != [one.edit for one in replayed]:
                self._findings.add(name, f"its {what} are not what the history gives")
        if not self._tree.leads_to(before.change, source.change):
            self._findings.add(
                name, "it is no fast-forward: its branch had changes that its source had not"
            )

    def _changed(self, before: AppliedSet, revision: Revision) -> AppliedSet:
        named = [reference.edit for reference in revision.edits]
        if revision.kind is RevisionKind.APPLY:
            added: list[AppliedEdit] = [self._evidence.edits[edit] for edit in named]
            return before.apply(added)
        if revision.kind is RevisionKind.REVERT:
            return before.revert(named)
        if named and revision.kind is not RevisionKind.PROMOTE:
            raise PreconditionError(f"a {revision.kind} revision names no edits")
        return before
