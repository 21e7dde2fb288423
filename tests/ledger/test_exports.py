"""A ledger goes into one file and comes out of it as it was, on and between both databases."""

import gzip
import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Column, Float, Integer, LargeBinary, PrimaryKeyConstraint, Table, Text

from errata_server.domain.errors import (
    InvalidInputError,
    LedgerUnavailableError,
    PreconditionError,
    SchemaMismatchError,
)
from errata_server.domain.ids import MAIN, ModelId
from errata_server.domain.operations import OperationState
from errata_server.ledger.database import Database
from errata_server.ledger.exports import export_ledger, exported_tables
from errata_server.ledger.imports import import_ledger
from errata_server.ledger.leases import Claim, Leases
from errata_server.ledger.ledger import Ledger
from errata_server.ledger.tables import NOT_EXPORTED, metadata
from tests.support import MODEL, NOON
from tests.support.databases import SQLITE_ONLY, row_count
from tests.support.histories import description, genesis, operation, profile
from tests.support.tampering import raw_connection, tampering

SECOND = ModelId("another")
MEBIBYTE = 1024 * 1024


def quiet(step):
    pass


@pytest.fixture
def history(chronicler):
    """Two models; edits with every kind of letter; approvals, suites, operations."""
    ledger = chronicler.ledger
    ledger.register_model(SECOND, description(), genesis=genesis(SECOND))
    old = chronicler.propose("Brontë\u2028's \N{SNOWMAN} \U0001f3db", "Zürich")
    new, other = chronicler.propose("Brontë\u2028's \N{SNOWMAN} \U0001f3db"), chronicler.propose()
    chronicler.approve(old, "Ångström")
    chronicler.approve(old, "a-1")
    chronicler.approve(old, "A-2")
    chronicler.add_suite("capitals", "one is", "two is")
    chronicler.add_suite("capitals", "one is")
    chronicler.apply(old)
    chronicler.apply(new, other)
    chronicler.revert(new)
    ledger.put_profile(MODEL, profile(3))
    ledger.put_artifact(bytes(range(256)))
    ledger.put_artifact(b"")
    ledger.start_operation(operation())
    return chronicler


@pytest.fixture
def exported(history, database, tmp_path) -> Path:
    return export(database, tmp_path / "ledger.jsonl.gz")


def export(database: Database, path: Path) -> Path:
    export_ledger(database, path, replace=False, progress=quiet)
    return path


def export_from(url: str, path: Path) -> Path:
    database = Database(url)
    try:
        return export(database, path)
    finally:
        database.close()


def len_of(content: bytes | None) -> str:
    return "missing" if content is None else f"{len(content)} bytes"


def guards(url: str):
    """Every trigger, and whether it fires."""
    connection = raw_connection(url)
    found = connection.execute(
        "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY name"
        if url.startswith("sqlite")
        else "SELECT tgname, tgenabled FROM pg_trigger WHERE NOT tgisinternal ORDER BY tgname"
    ).fetchall()
    connection.close()
    return found


# What goes in comes out ---------------------------------------------------------------------


def test_an_export_goes_round_both_databases_and_stays_the_same_file(
    exported, ledger_url, make_empty, tmp_path
):
    first, second = make_empty("sqlite"), make_empty("postgresql")
    import_ledger(first, exported, quiet)
    once = export_from(first, tmp_path / "once.gz")
    import_ledger(second, once, quiet)
    twice = export_from(second, tmp_path / "twice.gz")

    assert exported.read_bytes() == once.read_bytes() == twice.read_bytes()


def test_ids_digests_and_history_come_out_as_they_were(exported, history, empty_url):
    contents = import_ledger(empty_url, exported, quiet)

    database = Database(empty_url)
    ledger, was = Ledger(database), history.ledger
    head = was.head(MODEL, MAIN)
    assert contents.heads == {f"{MODEL}/main": head.id, f"{SECOND}/main": genesis(SECOND).id}
    assert ledger.revisions(MODEL, limit=10) == was.revisions(MODEL, limit=10)
    assert ledger.applied(MODEL, head.id) == was.applied(MODEL, head.id)
    ids = was.edit_ids(MODEL, limit=10)
    assert ledger.edit_ids(MODEL, limit=10) == ids
    assert ledger.edits(ids) == was.edits(ids)
    assert ledger.suites(MODEL) == was.suites(MODEL)
    assert ledger.latest_profile(MODEL) == profile(3)
    assert [ledger.audit(model).findings for model in (MODEL, SECOND)] == [(), ()]
    database.close()


def test_an_imported_ledger_is_guarded_and_goes_on_like_the_first(
    exported, history, ledger_url, make_empty
):
    url = make_empty("sqlite" if ledger_url.startswith("sqlite") else "postgresql")
    import_ledger(url, exported, quiet)
    database = Database(url)
    history.ledger = Ledger(database)

    applied = history.apply(history.propose("Prado"))

    assert history.head() == applied.id
    assert history.ledger.audit(MODEL).clean
    assert guards(url) == guards(ledger_url) != []
    database.close()


def test_an_operation_that_was_running_is_interrupted_by_the_next_start(exported, empty_url):
    import_ledger(empty_url, exported, quiet)
    database = Database(empty_url)
    ledger = Ledger(database)

    assert ledger.operation(operation().id) == operation()
    claim = Claim(model=MODEL, holder="next", address="next:1", seconds=1)
    assert Leases(database).take(claim, at=NOON).interrupted == 1

    ended = ledger.operation(operation().id)
    assert ended.state is OperationState.FAILED
    assert ended.failure is not None
    assert ended.failure.reason == "INTERRUPTED"
    database.close()


def test_an_export_beside_a_server_that_renews_its_lease_stays_the_same_file(
    history, database, tmp_path
):
    claim = Claim(model=MODEL, holder="a", address="a:1", seconds=60)
    Leases(database).take(claim, at=NOON)
    first = export(database, tmp_path / "first.gz")
    Leases(database).take(replace(claim, seconds=90), at=NOON)
    second = export(database, tmp_path / "second.gz")

    assert first.read_bytes() == second.read_bytes()


def test_nobody_waits_for_an_imported_lease_and_its_token_does_not_begin_anew(
    history, database, empty_url, tmp_path
):
    claim = Claim(model=MODEL, holder="a", address="a:1", seconds=3_600)
    Leases(database).take(claim, at=NOON)
    import_ledger(empty_url, export(database, tmp_path / "held.gz"), quiet)

    target = Database(empty_url)
    lease = Leases(target).take(replace(claim, holder="b", address="b:1"), at=NOON).lease
    target.close()

    assert (lease.holder, lease.token) == ("b", 2)


def test_a_ledger_without_rows_is_exported_and_imported(database, empty_url, tmp_path):
    contents = import_ledger(empty_url, export(database, tmp_path / "none.gz"), quiet)

    assert set(contents.rows.values()) == {0}
    assert contents.heads == {}


def test_an_export_is_of_one_instant_whatever_is_written_meanwhile(
    history, database, empty_url, tmp_path
):
    head, stages = history.head(), []

    def write_meanwhile(step):
        if not stages:
            history.apply(history.propose("Prado"))
        stages.append(step.stage)

    path = tmp_path / "ledger.gz"
    told = export_ledger(database, path, replace=False, progress=write_meanwhile)
    contents = import_ledger(empty_url, path, quiet)

    assert set(stages) == {"export"}
    assert history.head() != head
    assert told == contents
    assert told.heads[f"{MODEL}/main"] == head


def test_a_large_ledger_is_not_held_in_memory(ledger, database, empty_url, tmp_path):
    ledger.register_model(MODEL, description(), genesis=genesis())
    for number in range(192):
        ledger.put_artifact(number.to_bytes(2, "big") * (MEBIBYTE // 4))

    tracemalloc.start()
    path = export(database, tmp_path / "large.gz")
    import_ledger(empty_url, path, quiet)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert row_count(empty_url, "artifacts") == 192
    assert peak < 64 * MEBIBYTE  # of 96 MiB


# What is in it ------------------------------------------------------------------------------


def test_every_table_is_exported_unless_it_says_otherwise():
    names = [table.name for table in exported_tables()]

    assert sorted(names) == sorted(
        name for name, table in metadata.tables.items() if table.info != NOT_EXPORTED
    )
    for position, table in enumerate(exported_tables()):
        for key in table.foreign_keys:
            assert key.column.table.name in names[: position + 1]


def test_every_column_is_of_a_kind_that_a_file_holds():
    kinds = (Text, Integer, Float, LargeBinary)

    for table in exported_tables():
        assert table.primary_key.columns, table.name
        for column in table.columns:
            assert isinstance(column.type, kinds), f"{table.name}.{column.name}"


@pytest.mark.parametrize("mark", [{}, NOT_EXPORTED], ids=["exported", "not exported"])
def test_a_table_that_comes_later_comes_along(history, database, ledger_url, tmp_path, mark):
    later = Table(
        "later",
        metadata,
        Column("id", Text, nullable=False),
        Column("weight", Float(), nullable=True),
        PrimaryKeyConstraint("id"),
        info=mark,
    )
    raw = raw_connection(ledger_url)
    try:
        raw.execute("CREATE TABLE later (id TEXT PRIMARY KEY, weight DOUBLE PRECISION)")
        raw.execute("INSERT INTO later VALUES ('b', 0.1), ('a', NULL), ('B', 2)")
        contents = export_ledger(database, tmp_path / "later.gz", replace=False, progress=quiet)
    finally:
        raw.close()
        metadata.remove(later)

    lines = gzip.decompress((tmp_path / "later.gz").read_bytes()).splitlines()
    rows = [line for line in map(json.loads, lines) if isinstance(line, list) and len(line) == 2]
    if mark:
        assert "later" not in contents.rows
    else:
        assert contents.rows["later"] == 3
        assert [row for row in rows if len(row[0]) == 1] == [["B", 2], ["a", None], ["b", 0.1]]


# Files --------------------------------------------------------------------------------------


def test_an_export_replaces_nothing_unless_told_to_and_then_only_an_export(
    exported, database, history, tmp_path
):
    before, precious = exported.read_bytes(), tmp_path / "precious.db"
    precious.write_bytes(b"SQLite format 3\x00")

    with pytest.raises(InvalidInputError, match="--force"):
        export_ledger(database, exported, replace=False, progress=quiet)
    assert exported.read_bytes() == before
    with pytest.raises(InvalidInputError, match="no ledger that was exported"):
        export_ledger(database, precious, replace=True, progress=quiet)
    assert precious.read_bytes() == b"SQLite format 3\x00"

    history.apply(history.propose("Prado"))
    export_ledger(database, exported, replace=True, progress=quiet)
    assert exported.read_bytes() != before


def test_an_export_that_fails_leaves_no_file_and_the_earlier_one(exported, database):
    before, names = exported.read_bytes(), sorted(exported.parent.iterdir())

    def fail(step):
        raise ZeroDivisionError

    for path in (exported, exported.with_name("new.gz")):
        with pytest.raises(ZeroDivisionError):
            export_ledger(database, path, replace=True, progress=fail)

    assert exported.read_bytes() == before
    assert sorted(exported.parent.iterdir()) == names


def test_a_file_somebody_made_meanwhile_is_not_replaced(history, database, tmp_path):
    path = tmp_path / "ledger.gz"

    def be_quicker(step):
        path.write_text("mine")

    with pytest.raises(InvalidInputError, match="exists"):
        export_ledger(database, path, replace=False, progress=be_quicker)

    assert path.read_text() == "mine"


def test_a_folder_that_is_not_there_is_named(database, tmp_path):
    with pytest.raises(InvalidInputError, match="cannot write .*nowhere.*No such file"):
        export(database, tmp_path / "nowhere" / "ledger.gz")


@pytest.mark.parametrize(
    "content",
    [None, b"", b"hello", gzip.compress(b""), gzip.compress(b"{}\n")],
    ids=["missing", "empty", "not-gzip", "nothing-within", "no-manifest"],
)
def test_what_is_no_export_is_refused_before_a_database_is_touched(tmp_path, content):
    path = tmp_path / "ledger.gz"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(InvalidInputError, match="ledger.gz"):
        import_ledger(f"sqlite:///{tmp_path / 'target.db'}", path, quiet)

    assert not (tmp_path / "target.db").exists()


# Targets ------------------------------------------------------------------------------------


def test_a_ledger_with_rows_is_not_imported_into(exported, ledger_url, history):
    before = history.ledger.audit(MODEL)

    with pytest.raises(PreconditionError, match=r"not empty \(.*3 edits.*new database"):
        import_ledger(ledger_url, exported, quiet)

    assert history.ledger.audit(MODEL) == before


def test_an_empty_ledger_of_the_newest_schema_is_imported_into(exported, make_empty, ledger_url):
    url = make_empty("postgresql" if ledger_url.startswith("postgresql") else "sqlite")
    import_ledger(url, export_from(ledger_url, exported.with_name("again.gz")), quiet)

    assert row_count(url, "edits") == 3


def test_a_database_of_somebody_else_is_not_imported_into(exported, empty_url):
    connection = raw_connection(empty_url)
    connection.execute("CREATE TABLE orders (id INTEGER)")
    connection.close()

    with pytest.raises(PreconditionError, match="orders.*database of its own"):
        import_ledger(empty_url, exported, quiet)


def test_a_database_of_a_newer_server_is_not_imported_into(exported, ledger_url, make_empty):
    url = make_empty("sqlite" if ledger_url.startswith("sqlite") else "postgresql")
    connection = raw_connection(url)
    connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
    connection.execute("INSERT INTO alembic_version VALUES ('9999')")
    connection.close()

    with pytest.raises(SchemaMismatchError, match="upgrade this server"):
        import_ledger(url, exported, quiet)


@SQLITE_ONLY
def test_a_server_on_a_sqlite_ledger_keeps_an_import_out(exported, ledger_url, migrated_sqlite):
    url = f"sqlite:///{exported.with_name('served.db')}"
    exported.with_name("served.db").write_bytes(migrated_sqlite.read_bytes())
    served = Database(url)
    served.claim()

    with pytest.raises(LedgerUnavailableError, match="another errata-server"):
        import_ledger(url, exported, quiet)

    served.close()
    import_ledger(url, exported, quiet)
    assert row_count(url, "edits") == 3


def test_a_ledger_that_is_not_there_is_not_made_by_an_export(tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'missing.db'}")

    with pytest.raises(LedgerUnavailableError, match="no SQLite ledger"):
        export(database, tmp_path / "ledger.gz")

    database.close()
    assert list(tmp_path.iterdir()) == []


def test_a_ledger_of_an_older_schema_is_migrated_before_it_is_exported(empty_url, tmp_path):
    from tests.support.releases import migrate_to

    migrate_to(empty_url, "0001")
    with pytest.raises(SchemaMismatchError, match="`errata-server migrate`"):
        export_from(empty_url, tmp_path / "ledger.gz")


def test_a_tampered_ledger_is_exported_as_it_is_and_refused_by_the_import(
    history, database, ledger_url, empty_url, tmp_path
):
    with tampering(ledger_url) as tamper:
        tamper("UPDATE edits SET subject = 'Louvre' WHERE position = 0")
    path = export(database, tmp_path / "ledger.gz")

    with pytest.raises(Exception, match="does not pass the audit .*column 'subject'"):
        import_ledger(empty_url, path, quiet)
