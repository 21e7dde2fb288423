"""The audit: recompute everything a ledger says of a model.

Invariants: every row is read, whatever an earlier one was like; garbage becomes a finding,
never an exception. What an audit of the ledger alone cannot see is the newest rows cut off
together with the head that named them: whoever keeps a later revision's id can.
"""

from dataclasses import dataclass

from sqlalchemy import Connection

from errata_server.domain.ids import ModelId
from errata_server.ledger import models
from errata_server.ledger.findings import Finding, Findings
from errata_server.ledger.history_audit import HistoryAudit
from errata_server.ledger.record_audit import RecordAudit


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditResult:
    """What an audit found, and how much it looked at."""

    findings: tuple[Finding, ...]
    revisions: int
    edits: int
    artifacts: int
    reports: int

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings


def audit(connection: Connection, model: ModelId) -> AuditResult:
    """Recompute everything the ledger says of ``model``.

    1. The model's own row.
    2. All artifacts: each hashes to its digest.
    3. Its profiles, edits, reports, approvals, suites: each body hashes to its digest, says
       what the columns say, refers to rows that are there, and no number is left out.
    4. Its revisions from the first on: hash chain, sequence, evidence, and the active set
       replayed and digested again.
    5. Its branches: each head is the branch's last revision.

    Raises:
        ModelNotFoundError: no revision or row of the ledger mentions the model.
    """
    findings = Findings()
    records = RecordAudit(connection, model, findings)
    known = records.check_model()
    artifacts = records.check_artifacts()
    records.check_profiles()
    edits = records.check_edits()
    reports = records.check_reports()
    records.check_approvals()
    records.check_suites()
    history = HistoryAudit(connection, model, findings, records.evidence)
    revisions = history.check()
    if not (known or edits or revisions):
        raise models.missing(model)
    records.check_measured_revisions(history.known)
    return AuditResult(
        findings=findings.all(),
        revisions=revisions,
        edits=edits,
        artifacts=artifacts,
        reports=reports,
    )
