"""Whether a whole ledger is in order: the database's own checks, and an audit of every model.

Invariant: what the database cannot check by itself is checked model by model; nothing is
changed.
"""

from dataclasses import dataclass

from sqlalchemy import Connection, select

from errata_server.domain.ids import ModelId
from errata_server.domain.operations import Progress, ReportProgress
from errata_server.ledger import tables
from errata_server.ledger.audit import AuditResult, audit
from errata_server.ledger.database import Database, unhurried
from errata_server.ledger.findings import Finding
from errata_server.ledger.schema import require_current_schema


@dataclass(frozen=True, slots=True, kw_only=True)
class Integrity:
    """What a check of a whole ledger found."""

    findings: tuple[Finding, ...]
    models: dict[str, AuditResult]

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings


def check_ledger(database: Database, progress: ReportProgress) -> Integrity:
    """Check everything in ``database``, which may be in use.

    Raises:
        SchemaMismatchError: the ledger must be migrated first, or is newer than this server.
        LedgerCorruptError: SQLite cannot even read the file.
        LedgerUnavailableError: the database does not answer.
    """
    database.require_file()
    with database.reading() as connection:
        unhurried(connection)
        require_current_schema(connection)
        return check_everything(connection, progress)


def check_everything(connection: Connection, progress: ReportProgress) -> Integrity:
    """Check everything that ``connection`` sees."""
    found = dict.fromkeys(_sqlite_findings(connection))
    known = sorted(connection.scalars(select(tables.models.c.id)))
    models: dict[str, AuditResult] = {}
    for done, model in enumerate(known):
        progress(Progress(stage="audit", done=done, total=len(known), note=model))
        models[model] = audit(connection, ModelId(model))
        # Artifacts belong to no model, so each audit tells of all of them.
        found |= dict.fromkeys(models[model].findings)
    progress(Progress(stage="audit", done=len(known), total=len(known)))
    return Integrity(findings=tuple(found), models=models)


def _sqlite_findings(connection: Connection) -> list[Finding]:
    """What SQLite says of its file: pages, indexes, constraints, references."""
    if connection.dialect.name != "sqlite":
        return []
    damage = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
    orphans = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
    return [
        *(Finding(row="sqlite", problem=str(said)) for said in damage if said != "ok"),
        *(
            Finding(
                row=f"{row[0]}[rowid {row[1]}]", problem=f"what it refers to in {row[2]} is gone"
            )
            for row in orphans
        ),
    ]
