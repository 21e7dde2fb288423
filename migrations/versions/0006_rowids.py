"""SQLite's rowids are keys too: INSERT OR REPLACE on one of them deleted another row.

Revision: 0006. It guards whatever table has an insert guard by then. A statement that names a
rowid which is taken deletes that row without firing a delete trigger, on connections that have
not turned recursive_triggers on; the guards of 0001 look at the declared keys alone. PostgreSQL
has no rowids, so nothing changes there.
"""

from collections.abc import Iterator

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Refuse rows that name a rowid which is taken."""
    for table in guarded_tables("insert_guard"):
        # Where a statement names no rowid, NEW.rowid is -1; rowids given by SQLite begin at 1.
        taken = f"EXISTS (SELECT 1 FROM {table} WHERE rowid = NEW.rowid)"  # noqa: S608
        op.execute(
            f"CREATE TRIGGER {table}_insert_rowid BEFORE INSERT ON {table} "
            f"WHEN NEW.rowid > 0 AND {taken} "
            f"BEGIN SELECT RAISE(ABORT, 'errata: {table} has that row already'); END"
        )


def downgrade() -> None:
    """Drop the triggers."""
    for table in guarded_tables("insert_rowid"):
        op.execute(f"DROP TRIGGER {table}_insert_rowid")


def guarded_tables(guard: str) -> Iterator[str]:
    """SQLite's tables with a trigger named after them and ``guard``."""
    if op.get_bind().dialect.name != "sqlite":
        return
    found = op.get_bind().exec_driver_sql(
        "SELECT tbl_name FROM sqlite_master WHERE type = 'trigger' "
        "AND name = tbl_name || ? ORDER BY tbl_name",
        (f"_{guard}",),
    )
    yield from found.scalars().all()
