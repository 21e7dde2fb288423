"""``crawl``: what the model says around a subject, at two revisions."""

from typing import Annotated

import typer

from errata.cli import _render_upkeep as render
from errata.cli._options import Author, command
from errata.cli._session import Session

app = typer.Typer()


@command(app, "crawl")
def crawl(
    session: Session,
    subject: Annotated[str, typer.Argument(metavar="SUBJECT", help="Whom or what to ask about.")],
    author: Author,
    at: Annotated[
        str,
        typer.Option(help="A revision, sequence or branch; else main's head.", metavar="REVISION"),
    ] = "",
    against: Annotated[
        str, typer.Option(help="What it is compared with.", metavar="REVISION")
    ] = "base",
    depth: Annotated[
        int, typer.Option(min=1, max=2, help="2 asks about what it is related to as well.")
    ] = 1,
    paraphrases: Annotated[
        int, typer.Option(min=1, max=5, help="Wordings of each question, which vote.")
    ] = 3,
    max_prompts: Annotated[
        int, typer.Option(min=1, help="Most prompts asked at each revision.")
    ] = 400,
    everything: Annotated[
        bool, typer.Option("--all", help="Show what stayed the same, too.")
    ] = False,
) -> None:
    """Ask what the model says around a subject at two revisions, and show what differs."""
    operation = session.client.crawl(
        subject,
        revision=at,
        against=against,
        depth=depth,
        paraphrases=paraphrases,
        max_prompts=max_prompts,
        **author.signed(),
    )
    found = session.finish(operation)
    session.screen.result(
        {"operation": operation.name, "crawl": found}, *render.crawl(found, everything=everything)
    )
    session.warn(found.warnings)
