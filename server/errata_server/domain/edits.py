"""Edits as the ledger holds them, and the set of them a branch has applied.

Invariants: an edit's body never changes; its state is derived from its reports, approvals
and the revisions that name it. Within a branch the newest applied edit of a subject is
active and the earlier ones are superseded, so that reverting any edit gives the state that
would be there had it never been applied.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable
from copy import copy
from dataclasses import asdict, dataclass
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


class AppliedSet:
    """The edits a branch has applied and not reverted, oldest first; never changed once made.

    A set made from another begins with copies of what that knows, which C makes: a history of n
    revisions is walked set by set, and working each out anew from its edits is slow.
    """

    __slots__ = ("_edits", "_of_subject", "_patches")

    def __init__(self, applied: Iterable[AppliedEdit] = ()) -> None:
        """The set of ``applied``, oldest first.

        Raises:
            AlreadyAppliedError: one of them is named twice.
        """
        self._edits: dict[EditId, AppliedEdit] = {}
        self._of_subject: dict[str, tuple[AppliedEdit, ...]] = {}
        """Oldest first; the last of each is active."""

        self._patches: list[Digest] = []
        """Of the active edits, sorted."""

        for edit in applied:
            self._push(edit)

    def __contains__(self, edit: EditId) -> bool:
        """Whether ``edit`` is applied, be it active or not."""
        return edit in self._edits

    def __copy__(self) -> "AppliedSet":
        """One that may be changed."""
        twin = AppliedSet()
        twin._edits = self._edits.copy()
        twin._of_subject = self._of_subject.copy()
        twin._patches = self._patches.copy()
        return twin

    def __eq__(self, other: object) -> bool:
        """Whether the same edits are applied in the same order."""
        return isinstance(other, AppliedSet) and self.applied == other.applied

    def __hash__(self) -> int:
        """Of what is applied."""
        return hash(self.applied)

    def __repr__(self) -> str:
        """The call that makes an equal one."""
        return f"AppliedSet({self.applied!r})"

    @property
    def applied(self) -> tuple[AppliedEdit, ...]:
        """Every edit, oldest first."""
        return tuple(self._edits.values())

    @property
    def active_count(self) -> int:
        """How many edits are active."""
        return len(self._of_subject)

    def apply(self, edits: Iterable[AppliedEdit]) -> "AppliedSet":
        """This set with ``edits`` applied on top, in the order given.

        Raises:
            AlreadyAppliedError: one of them is applied already, or named twice.
        """
        after = copy(self)
        for edit in edits:
            after._push(edit)  # noqa: SLF001 - nobody has it yet
        return after

    def revert(self, edits: Iterable[EditId]) -> "AppliedSet":
        """This set as if ``edits`` had never been applied.

        Raises:
            NotAppliedError: one of them is not applied, or named twice.
        """
        after = copy(self)
        for edit in edits:
            after._take(edit)  # noqa: SLF001 - nobody has it yet
        return after

    def without(self, other: "AppliedSet") -> tuple[AppliedEdit, ...]:
        """What is applied here and not in ``other``, oldest first."""
        return tuple(edit for name, edit in self._edits.items() if name not in other)

    def subjects(self) -> Iterable[str]:
        """Those of the applied edits."""
        return self._of_subject.keys()

    def active_of(self, subject: str) -> AppliedEdit | None:
        """The newest applied edit of ``subject``, if there is one."""
        edits = self._of_subject.get(subject)
        return edits[-1] if edits else None

    def hiding(self, edit: EditId) -> EditId | None:
        """The newer edit of its subject that hides ``edit``; None where it is active, or gone."""
        here = self._edits.get(edit)
        newest = None if here is None else self._of_subject[here.subject][-1].edit
        return None if newest == edit else newest

    def active(self) -> tuple[AppliedEdit, ...]:
        """The newest applied edit of each subject, by edit id."""
        return tuple(sorted((edits[-1] for edits in self._of_subject.values()), key=_id))

    def superseded(self) -> tuple[AppliedEdit, ...]:
        """Applied edits hidden by a newer one of the same subject, by edit id."""
        return tuple(sorted((e for es in self._of_subject.values() for e in es[:-1]), key=_id))

    def shifted_since(
        self, before: "AppliedSet", subjects: Iterable[str] | None = None
    ) -> tuple[tuple[EditId, ...], tuple[EditId, ...]]:
        """Edits applied then and now that have lost their activity, and regained it, by id.

        Args:
            before: What was applied.
            subjects: Those of which something may have changed; all of them if not given.
        """
        superseded, restored = [], []
        for subject in set(before.subjects() if subjects is None else subjects):
            was, is_now = before.active_of(subject), self.active_of(subject)
            if was == is_now:
                continue
            if was is not None and was.edit in self:
                superseded.append(was.edit)
            if is_now is not None and is_now.edit in before:
                restored.append(is_now.edit)
        return tuple(sorted(superseded)), tuple(sorted(restored))

    def digest(self, *, model: Digest, composition: Composition) -> Digest:
        """Active-set digest: over the base, the composition and the sorted patch digests.

        Each patch's bytes name the profile it was computed with, so the profile is covered.
        Equal on every machine.
        """
        body = canonical.encode({"model": model, "composition": composition, "patches": []})
        if self._patches:
            # Digests need no escapes, and joining them takes a tenth of what encoding takes.
            patches = '","'.join(self._patches)
            body = body.removesuffix(b"]}") + f'"{patches}"]}}'.encode()
        return canonical.digest(body)

    def _push(self, edit: AppliedEdit) -> None:
        if edit.edit in self._edits:
            raise AlreadyAppliedError(
                f"edit {edit.edit} is applied already; revert it first, or leave it out",
                edit=edit.edit,
            )
        self._edits[edit.edit] = edit
        self._stand(edit.subject, (*self._of_subject.get(edit.subject, ()), edit))

    def _take(self, name: EditId) -> None:
        edit = self._edits.pop(name, None)
        if edit is None:
            raise NotAppliedError(
                f"edit {name} is not applied on this branch; `errata log` shows what is",
                edit=name,
            )
        left = tuple(one for one in self._of_subject[edit.subject] if one.edit != name)
        self._stand(edit.subject, left)

    def _stand(self, subject: str, edits: tuple[AppliedEdit, ...]) -> None:
        """Have ``edits`` be what is applied of ``subject``."""
        active = self.active_of(subject)
        if active is not None:
            del self._patches[bisect_left(self._patches, active.patch)]
        if edits:
            insort(self._patches, edits[-1].patch)
            self._of_subject[subject] = edits
        else:
            del self._of_subject[subject]


def _id(applied: AppliedEdit) -> EditId:
    return applied.edit
