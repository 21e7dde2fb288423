"""Edits as the ledger holds them, and the set of them a branch has applied.

Invariants: an edit's body never changes; its state is derived from its reports, approvals
and the revisions that name it. Within a branch the newest applied edit of a subject is
active and the earlier ones are superseded, so that reverting any edit gives the state that
would be there had it never been applied.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Self

from errata_server.domain import canonical
from errata_server.domain.errors import AlreadyAppliedError, NotAppliedError
from errata_server.domain.facts import EditRequest
from errata_server.domain.ids import Digest, EditId, ModelId, ProfileId, ReportId
from errata_server.domain.patches import Composition
from errata_server.domain.signatures import ProposerSignature


class EditState(StrEnum):
    """Where an edit stands on a branch."""

    VERIFIED = "verified"
    REJECTED = "rejected"
    APPROVED = "approved"
    APPLIED = "applied"
    SUPERSEDED = "superseded"
    REVERTED = "reverted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """A proposed change of what the model believes about one subject."""

    id: EditId
    model: ModelId
    request: EditRequest
    patch: Digest
    profile: ProfileId
    proposer: str
    created_at: datetime
    signature: ProposerSignature | None = None
    """The proposer's own, over what was asked for; none where the proposal was not signed."""

    @property
    def body(self) -> bytes:
        """Canonical JSON of every field; what is hashed is what is stored.

        Without a signature there is no field for it: edits made before there was any keep
        their digests.
        """
        signature = {"signature": asdict(self.signature)} if self.signature else {}
        return canonical.encode(
            signature
            | {
                "id": self.id,
                "model": self.model,
                "request": self.request.to_json(),
                "patch": self.patch,
                "profile": self.profile,
                "proposer": self.proposer,
                "created_at": self.created_at.isoformat(),
            }
        )

    @property
    def digest(self) -> Digest:
        """SHA-256 of `body`."""
        return canonical.digest(self.body)

    @classmethod
    def from_body(cls, body: bytes) -> Self:
        """Inverse of `body`."""
        fields = canonical.decode(body)
        fields["request"] = EditRequest.from_json(fields["request"])
        fields["created_at"] = datetime.fromisoformat(fields["created_at"])
        if "signature" in fields:
            fields["signature"] = ProposerSignature(**fields["signature"])
        return cls(**fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """Somebody's word that an edit may be applied."""

    edit: EditId
    report: ReportId
    """The report the approver saw."""

    actor: str
    comment: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedEdit:
    """What a branch needs to know of an edit it has applied."""

    edit: EditId
    subject: str
    patch: Digest

    @classmethod
    def of(cls, edit: Edit) -> Self:
        """What a branch keeps of ``edit``."""
        return cls(edit=edit.id, subject=edit.request.subject, patch=edit.patch)


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedSet:
    """The edits a branch has applied and not reverted, oldest first.

    What is active is worked out once, and carried from one set to the next: a history of n
    revisions is walked set by set, and sorting each anew is what made that slow.
    """

    applied: tuple[AppliedEdit, ...] = ()
    _active: tuple[AppliedEdit, ...] | None = field(
        init=False, default=None, repr=False, compare=False
    )
    _patches: tuple[Digest, ...] | None = field(init=False, default=None, repr=False, compare=False)
    """Of the active edits, sorted."""

    def apply(self, edits: Iterable[AppliedEdit]) -> "AppliedSet":
        """This set with ``edits`` applied on top, in the order given.

        Raises:
            AlreadyAppliedError: one of them is applied already, or named twice.
        """
        present = {applied.edit for applied in self.applied}
        added: list[AppliedEdit] = []
        for edit in edits:
            if edit.edit in present:
                raise AlreadyAppliedError(
                    f"edit {edit.edit} is applied already; revert it first, or leave it out",
                    edit=edit.edit,
                )
            present.add(edit.edit)
            added.append(edit)
        newest = {edit.subject: edit for edit in added}
        return self._followed_by((*self.applied, *added), newest)

    def revert(self, edits: Iterable[EditId]) -> "AppliedSet":
        """This set as if ``edits`` had never been applied.

        Raises:
            NotAppliedError: one of them is not applied, or named twice.
        """
        remaining = {applied.edit: applied for applied in self.applied}
        subjects: set[str] = set()
        for edit in edits:
            if edit not in remaining:
                raise NotAppliedError(
                    f"edit {edit} is not applied on this branch; `errata log` shows what is",
                    edit=edit,
                )
            subjects.add(remaining.pop(edit).subject)
        left = tuple(remaining.values())
        newest: dict[str, AppliedEdit | None] = dict.fromkeys(subjects)
        newest |= {applied.subject: applied for applied in left if applied.subject in subjects}
        return self._followed_by(left, newest)

    def _followed_by(
        self, applied: tuple[AppliedEdit, ...], newest: Mapping[str, AppliedEdit | None]
    ) -> "AppliedSet":
        """The set of ``applied``, whose active edits differ from this one's as ``newest`` says.

        Args:
            applied: All of them.
            newest: What is active of each subject that has changed; nothing where none is.
        """
        after = AppliedSet(applied=applied)
        if self._active is None:
            return after
        come = [edit for edit in newest.values() if edit is not None]
        active = [edit for edit in self._active if edit.subject not in newest]
        for edit in come:
            insort(active, edit, key=_id)
        object.__setattr__(after, "_active", tuple(active))
        if self._patches is not None:
            patches = list(self._patches)
            for edit in self._active:
                if edit.subject in newest:
                    del patches[bisect_left(patches, edit.patch)]
            for edit in come:
                insort(patches, edit.patch)
            object.__setattr__(after, "_patches", tuple(patches))
        return after

    def without(self, other: "AppliedSet") -> tuple[AppliedEdit, ...]:
        """What is applied here and not in ``other``, oldest first."""
        theirs = {applied.edit for applied in other.applied}
        return tuple(applied for applied in self.applied if applied.edit not in theirs)

    def active(self) -> tuple[AppliedEdit, ...]:
        """The newest applied edit of each subject, by edit id."""
        if self._active is None:
            newest = {applied.subject: applied for applied in self.applied}
            object.__setattr__(self, "_active", tuple(sorted(newest.values(), key=_id)))
        return self._active or ()

    def superseded(self) -> tuple[AppliedEdit, ...]:
        """Applied edits hidden by a newer one of the same subject, by edit id."""
        active = {applied.edit for applied in self.active()}
        hidden = (applied for applied in self.applied if applied.edit not in active)
        return tuple(sorted(hidden, key=lambda applied: applied.edit))

    def digest(self, *, model: Digest, composition: Composition) -> Digest:
        """Active-set digest: over the base, the composition and the sorted patch digests.

        Each patch's bytes name the profile it was computed with, so the profile is covered.
        Equal on every machine.
        """
        if self._patches is None:
            patches = tuple(sorted(applied.patch for applied in self.active()))
            object.__setattr__(self, "_patches", patches)
        return canonical.digest(
            canonical.encode(
                {
                    "model": model,
                    "composition": composition,
                    "patches": self._patches,
                }
            )
        )


def _id(applied: AppliedEdit) -> EditId:
    return applied.edit
