"""Reading edits: the stored rows, and the state that follows from them.

Invariant: a state is computed from reports, approvals and what a branch has applied, never
stored, so that it cannot disagree with them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from errata_server.domain.edits import AppliedSet, Edit, EditState
from errata_server.domain.errors import EditNotFoundError, InvalidInputError
from errata_server.domain.ids import MAIN, BranchName, EditId, ModelId
from errata_server.ledger.edit_evidence import EditEvidence
from errata_server.ledger.ledger import Ledger
from errata_server.service.calls import page_limit
from errata_server.service.serving import Serving
from errata_server.service.views import EditView, Page

LOOKED_THROUGH: Final = 500
"""Edits fetched together where only those in one state are wanted."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EditReader:
    """The edits of one model as the ledger and the head of a branch show them."""

    ledger: Ledger
    model: ModelId
    serving: Serving

    def stored(self, edit_id: EditId) -> Edit:
        """The edit's row.

        Raises:
            EditNotFoundError: this model has no such edit.
        """
        edit = self.ledger.edit(edit_id)
        if edit.model != self.model:
            raise EditNotFoundError(
                f"edit {edit_id} belongs to model {edit.model}, not {self.model}",
                edit=edit_id,
                model=edit.model,
            )
        return edit

    def view(self, edit_id: EditId, branch: BranchName = MAIN) -> EditView:
        """The edit with everything derived from other rows.

        Raises:
            EditNotFoundError: this model has no such edit.
            BranchNotFoundError: there is no such branch.
        """
        (view,) = self.views([edit_id], branch)
        return view

    def views(self, edit_ids: Iterable[EditId], branch: BranchName = MAIN) -> tuple[EditView, ...]:
        """Several edits, as `view`."""
        edits = [self.stored(edit_id) for edit_id in edit_ids]
        return tuple(self._views(edits, self._standing(branch), None, most=len(edits)))

    def page(
        self,
        branch: BranchName = MAIN,
        *,
        state: EditState | None = None,
        page_size: int = 0,
        page_token: str = "",
    ) -> Page[EditView]:
        """Edits newest first, in one state on ``branch`` where it is given.

        Raises:
            BranchNotFoundError: there is no such branch.
            InvalidInputError: the page size is negative or the token is none of ours.
        """
        limit = page_limit(page_size)
        standing = self._standing(branch)
        found: list[EditView] = []
        cursor = EditId(page_token) or None
        at_once = limit + 1 if state is None else max(limit + 1, LOOKED_THROUGH)
        while len(found) <= limit:
            edits = self._after(cursor, at_once)
            found += self._views(edits, standing, state, most=limit + 1 - len(found))
            if len(edits) < at_once:
                break
            cursor = edits[-1].id
        more = len(found) > limit
        return Page(
            items=tuple(found[:limit]), next_token=str(found[limit - 1].edit.id) if more else ""
        )

    def _after(self, cursor: EditId | None, limit: int) -> list[Edit]:
        try:
            return self.ledger.edits(self.model, limit=limit, after=cursor)
        except EditNotFoundError as error:
            raise InvalidInputError(
                f"page_token {cursor!r} is not one this server gave out; begin without one",
                field="page_token",
            ) from error

    def _views(
        self,
        edits: Sequence[Edit],
        standing: "_Standing",
        state: EditState | None,
        *,
        most: int,
    ) -> list[EditView]:
        """The first ``most`` in ``state``, any if not given; patches are fetched of no others."""
        evidence = self.ledger.evidence([edit.id for edit in edits], standing.branch)
        states = {edit.id: standing.state(edit, evidence[edit.id]) for edit in edits}
        shown = [edit for edit in edits if state in {None, states[edit.id]}][:most]
        self.serving.artifacts.preload(edit.patch for edit in shown)
        return [
            EditView(
                edit=edit,
                state=states[edit.id],
                manifest=self.serving.artifacts.manifest(edit.patch),
                artifact_bytes=len(self.serving.artifacts.load(edit.patch)),
                report=evidence[edit.id].report,
                approvals=evidence[edit.id].approvals,
                superseded_by=standing.superseding(edit),
            )
            for edit in shown
        ]

    def _standing(self, branch: BranchName) -> "_Standing":
        if branch == MAIN:
            return _Standing(branch, self.serving.head().applied)
        head = self.ledger.head(self.model, branch)
        return _Standing(branch, self.ledger.applied(self.model, head.id))


@dataclass(frozen=True, slots=True)
class _Standing:
    """A branch and what it has applied."""

    branch: BranchName
    applied: AppliedSet

    def state(self, edit: Edit, evidence: EditEvidence) -> EditState:
        """Where ``edit`` stands here."""
        if edit.id in self.applied:
            hidden = self.superseding(edit) is not None
            return EditState.SUPERSEDED if hidden else EditState.APPLIED
        if evidence.was_applied:
            return EditState.REVERTED
        if not evidence.report.passed:
            return EditState.REJECTED
        if any(approval.report == evidence.report.id for approval in evidence.approvals):
            return EditState.APPROVED
        return EditState.VERIFIED

    def superseding(self, edit: Edit) -> EditId | None:
        """The newer edit of its subject that hides ``edit``, if it is applied and one does."""
        active = self.applied.active_of(edit.request.subject) if edit.id in self.applied else None
        return active.edit if active is not None and active.edit != edit.id else None
