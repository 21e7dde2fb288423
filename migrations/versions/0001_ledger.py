"""The ledger: its ten tables, and the triggers that keep history as it was written.

Revision: 0001, the first.
"""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

INSERT_ONLY: Final = {
    "models": ("id",),
    "profiles": ("model", "position"),
    "artifacts": ("digest",),
    "edits": ("id",),
    "reports": ("id",),
    "approvals": ("model", "position"),
    "revisions": ("id",),
    "revision_edits": ("revision", "position"),
}
"""Tables whose rows never change, and their primary keys."""

OTHER_KEYS: Final = {
    "edits": (("model", "position"),),
    "reports": (("model", "position"),),
    "approvals": (("model", "request_id"),),
    "revisions": (
        ("model", "branch", "sequence"),
        ("model", "branch", "parent"),
        ("model", "request_id"),
    ),
    "revision_edits": (("revision", "edit"),),
}
"""What else is unique in them."""

GUARDED_INSERTS: Final = INSERT_ONLY | {"branches": ("model", "name")}

NEXT_SEQUENCE: Final = """
    NEW.sequence <> (
        SELECT COALESCE(MAX(sequence) + 1, 0) FROM revisions
        WHERE model = NEW.model AND branch = NEW.branch
    )
"""
PARENT_BEFORE: Final = """
    NEW.sequence > 0 AND NEW.parent <> (
        SELECT id FROM revisions
        WHERE model = NEW.model AND branch = NEW.branch AND sequence = NEW.sequence - 1
    )
"""
HEAD_FORWARD: Final = """
    NEW.model <> OLD.model OR NEW.name <> OLD.name OR NEW.sequence <> OLD.sequence + 1
    OR NOT EXISTS (
        SELECT 1 FROM revisions
        WHERE id = NEW.head AND model = NEW.model AND branch = NEW.name
        AND sequence = NEW.sequence
    )
"""

GAP: Final = "errata: the sequence of a revision must follow the branch''s last"
FORK: Final = "errata: the parent of a revision must be the one before it on its branch"
MOVE: Final = "errata: a branch moves only forward, to its next revision"

TABLES: Final = (
    "revision_edits",
    "branches",
    "approvals",
    "reports",
    "edits",
    "profiles",
    "revisions",
    "operations",
    "artifacts",
    "models",
)
"""In an order in which they can be dropped."""


def upgrade() -> None:
    """Create the ledger."""
    create_artifacts_models_profiles()
    create_edits()
    create_reports_approvals()
    create_revisions()
    create_branches_operations()
    if op.get_bind().dialect.name == "postgresql":
        create_postgresql_triggers()
    else:
        create_sqlite_triggers()


def downgrade() -> None:
    """Drop the ledger, unless it has any history.

    Raises:
        RuntimeError: a model has been registered.
    """
    if op.get_bind().execute(sa.text("SELECT 1 FROM models")).first() is not None:
        raise RuntimeError(
            "a ledger with history is not dropped by a downgrade; back it up, "
            "then delete the database yourself"
        )
    for table in TABLES:
        op.drop_table(table)
    if op.get_bind().dialect.name == "postgresql":
        for function in ("refuse", "revision_guard", "branch_guard"):
            op.execute(f"DROP FUNCTION errata_{function}()")


def create_sqlite_triggers() -> None:
    """Make SQLite refuse whatever would rewrite history.

    The guards before INSERT are for INSERT OR REPLACE, which deletes rows without firing
    delete triggers on connections that have not turned recursive_triggers on.
    """
    for table, key in GUARDED_INSERTS.items():
        keys = (key, *OTHER_KEYS.get(table, ()))
        taken = " OR ".join(
            f"EXISTS (SELECT 1 FROM {table} WHERE "  # noqa: S608 - names from the tables above
            + " AND ".join(f"{column} = NEW.{column}" for column in columns)
            + ")"
            for columns in keys
        )
        sqlite_trigger(table, "INSERT", taken, f"errata: {table} has that row already")
        sqlite_trigger(table, "DELETE", "1", f"errata: {table} is insert-only")
    for table in INSERT_ONLY:
        sqlite_trigger(table, "UPDATE", "1", f"errata: {table} is insert-only")
    sqlite_trigger("revisions", "INSERT", NEXT_SEQUENCE, GAP, name="sequence")
    sqlite_trigger("revisions", "INSERT", PARENT_BEFORE, FORK, name="parent")
    sqlite_trigger("branches", "UPDATE", HEAD_FORWARD, MOVE)


def sqlite_trigger(
    table: str, event: str, condition: str, message: str, *, name: str = "guard"
) -> None:
    """Refuse ``event`` on a row of ``table`` where ``condition`` holds."""
    op.execute(
        f"CREATE TRIGGER {table}_{event.lower()}_{name} BEFORE {event} ON {table} "
        f"WHEN {condition} BEGIN SELECT RAISE(ABORT, '{message}'); END"
    )


def create_postgresql_triggers() -> None:
    """Make PostgreSQL refuse whatever would rewrite history, even as a replica would."""
    postgresql_function(
        "refuse",
        "RAISE EXCEPTION 'errata: % is insert-only; % is refused', TG_TABLE_NAME, TG_OP "
        "USING ERRCODE = 'restrict_violation';",
    )
    postgresql_function(
        "revision_guard",
        postgresql_check(NEXT_SEQUENCE, GAP) + postgresql_check(PARENT_BEFORE, FORK),
    )
    postgresql_function("branch_guard", postgresql_check(HEAD_FORWARD, MOVE))
    for table in GUARDED_INSERTS:
        events = "UPDATE OR DELETE" if table in INSERT_ONLY else "DELETE"
        postgresql_trigger(table, "rows", f"{events} ON {table} FOR EACH ROW", "refuse")
        statement = f"TRUNCATE ON {table} FOR EACH STATEMENT"
        postgresql_trigger(table, "truncate", statement, "refuse")
    inserted = "INSERT ON revisions FOR EACH ROW"
    postgresql_trigger("revisions", "insert", inserted, "revision_guard")
    moved = "UPDATE ON branches FOR EACH ROW"
    postgresql_trigger("branches", "update", moved, "branch_guard")


def postgresql_check(condition: str, message: str) -> str:
    """The statement that refuses a row where ``condition`` holds."""
    return (
        f"IF {condition} THEN RAISE EXCEPTION '{message}' "
        "USING ERRCODE = 'restrict_violation'; END IF; "
    )


def postgresql_function(name: str, statements: str) -> None:
    """Create the trigger function ``errata_<name>``."""
    op.execute(
        f"CREATE FUNCTION errata_{name}() RETURNS trigger LANGUAGE plpgsql AS "
        f"$body$ BEGIN {statements} RETURN NEW; END $body$"
    )


def postgresql_trigger(table: str, name: str, event: str, function: str) -> None:
    """Create a trigger that fires even where session_replication_role is replica."""
    op.execute(
        f"CREATE TRIGGER {table}_{name}_guard BEFORE {event} EXECUTE FUNCTION errata_{function}()"
    )
    op.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {table}_{name}_guard")


def create_artifacts_models_profiles() -> None:
    """Create what stands on its own."""
    op.create_table(
        "artifacts",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("length(digest) = 64", name=op.f("ck_artifacts_digest_length")),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_artifacts")),
        sqlite_strict=True,
    )
    op.create_table(
        "models",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("body_digest", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("length(body_digest) = 64", name=op.f("ck_models_body_digest_length")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_models")),
        sqlite_strict=True,
    )
    op.create_table(
        "profiles",
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("length(id) = 64", name=op.f("ck_profiles_id_length")),
        sa.CheckConstraint("position >= 0", name=op.f("ck_profiles_position_natural")),
        sa.ForeignKeyConstraint(["model"], ["models.id"], name=op.f("fk_profiles_model_models")),
        sa.PrimaryKeyConstraint("model", "position", name=op.f("pk_profiles")),
        sqlite_strict=True,
    )
    op.create_index(op.f("ix_profiles_id"), "profiles", ["id"])


def create_edits() -> None:
    """Create the table of edits."""
    op.create_table(
        "edits",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("patch", sa.Text(), nullable=False),
        sa.Column("profile", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("length(digest) = 64", name=op.f("ck_edits_digest_length")),
        sa.CheckConstraint("position >= 0", name=op.f("ck_edits_position_natural")),
        sa.ForeignKeyConstraint(["model"], ["models.id"], name=op.f("fk_edits_model_models")),
        sa.ForeignKeyConstraint(
            ["patch"], ["artifacts.digest"], name=op.f("fk_edits_patch_artifacts")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_edits")),
        sa.UniqueConstraint("model", "position", name=op.f("uq_edits_model_position")),
        sqlite_strict=True,
    )


def create_reports_approvals() -> None:
    """Create what is said of edits."""
    op.create_table(
        "reports",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("edit", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("length(id) = 64", name=op.f("ck_reports_id_length")),
        sa.CheckConstraint("position >= 0", name=op.f("ck_reports_position_natural")),
        sa.ForeignKeyConstraint(["edit"], ["edits.id"], name=op.f("fk_reports_edit_edits")),
        sa.ForeignKeyConstraint(["model"], ["models.id"], name=op.f("fk_reports_model_models")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reports")),
        sa.UniqueConstraint("model", "position", name=op.f("uq_reports_model_position")),
        sqlite_strict=True,
    )
    op.create_index(op.f("ix_reports_edit_position"), "reports", ["edit", "position"])
    op.create_table(
        "approvals",
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("edit", sa.Text(), nullable=False),
        sa.Column("report", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("length(digest) = 64", name=op.f("ck_approvals_digest_length")),
        sa.CheckConstraint("position >= 0", name=op.f("ck_approvals_position_natural")),
        sa.ForeignKeyConstraint(["edit"], ["edits.id"], name=op.f("fk_approvals_edit_edits")),
        sa.ForeignKeyConstraint(["model"], ["models.id"], name=op.f("fk_approvals_model_models")),
        sa.ForeignKeyConstraint(
            ["report"], ["reports.id"], name=op.f("fk_approvals_report_reports")
        ),
        sa.PrimaryKeyConstraint("model", "position", name=op.f("pk_approvals")),
        sa.UniqueConstraint("model", "request_id", name=op.f("uq_approvals_model_request_id")),
        sqlite_strict=True,
    )
    op.create_index(op.f("ix_approvals_edit_position"), "approvals", ["edit", "position"])


def create_revisions() -> None:
    """Create the history and what it names."""
    op.create_table(
        "revisions",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("branch", sa.Text(), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("parent", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("length(id) = 64", name=op.f("ck_revisions_id_length")),
        sa.CheckConstraint("sequence >= 0", name=op.f("ck_revisions_sequence_natural")),
        sa.ForeignKeyConstraint(["model"], ["models.id"], name=op.f("fk_revisions_model_models")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_revisions")),
        sa.UniqueConstraint(
            "model", "branch", "parent", name=op.f("uq_revisions_model_branch_parent")
        ),
        sa.UniqueConstraint(
            "model", "branch", "sequence", name=op.f("uq_revisions_model_branch_sequence")
        ),
        sa.UniqueConstraint("model", "request_id", name=op.f("uq_revisions_model_request_id")),
        sqlite_strict=True,
    )
    op.create_table(
        "revision_edits",
        sa.Column("revision", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("edit", sa.Text(), nullable=False),
        sa.Column("report", sa.Text(), nullable=False),
        sa.CheckConstraint("position >= 0", name=op.f("ck_revision_edits_position_natural")),
        sa.ForeignKeyConstraint(["edit"], ["edits.id"], name=op.f("fk_revision_edits_edit_edits")),
        sa.ForeignKeyConstraint(
            ["report"], ["reports.id"], name=op.f("fk_revision_edits_report_reports")
        ),
        sa.ForeignKeyConstraint(
            ["revision"], ["revisions.id"], name=op.f("fk_revision_edits_revision_revisions")
        ),
        sa.PrimaryKeyConstraint("revision", "position", name=op.f("pk_revision_edits")),
        sa.UniqueConstraint("revision", "edit", name=op.f("uq_revision_edits_revision_edit")),
        sqlite_strict=True,
    )
    op.create_index(op.f("ix_revision_edits_edit"), "revision_edits", ["edit"])


def create_branches_operations() -> None:
    """Create the two tables whose rows change."""
    op.create_table(
        "branches",
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("head", sa.Text(), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.CheckConstraint("sequence >= 0", name=op.f("ck_branches_sequence_natural")),
        sa.ForeignKeyConstraint(
            ["head"], ["revisions.id"], name=op.f("fk_branches_head_revisions")
        ),
        sa.ForeignKeyConstraint(["model"], ["models.id"], name=op.f("fk_branches_model_models")),
        sa.PrimaryKeyConstraint("model", "name", name=op.f("pk_branches")),
        sqlite_strict=True,
    )
    op.create_table(
        "operations",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("request_digest", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("position >= 0", name=op.f("ck_operations_position_natural")),
        sa.ForeignKeyConstraint(["model"], ["models.id"], name=op.f("fk_operations_model_models")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_operations")),
        sa.UniqueConstraint("model", "position", name=op.f("uq_operations_model_position")),
        sa.UniqueConstraint("model", "request_id", name=op.f("uq_operations_model_request_id")),
        sqlite_strict=True,
    )
    op.create_index(op.f("ix_operations_model_state"), "operations", ["model", "state"])
