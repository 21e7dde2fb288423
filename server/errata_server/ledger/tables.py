"""The ledger's tables.

Invariants: every constraint has a name; digests and ids are text; ``body`` and ``payload``
hold the exact bytes that were hashed; ``position`` numbers a model's rows from 0 without
gaps, in commit order. The triggers that make rows insert-only are in the migrations. Rows that
change are those of `branches`, whose heads move, and of the working tables `operations` and
`leases`, on which no history depends. A table is part of an export unless its ``info`` is
`NOT_EXPORTED`.
"""

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Row,
    Select,
    Table,
    Text,
    UniqueConstraint,
)

StoredRow = Row[*tuple[Any, ...]]
"""A row of any of these tables, its columns as attributes."""

RowsQuery = Select[*tuple[Any, ...]]
"""A query that gives such rows."""

NOT_EXPORTED: Final = {"exported": False}
"""``info`` of a table whose rows mean nothing in another database."""

EXPORTED_AS: Final = "exported_as"
"""In the ``info`` of a column whose values mean nothing elsewhere: what an export has instead."""

ENDED: Final = 0
"""What ``leases.expires_ms`` is once a holder has given its lease up."""

metadata: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _digest_check(column: str) -> CheckConstraint:
    return CheckConstraint(f"length({column}) = 64", name=f"{column}_length")


models: Final = Table(
    "models",
    metadata,
    Column("id", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("body_digest", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    PrimaryKeyConstraint("id"),
    _digest_check("body_digest"),
    sqlite_strict=True,
)

profiles: Final = Table(
    "profiles",
    metadata,
    Column("model", Text, ForeignKey("models.id"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("id", Text, nullable=False, index=True),
    Column("body", LargeBinary, nullable=False),
    PrimaryKeyConstraint("model", "position"),
    _digest_check("id"),
    CheckConstraint("position >= 0", name="position_natural"),
    sqlite_strict=True,
)

artifacts: Final = Table(
    "artifacts",
    metadata,
    Column("digest", Text, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    PrimaryKeyConstraint("digest"),
    _digest_check("digest"),
    sqlite_strict=True,
)

edits: Final = Table(
    "edits",
    metadata,
    Column("id", Text, nullable=False),
    Column("model", Text, ForeignKey("models.id"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("digest", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("patch", Text, ForeignKey("artifacts.digest"), nullable=False),
    Column("profile", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    PrimaryKeyConstraint("id"),
    UniqueConstraint("model", "position"),
    _digest_check("digest"),
    CheckConstraint("position >= 0", name="position_natural"),
    sqlite_strict=True,
)

reports: Final = Table(
    "reports",
    metadata,
    Column("id", Text, nullable=False),
    Column("model", Text, ForeignKey("models.id"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("edit", Text, ForeignKey("edits.id"), nullable=False),
    Column("body", LargeBinary, nullable=False),
    PrimaryKeyConstraint("id"),
    UniqueConstraint("model", "position"),
    Index(None, "edit", "position"),
    _digest_check("id"),
    CheckConstraint("position >= 0", name="position_natural"),
    sqlite_strict=True,
)

approvals: Final = Table(
    "approvals",
    metadata,
    Column("model", Text, ForeignKey("models.id"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("edit", Text, ForeignKey("edits.id"), nullable=False),
    Column("report", Text, ForeignKey("reports.id"), nullable=False),
    Column("request_id", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    PrimaryKeyConstraint("model", "position"),
    UniqueConstraint("model", "request_id"),
    Index(None, "edit", "position"),
    _digest_check("digest"),
    CheckConstraint("position >= 0", name="position_natural"),
    sqlite_strict=True,
)

revisions: Final = Table(
    "revisions",
    metadata,
    Column("id", Text, nullable=False),
    Column("model", Text, ForeignKey("models.id"), nullable=False),
    Column("branch", Text, nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("parent", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    PrimaryKeyConstraint("id"),
    UniqueConstraint("model", "branch", "sequence"),
    UniqueConstraint("model", "branch", "parent"),
    UniqueConstraint("model", "request_id"),
    _digest_check("id"),
    CheckConstraint("sequence >= 0", name="sequence_natural"),
    sqlite_strict=True,
)

revision_edits: Final = Table(
    "revision_edits",
    metadata,
    Column("revision", Text, ForeignKey("revisions.id"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("edit", Text, ForeignKey("edits.id"), nullable=False, index=True),
    Column("report", Text, ForeignKey("reports.id"), nullable=False),
    PrimaryKeyConstraint("revision", "position"),
    UniqueConstraint("revision", "edit"),
    CheckConstraint("position >= 0", name="position_natural"),
    sqlite_strict=True,
)

branches: Final = Table(
    "branches",
    metadata,
    Column("model", Text, ForeignKey("models.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("head", Text, ForeignKey("revisions.id"), nullable=False),
    Column("sequence", Integer, nullable=False),
    PrimaryKeyConstraint("model", "name"),
    CheckConstraint("sequence >= 0", name="sequence_natural"),
    sqlite_strict=True,
)

suites: Final = Table(
    "suites",
    metadata,
    Column("model", Text, ForeignKey("models.id"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("name", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("artifact", Text, ForeignKey("artifacts.digest"), nullable=False),
    Column("request_id", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    PrimaryKeyConstraint("model", "position"),
    UniqueConstraint("model", "name", "version"),
    UniqueConstraint("model", "request_id"),
    _digest_check("digest"),
    CheckConstraint("position >= 0", name="position_natural"),
    CheckConstraint("version >= 1", name="version_natural"),
    sqlite_strict=True,
)

log_entries: Final = Table(
    "log_entries",
    metadata,
    Column("model", Text, ForeignKey("models.id"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("digest", Text, nullable=False),
    PrimaryKeyConstraint("model", "position"),
    UniqueConstraint("model", "kind", "key"),
    _digest_check("digest"),
    CheckConstraint("position >= 0", name="position_natural"),
    sqlite_strict=True,
)

operations: Final = Table(
    "operations",
    metadata,
    Column("id", Text, nullable=False),
    Column("model", Text, ForeignKey("models.id"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("request_digest", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("token", Integer, nullable=False, server_default="0"),
    PrimaryKeyConstraint("id"),
    UniqueConstraint("model", "position"),
    UniqueConstraint("model", "request_id"),
    Index(None, "model", "state"),
    CheckConstraint("position >= 0", name="position_natural"),
    sqlite_strict=True,
)

leases: Final = Table(
    "leases",
    metadata,
    Column("model", Text, ForeignKey("models.id"), nullable=False),
    Column("holder", Text, nullable=False),
    Column("address", Text, nullable=False),
    Column("token", Integer, nullable=False),
    Column(
        "expires_ms",
        BigInteger().with_variant(Integer(), "sqlite"),
        nullable=False,
        info={EXPORTED_AS: ENDED},  # renewed every few seconds, and of no server on an import
    ),
    PrimaryKeyConstraint("model"),
    CheckConstraint("token >= 1", name="token_natural"),
    sqlite_strict=True,
)
