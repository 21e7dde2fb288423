"""``apply`` and ``revert``: changes of what is served."""

from typing import Annotated

import typer

import errata
from errata.cli import _render as render
from errata.cli._options import Commit, command
from errata.cli._session import Session

app = typer.Typer()


@command(app, "apply")
def apply(
    session: Session,
    edits: Annotated[list[str], typer.Argument(metavar="EDIT", help="Ids of edits.")],
    commit: Commit,
    override: Annotated[
        str,
        typer.Option(help="Apply although checks failed, for this reason.", metavar="REASON"),
    ] = "",
) -> None:
    """Make edits live, all in one revision."""
    change = session.client.apply(edits, **commit.change(), override_reason=override)
    _show(session, change, commit)


@command(app, "revert")
def revert(
    session: Session,
    commit: Commit,
    edits: Annotated[list[str] | None, typer.Argument(metavar="EDIT", help="Ids of edits.")] = None,
    to: Annotated[
        str,
        typer.Option(help="Return to what was applied at this revision.", metavar="REVISION"),
    ] = "",
) -> None:
    """Take edits back, exactly: as if they had never been applied."""
    if bool(edits) == bool(to):
        raise typer.BadParameter("name the edits to revert, or a revision with --to; not both")
    change = session.client.revert(edits or (), **commit.change(), to_revision=to)
    _show(session, change, commit)


def _show(session: Session, change: errata.Change, commit: Commit) -> None:
    session.screen.result(
        {
            "revision": change.revision,
            "served": change.served,
            "dry_run": commit.dry_run,
            "live_verification": change.live_verification,
        },
        render.changed(change, dry_run=commit.dry_run),
    )
    if change.live_verification:
        session.screen.note(f"{change.live_verification} is asking the live edits again")
