"""What to do next with edits and operations, in a sentence.

Invariant: no command is named that would be refused or has nothing to do, as far as the edit's
state on main tells.
"""

from collections.abc import Iterable
from typing import Any, Final

import errata
from errata import EditState
from errata._types import short

_APPLIED: Final = (EditState.APPLIED, EditState.SUPERSEDED)


def after_report(proposal: errata.Proposal) -> str:
    """What a report of one edit leaves to do."""
    edit = proposal.edit
    if proposal.report.passed:
        return _standing(edit) or f"Next: errata apply {edit.id}"
    failed = ", ".join(check.kind for check in proposal.report.failures)
    if edit.state in _APPLIED:
        return (
            f"It is applied and no longer passes ({failed}). `errata show {edit.id}` has every "
            f"answer; `errata revert {edit.id}` takes it back"
        )
    return (
        f"It cannot be applied as it is ({failed}). `errata show {edit.id}` has every answer; "
        "propose it in other words, or say why it must go live all the same, on a branch that is "
        f'not protected: errata apply {edit.id} --override "REASON"'
    )


def after_approval(edit: errata.Edit) -> str:
    """What an approval has come to."""
    standing = _standing(edit)
    if standing:
        return f"{edit.id} is approved. {standing}"
    others = [one for one in edit.approvals if one.report == edit.report]
    if any(one.actor != edit.proposer for one in others):
        return f"{edit.id} is approved; `errata apply {edit.id}` makes it live."
    return (
        f"{edit.id} is approved by its own proposer; a protected branch asks for somebody else's "
        f"approval as well. `errata apply {edit.id}` makes it live on any other."
    )


def after_batch(edits: Iterable[errata.ProposedEdit]) -> list[str]:
    """What a batch leaves to do; nothing where every edit that passed is applied."""
    passed = [one.edit for one in edits if one.passed]
    applied = [edit for edit in passed if edit.state in _APPLIED]
    # Checked again since, an edit may have failed: what passed is its first report.
    waiting = [e.id for e in passed if e.state not in {*_APPLIED, EditState.REJECTED}]
    said = [f"Applied already: {len(applied)}."] if applied else []
    return [*said, f"Next: errata apply {' '.join(waiting)}"] if waiting else said


def after_look(operation: errata.Operation[Any]) -> str:
    """What an operation leaves to do; empty once it has ended."""
    return "" if operation.done else f"Next: errata operations wait {short(operation.name)}"


def _standing(edit: errata.Edit) -> str:
    """How an edit that is applied stands; empty for any other."""
    if edit.state is EditState.SUPERSEDED:
        hiding = edit.superseded_by
        return (
            f"It is applied already, and {hiding} hides it; `errata revert {hiding}` makes it "
            "active again."
        )
    return "It is applied already." if edit.state is EditState.APPLIED else ""
