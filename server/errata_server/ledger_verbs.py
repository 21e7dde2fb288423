"""``errata-server ledger``: export, import and check a ledger without a model.

Exit codes: 0 done, 1 failed or findings, with one sentence on standard error, 2 wrong usage.
"""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer

from errata_server import terminal
from errata_server.ledger.database import Database
from errata_server.ledger.exports import Contents, export_ledger
from errata_server.ledger.imports import import_ledger
from errata_server.ledger.integrity import Integrity, check_ledger
from errata_server.terminal import LedgerUrl, Output, OutputOption

_SHORT: Final = 12

verbs = typer.Typer(
    name="ledger",
    help="Export, import and check a ledger; no model is loaded.",
    no_args_is_help=True,
    add_completion=False,
)


@verbs.command(name="export")
def export_verb(
    *,
    file: Annotated[Path, typer.Argument(help="Where to write it; .jsonl.gz says what it is.")],
    ledger: LedgerUrl = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Write a whole ledger into one file, also while servers use it."""
    settings = terminal.read_settings(ledger=ledger)
    with terminal.one_sentence(), terminal.progress() as report:
        replaced = file.exists()
        database = Database(settings.ledger)
        try:
            contents = export_ledger(database, file, replace=force, progress=report)
        finally:
            database.close()
    document = {"file": str(file), "bytes": file.stat().st_size, "replaced": replaced}
    said = f"{file}: {document['bytes']} bytes{', in place of an earlier export' * replaced}"
    terminal.answer(output, document | asdict(contents), _told(said, contents))


@verbs.command(name="import")
def import_verb(
    *,
    file: Annotated[Path, typer.Argument(help="What `errata-server ledger export` wrote.")],
    ledger: LedgerUrl = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Fill an empty ledger from an export; nothing is kept unless an audit finds it sound."""
    settings = terminal.read_settings(ledger=ledger)
    with terminal.one_sentence(), terminal.progress() as report:
        contents = import_ledger(settings.ledger, file, report)
    document = {"file": str(file), "ledger": settings.shown_ledger}
    said = f"{settings.shown_ledger}: imported and audited, nothing is wrong"
    terminal.answer(output, document | asdict(contents), _told(said, contents))


@verbs.command(name="check")
def check_verb(*, ledger: LedgerUrl = None, output: OutputOption = Output.TABLE) -> None:
    """Audit every model of a ledger, and on SQLite the file itself."""
    settings = terminal.read_settings(ledger=ledger)
    with terminal.one_sentence(), terminal.progress() as report:
        database = Database(settings.ledger)
        try:
            checked = check_ledger(database, report)
        finally:
            database.close()
    document = {
        "ledger": settings.shown_ledger,
        "findings": [asdict(finding) for finding in checked.findings],
        "models": {
            model: {
                "revisions": result.revisions,
                "edits": result.edits,
                "reports": result.reports,
                "artifacts": result.artifacts,
            }
            for model, result in checked.models.items()
        },
    }
    terminal.answer(output, document, _checked(settings.shown_ledger, checked))
    if not checked.clean:
        raise typer.Exit(terminal.FAILED)


def _told(said: str, contents: Contents) -> Iterator[str]:
    yield said
    yield ", ".join(f"{rows} {table}" for table, rows in contents.rows.items() if rows)
    for branch, head in contents.heads.items():
        yield f"{branch} is at {head}"
    yield f"schema {contents.schema}, sha256 {contents.digest}"


def _checked(ledger: str, checked: Integrity) -> Iterator[str]:
    for finding in checked.findings:
        yield f"{finding.row}: {finding.problem}"
    for model, result in checked.models.items():
        counted = f"{result.revisions} revisions, {result.edits} edits, {result.reports} reports"
        yield f"{model}: {counted}"
    yield f"{ledger}: {len(checked.findings)} findings"
