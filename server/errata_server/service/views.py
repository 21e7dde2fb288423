"""What the use cases answer with: domain values put together for one reader.

Invariant: a `Pinned` is immutable, so whoever holds one answers from one revision however
many are committed meanwhile.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from errata_server.domain.checks import Report
from errata_server.domain.edits import AppliedSet, Approval, Edit, EditState
from errata_server.domain.facts import CheckPrompt
from errata_server.domain.ids import BranchName, EditId
from errata_server.domain.leases import Lease
from errata_server.domain.patches import PatchManifest, ServedWeights
from errata_server.domain.profiles import ModelDescription, Profile
from errata_server.domain.revisions import Revision
from errata_server.domain.suites import SuiteVersion

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pinned:
    """A revision, what it has applied, and the weights that answer at it."""

    revision: Revision
    weights: ServedWeights
    applied: AppliedSet


@dataclass(frozen=True, slots=True, kw_only=True)
class EditView:
    """An edit with all that is derived from other rows; the state is that on one branch."""

    edit: Edit
    state: EditState
    manifest: PatchManifest
    artifact_bytes: int
    report: Report
    """The latest one."""

    approvals: tuple[Approval, ...]
    superseded_by: EditId | None
    """The active edit of the same subject that hides this one, where one does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteView:
    """A version of a suite with its prompts."""

    version: SuiteVersion
    prompts: tuple[CheckPrompt, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[Item]):
    """Some of a list, and where the next page begins."""

    items: tuple[Item, ...]
    next_token: str
    """Empty on the last page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diff:
    """Which edits two revisions differ by; states are those on the branch of ``end``."""

    start: Revision
    end: Revision
    added: tuple[EditView, ...]
    """Active at ``end`` alone."""

    removed: tuple[EditView, ...]
    """Active at ``start`` alone."""

    unchanged: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StandingView:
    """How a server stands to its ledger."""

    branch: BranchName
    """What it answers from where no revision is named."""

    replica: bool
    """Whether it changes nothing in the ledger."""

    reachable: bool
    """Whether the ledger answered when it was last asked."""

    staleness_seconds: float
    """Since the ledger last answered."""

    lag: int
    """Revisions of the branch that it knows of and does not serve yet."""

    quarantine: str
    """Why it has taken itself out; empty while it answers."""

    lease: Lease | None = None
    """Who carries out operations, as last heard of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelView:
    """The served checkpoint, its calibration and what it answers with."""

    description: ModelDescription
    profile: Profile | None
    served: Pinned
    live_edits: int
    applied_edits: int
    started_at: datetime
    standing: StandingView
