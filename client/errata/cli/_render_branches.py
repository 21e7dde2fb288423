"""What a person sees of branches; one function a type, or one for what happened to it."""

from collections.abc import Iterable

from rich.table import Table

import errata
from errata.cli import _render as render


def branches(shown: Iterable[errata.Branch]) -> Table:
    """Branches with their heads."""
    return render.table(
        ("branch", "head", "revision", "kind", "active", "protected", "by", "time (UTC)"),
        (
            (
                b.id,
                b.head.sequence,
                render.short(b.head.id),
                b.head.kind,
                b.head.active_count,
                "yes" if b.protected else "no",
                b.head.actor,
                render.when(b.head.created_at),
            )
            for b in shown
        ),
    )


def created(shown: errata.Branch, *, dry_run: bool) -> str:
    """That a branch has begun, and where."""
    if dry_run:
        return f"Nothing was committed: branch {shown.id} would start from {_parent(shown)}."
    return (
        f"Branch {shown.id} starts from {_parent(shown)} with {shown.head.active_count} active "
        f"edits; `errata apply EDIT --branch {shown.id}` changes it alone."
    )


def _parent(shown: errata.Branch) -> str:
    return f"revision {render.short(shown.head.parent)}"


def protection(shown: errata.Branch, *, dry_run: bool) -> str:
    """Whether a branch is protected from now on."""
    state = "protected" if shown.protected else "no longer protected"
    if dry_run:
        return f"Nothing was committed: branch {shown.id} would be {state}."
    return f"Branch {shown.id} is {state} as of revision {shown.head.sequence}."


def promoted(change: errata.Change, source: str, *, dry_run: bool) -> str:
    """What a promotion came to, as a sentence."""
    made = change.revision
    what = f"applies {', '.join(made.edits) or 'no edits'}"
    if made.removed:
        what += f" and takes back {', '.join(made.removed)}"
    if dry_run:
        return (
            f"Nothing was committed: promoting {source} to {made.branch} {what}; it would go "
            "through."
        )
    return (
        f"Revision {made.sequence} ({render.short(made.id)}) on {made.branch}: promotion of "
        f"{source} ({render.short(made.source)}), which {what}; {made.active_count} active."
    )
