"""Suites: versions of regression prompts, insert-only like all history.

Revision: 0002, on top of 0001. Nothing stored before is changed.
"""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

KEYS: Final = (("model", "position"), ("model", "name", "version"), ("model", "request_id"))
NEXT_VERSION: Final = """
    NEW.version <> (
        SELECT COALESCE(MAX(version) + 1, 1) FROM suites
        WHERE model = NEW.model AND name = NEW.name
    )
"""
GAP: Final = "errata: the version of a suite must follow its last"


def upgrade() -> None:
    """Create the table with its triggers."""
    op.create_table(
        "suites",
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("artifact", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("length(digest) = 64", name=op.f("ck_suites_digest_length")),
        sa.CheckConstraint("position >= 0", name=op.f("ck_suites_position_natural")),
        sa.CheckConstraint("version >= 1", name=op.f("ck_suites_version_natural")),
        sa.ForeignKeyConstraint(
            ["artifact"], ["artifacts.digest"], name=op.f("fk_suites_artifact_artifacts")
        ),
        sa.ForeignKeyConstraint(["model"], ["models.id"], name=op.f("fk_suites_model_models")),
        sa.PrimaryKeyConstraint("model", "position", name=op.f("pk_suites")),
        sa.UniqueConstraint("model", "name", "version", name=op.f("uq_suites_model_name_version")),
        sa.UniqueConstraint("model", "request_id", name=op.f("uq_suites_model_request_id")),
        sqlite_strict=True,
    )
    if op.get_bind().dialect.name == "postgresql":
        create_postgresql_triggers()
    else:
        create_sqlite_triggers()


def downgrade() -> None:
    """Drop the table, unless it has rows.

    Raises:
        RuntimeError: a suite has been stored.
    """
    if op.get_bind().execute(sa.text("SELECT 1 FROM suites")).first() is not None:
        raise RuntimeError("suites that were stored are not dropped by a downgrade")
    op.drop_table("suites")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION errata_suite_guard()")


def create_sqlite_triggers() -> None:
    """Make SQLite refuse to change, remove or replace a version, or to leave one out."""
    taken = " OR ".join(
        "EXISTS (SELECT 1 FROM suites WHERE "  # noqa: S608 - names from the tuple above
        + " AND ".join(f"{column} = NEW.{column}" for column in columns)
        + ")"
        for columns in KEYS
    )
    for name, event, condition, message in (
        ("insert_guard", "INSERT", taken, "errata: suites has that row already"),
        ("insert_version", "INSERT", NEXT_VERSION, GAP),
        ("delete_guard", "DELETE", "1", "errata: suites is insert-only"),
        ("update_guard", "UPDATE", "1", "errata: suites is insert-only"),
    ):
        op.execute(
            f"CREATE TRIGGER suites_{name} BEFORE {event} ON suites WHEN {condition} "
            f"BEGIN SELECT RAISE(ABORT, '{message}'); END"
        )


def create_postgresql_triggers() -> None:
    """Make PostgreSQL refuse the same, with the first migration's function where it fits."""
    op.execute(
        "CREATE FUNCTION errata_suite_guard() RETURNS trigger LANGUAGE plpgsql AS $body$ BEGIN "
        f"IF {NEXT_VERSION} THEN RAISE EXCEPTION '{GAP}' USING ERRCODE = 'restrict_violation'; "
        "END IF; RETURN NEW; END $body$"
    )
    for name, event, function in (
        ("rows", "UPDATE OR DELETE ON suites FOR EACH ROW", "refuse"),
        ("truncate", "TRUNCATE ON suites FOR EACH STATEMENT", "refuse"),
        ("insert", "INSERT ON suites FOR EACH ROW", "suite_guard"),
    ):
        op.execute(
            f"CREATE TRIGGER suites_{name}_guard BEFORE {event} "
            f"EXECUTE FUNCTION errata_{function}()"
        )
        op.execute(f"ALTER TABLE suites ENABLE ALWAYS TRIGGER suites_{name}_guard")
