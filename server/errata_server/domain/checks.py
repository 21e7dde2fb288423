"""Checks: what was measured of an edit, held against a policy.

Invariants: a report keeps every prompt with its answers before and after; its id is the
SHA-256 of its canonical body; it passed exactly if no check failed.
"""

from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from errata_server.domain import canonical
from errata_server.domain.errors import VerificationFailedError
from errata_server.domain.ids import Digest, EditId, ModelId, ProfileId, ReportId, RevisionId
from errata_server.domain.measurements import Answer
from errata_server.domain.patches import Composition
from errata_server.domain.suites import SuiteReference


class CheckKind(StrEnum):
    """The checks a report is made of, in the order they are shown."""

    FINITE = "finite"
    CONVERGED = "converged"
    CLAMP = "clamp"
    RECOGNITION = "recognition"
    SELECTIVITY = "selectivity"
    CONFLICTS = "conflicts"
    EFFICACY = "efficacy"
    PARAPHRASE = "paraphrase"
    NEIGHBOURHOOD = "neighbourhood"
    PREFIXED_NEIGHBOURHOOD = "prefixed_neighbourhood"
    SAME_SUBJECT = "same_subject"
    NEIGHBOUR_DIVERGENCE = "neighbour_divergence"
    PERPLEXITY = "perplexity"
    CUMULATIVE_PERPLEXITY = "cumulative_perplexity"
    FLUENCY = "fluency"
    LIVE_EDITS = "live_edits"
    SUITE = "suite"


class Verdict(StrEnum):
    """What a check came to."""

    PASSED = "passed"
    WARNED = "warned"
    FAILED = "failed"
    SKIPPED = "skipped"
    """Nothing to measure; the explanation says why. Never counts as passed evidence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One measured value against one threshold."""

    kind: CheckKind
    verdict: Verdict
    measured: float | None
    threshold: float | None
    comparison: str
    """``>=`` or ``<=``: how ``measured`` must stand to ``threshold``; empty where skipped."""

    explanation: str
    """A sentence: what was measured, on how many prompts, and from where they came."""

    answers: tuple[Answer, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything measured of one edit on one branch at one revision."""

    model: ModelId
    edit: EditId
    patch: Digest
    profile: ProfileId
    against: RevisionId
    """The revision the edit was measured on top of."""

    composition: Composition
    policy: Digest
    checks: tuple[Check, ...]
    created_at: datetime
    suites: tuple[SuiteReference, ...] = ()
    """The stored suites whose prompts were run."""

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.failures

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.verdict is Verdict.FAILED)

    def raise_for_failures(self) -> None:
        """Do nothing if the report passed.

        Raises:
            VerificationFailedError: naming each failed check with value and threshold.
        """
        if self.passed:
            return
        details = "; ".join(
            f"{check.kind}: {check.explanation.rstrip('.')}" for check in self.failures
        )
        raise VerificationFailedError(
            f"edit {self.edit} failed {len(self.failures)} of {len(self.checks)} checks: "
            f"{details}. Propose it again in other words, or apply it to a branch that is not "
            "protected, with an override and a reason",
            edit=self.edit,
            report=self.id,
            failed=",".join(check.kind for check in self.failures),
        )

    def of_kind(self, kind: CheckKind) -> Check | None:
        """The check of this kind, if the report has one."""
        return next((check for check in self.checks if check.kind is kind), None)

    @property
    def body(self) -> bytes:
        """Canonical JSON of every field; what is hashed is what is stored.

        Without suites there is no field for them: reports made before there were any keep
        their ids.
        """
        fields = asdict(self) | {"created_at": self.created_at.isoformat()}
        if not self.suites:
            del fields["suites"]
        return canonical.encode(fields)

    @property
    def id(self) -> ReportId:
        """SHA-256 of `body`."""
        return ReportId(canonical.digest(self.body))

    @classmethod
    def from_body(cls, body: bytes) -> Self:
        """Inverse of `body`."""
        fields: dict[str, Any] = canonical.decode(body)
        fields["checks"] = tuple(_check_from_json(check) for check in fields["checks"])
        fields["composition"] = Composition(fields["composition"])
        fields["created_at"] = datetime.fromisoformat(fields["created_at"])
        fields["suites"] = tuple(SuiteReference(**suite) for suite in fields.get("suites", ()))
        return cls(**fields)


def _check_from_json(value: dict[str, Any]) -> Check:
    fields = dict(value)
    fields["kind"] = CheckKind(fields["kind"])
    fields["verdict"] = Verdict(fields["verdict"])
    fields["answers"] = tuple(Answer(**answer) for answer in fields["answers"])
    return Check(**fields)
