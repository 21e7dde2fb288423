"""``branch``, ``promote``: lines of revisions beside main, and how they come together."""

from typing import Annotated

import typer

import errata
from errata._options import BranchOptions, PromoteOptions, ProtectOptions
from errata.cli import _render_branches as render_branches
from errata.cli._options import DryRun, Guarded, Justified, command
from errata.cli._session import Session

app = typer.Typer()
_branch = typer.Typer(no_args_is_help=True, help="List, create, protect and unprotect branches.")
app.add_typer(_branch, name="branch")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The branch's name, such as canary.")]


@command(_branch, "list")
def list_branches(session: Session) -> None:
    """List branches with their heads, and whether they are protected."""
    found = list(session.client.branches())
    session.screen.result({"branches": found}, render_branches.branches(found))


@command(_branch, "create")
def create(
    session: Session,
    name: Name,
    why: Justified,
    tried: DryRun,
    start: Annotated[
        str,
        typer.Option(
            "--from",
            help="Where it starts: a revision, sequence or branch; main's head if not given.",
            metavar="REVISION",
        ),
    ] = "",
) -> None:
    """Begin a branch at any revision."""
    options: BranchOptions = {
        **why.signed(),
        "start": start,
        "reason": why.reason,
        "ticket": why.ticket,
        "validate_only": tried.dry_run,
    }
    branch = session.client.create_branch(name, **options)
    session.screen.result(
        {"branch": branch, "dry_run": tried.dry_run},
        render_branches.created(branch, dry_run=tried.dry_run),
    )


@command(_branch, "protect")
def protect(session: Session, name: Name, why: Justified, guarded: Guarded) -> None:
    """Ask, from now on, for an approval by another of every edit that is applied."""
    branch = session.client.protect(name, _reason(why), **_options(why, guarded))
    _show_protection(session, branch, guarded)


@command(_branch, "unprotect")
def unprotect(session: Session, name: Name, why: Justified, guarded: Guarded) -> None:
    """No longer ask for approvals."""
    branch = session.client.unprotect(name, _reason(why), **_options(why, guarded))
    _show_protection(session, branch, guarded)


@command(app, "promote")
def promote(
    session: Session,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="The branch to take over.")],
    why: Justified,
    guarded: Guarded,
    to: Annotated[str, typer.Option(help="The branch that moves.", metavar="TARGET")] = "main",
) -> None:
    """Let a branch have exactly what another has; forward only, so that it loses nothing."""
    options: PromoteOptions = {**_options(why, guarded), "reason": why.reason}
    change = session.client.promote(source, to, **options)
    session.screen.result(
        {
            "revision": change.revision,
            "served": change.served,
            "dry_run": guarded.dry_run,
            "live_verification": change.live_verification,
        },
        render_branches.promoted(change, source, dry_run=guarded.dry_run),
    )
    if change.live_verification:
        session.screen.note(f"{change.live_verification} is asking the live edits again")


def _reason(why: Justified) -> str:
    if not why.reason.strip():
        raise typer.BadParameter("say why with --reason; it is kept in the ledger")
    return why.reason


def _options(why: Justified, guarded: Guarded) -> ProtectOptions:
    return {
        **why.signed(),
        "ticket": why.ticket,
        "expected_revision": guarded.expected_revision,
        "validate_only": guarded.dry_run,
    }


def _show_protection(session: Session, branch: errata.Branch, guarded: Guarded) -> None:
    session.screen.result(
        {"branch": branch, "dry_run": guarded.dry_run},
        render_branches.protection(branch, dry_run=guarded.dry_run),
    )
