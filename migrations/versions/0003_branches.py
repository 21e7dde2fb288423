"""Branches: what the first revision of one and a promotion must be, by the database's own rules.

Revision: 0003, on top of 0002. Nothing stored before is changed. Servers that know the older
schema alone do not start on this one: they would drop a branch's protection with every change.
"""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

START: Final = """
    (NEW.kind = 'branch' OR NEW.sequence = 0 AND NEW.parent <> '') AND NOT (
        NEW.kind = 'branch' AND NEW.sequence = 0 AND EXISTS (
            SELECT 1 FROM revisions
            WHERE id = NEW.parent AND model = NEW.model AND branch <> NEW.branch
        )
    )
"""
ROOTLESS: Final = "errata: a branch starts from a revision of another branch of its model"
GENESIS: Final = """
    NEW.sequence = 0 AND NEW.parent = ''
    AND EXISTS (SELECT 1 FROM revisions WHERE model = NEW.model)
"""
TWICE: Final = "errata: a model has one revision without a parent"


def upgrade() -> None:
    """Create the triggers."""
    if op.get_bind().dialect.name == "postgresql":
        create_postgresql_trigger()
        return
    for name, condition, message in (("start", START, ROOTLESS), ("genesis", GENESIS, TWICE)):
        op.execute(
            f"CREATE TRIGGER revisions_insert_{name} BEFORE INSERT ON revisions WHEN {condition} "
            f"BEGIN SELECT RAISE(ABORT, '{message}'); END"
        )


def downgrade() -> None:
    """Drop the triggers, unless there is what an older server does not understand.

    Raises:
        RuntimeError: a branch has been made, promoted or protected.
    """
    newer = "SELECT 1 FROM revisions WHERE kind IN ('branch', 'promote', 'policy')"
    if op.get_bind().execute(sa.text(newer)).first() is not None:
        raise RuntimeError("a history with branches is not understood by the older schema")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP TRIGGER revisions_start_guard ON revisions")
        op.execute("DROP FUNCTION errata_start_guard()")
        return
    for name in ("start", "genesis"):
        op.execute(f"DROP TRIGGER revisions_insert_{name}")


def create_postgresql_trigger() -> None:
    """Make PostgreSQL refuse the same, even as a replica would."""
    checks = " ".join(
        f"IF {condition} THEN RAISE EXCEPTION '{message}' "
        "USING ERRCODE = 'restrict_violation'; END IF;"
        for condition, message in ((START, ROOTLESS), (GENESIS, TWICE))
    )
    op.execute(
        "CREATE FUNCTION errata_start_guard() RETURNS trigger LANGUAGE plpgsql AS "
        f"$body$ BEGIN {checks} RETURN NEW; END $body$"
    )
    op.execute(
        "CREATE TRIGGER revisions_start_guard BEFORE INSERT ON revisions FOR EACH ROW "
        "EXECUTE FUNCTION errata_start_guard()"
    )
    op.execute("ALTER TABLE revisions ENABLE ALWAYS TRIGGER revisions_start_guard")
