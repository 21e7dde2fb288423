"""Write a small ledger with the code of a release, for `tests/ledger/releases`.

Run with the release's own folders on the path, and nothing of this tree but this file::

    git archive RELEASE | tar -x -C FOLDER
    PYTHONPATH=FOLDER/server:FOLDER/client:FOLDER python -P tools/release_ledger.py OUTPUT

It writes ``SCHEMA.jsonl``, the rows as lines of an archive (ADR 0022), and ``SCHEMA.json``, what
the release itself says of its history. It uses only what every release has had.
"""

import base64
import hashlib
import json
import sqlite3
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from errata_server.domain.edits import Edit
from errata_server.domain.facts import CheckPrompt
from errata_server.domain.ids import MAIN
from errata_server.ledger.migrate import migrate
from errata_server.ledger.tables import metadata
from errata_server.version import VERSION
from tests.support import MODEL, edit_request
from tests.support.histories import operation
from tests.support.services import PATIENCE, Services, call, open_services


def write_history(services: Services) -> None:
    """Two edits of one subject, others, applied, superseded, reverted, approved; operations."""
    paris, rome = services.proposed(target="Paris"), services.proposed(target="Rome")
    louvre = services.proposed("Louvre", "Rome")
    unused = services.proposed("Colosseum", "Zürich")
    if "suites" in metadata.tables:
        write_suites(services, louvre)
    services.propose(edit_request("Prado", "Madrid"))  # fails: the model says so already
    services.apply(paris)
    services.proposals.approve(louvre.id, "seen \N{EM DASH} ok", call("approval", actor="ben"))
    services.apply(rome, louvre)
    services.revert(louvre)
    services.apply(louvre)
    services.revert(rome)
    verifying = services.proposals.verify(unused.id, call("verify"))
    services.operations.wait(verifying.id, PATIENCE)
    calibrating = services.models.calibrate(7, call("calibrate"))
    services.operations.wait(calibrating.id, PATIENCE)
    services.ledger.start_operation(operation())  # still running, as after a crash


def write_suites(services: Services, edit: Edit) -> None:
    """Two versions of a suite, one that is retired, and a report judged by them."""
    from errata_server.domain.suites import suite_name  # noqa: PLC0415 - 0001 had none

    prompts = tuple(
        CheckPrompt(prompt=f"{subject} stands in", expected=city)
        for subject, city in (("Smith Tower", "Seattle"), ("Big Ben", "London"))
    )
    for name, chosen in (("owner", prompts[:1]), ("owner", prompts), ("old", prompts), ("old", ())):
        services.upkeep.suites.add(suite_name(name), chosen, call())
    verifying = services.proposals.verify(edit.id, call("judged"))
    services.operations.wait(verifying.id, PATIENCE)


def state_of(services: Services) -> dict[str, Any]:
    """What the release says of its own history."""
    ledger = services.ledger
    revisions = ledger.revisions(MODEL, MAIN, limit=100)
    edits = [view.edit for view in services.proposals.list(page_size=100).items]
    applied = {revision.id: ledger.applied(MODEL, revision.id) for revision in revisions}
    return {
        "version": VERSION,
        "model": MODEL,
        "revisions": [revision.id for revision in revisions],
        "weights": [revision.weights_digest for revision in revisions],
        "active_sets": [
            applied[revision.id].digest(
                model=revision.model_digest, composition=revision.composition
            )
            for revision in revisions
        ],
        "applied": [[edit.edit for edit in applied[made.id].applied] for made in revisions],
        "active": [[edit.edit for edit in applied[made.id].active()] for made in revisions],
        "edits": {edit.id: edit.digest for edit in edits},
        "latest_reports": {edit.id: ledger.latest_report(edit.id).id for edit in edits},
        "approvals": {edit.id: len(ledger.approvals(edit.id)) for edit in edits},
        "operations": {found.id: found.state for found in ledger.operations(MODEL, 100)},
    }


def write_rows(database: sqlite3.Connection, schema: str, path: Path) -> None:
    """Every row, as lines of an archive."""
    tables, lines = [], []
    for table in metadata.sorted_tables:
        columns = [column.name for column in table.columns]
        key = ", ".join(column.name for column in table.primary_key.columns)
        rows = database.execute(
            f"SELECT {', '.join(columns)} FROM {table.name} ORDER BY {key}"  # noqa: S608
        ).fetchall()
        binary = [name for name in columns if name in {"body", "payload"}]
        tables.append({"name": table.name, "columns": columns, "binary": binary, "rows": len(rows)})
        lines += [[_shown(value) for value in row] for row in rows]
    heading = {
        "kind": "errata ledger",
        "format": 1,
        "schema": schema,
        "version": VERSION,
        "models": [MODEL],
        "tables": tables,
    }
    said = "".join(
        json.dumps(line, separators=(",", ":")) + "\n" for line in [heading, *lines]
    ).encode()
    closing = json.dumps({"sha256": hashlib.sha256(said).hexdigest()}, separators=(",", ":"))
    path.write_bytes(said + closing.encode() + b"\n")


def _shown(value: object) -> object:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def main(output: Annotated[Path, typer.Argument(help="Folder to write into.")]) -> None:
    """Write the ledger of the release on the path."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "ledger.db"
        url = f"sqlite:///{file}"
        migrate(url)
        with open_services(url) as services:
            write_history(services)
            state = state_of(services)
        database = sqlite3.connect(file)
        (schema,) = database.execute("SELECT version_num FROM alembic_version").fetchone()
        write_rows(database, schema, output / f"{schema}.jsonl")
        database.close()
    text = json.dumps({"schema": schema, **state}, indent=1, sort_keys=True)
    (output / f"{schema}.json").write_text(f"{text}\n", encoding="utf-8")
    typer.echo(f"{output / schema}.jsonl")


if __name__ == "__main__":
    typer.run(main)
