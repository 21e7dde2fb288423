"""The log: an entry for every row of a model's history, what its Merkle tree is made of.

Revision: 0004, on top of 0003. Rows that are there get their entries in a fixed order: the model,
its profiles, edits, reports, approvals and suites by position, its revisions by branch and
sequence. Nothing stored before is changed.
"""

from collections.abc import Iterator
from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

KEYS: Final = (("model", "position"), ("model", "kind", "key"))
NEXT_POSITION: Final = """
    NEW.position <> (
        SELECT COALESCE(MAX(position) + 1, 0) FROM log_entries WHERE model = NEW.model
    )
"""
GAP: Final = "errata: the position of a log entry must follow the log''s last"

BY_POSITION: Final = {
    "profile": ("profiles", "position", "id"),
    "edit": ("edits", "id", "digest"),
    "report": ("reports", "id", "id"),
    "approval": ("approvals", "position", "digest"),
    "suite": ("suites", "position", "digest"),
}
"""Kinds whose rows are numbered by model: table, key and digest of the body."""

ROWS_AT_ONCE: Final = 500


def upgrade() -> None:
    """Create the table, fill it, and then install its triggers."""
    op.create_table(
        "log_entries",
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.CheckConstraint("length(digest) = 64", name=op.f("ck_log_entries_digest_length")),
        sa.CheckConstraint("position >= 0", name=op.f("ck_log_entries_position_natural")),
        sa.ForeignKeyConstraint(["model"], ["models.id"], name=op.f("fk_log_entries_model_models")),
        sa.PrimaryKeyConstraint("model", "position", name=op.f("pk_log_entries")),
        sa.UniqueConstraint("model", "kind", "key", name=op.f("uq_log_entries_model_kind_key")),
        sqlite_strict=True,
    )
    backfill()
    if op.get_bind().dialect.name == "postgresql":
        create_postgresql_triggers()
    else:
        create_sqlite_triggers()


def downgrade() -> None:
    """Drop the table, unless it has rows.

    Raises:
        RuntimeError: the log has begun.
    """
    if op.get_bind().execute(sa.text("SELECT 1 FROM log_entries")).first() is not None:
        raise RuntimeError(
            "a log that has begun is not dropped by a downgrade: checkpoints of it may be kept"
        )
    op.drop_table("log_entries")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION errata_log_guard()")


def backfill() -> None:
    """Append an entry for every row that is there."""
    connection = op.get_bind()
    found = connection.execute(sa.text("SELECT id, body_digest FROM models")).all()
    for model in found:
        entries = [
            {
                "model": model.id,
                "position": position,
                "kind": kind,
                "key": str(key),
                "digest": digest,
            }
            for position, (kind, key, digest) in enumerate(rows(model.id, model.body_digest))
        ]
        statement = sa.text(
            "INSERT INTO log_entries (model, position, kind, key, digest) "
            "VALUES (:model, :position, :kind, :key, :digest)"
        )
        for start in range(0, len(entries), ROWS_AT_ONCE):
            connection.execute(statement, entries[start : start + ROWS_AT_ONCE])


def rows(model: str, digest: str) -> Iterator[tuple[str, str, str]]:
    """Kind, key and digest of every row of a model, in the order they are given entries."""
    connection, of_model = op.get_bind(), {"model": model}
    yield "model", model, digest
    for kind, (table, key, body_digest) in BY_POSITION.items():
        statement = (
            f"SELECT {key} AS row_key, {body_digest} AS row_digest FROM {table} "  # noqa: S608
            "WHERE model = :model ORDER BY position"
        )
        for row in connection.execute(sa.text(statement), of_model):
            yield kind, row.row_key, row.row_digest
    statement = "SELECT id, branch, sequence FROM revisions WHERE model = :model"
    # Sorted here: databases do not agree on the order of letters.
    history = connection.execute(sa.text(statement), of_model).all()
    for row in sorted(history, key=lambda row: (row.branch, row.sequence)):
        yield "revision", row.id, row.id


def create_sqlite_triggers() -> None:
    """Make SQLite refuse to change, remove or replace an entry, or to leave one out."""
    taken = " OR ".join(
        "EXISTS (SELECT 1 FROM log_entries WHERE "  # noqa: S608 - names from the tuple above
        + " AND ".join(f"{column} = NEW.{column}" for column in columns)
        + ")"
        for columns in KEYS
    )
    for name, event, condition, message in (
        ("insert_guard", "INSERT", taken, "errata: log_entries has that row already"),
        ("insert_position", "INSERT", NEXT_POSITION, GAP),
        ("delete_guard", "DELETE", "1", "errata: log_entries is insert-only"),
        ("update_guard", "UPDATE", "1", "errata: log_entries is insert-only"),
    ):
        op.execute(
            f"CREATE TRIGGER log_entries_{name} BEFORE {event} ON log_entries WHEN {condition} "
            f"BEGIN SELECT RAISE(ABORT, '{message}'); END"
        )


def create_postgresql_triggers() -> None:
    """Make PostgreSQL refuse the same, with the first migration's function where it fits."""
    op.execute(
        "CREATE FUNCTION errata_log_guard() RETURNS trigger LANGUAGE plpgsql AS $body$ BEGIN "
        f"IF {NEXT_POSITION} THEN RAISE EXCEPTION '{GAP}' "
        "USING ERRCODE = 'restrict_violation'; END IF; RETURN NEW; END $body$"
    )
    for name, event, function in (
        ("rows", "UPDATE OR DELETE ON log_entries FOR EACH ROW", "refuse"),
        ("truncate", "TRUNCATE ON log_entries FOR EACH STATEMENT", "refuse"),
        ("insert", "INSERT ON log_entries FOR EACH ROW", "log_guard"),
    ):
        op.execute(
            f"CREATE TRIGGER log_entries_{name}_guard BEFORE {event} "
            f"EXECUTE FUNCTION errata_{function}()"
        )
        op.execute(f"ALTER TABLE log_entries ENABLE ALWAYS TRIGGER log_entries_{name}_guard")
