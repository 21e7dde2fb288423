"""Where the migrations are and which schema this server knows.

Invariant: the newest migration found here is the only schema the server works on.
"""

from enum import StrEnum
from pathlib import Path
from typing import Final

from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

import errata_server
from errata_server.domain.errors import SchemaMismatchError

MIGRATE_COMMAND: Final = "errata-server migrate"


class SchemaState(StrEnum):
    """How a database's schema stands to the one this server knows."""

    CURRENT = "current"
    MISSING = "missing"
    OLDER = "older"
    NEWER = "newer"


def migrations_folder() -> Path:
    """The folder with ``env.py``: inside the installed package, else the checkout's.

    Raises:
        SchemaMismatchError: this installation has no migrations.
    """
    package = Path(errata_server.__file__).resolve().parent
    for folder in (package / "migrations", package.parents[1] / "migrations"):
        if (folder / "env.py").is_file():
            return folder
    raise SchemaMismatchError("this installation of errata-server lacks its migrations; reinstall")


def alembic_config() -> Config:
    """Alembic's configuration, with no database and no logging set up."""
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def stored_schema(connection: Connection) -> str:
    """The migration the database behind ``connection`` is at; empty where it has no schema."""
    return ",".join(sorted(MigrationContext.configure(connection).get_current_heads()))


def is_known(revision: str) -> bool:
    """Whether this server has a migration of this number."""
    scripts = ScriptDirectory.from_config(alembic_config())
    return revision in {script.revision for script in scripts.walk_revisions()}


def schema_state(connection: Connection) -> SchemaState:
    """How the database behind ``connection`` stands; reads one row."""
    found = set(MigrationContext.configure(connection).get_current_heads())
    scripts = ScriptDirectory.from_config(alembic_config())
    if not found:
        return SchemaState.MISSING
    if found == set(scripts.get_heads()):
        return SchemaState.CURRENT
    known = {script.revision for script in scripts.walk_revisions()}
    return SchemaState.OLDER if found <= known else SchemaState.NEWER


def require_current_schema(connection: Connection) -> None:
    """Do nothing if the database has the schema this server knows.

    Raises:
        SchemaMismatchError: saying what to run.
    """
    state = schema_state(connection)
    if state is SchemaState.CURRENT:
        return
    if state is SchemaState.NEWER:
        raise SchemaMismatchError(
            "the ledger was migrated by a newer errata-server; upgrade this server to at least "
            "that version, and do not migrate",
            schema=state,
        )
    what = "has no errata schema yet" if state is SchemaState.MISSING else "has an older schema"
    raise SchemaMismatchError(
        f"the ledger's database {what}; run `{MIGRATE_COMMAND}` with this server's --ledger, "
        "then start again",
        schema=state,
    )
