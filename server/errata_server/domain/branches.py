"""Branches: their names, and what a protected one asks of an edit.

Invariants: a branch's name reads as nothing else that refers to a revision: no sequence, no
beginning of an id, no edit, not the base. Protection is a property of revisions, so history
says when and why it changed; nobody's approval of an edit of their own counts.
"""

import re
from collections.abc import Iterable
from typing import Final

from errata_server.domain.edits import Approval
from errata_server.domain.errors import InvalidInputError
from errata_server.domain.ids import BranchName, ReportId

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")
_READS_OTHERWISE: Final = re.compile(r"base|[0-9a-f]{6,}|e-[0-9a-f]+", re.IGNORECASE)


def branch_name(text: str) -> BranchName:
    """``text`` as the name of a new branch.

    Raises:
        InvalidInputError: it is none, or would be taken for something else.
    """
    if not _NAME.fullmatch(text):
        raise InvalidInputError(
            f"{text[:80]!r} cannot name a branch; use up to 64 letters, digits, '.', '_' and '-', "
            "beginning with a letter",
            field="branch",
        )
    if _READS_OTHERWISE.fullmatch(text):
        raise InvalidInputError(
            f"a branch named {text!r} would be taken for the base, for the beginning of a "
            "revision's id or for an edit; use another name",
            field="branch",
        )
    return BranchName(text)


def is_approved(report: ReportId, proposer: str, approvals: Iterable[Approval]) -> bool:
    """Whether somebody other than ``proposer`` approved of the edit as ``report`` shows it."""
    return any(given.report == report and given.actor != proposer for given in approvals)
