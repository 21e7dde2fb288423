"""What a protected branch asks before an edit becomes applied there.

Invariants: checked in the transaction that commits, so that no other server's change of policy,
approval or report can come between the check and the commit. Taking back needs no approval. Only
a change of policy, and nothing by the way, changes whether a branch is protected.
"""

from typing import Final

from sqlalchemy import Connection

from errata_server.domain.branches import is_approved
from errata_server.domain.checks import Report
from errata_server.domain.errors import (
    ApprovalRequiredError,
    InvalidInputError,
    StaleRevisionError,
    VerificationFailedError,
)
from errata_server.domain.revisions import EditReference, Revision, RevisionKind
from errata_server.ledger import edits, references

GUARDED: Final = (RevisionKind.APPLY, RevisionKind.PROMOTE)
"""Kinds of revisions by which an edit becomes applied."""

SHOWN: Final = 8
"""Edits a message names; the metadata has them all."""


def require_approved(connection: Connection, revision: Revision) -> None:
    """Do nothing if ``revision`` applies only what its branch lets it.

    Raises:
        VerificationFailedError: the branch is protected, and the latest report of an edit has
            failed checks: it cannot be approved.
        ApprovalRequiredError: the branch is protected, and nobody but the proposer approved of
            an edit as its latest report shows it.
        StaleRevisionError: an edit was verified again since ``revision`` was made.
        EditNotFoundError: it vouches for an edit the ledger does not hold.
    """
    if not revision.protected or revision.kind not in GUARDED:
        return
    lacking = []
    for reference in revision.edits:
        report = _latest_report(connection, revision, reference)
        if not _is_approved(connection, report):
            _require_approvable(revision, report)
            lacking.append(reference.edit)
    if lacking:
        named = ", ".join(lacking[:SHOWN])
        more = f" and {len(lacking) - SHOWN} more" if len(lacking) > SHOWN else ""
        raise ApprovalRequiredError(
            f"branch {revision.branch!r} is protected, and nobody but its proposer has approved "
            f"of the latest report of {named}{more}; let somebody else read it and run "
            f"`errata approve {lacking[0]}`, then repeat this",
            branch=revision.branch,
            edits=",".join(lacking),
        )


def require_kept(connection: Connection, revision: Revision) -> None:
    """Do nothing if ``revision`` is protected as its parent is, or changes just that.

    Raises:
        InvalidInputError: it would drop or bring in protection by the way.
        RevisionNotFoundError: its parent is not there.
    """
    kind = revision.kind
    before = references.by_id(connection, revision.model, revision.parent).protected
    expected = {RevisionKind.POLICY: not before, RevisionKind.BRANCH: False}.get(kind, before)
    if revision.protected is not expected:
        raise InvalidInputError(
            f"protection passes from each revision of a branch to the next; a {kind} revision "
            f"here must have it {'on' if expected else 'off'}",
            field="protected",
        )


def _require_approvable(revision: Revision, report: Report) -> None:
    """Do nothing if ``report`` passed; an approval would be refused otherwise."""
    if report.passed:
        return
    kinds = [check.kind for check in report.failures]
    raise VerificationFailedError(
        f"branch {revision.branch!r} is protected, and edit {report.edit} failed checks "
        f"({', '.join(kinds)}), so that neither an override nor an approval lets it in; propose "
        "it again in other words, or keep it on a branch that is not protected",
        branch=revision.branch,
        edit=report.edit,
        report=report.id,
        failed=",".join(kinds),
    )


def _latest_report(connection: Connection, revision: Revision, reference: EditReference) -> Report:
    latest = edits.latest_report(connection, reference.edit)
    if latest.id != reference.report:
        raise StaleRevisionError(
            f"edit {reference.edit} has a newer report than the change on branch "
            f"{revision.branch!r} was made with; read it and retry",
            edit=reference.edit,
            report=latest.id,
        )
    return latest


def _is_approved(connection: Connection, report: Report) -> bool:
    proposer = edits.get(connection, report.edit).proposer
    return is_approved(report.id, proposer, edits.approvals(connection, report.edit))
