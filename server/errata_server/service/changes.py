"""Applying and reverting edits, and `make`: the only place that moves what is served.

Invariants: prepare, commit, publish, in this order, so that a failure before the commit
leaves no trace and one after it is caught up with; a repeated request id gives the earlier
result before anything else is looked at; a revision that another writer made meanwhile is
never overwritten; a branch's protection passes from each revision to the next, and what it asks
is asked again with the commit.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from errata_server import telemetry
from errata_server.domain.checks import Report
from errata_server.domain.edits import AppliedEdit, AppliedSet, Edit
from errata_server.domain.errors import (
    InvalidInputError,
    ModelMismatchError,
    PreconditionError,
    RequestIdReusedError,
    StaleRevisionError,
)
from errata_server.domain.ids import BranchName, Digest, EditId, ModelId, RevisionId
from errata_server.domain.patches import Composition, ServedWeights
from errata_server.domain.revisions import NO_SOURCE, EditReference, Revision, RevisionKind
from errata_server.ledger.ledger import Ledger
from errata_server.service.calls import Call
from errata_server.service.edits import EditReader
from errata_server.service.ports import Engine
from errata_server.service.serving import BASE_REFERENCE, Serving
from errata_server.service.views import Pinned

ATTEMPTS: Final = 8
"""Times a change is put on top of a new head when other servers keep committing."""


@dataclass(frozen=True, slots=True)
class Top:
    """A branch's newest revision and what it has applied."""

    revision: Revision
    applied: AppliedSet


@dataclass(frozen=True, slots=True)
class Planned:
    """What a change does to what a branch has applied."""

    edits: tuple[EditReference, ...]
    applied: AppliedSet
    override: str = ""
    weights: ServedWeights | None = None
    """Where another revision has the same; composed anew if not given."""

    composition: Composition | None = None
    """As before where None."""

    source: RevisionId = NO_SOURCE
    removed: tuple[EditReference, ...] = ()
    protected: bool | None = None
    """As before where None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change asked for, before it is known what it is put on top of."""

    kind: RevisionKind
    branch: BranchName
    call: Call
    request_digest: Digest
    expected: str
    plan: Callable[[Top], Planned]
    by: str = ""
    """How the edits of a revert were named, for the metrics."""

    start: str = ""
    """Where a new branch starts."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Changes:
    """Puts edits into production and takes them back."""

    engine: Engine
    ledger: Ledger
    model: ModelId
    serving: Serving
    edits: EditReader
    now: Callable[[], datetime]
    _locks: dict[BranchName, threading.Lock] = field(init=False, default_factory=dict)
    _locks_lock: threading.Lock = field(init=False, default_factory=threading.Lock)

    def apply(
        self,
        edit_ids: Sequence[EditId],
        branch: BranchName,
        call: Call,
        *,
        override: str = "",
        expected: str = "",
        validate_only: bool = False,
    ) -> Pinned:
        """Make edits live, in the order given; an edit of the same subject is superseded.

        Args:
            edit_ids: Edits whose latest report passed, unless ``override`` says otherwise.
            branch: Where to apply them.
            call: Who asks; a repeated request id gives the earlier revision.
            override: Why failed checks are to be disregarded; recorded in the revision.
            expected: The revision the caller believes to be the head.
            validate_only: Return what would be committed, and commit nothing.

        Raises:
            BranchNotFoundError: there is no such branch.
            EditNotFoundError: one of the edits does not exist.
            VerificationFailedError: a report has failed checks, and there is no override or the
                branch is protected.
            ApprovalRequiredError: the branch is protected, and nobody but its proposer approved
                of one; an override changes nothing about it.
            AlreadyAppliedError: one of them is applied already.
            ModelMismatchError: one was computed against another checkpoint.
            RevisionNotFoundError: ``expected`` does not exist.
            StaleRevisionError: the head is not ``expected``.
            RequestIdReusedError: the request id was used for something else.
        """
        reason = override.strip()
        change = Change(
            kind=RevisionKind.APPLY,
            branch=branch,
            call=call,
            request_digest=call.digest(
                "apply", edits=list(edit_ids), branch=branch, override=reason, expected=expected
            ),
            expected=expected,
            plan=lambda top: self._plan_apply(edit_ids, reason, top),
        )
        return self.make(change, validate_only=validate_only)

    def revert(
        self,
        edit_ids: Sequence[EditId],
        branch: BranchName,
        call: Call,
        *,
        to_revision: str = "",
        expected: str = "",
        validate_only: bool = False,
    ) -> Pinned:
        """Take edits back, as if they had never been applied.

        A revert only ever removes. ``to_revision`` therefore works where what was applied
        there is what is left of today's edits once some are taken out, which is always so
        unless an edit of that time has been reverted since; then the error names what to
        apply again, and the two steps stay two visible revisions.

        Args:
            edit_ids: The edits; empty where ``to_revision`` is given.
            branch: Where to revert them.
            call: Who asks; a repeated request id gives the earlier revision.
            to_revision: Return to what was applied at this revision.
            expected: The revision the caller believes to be the head.
            validate_only: Return what would be committed, and commit nothing.

        Raises:
            InvalidInputError: both edits and a revision are given, or neither.
            BranchNotFoundError: there is no such branch.
            EditNotFoundError: one of the edits does not exist.
            NotAppliedError: one of them is not applied.
            PreconditionError: ``to_revision`` needs edits applied again, or is where the
                branch stands already.
            RevisionNotFoundError: ``to_revision`` or ``expected`` does not exist.
            StaleRevisionError: the head is not ``expected``.
            RequestIdReusedError: the request id was used for something else.
        """
        if bool(edit_ids) == bool(to_revision):
            raise InvalidInputError(
                "name either the edits to revert or the revision to return to", field="names"
            )
        change = Change(
            kind=RevisionKind.REVERT,
            branch=branch,
            call=call,
            request_digest=call.digest(
                "revert", edits=list(edit_ids), branch=branch, to=to_revision, expected=expected
            ),
            expected=expected,
            plan=lambda top: self._plan_revert(edit_ids, to_revision, top),
            by="to_revision" if to_revision else "edits",
        )
        return self.make(change, validate_only=validate_only)

    def make(self, change: Change, *, validate_only: bool) -> Pinned:
        """Commit a change of any kind, and serve it where it is main's.

        Raises:
            BranchNotFoundError: there is no such branch.
            StaleRevisionError: the head is not what is expected, or others keep committing.
            RequestIdReusedError: the request id was used for something else.
            ErrataError: what the plan raises, or the ledger of a branch's name or protection.
        """
        earlier = self._earlier(change)
        if earlier is not None:
            return earlier
        if change.kind is not RevisionKind.BRANCH:
            self.ledger.head(self.model, change.branch)
        with self._lock_of(change):
            if validate_only:
                return self._prepare(change, self._top(change))
            return self._commit(change)

    def _earlier(self, change: Change) -> Pinned | None:
        """What this request id did before, if it did anything."""
        request_id = change.call.request_id
        revision = self.ledger.revision_by_request(self.model, request_id)
        if revision is None:
            return None
        if revision.request_digest != change.request_digest:
            raise RequestIdReusedError(
                f"request id {request_id!r} made revision {revision.id[:12]} from another "
                "request; use a new request id",
                request_id=request_id,
                revision=revision.id,
            )
        return self.serving.at(revision.id)

    def _commit(self, change: Change) -> Pinned:
        for attempt in range(1, ATTEMPTS + 1):
            prepared = self._prepare(change, self._top(change))
            try:
                with telemetry.stage("commit"):
                    committed = self.ledger.append(prepared.revision)
            except StaleRevisionError:
                if attempt == ATTEMPTS:
                    raise
                continue  # if the caller expects a revision, `_top` raises now
            if committed.id != prepared.revision.id:  # another server took the same request
                self.serving.refresh()
                return self.serving.at(committed.id)
            if self.serving.follows(change.branch):
                with telemetry.stage("publish"):
                    self.serving.publish(prepared)
            if change.kind is RevisionKind.REVERT:
                telemetry.count_revert(change.by)
            return prepared
        raise AssertionError("the last attempt returns or raises")

    def _top(self, change: Change) -> Top:
        """The branch's head, or where a new one starts, once it is what the caller expects."""
        if change.kind is RevisionKind.BRANCH:
            newest = self.serving.follows(change.start)
            pinned = self.serving.refresh() if newest else self.serving.at(change.start)
            return Top(pinned.revision, pinned.applied)
        if self.serving.follows(change.branch):
            pinned = self.serving.refresh()
            top = Top(pinned.revision, pinned.applied)
        else:
            head = self.ledger.head(self.model, change.branch)
            top = Top(head, self.ledger.applied(self.model, head.id))
        if change.expected and change.expected != top.revision.id:
            expected = self.ledger.find_revision(self.model, change.expected)
            if expected.id != top.revision.id:
                raise _stale(change, expected, top.revision)
        return top

    def _prepare(self, change: Change, top: Top) -> Pinned:
        """The revision that ``change`` would make on ``top``, with its weights composed."""
        planned = change.plan(top)
        begins = change.kind is RevisionKind.BRANCH
        composition = planned.composition or top.revision.composition
        weights = planned.weights or self.serving.prepare(planned.applied, composition)
        superseded, restored = planned.applied.shifted_since(top.applied)
        model_digest = self.engine.describe().digest
        revision = Revision(
            model=self.model,
            model_digest=model_digest,
            branch=change.branch,
            sequence=0 if begins else top.revision.sequence + 1,
            parent=top.revision.id,
            kind=change.kind,
            edits=planned.edits,
            superseded=superseded,
            restored=restored,
            active_count=planned.applied.active_count,
            composition=composition,
            active_set_digest=planned.applied.digest(model=model_digest, composition=composition),
            weights_digest=weights.digest,
            actor=change.call.actor,
            reason=change.call.reason,
            ticket=change.call.ticket,
            override=planned.override,
            request_id=change.call.request_id,
            request_digest=change.request_digest,
            created_at=self.now(),
            source=planned.source,
            removed=planned.removed,
            protected=top.revision.protected if planned.protected is None else planned.protected,
        )
        self.ledger.require_allowed(revision)
        return Pinned(revision=revision, weights=weights, applied=planned.applied)

    def _plan_apply(self, edit_ids: Sequence[EditId], override: str, top: Top) -> Planned:
        _require_distinct(edit_ids)
        edits = [self.edits.stored(edit_id) for edit_id in edit_ids]
        applied = top.applied.apply(map(AppliedEdit.of, edits))
        reports = [self._admissible(edit, override) for edit in edits]
        failed = any(not report.passed for report in reports)
        return Planned(
            edits=tuple(map(EditReference.of, edits, reports)),
            applied=applied,
            override=override if failed else "",
        )

    def _admissible(self, edit: Edit, override: str) -> Report:
        """The report that lets ``edit`` go live."""
        model = self.engine.describe().digest
        manifest = self.serving.artifacts.manifest(edit.patch)
        if manifest.model_digest != model:
            raise ModelMismatchError(
                f"edit {edit.id} was computed against checkpoint {manifest.model_digest[:12]}, "
                f"not {model[:12]}; propose it again",
                edit=edit.id,
                patch_model=manifest.model_digest,
                model=model,
            )
        report = self.ledger.latest_report(edit.id)
        if report.patch != edit.patch:
            raise PreconditionError(
                f"the latest report of edit {edit.id} is about another patch; verify it again",
                edit=edit.id,
                report=report.id,
            )
        if not override:
            report.raise_for_failures()
        return report

    def _plan_revert(self, edit_ids: Sequence[EditId], to_revision: str, top: Top) -> Planned:
        _require_distinct(edit_ids or ["to_revision"])
        if to_revision:
            edit_ids = self._since(to_revision, top)
        edits = [self.edits.stored(edit_id) for edit_id in edit_ids]
        applied = top.applied.revert(edit_ids)
        reports = [self.ledger.latest_report(edit.id) for edit in edits]
        return Planned(edits=tuple(map(EditReference.of, edits, reports)), applied=applied)

    def _since(self, to_revision: str, top: Top) -> list[EditId]:
        """The edits to revert so that what was applied at ``to_revision`` is left."""
        named = "0" if to_revision == BASE_REFERENCE else to_revision
        target = self.ledger.find_revision(self.model, named)
        wanted = [edit.edit for edit in self.ledger.applied(self.model, target.id).applied]
        present = [edit.edit for edit in top.applied.applied]
        missing = sorted(set(wanted) - set(present))
        if missing:
            raise PreconditionError(
                f"revision {target.id[:12]} had edits applied that have been reverted since: "
                f"{', '.join(missing)}; apply them again, or name the edits to revert",
                revision=target.id,
                edits=",".join(missing),
            )
        kept = set(wanted)
        if wanted != [edit for edit in present if edit in kept]:
            raise PreconditionError(
                f"since revision {target.id[:12]} its edits were applied in another order; "
                "name the edits to revert",
                revision=target.id,
            )
        since = [edit for edit in present if edit not in kept]
        if not since:
            raise PreconditionError(
                f"the branch has applied just what it had at revision {target.id[:12]}; "
                "there is nothing to revert",
                revision=target.id,
            )
        return since

    def _lock_of(self, change: Change) -> threading.Lock:
        # One for all new branches: names that never come to anything must not pile up.
        branch = BranchName("") if change.kind is RevisionKind.BRANCH else change.branch
        with self._locks_lock:
            return self._locks.setdefault(branch, threading.Lock())


def _require_distinct(edit_ids: Sequence[str]) -> None:
    if not edit_ids:
        raise InvalidInputError("name at least one edit", field="names")
    if len(set(edit_ids)) != len(edit_ids):
        raise InvalidInputError("an edit is named twice; name each once", field="names")


def _stale(change: Change, expected: Revision, head: Revision) -> StaleRevisionError:
    return StaleRevisionError(
        f"branch {change.branch} is at revision {head.id[:12]} (sequence {head.sequence}), not "
        f"at {expected.id[:12]}; read the head and retry",
        expected=expected.id,
        head=head.id,
        sequence=head.sequence,
    )
