"""Statements on artifacts: payloads addressed by their content.

Invariant: a payload that leaves this module hashes to the digest it was asked for by.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, Insert, insert, select
from sqlalchemy.dialects import postgresql

from errata_server.domain import canonical
from errata_server.domain.errors import NotFoundError
from errata_server.domain.ids import Digest
from errata_server.ledger import tables
from errata_server.ledger.bodies import read_body, short


def artifact_row(digest: str) -> str:
    """How findings and errors name a row of `artifacts`."""
    return f"artifacts[{short(digest)}]"


def put(connection: Connection, payload: bytes) -> Digest:
    """Store ``payload`` unless it is there already."""
    digest = canonical.digest(payload)
    if not exists(connection, digest):
        connection.execute(_insert(connection).values(digest=digest, payload=payload))
    return digest


def _insert(connection: Connection) -> Insert:
    # On PostgreSQL another writer may store the same bytes at the same time. On SQLite a
    # writer is alone, and its insert guard would refuse even an insert that does nothing.
    if connection.dialect.name == "postgresql":
        return postgresql.insert(tables.artifacts).on_conflict_do_nothing()
    return insert(tables.artifacts)


def exists(connection: Connection, digest: Digest) -> bool:
    """Whether the ledger holds this artifact."""
    statement = select(tables.artifacts.c.digest).where(tables.artifacts.c.digest == digest)
    return connection.scalar(statement) is not None


def get(connection: Connection, digest: Digest) -> bytes:
    """The artifact's bytes, hashed again.

    Raises:
        NotFoundError: the ledger does not hold it.
        LedgerCorruptError: its bytes are not what its digest says.
    """
    payload = connection.scalar(
        select(tables.artifacts.c.payload).where(tables.artifacts.c.digest == digest)
    )
    if payload is None:
        raise missing(digest)
    return read_body(artifact_row(digest), payload, digest, bytes)


def get_all(connection: Connection, digests: Sequence[Digest]) -> dict[Digest, bytes]:
    """Those of ``digests`` that the ledger holds, each hashed again.

    Raises:
        LedgerCorruptError: the bytes of one are not what its digest says.
    """
    columns = tables.artifacts.c
    rows = connection.execute(select(tables.artifacts).where(columns.digest.in_(digests)))
    return {
        Digest(row.digest): read_body(artifact_row(row.digest), row.payload, row.digest, bytes)
        for row in rows
    }


def missing(digest: Digest) -> NotFoundError:
    """The error for an artifact the ledger does not hold."""
    return NotFoundError(
        f"the ledger has no artifact {digest!r}; store it first, or check the digest",
        artifact=digest,
    )
