"""``locators`` and ``locate``: other ways to ask where the model keeps a fact."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

import errata
from errata.cli import _inputs as inputs
from errata.cli import _pictures as pictures
from errata.cli import _render as render
from errata.cli._options import Author, Files, command
from errata.cli._session import Session

app = typer.Typer()


@command(app, "locators")
def locators(session: Session) -> None:
    """List the locators, with what each can and cannot show."""
    found = list(session.client.locators())
    session.screen.result(
        {"locators": found},
        *(renderable for locator in found for renderable in (_described(locator), "")),
    )


@command(app, "locate")
def locate(
    session: Session,
    locator: Annotated[
        str, typer.Argument(metavar="LOCATOR", help="One of those `errata locators` lists.")
    ],
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What the model is given.")],
    subject: Annotated[str, typer.Option(help="Whom or what the prompt is about.")],
    author: Author,
    files: Files,
    answer: Annotated[str, typer.Option(help="Else the model's own next word.")] = "",
    told: Annotated[
        list[str] | None,
        typer.Option("--set", help="An option of the locator; give several.", metavar="NAME=VALUE"),
    ] = None,
    texts: Annotated[
        Path | None,
        typer.Option(help="Ordinary texts, one a line, for locators that learn from some."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn at random.")] = 0,
    at: Annotated[
        str, typer.Option(help="A revision, sequence or branch, or 'base'.", metavar="REVISION")
    ] = "",
) -> None:
    """Ask a locator about one fact, and show its charts as tables."""
    files.check()
    operation = session.client.locate(
        locator,
        prompt,
        subject,
        answer=answer,
        options=inputs.numbers(told or ()),
        texts=inputs.lines(texts) if texts else (),
        seed=seed,
        revision=at,
        **author.signed(),
    )
    location = session.finish(operation)
    files.write(location, session.screen)
    session.screen.result(
        {"operation": operation.name, "location": location.to_dict()},
        *pictures.picture(location.picture(), session.screen.width),
    )
    session.warn(location.warnings)


def _described(locator: errata.Locator) -> Table:
    options = (
        (f"--set {o.name}=", f"{o.meaning} ({o.minimum:g} to {o.maximum:g}, else {o.default:g})")
        for o in locator.options
    )
    return render.pairs(
        [
            (locator.name, locator.title),
            ("shows", locator.shows),
            ("cannot show", locator.cannot_show),
            ("source", locator.source),
            *options,
        ]
    )
