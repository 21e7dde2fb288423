"""``status``, ``calibrate``, ``moments``: the served model."""

from pathlib import Path
from typing import Annotated

import typer

import errata
from errata.cli import _inputs as inputs
from errata.cli import _render as render
from errata.cli import _render_branches as render_branches
from errata.cli import _render_upkeep as render_upkeep
from errata.cli._options import Author, command
from errata.cli._session import Session

app = typer.Typer()


@command(app, "status")
def status(session: Session) -> None:
    """Show the served model, where its ledger and its branches stand, and its health.

    A server that has lost its ledger, or has taken itself out, still says so.
    """
    model = session.client.model()
    head: errata.Revision | None = None
    health: errata.ModelHealth | None = None
    branches: list[errata.Branch] = []
    warnings: tuple[str, ...] = ()
    try:
        head, health = session.client.head().revision, session.client.health()
        branches, warnings = list(session.client.branches()), health.warnings
    except (errata.LedgerUnavailableError, errata.QuarantinedError) as error:
        warnings = (str(error),)
    session.screen.result(
        {
            "model": model,
            "head": head,
            "served": model.served,
            "health": health,
            "branches": branches,
        },
        render.status(model, head),
        *(render_upkeep.health(health) if health is not None else ()),
        render_branches.branches(branches),
    )
    session.warn(warnings)


@command(app, "calibrate")
def calibrate(
    session: Session,
    author: Author,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of facts and prefixes.")] = 0,
) -> None:
    """Find layer, prefixes, step size, clamp and guard width by editing known facts."""
    operation = session.client.calibrate(seed=seed, **author.signed())
    profile = session.finish(operation)
    session.screen.result(
        {"operation": operation.name, "profile": profile}, render.profile(profile)
    )


@command(app, "moments")
def moments(
    session: Session,
    author: Author,
    texts: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="Ordinary texts, one a line; else the server's own."
        ),
    ] = None,
) -> None:
    """Accumulate the second moment of keys over ordinary text."""
    given = inputs.lines(texts) if texts else ()
    operation = session.client.collect_moments(given, **author.signed())
    tokens = session.finish(operation)
    session.screen.result(
        {"operation": operation.name, "tokens": tokens},
        f"The second moment now covers {tokens:,} tokens.",
    )
