"""The audit: recompute everything a ledger says of a model.

Invariants: every row is read, whatever an earlier one was like; garbage becomes a finding,
never an exception. What an audit of the ledger alone cannot see is a history that was written
anew from end to end, or cut off together with its log: whoever keeps a ledger checkpoint can.
"""

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection

from errata_server.domain.edits import Edit
from errata_server.domain.ids import ModelId
from errata_server.ledger import guards, models
from errata_server.ledger.findings import Finding, Findings
from errata_server.ledger.history_audit import HistoryAudit
from errata_server.ledger.log_audit import LogAudit
from errata_server.ledger.record_audit import RecordAudit


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditResult:
    """What an audit found, and how much it looked at."""

    findings: tuple[Finding, ...]
    revisions: int
    edits: int
    artifacts: int
    reports: int
    log_entries: int

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings


def audit(
    connection: Connection, model: ModelId, *, objection: Callable[[Edit], str] = lambda _: ""
) -> AuditResult:
    """Recompute everything the ledger says of ``model``.

    1. The model's own row.
    2. All artifacts: each hashes to its digest.
    3. Its profiles, edits, reports, approvals, suites: each body hashes to its digest, says
       what the columns say, refers to rows that are there, and no number is left out.
    4. Its revisions from the first on: hash chain, sequence, evidence, and the active set
       replayed and digested again.
    5. Its branches: each head is the branch's last revision.
    6. Its log: every row has its entry, and every entry its row.
    7. The triggers that refuse to rewrite history.

    Args:
        connection: Where to read.
        model: Which model's rows.
        objection: What is wrong with a proposer's signature on an edit; empty if nothing.

    Raises:
        ModelNotFoundError: no revision or row of the ledger mentions the model.
    """
    findings = Findings()
    records = RecordAudit(connection, model, findings)
    known = records.check_model()
    artifacts = records.check_artifacts()
    records.check_profiles()
    edits = records.check_edits(objection)
    reports = records.check_reports()
    records.check_approvals()
    records.check_suites()
    history = HistoryAudit(connection, model, findings, records.evidence)
    revisions = history.check()
    if not (known or edits or revisions):
        raise models.missing(model)
    records.check_measured_revisions(history.known)
    entries = LogAudit(connection, model, findings).check()
    guards.check(connection, findings)
    return AuditResult(
        findings=findings.all(),
        revisions=revisions,
        edits=edits,
        artifacts=artifacts,
        reports=reports,
        log_entries=entries,
    )
