"""Reading edits: the stored rows, and the state that follows from them.

Invariants: a state is computed from reports, approvals and what a branch has applied, never
stored, so that it cannot disagree with them; it is the ledger's, which what a server serves may be
a moment behind.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from errata_server.domain.edits import Edit, EditState
from errata_server.domain.errors import EditNotFoundError, InvalidInputError
from errata_server.domain.ids import MAIN, BranchName, EditId, ModelId
from errata_server.ledger.edit_evidence import Evidence
from errata_server.ledger.ledger import Ledger
from errata_server.service.artifacts import Artifacts
from errata_server.service.calls import page_limit
from errata_server.service.views import EditView, Page

LOOKED_THROUGH: Final = 500
"""Edits looked at together where only those in one state are wanted."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EditReader:
    """The edits of one model as the ledger and the head of a branch show them."""

    ledger: Ledger
    model: ModelId
    artifacts: Artifacts

    def stored(self, edit_id: EditId) -> Edit:
        """The edit's row.

        Raises:
            EditNotFoundError: this model has no such edit.
        """
        (edit,) = self._stored([edit_id])
        return edit

    def _stored(self, edit_ids: Sequence[EditId]) -> list[Edit]:
        edits = self.ledger.edits(edit_ids)
        for edit in edits:
            if edit.model != self.model:
                raise EditNotFoundError(
                    f"edit {edit.id} belongs to model {edit.model}, not {self.model}",
                    edit=edit.id,
                    model=edit.model,
                )
        return edits

    def view(self, edit_id: EditId, branch: BranchName = MAIN) -> EditView:
        """The edit with everything derived from other rows.

        Raises:
            EditNotFoundError: this model has no such edit.
            BranchNotFoundError: there is no such branch.
        """
        (view,) = self.views([edit_id], branch)
        return view

    def views(self, edit_ids: Iterable[EditId], branch: BranchName = MAIN) -> tuple[EditView, ...]:
        """Several edits, as `view`, in a few statements for all of them."""
        edits = self._stored(list(edit_ids))
        evidence = self.ledger.evidence(self.model, [edit.id for edit in edits], branch)
        return tuple(self._views(edits, evidence))

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
        found: list[EditView] = []
        cursor = EditId(page_token) or None
        at_once = limit + 1 if state is None else max(limit + 1, LOOKED_THROUGH)
        while len(found) <= limit:
            ids = self._after(cursor, at_once)
            evidence = self.ledger.evidence(self.model, ids, branch)
            wanted = [one for one in ids if state in {None, state_of(one, evidence)}]
            edits = self.ledger.edits(wanted[: limit + 1 - len(found)])
            found += self._views(edits, evidence)
            if len(ids) < at_once:
                break
            cursor = ids[-1]
        more = len(found) > limit
        return Page(
            items=tuple(found[:limit]), next_token=str(found[limit - 1].edit.id) if more else ""
        )

    def _after(self, cursor: EditId | None, limit: int) -> list[EditId]:
        try:
            return self.ledger.edit_ids(self.model, limit=limit, after=cursor)
        except EditNotFoundError as error:
            raise InvalidInputError(
                f"page_token {cursor!r} is not one this server gave out; begin without one",
                field="page_token",
            ) from error

    def _views(self, edits: Sequence[Edit], evidence: Evidence) -> list[EditView]:
        self.artifacts.preload(edit.patch for edit in edits)
        return [
            EditView(
                edit=edit,
                state=state_of(edit.id, evidence),
                manifest=self.artifacts.manifest(edit.patch),
                artifact_bytes=len(self.artifacts.load(edit.patch)),
                report=evidence.of[edit.id].report,
                approvals=evidence.of[edit.id].approvals,
                superseded_by=evidence.applied.hiding(edit.id),
            )
            for edit in edits
        ]


def state_of(edit: EditId, evidence: Evidence) -> EditState:
    """Where ``edit`` stands on the branch that was asked about."""
    applied, own = evidence.applied, evidence.of[edit]
    if edit in applied:
        return EditState.SUPERSEDED if applied.hiding(edit) else EditState.APPLIED
    if own.was_applied:
        return EditState.REVERTED
    if not own.report.passed:
        return EditState.REJECTED
    if any(approval.report == own.report.id for approval in own.approvals):
        return EditState.APPROVED
    return EditState.VERIFIED
