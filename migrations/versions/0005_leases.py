"""Leases: one server at a time carries out operations on a model, and says under which token.

Revision: 0005, on top of 0004. Nothing stored before is changed: operations from before
belong to no lease and count as token 0.
"""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

MISPLACED: Final = """
    NEW.model <> OLD.model OR NEW.token < OLD.token OR NEW.token > OLD.token + 1
    OR (NEW.holder <> OLD.holder AND NEW.token = OLD.token)
"""
BACKWARDS: Final = "errata: the token of a lease grows by one with every holder"
KEPT: Final = "errata: leases are never removed, or their tokens would begin again"


def upgrade() -> None:
    """Create the table with its triggers, and the token of operations."""
    op.create_table(
        "leases",
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("token", sa.Integer(), nullable=False),
        sa.Column(
            "expires_ms", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.CheckConstraint("token >= 1", name=op.f("ck_leases_token_natural")),
        sa.ForeignKeyConstraint(["model"], ["models.id"], name=op.f("fk_leases_model_models")),
        sa.PrimaryKeyConstraint("model", name=op.f("pk_leases")),
        sqlite_strict=True,
    )
    op.add_column(
        "operations", sa.Column("token", sa.Integer(), nullable=False, server_default="0")
    )
    if op.get_bind().dialect.name == "postgresql":
        create_postgresql_triggers()
    else:
        create_sqlite_triggers()


def downgrade() -> None:
    """Drop both; what is history does not depend on them."""
    op.drop_column("operations", "token")
    op.drop_table("leases")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION errata_lease_guard()")


def create_sqlite_triggers() -> None:
    """Make SQLite refuse to hand a token out twice."""
    taken = "EXISTS (SELECT 1 FROM leases WHERE model = NEW.model)"
    for name, event, condition, message in (
        ("insert_guard", "INSERT", taken, KEPT),
        ("update_guard", "UPDATE", MISPLACED, BACKWARDS),
        ("delete_guard", "DELETE", "1", KEPT),
    ):
        op.execute(
            f"CREATE TRIGGER leases_{name} BEFORE {event} ON leases WHEN {condition} "
            f"BEGIN SELECT RAISE(ABORT, '{message}'); END"
        )


def create_postgresql_triggers() -> None:
    """Make PostgreSQL refuse the same."""
    op.execute(
        "CREATE FUNCTION errata_lease_guard() RETURNS trigger LANGUAGE plpgsql AS $body$ BEGIN "
        f"IF TG_OP <> 'UPDATE' THEN RAISE EXCEPTION '{KEPT}' "
        "USING ERRCODE = 'restrict_violation'; END IF; "
        f"IF {MISPLACED} THEN RAISE EXCEPTION '{BACKWARDS}' "
        "USING ERRCODE = 'restrict_violation'; END IF; RETURN NEW; END $body$"
    )
    for name, event in (
        ("rows", "UPDATE OR DELETE ON leases FOR EACH ROW"),
        ("truncate", "TRUNCATE ON leases FOR EACH STATEMENT"),
    ):
        op.execute(
            f"CREATE TRIGGER leases_{name}_guard BEFORE {event} EXECUTE FUNCTION "
            "errata_lease_guard()"
        )
        op.execute(f"ALTER TABLE leases ENABLE ALWAYS TRIGGER leases_{name}_guard")
