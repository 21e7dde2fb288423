"""Batches: many edits proposed in one operation, and what came of each."""

from collections.abc import Mapping
from dataclasses import dataclass

from errata._types import CheckPrompt, Edit, Fact


@dataclass(frozen=True, slots=True, kw_only=True)
class EditProposal:
    """One edit to propose; several of one subject become one edit."""

    subject: str
    facts: tuple[Fact, ...]
    paraphrases: tuple[CheckPrompt, ...] = ()
    neighbours: tuple[CheckPrompt, ...] = ()
    suite: tuple[CheckPrompt, ...] = ()
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposedEdit:
    """An edit of a batch as it was stored."""

    edit: Edit
    report: str
    """Its first report; `Client.report` reads it."""

    passed: bool
    failed_checks: tuple[str, ...]
    conflicts: str
    """What the check on conflicts says."""

    places: tuple[int, ...]
    """Indices of the proposals it was made from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedProposal:
    """Why some proposals of a batch came to nothing."""

    places: tuple[int, ...]
    subject: str
    reason: str
    message: str
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class NearSubjects:
    """Two subjects of a batch whose keys lie close."""

    first: str
    second: str
    conflict: float
    first_fires: bool
    """The first's guard would fire on the second's subject."""

    second_fires: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposedBatch:
    """What a batch came to: an edit or a failure for every proposal."""

    batch: str
    """Its name; proposing under it again skips what is stored already."""

    edits: tuple[ProposedEdit, ...]
    failures: tuple[FailedProposal, ...]
    near: tuple[NearSubjects, ...]

    @property
    def passed(self) -> bool:
        """Whether every proposal became an edit that may be applied."""
        return not self.failures and all(edit.passed for edit in self.edits)
