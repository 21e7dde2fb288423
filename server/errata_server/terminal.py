"""What every verb of ``errata-server`` does at a terminal: settings, sentences, bars.

Invariant: what a verb answers with goes to standard output, all else to standard error.
"""

import json
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from errata_server import telemetry
from errata_server.config import Settings, load_settings
from errata_server.domain import operations
from errata_server.domain.errors import ErrataError, InvalidInputError

FAILED: Final = 1
USAGE: Final = 2
PATIENCE: Final = 1.0
"""Seconds before a bar is drawn: what is quicker needs none."""

_stderr = Console(stderr=True)

LedgerUrl = Annotated[
    str | None,
    typer.Option("--ledger", help="URL of the database.", show_default="sqlite:///errata.db"),
]


class Output(StrEnum):
    """How an answer is written."""

    TABLE = "table"
    JSON = "json"


OutputOption = Annotated[Output, typer.Option("--output", "-o", help="For people or programs.")]


def read_settings(**given: object) -> Settings:
    """The settings given and those of the environment; logging is set up by them.

    Raises:
        typer.Exit: one is not allowed, which has been said.
    """
    try:
        settings = load_settings(**given)
    except InvalidInputError as error:
        complain(error)
        raise typer.Exit(USAGE) from None
    telemetry.configure_logging(
        sys.stderr, logging.getLevelNamesMapping()[settings.log_level.upper()]
    )
    return settings


@contextmanager
def one_sentence() -> Iterator[None]:
    """Turn an error of ours into its message and an exit code."""
    try:
        yield
    except ErrataError as error:
        complain(error)
        raise typer.Exit(FAILED) from None


def complain(error: ErrataError) -> None:
    """Say what went wrong on standard error."""
    message = telemetry.mask_credentials(str(error))
    _stderr.print(f"errata-server: {message}", markup=False, highlight=False, soft_wrap=True)


def answer(output: Output, document: Mapping[str, object], lines: Iterator[str]) -> None:
    """Write ``document`` as JSON, or ``lines`` for people."""
    if output is Output.JSON:
        typer.echo(json.dumps(document, indent=2))
        return
    for line in lines:
        typer.echo(line)


@contextmanager
def progress() -> Iterator[operations.ReportProgress]:
    """A bar a stage, on standard error, for what takes longer than a moment."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    bars, started = Progress(*columns, console=_stderr), time.monotonic()
    tasks: dict[str, TaskID] = {}

    def report(step: operations.Progress) -> None:
        if step.stage not in tasks:
            tasks[step.stage] = bars.add_task(step.stage, note="")
        total = step.total or None
        bars.update(tasks[step.stage], completed=step.done, total=total, note=step.note)
        if time.monotonic() - started > PATIENCE:
            bars.start()

    try:
        yield report
    finally:
        if bars.live.is_started:  # else it would print an empty line
            bars.stop()
