"""Revisions: the hash-chained record of what each branch serves.

Invariants: a revision's id is the SHA-256 of its canonical body; because the body includes
``parent`` (and ``source``, where it has one), an id vouches for the whole history below it.
Sequences are gapless within a branch and start at 0: main with the genesis revision, the
untouched base model, any other branch with the one that says where it starts. Apply and revert
change what is applied; a branch's first revision and a change of policy leave it as it is, and a
promotion makes it what it is at its source.
"""

from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Self

from errata_server.domain import canonical
from errata_server.domain.checks import Report
from errata_server.domain.edits import AppliedSet, Edit
from errata_server.domain.ids import (
    MAIN,
    BranchName,
    Digest,
    EditId,
    ModelId,
    ReportId,
    RequestId,
    RevisionId,
)
from errata_server.domain.patches import Composition

NO_PARENT: Final = RevisionId("")
NO_SOURCE: Final = RevisionId("")
_ADDED_LATER: Final = {"source": NO_SOURCE, "removed": (), "protected": False}
"""Values the first release did not have: left out of the body while they have their default, so
that a revision keeps its id."""


class RevisionKind(StrEnum):
    """What made a revision."""

    GENESIS = "genesis"
    APPLY = "apply"
    REVERT = "revert"
    BRANCH = "branch"
    PROMOTE = "promote"
    POLICY = "policy"


@dataclass(frozen=True, slots=True, kw_only=True)
class EditReference:
    """An edit as a revision vouches for it: by the digests of all that describes it."""

    edit: EditId
    edit_digest: Digest
    patch: Digest
    report: ReportId
    """The report that was current when the revision was made."""

    @classmethod
    def of(cls, edit: Edit, report: Report) -> Self:
        """``edit`` as it stands, with the report it is applied on."""
        return cls(edit=edit.id, edit_digest=edit.digest, patch=edit.patch, report=report.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """One committed change of what a branch serves."""

    model: ModelId
    model_digest: Digest
    branch: BranchName
    sequence: int
    parent: RevisionId
    kind: RevisionKind
    edits: tuple[EditReference, ...]
    """The edits applied or reverted by this revision, in the order given; for a promotion, those
    it applies."""

    superseded: tuple[EditId, ...]
    """Edits that were active in the parent and are now hidden by a newer one."""

    restored: tuple[EditId, ...]
    """Edits that were superseded in the parent and are active again."""

    active_count: int
    composition: Composition
    active_set_digest: Digest
    weights_digest: Digest
    actor: str
    reason: str
    ticket: str
    override: str
    """Why failed checks were overridden; empty where none was."""

    request_id: RequestId
    request_digest: Digest
    created_at: datetime
    source: RevisionId = NO_SOURCE
    """The revision whose applied set a promotion takes over; empty for every other kind."""

    removed: tuple[EditReference, ...] = ()
    """The edits a promotion takes back, as its source had taken them back."""

    protected: bool = False
    """Whether the branch asks, from this revision on, for approvals of what is applied."""

    @classmethod
    def genesis(
        cls,
        *,
        model: ModelId,
        model_digest: Digest,
        composition: Composition,
        weights_digest: Digest,
        request_digest: Digest,
        created_at: datetime,
    ) -> Self:
        """The first revision of a model: nothing applied, on main.

        Args:
            model: The model's name.
            model_digest: Of its checkpoint.
            composition: How its edits are to be composed.
            weights_digest: Of what is served where no edit is applied.
            request_digest: Of the request that made the model known.
            created_at: When that was.
        """
        return cls(
            model=model,
            model_digest=model_digest,
            branch=MAIN,
            sequence=0,
            parent=NO_PARENT,
            kind=RevisionKind.GENESIS,
            edits=(),
            superseded=(),
            restored=(),
            active_count=0,
            composition=composition,
            active_set_digest=AppliedSet().digest(model=model_digest, composition=composition),
            weights_digest=weights_digest,
            actor="errata-server",
            reason="the untouched base model",
            ticket="",
            override="",
            request_id=RequestId("genesis"),
            request_digest=request_digest,
            created_at=created_at,
        )

    @property
    def body(self) -> bytes:
        """Canonical JSON of every field, later ones only where they are not the default.

        What is hashed is what is stored.
        """
        fields = asdict(self) | {"created_at": self.created_at.isoformat()}
        for name, default in _ADDED_LATER.items():
            if fields[name] == default:
                del fields[name]
        return canonical.encode(fields)

    @property
    def id(self) -> RevisionId:
        """SHA-256 of `body`."""
        return RevisionId(canonical.digest(self.body))

    @classmethod
    def from_body(cls, body: bytes) -> Self:
        """Inverse of `body`."""
        fields: dict[str, Any] = canonical.decode(body)
        fields["kind"] = RevisionKind(fields["kind"])
        fields["edits"] = tuple(EditReference(**edit) for edit in fields["edits"])
        fields["superseded"] = tuple(fields["superseded"])
        fields["restored"] = tuple(fields["restored"])
        fields["removed"] = tuple(EditReference(**edit) for edit in fields.get("removed", ()))
        fields["composition"] = Composition(fields["composition"])
        fields["created_at"] = datetime.fromisoformat(fields["created_at"])
        return cls(**fields)
