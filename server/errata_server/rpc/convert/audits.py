"""What an audit found."""

from errata.v1 import ledger_pb2
from errata_server.rpc.convert import revisions
from errata_server.service.history import AuditView


def audit_message(view: AuditView) -> ledger_pb2.AuditLedgerResponse:
    """Every finding with its row, and how much was looked at."""
    found = view.ledger
    return ledger_pb2.AuditLedgerResponse(
        clean=view.clean,
        findings=[
            ledger_pb2.AuditFinding(row=finding.row, problem=finding.problem)
            for finding in found.findings
        ],
        revisions_checked=found.revisions,
        edits_checked=found.edits,
        artifacts_checked=found.artifacts,
        reports_checked=found.reports,
        log_entries_checked=found.log_entries,
        served_digest_matches=view.served_digest_matches,
        base_digest_matches=view.base_digest_matches,
        served=revisions.served(view.served),
    )
