"""Branches: where they start, how one is promoted to another, and which are protected.

Invariants: a promotion only ever moves a branch forward, to exactly what its source has applied;
nothing that was decided on the target is lost by it. Nobody switches protection on or off
without a reason in the history.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from errata_server.domain.branches import branch_name
from errata_server.domain.edits import AppliedEdit
from errata_server.domain.errors import InvalidInputError, PreconditionError
from errata_server.domain.ids import BranchName, ModelId
from errata_server.domain.revisions import EditReference, RevisionKind
from errata_server.ledger.ledger import Ledger
from errata_server.service.calls import Call
from errata_server.service.changes import Change, Changes, Planned, Top
from errata_server.service.edits import EditReader
from errata_server.service.serving import Serving
from errata_server.service.views import Pinned


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Branches:
    """Begins branches of one model, promotes them, and protects them."""

    ledger: Ledger
    model: ModelId
    serving: Serving
    edits: EditReader
    changes: Changes

    def create(
        self, name: BranchName, call: Call, *, start: str = "", validate_only: bool = False
    ) -> Pinned:
        """Begin a branch at any revision; it is not protected.

        Args:
            name: A name that no branch of the model has.
            call: Who asks; a repeated request id gives the earlier revision.
            start: The revision it starts from, as `Ledger.find_revision` takes it; main's head
                where empty.
            validate_only: Return what would be committed, and commit nothing.

        Raises:
            InvalidInputError: the name cannot be a branch's.
            BranchExistsError: there is such a branch.
            RevisionNotFoundError: ``start`` does not exist.
            RequestIdReusedError: the request id was used for something else.
        """
        change = Change(
            kind=RevisionKind.BRANCH,
            branch=branch_name(name),
            call=call,
            request_digest=call.digest("create_branch", branch=name, start=start),
            expected="",
            plan=self._plan_create,
            start=start,
        )
        return self.changes.make(change, validate_only=validate_only)

    def promote(
        self,
        source: BranchName,
        target: BranchName,
        call: Call,
        *,
        expected: str = "",
        validate_only: bool = False,
    ) -> Pinned:
        """Let ``target`` have applied exactly what ``source`` has, by fast-forward.

        Args:
            source: Whose head is taken over.
            target: The branch that moves; it must have no change that ``source`` has not.
            call: Who asks; a repeated request id gives the earlier revision.
            expected: The revision the caller believes to be the head of ``target``.
            validate_only: Return what would be committed, and commit nothing.

        Raises:
            InvalidInputError: they are the same branch.
            BranchNotFoundError: one of them does not exist.
            PreconditionError: ``target`` has applied just what ``source`` has.
            DivergedError: ``target`` has changes of its own since.
            VerificationFailedError: ``target`` is protected, and an edit that becomes applied
                failed its checks.
            ApprovalRequiredError: ``target`` is protected, and nobody but its proposer approved
                of an edit that becomes applied.
            RevisionNotFoundError: ``expected`` does not exist.
            StaleRevisionError: the head is not ``expected``, or both keep moving.
            RequestIdReusedError: the request id was used for something else.
        """
        if source == target:
            raise InvalidInputError(
                f"branch {source!r} cannot be promoted to itself; name another target",
                field="target",
            )
        change = Change(
            kind=RevisionKind.PROMOTE,
            branch=target,
            call=call,
            request_digest=call.digest("promote", source=source, target=target, expected=expected),
            expected=expected,
            plan=lambda top: self._plan_promote(source, top),
        )
        return self.changes.make(change, validate_only=validate_only)

    def protect(
        self,
        branch: BranchName,
        call: Call,
        *,
        protected: bool,
        expected: str = "",
        validate_only: bool = False,
    ) -> Pinned:
        """Let a branch ask for approvals from now on, or no longer.

        Raises:
            InvalidInputError: no reason is given.
            BranchNotFoundError: there is no such branch.
            PreconditionError: it is so already.
            RevisionNotFoundError: ``expected`` does not exist.
            StaleRevisionError: the head is not ``expected``.
            RequestIdReusedError: the request id was used for something else.
        """
        if not call.reason.strip():
            raise InvalidInputError(
                "say why with a reason: it is what an auditor finds beside the change of policy",
                field="reason",
            )
        change = Change(
            kind=RevisionKind.POLICY,
            branch=branch,
            call=call,
            request_digest=call.digest(
                "protect", branch=branch, protected=protected, expected=expected
            ),
            expected=expected,
            plan=lambda top: self._plan_protect(top, protected=protected),
        )
        return self.changes.make(change, validate_only=validate_only)

    def _plan_create(self, top: Top) -> Planned:
        pinned = self.serving.at(top.revision.id)
        return Planned(edits=(), applied=pinned.applied, weights=pinned.weights, protected=False)

    def _plan_promote(self, source: BranchName, top: Top) -> Planned:
        head = self.ledger.head(self.model, source)
        pinned = self.serving.at(head.id)
        if pinned.applied == top.applied:
            raise PreconditionError(
                f"branch {top.revision.branch!r} has applied just what {source!r} has; there is "
                "nothing to promote",
                source=head.id,
                target=top.revision.id,
            )
        return Planned(
            edits=self._references(pinned.applied.without(top.applied)),
            applied=pinned.applied,
            weights=pinned.weights,
            composition=head.composition,
            source=head.id,
            removed=self._references(top.applied.without(pinned.applied)),
        )

    def _plan_protect(self, top: Top, *, protected: bool) -> Planned:
        if top.revision.protected is protected:
            raise PreconditionError(
                f"branch {top.revision.branch!r} is {'' if protected else 'not '}protected as "
                "it is; there is nothing to change",
                branch=top.revision.branch,
                revision=top.revision.id,
            )
        weights = self.serving.at(top.revision.id).weights
        return Planned(edits=(), applied=top.applied, weights=weights, protected=protected)

    def _references(self, applied: Sequence[AppliedEdit]) -> tuple[EditReference, ...]:
        edits = [self.edits.stored(one.edit) for one in applied]
        return tuple(EditReference.of(edit, self.ledger.latest_report(edit.id)) for edit in edits)
