"""``log``, ``show``, ``diff``, ``watch``, ``audit``: what was served, when and why."""

import re
from itertools import islice
from pathlib import Path
from typing import Annotated, Final

import typer

import errata
from errata.cli import _render as render
from errata.cli._keeper import Keeper
from errata.cli._options import Witness, command
from errata.cli._screen import FAILED
from errata.cli._session import Session

app = typer.Typer()

Branch = Annotated[str, typer.Option(help="The branch.")]

_EDIT: Final = re.compile(r"(models/[^/]+/edits/.+)|(e-[0-9a-f]+)")
_REPORT: Final = re.compile(r"models/[^/]+/reports/.+")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


@command(app, "log")
def log(
    session: Session,
    branch: Branch = "main",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")] = 20,
) -> None:
    """Show revisions, newest first."""
    pages = session.client.revisions(branch, page_size=min(limit, 1000))
    found = list(islice(pages, limit))
    session.screen.result({"revisions": found}, render.revisions(found))


@command(app, "show")
def show(
    session: Session,
    name: Annotated[
        str,
        typer.Argument(
            metavar="EDIT|REVISION|REPORT",
            help="An edit's id; a revision's id, prefix, sequence or branch; a report's id.",
        ),
    ],
    branch: Annotated[
        str, typer.Option(help="The branch on which an edit's state is shown.")
    ] = "main",
) -> None:
    """Show one edit with its report, one revision, or one report."""
    if _EDIT.fullmatch(name):
        _show_edit(session, name, branch)
    elif _REPORT.fullmatch(name):
        _show_report(session, name)
    else:
        _show_revision_or_report(session, name)


def _show_edit(session: Session, name: str, branch: str) -> None:
    edit = session.client.edit(name, branch=branch)
    report = session.client.report(edit.report)
    session.screen.result(
        {"edit": edit, "report": report},
        render.edit(edit),
        render.checks(report),
        render.tally(report),
        render.answers(report.checks),
    )


def _show_report(session: Session, name: str) -> None:
    report = session.client.report(name)
    session.screen.result(
        {"report": report},
        render.report_heading(report),
        render.checks(report),
        render.tally(report),
        render.answers(report.checks),
    )


def _show_revision_or_report(session: Session, name: str) -> None:
    """Both have a digest for an id; only asking tells which one this is."""
    try:
        revision = session.client.revision(name)
    except errata.RevisionNotFoundError:
        if not _DIGEST.fullmatch(name):
            raise
        _show_report(session, name)
        return
    session.screen.result({"revision": revision}, render.revision(revision))


@command(app, "diff")
def diff(
    session: Session,
    before: Annotated[str, typer.Argument(metavar="A", help="A revision, sequence or branch.")],
    after: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
) -> None:
    """Show which edits two revisions differ by."""
    found = session.client.diff(before, after)
    session.screen.result({"diff": found}, render.diff(found))


@command(app, "watch")
def watch(
    session: Session,
    branch: Branch = "main",
    start: Annotated[
        int | None,
        typer.Option("--from", min=0, help="First sequence; after the head if not given."),
    ] = None,
    count: Annotated[
        int | None, typer.Option("--count", "-n", min=1, help="End after so many.")
    ] = None,
) -> None:
    """Print revisions as they are committed, one a line, until interrupted."""
    for revision in islice(session.client.watch(start, branch=branch), count):
        session.screen.line({"revision": revision}, render.revision_line(revision))


@command(app, "audit")
def audit(
    session: Session,
    witness: Witness,
    against: Annotated[
        Path | None,
        typer.Option(
            help="Compare with a ledger checkpoint that was kept, else with that in "
            "$ERRATA_CHECKPOINT_FILE, which is then brought forward.",
            metavar="CHECKPOINT",
        ),
    ] = None,
) -> None:
    """Recompute the whole ledger and the served weights; exit with 1 if anything is wrong."""
    keeper = Keeper(session, witness.keys(), against)
    with session.screen.busy("auditing"):
        found = session.client.audit()
        compared = keeper.compare()
    problems = [*found.findings, *compared.findings]
    details = [render.findings(problems)] if problems else []
    session.screen.result(
        {"audit": found, "log": compared}, render.audit(found), compared.rendered, *details
    )
    if problems or not found.clean:
        raise typer.Exit(FAILED)
    keeper.bring_forward(compared)
