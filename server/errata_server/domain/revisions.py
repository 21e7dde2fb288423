"""Revisions: the hash-chained record of what each branch serves.

Invariants: a revision's id is the SHA-256 of its canonical body; because the body includes
``parent``, an id vouches for the whole history below it. Sequences are gapless within a
branch and start at 0 with the genesis revision, the untouched base model.
"""

from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Self

from errata_server.domain import canonical
from errata_server.domain.ids import (
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


class RevisionKind(StrEnum):
    """What made a revision."""

    GENESIS = "genesis"
    APPLY = "apply"
    REVERT = "revert"
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
    """The edits applied or reverted by this revision, in the order given."""

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

    @property
    def body(self) -> bytes:
        """Canonical JSON of every field; what is hashed is what is stored."""
        return canonical.encode(asdict(self) | {"created_at": self.created_at.isoformat()})

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
        fields["composition"] = Composition(fields["composition"])
        fields["created_at"] = datetime.fromisoformat(fields["created_at"])
        return cls(**fields)
