"""``suite``, ``suites``: regression prompts that every proposal is run with."""

from pathlib import Path
from typing import Annotated

import typer

from errata._options import SuiteOptions
from errata.cli import _inputs as inputs
from errata.cli import _render_upkeep as render
from errata.cli._options import Author, command
from errata.cli._session import Session

app = typer.Typer()
_suite = typer.Typer(
    no_args_is_help=True, help="Store, read and retire suites of regression prompts."
)
app.add_typer(_suite, name="suite")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The suite's name, such as capitals.")]
Reason = Annotated[str, typer.Option(help="Why; kept in the ledger.")]


@command(_suite, "add")
def add(
    session: Session,
    name: Name,
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help=".json, .jsonl or .csv of prompt and expected."),
    ],
    author: Author,
    reason: Reason = "",
) -> None:
    """Store prompts as the next version; every proposal from now on runs it."""
    options: SuiteOptions = {**author.signed(), "reason": reason}
    suite = session.client.add_suite(name, inputs.check_prompts(file), **options)
    session.screen.result(
        {"suite": suite}, f"{suite.id} has {suite.prompt_count} prompts; every proposal runs them."
    )


@command(_suite, "retire")
def retire(session: Session, name: Name, author: Author, reason: Reason = "") -> None:
    """Store a version without prompts: no proposal runs the suite any more."""
    options: SuiteOptions = {**author.signed(), "reason": reason}
    suite = session.client.add_suite(name, (), **options)
    session.screen.result({"suite": suite}, f"{name} is retired as of {suite.id}.")


@command(_suite, "show")
def show(
    session: Session,
    name: Annotated[
        str, typer.Argument(metavar="NAME[@VERSION]", help="A suite, or a version of it.")
    ],
) -> None:
    """Show the prompts of a suite, of the latest version unless one is named."""
    suite = session.client.suite(name)
    session.screen.result({"suite": suite}, render.suites([suite]), render.prompts(suite))


@command(app, "suites")
def suites(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="All versions of this suite.")] = "",
) -> None:
    """List the latest version of every suite, or all versions of one."""
    found = list(session.client.suites(name))
    if name and not found:
        found = [session.client.suite(name)]  # a suite has a version, or this says there is none
    session.screen.result({"suites": found}, render.suites(found))
