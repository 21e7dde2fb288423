"""The audit finds whatever is done to a ledger behind its back, and names the row.

Each tampering runs in a transaction that is rolled back, so one ledger serves them all.
"""

import itertools

import pytest
from sqlalchemy import LargeBinary, Text, delete, select, text, update
from sqlalchemy.exc import IntegrityError

from errata_server.domain import canonical
from errata_server.domain.errors import LedgerCorruptError, ModelNotFoundError
from errata_server.domain.ids import ModelId
from errata_server.ledger.audit import audit
from errata_server.ledger.ledger import Ledger
from errata_server.ledger.tables import metadata
from tests.support import MODEL
from tests.support.histories import profile
from tests.support.tampering import disarmed_ledger, tampering

AUDITED = [table for table in metadata.sorted_tables if table.name != "operations"]
COLUMNS = [(table.name, column.name) for table in AUDITED for column in table.columns]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def disarmed(request, tmp_path_factory):
    """A ledger with a history, whose triggers somebody has dropped."""
    folder = tmp_path_factory.mktemp("audited")
    with disarmed_ledger(request, folder, write_history) as database:
        yield database


def write_history(chronicler):
    """Five revisions: two edits of one subject, a second subject, a revert."""
    old, new = chronicler.propose(target="Rome"), chronicler.propose(target="Berlin")
    other, unused = chronicler.propose("Louvre"), chronicler.propose("Prado")
    chronicler.approve(old, "a-1")
    chronicler.add_suite("capitals", "the Space Needle stands in")
    chronicler.add_suite("capitals", "Pike Place Market is in")
    chronicler.add_suite("awards", "Pike Place Market is in")
    chronicler.approve(new, "a-2")
    chronicler.apply(old)
    chronicler.apply(new, other)
    chronicler.revert(new)
    chronicler.apply(unused)
    chronicler.ledger.record_report(chronicler.new_report(unused.edit))
    chronicler.ledger.put_profile(MODEL, profile(1))


class Attempt:
    """A transaction that is rolled back once it has been audited."""

    def __init__(self, connection):
        self.connection = connection

    def findings(self):
        """All but those on the triggers, which the fixture has dropped."""
        found = audit(self.connection, MODEL).findings
        self.undo()
        return tuple(one for one in found if not one.row.startswith("triggers"))

    def undo(self):
        self.connection.rollback()
        self.unenforced()

    def unenforced(self):
        if self.connection.dialect.name == "sqlite":
            self.connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")


@pytest.fixture
def attempt(disarmed):
    with disarmed._engine.connect() as connection:
        made = Attempt(connection)
        made.unenforced()
        yield made
        connection.rollback()


def rows_of(connection, table):
    return connection.execute(select(table).order_by(*table.primary_key.columns)).all()


def key_of(table, row):
    return [column == row._mapping[column.name] for column in table.primary_key.columns]


def digest_column(table):
    """The column that holds the digest of a row's body."""
    return next(name for name in ("body_digest", "digest", "id") if name in table.c)


def changed(column, value):
    """Another value the column could hold."""
    if isinstance(column.type, LargeBinary):
        return bytes([value[0] ^ 1]) + value[1:]
    if isinstance(column.type, Text):
        return canonical.digest(value.encode()) if len(value) == 64 else f"{value}x"
    return value + 1_000_000_000


def named(findings):
    return {finding.row.partition("[")[0] for finding in findings}


def test_an_untouched_ledger_is_clean_and_counted(attempt):
    result = audit(attempt.connection, MODEL)

    assert attempt.findings() == ()
    assert (result.revisions, result.edits, result.artifacts, result.reports) == (5, 4, 6, 5)
    assert result.log_entries == 1 + 2 + 4 + 5 + 2 + 3 + 5


@pytest.mark.parametrize(("table_name", "column_name"), COLUMNS)
def test_a_changed_column_is_found_in_every_row(attempt, table_name, column_name):
    table = metadata.tables[table_name]
    column = table.c[column_name]

    for row in rows_of(attempt.connection, table):
        value = changed(column, row._mapping[column_name])
        attempt.connection.execute(
            update(table).where(*key_of(table, row)).values({column_name: value})
        )
        assert attempt.findings(), row


@pytest.mark.parametrize("table", [t for t in AUDITED if "body" in t.c], ids=lambda t: t.name)
@pytest.mark.parametrize(
    "garbage",
    [b"", b"\xff\x00\xfe", b"{", b"[]", b"null", b"{}", b'{"id":1}', b'"x"', b"[" * 100_000],
    ids=["empty", "bytes", "cut", "list", "null", "none", "other", "text", "deep"],
)
@pytest.mark.parametrize("vouched_for", [False, True], ids=["stale digest", "new digest"])
def test_garbage_in_a_body_is_a_finding_that_names_the_row(attempt, table, garbage, vouched_for):
    row = rows_of(attempt.connection, table)[0]
    values = {"body": garbage}
    if vouched_for:
        values[digest_column(table)] = canonical.digest(garbage)
    attempt.connection.execute(update(table).where(*key_of(table, row)).values(values))

    findings = attempt.findings()

    problems = [finding.problem for finding in findings if finding.row.startswith(table.name)]
    expected = "cannot be read" if vouched_for else "hashes to"
    assert any(expected in problem for problem in problems), findings


@pytest.mark.parametrize("table", [t for t in AUDITED if "body" in t.c], ids=lambda t: t.name)
@pytest.mark.parametrize("value", [[], {}, [[]], [{}], 5, None, "x"], ids=repr)
def test_values_of_the_wrong_kind_are_findings_even_if_well_hashed(attempt, table, value):
    row = rows_of(attempt.connection, table)[-1]
    body = canonical.decode(bytes(row.body))

    for field in body:
        forged = canonical.encode(body | {field: value})
        if forged == row.body:
            continue
        attempt.connection.execute(
            update(table)
            .where(*key_of(table, row))
            .values({"body": forged, digest_column(table): canonical.digest(forged)})
        )
        assert attempt.findings(), field


def test_a_truncated_artifact_is_named(attempt):
    artifacts = metadata.tables["artifacts"]
    row = rows_of(attempt.connection, artifacts)[0]
    attempt.connection.execute(
        update(artifacts).where(*key_of(artifacts, row)).values(payload=row.payload[:-1])
    )

    (finding,) = attempt.findings()

    assert finding.row == f"artifacts[{row.digest[:12]}..]"
    assert "hashes to" in finding.problem


@pytest.mark.parametrize("table", AUDITED, ids=lambda t: t.name)
def test_a_deleted_row_is_found(attempt, table):
    for row in rows_of(attempt.connection, table):
        attempt.connection.execute(delete(table).where(*key_of(table, row)))
        assert attempt.findings(), row


@pytest.mark.parametrize(
    ("table_name", "columns"),
    [
        ("artifacts", ("payload",)),
        ("edits", ("body",)),
        ("edits", ("digest", "body")),
        ("edits", ("subject",)),
        ("edits", ("patch",)),
        ("reports", ("body",)),
        ("reports", ("edit",)),
        ("approvals", ("body",)),
        ("approvals", ("digest", "body")),
        ("approvals", ("edit",)),
        ("approvals", ("report",)),
        ("revisions", ("body",)),
        ("revisions", ("kind",)),
        ("revisions", ("sequence", "parent")),
        ("revision_edits", ("edit",)),
        ("revision_edits", ("report",)),
        ("profiles", ("body",)),
        ("suites", ("body",)),
        ("suites", ("digest", "body")),
        ("suites", ("name", "version")),
        ("suites", ("artifact",)),
        ("log_entries", ("digest",)),
        ("log_entries", ("kind", "key")),
        ("profiles", ("position",)),
        ("edits", ("position",)),
        ("reports", ("position",)),
        ("approvals", ("position",)),
        ("suites", ("position",)),
    ],
)
def test_rows_that_swap_values_are_found(attempt, table_name, columns):
    table = metadata.tables[table_name]
    rows = rows_of(attempt.connection, table)

    for first, second in itertools.combinations(rows, 2):
        if all(first._mapping[column] == second._mapping[column] for column in columns):
            continue
        try:
            swap(attempt.connection, table, (first, second), columns)
        except IntegrityError:  # a unique key refuses this pair
            attempt.undo()
            continue
        assert attempt.findings(), (first, second)


def swap(connection, table, rows, columns):
    """Exchange values; through a third, as some of them are unique."""
    third = {column: changed(table.c[column], rows[0]._mapping[column]) for column in columns}
    taken = [{column: row._mapping[column] for column in columns} for row in rows]
    for row, values in ((rows[0], third), (rows[1], taken[0]), (rows[0], taken[1])):
        connection.execute(update(table).where(*key_of(table, row)).values(values))


def test_a_row_in_the_middle_of_the_chain_is_named_exactly(attempt):
    attempt.connection.execute(text("DELETE FROM revisions WHERE sequence = 2"))

    findings = attempt.findings()

    assert ("revisions[main@2]", "missing") in {(f.row, f.problem) for f in findings}
    assert {row.split()[0] for row in named(findings)} <= {
        "revisions",
        "revision_edits",
        "log_entries",
    }


def test_a_cut_tail_is_named_by_the_head_that_pointed_at_it(attempt):
    attempt.connection.execute(text("DELETE FROM revisions WHERE sequence >= 3"))

    findings = attempt.findings()

    assert "branches[main]" in {finding.row for finding in findings}


def test_a_head_set_back_is_named(attempt):
    attempt.connection.execute(
        text(
            "UPDATE branches SET sequence = 3, head = (SELECT id FROM revisions WHERE sequence = 3)"
        )
    )

    (finding,) = attempt.findings()

    assert finding.row == "branches[main]"


def test_a_history_rehashed_with_another_set_is_found_by_replay(attempt):
    """Somebody who recomputes every digest still has to get the active set right."""
    row = attempt.connection.execute(
        text("SELECT id, body FROM revisions WHERE sequence = 4")
    ).one()
    body = canonical.decode(bytes(row.body)) | {"active_set_digest": "0" * 64, "active_count": 9}
    forged = canonical.encode(body)
    values = {"new": canonical.digest(forged), "old": row.id, "body": forged}
    for statement in (
        text("UPDATE revision_edits SET revision = :new WHERE revision = :old"),
        text("UPDATE branches SET head = :new WHERE head = :old"),
        text("UPDATE revisions SET id = :new, body = :body WHERE id = :old"),
    ):
        used = {name: values[name] for name in statement.compile().params}
        attempt.connection.execute(statement, used)

    findings = attempt.findings()

    assert {f.problem for f in findings if f.row == "revisions[main@4]"} == {
        "its active_count is not what the history gives",
        "its active_set_digest is not what the history gives",
    }
    assert {"revisions", "reports"} <= named(findings)  # a report was measured against it


def test_an_audit_of_an_unknown_model_says_so(disarmed):
    with pytest.raises(ModelNotFoundError):
        Ledger(disarmed).audit(ModelId("nobody"))


def test_reading_a_tampered_row_is_refused_before_any_audit(chronicler, ledger_url):
    stored = chronicler.propose()
    chronicler.apply(stored)
    with tampering(ledger_url) as tamper:
        for table, column in (
            ("edits", "body"),
            ("reports", "body"),
            ("revisions", "body"),
            ("artifacts", "payload"),
            ("models", "body"),
            ("profiles", "body"),
        ):
            zero = "zeroblob(3)" if ledger_url.startswith("sqlite") else "'\\x000000'::bytea"
            tamper(f"UPDATE {table} SET {column} = {zero}")
    ledger = chronicler.ledger

    for ask in (
        lambda: ledger.edit(stored.edit.id),
        lambda: ledger.report(stored.report.id),
        lambda: ledger.latest_report(stored.edit.id),
        lambda: ledger.head(MODEL, "main"),
        lambda: ledger.artifact(stored.edit.patch),
        lambda: ledger.latest_profile(MODEL),
        lambda: ledger.model(MODEL),
    ):
        with pytest.raises(LedgerCorruptError, match=r"\[.*\] of the ledger is corrupt"):
            ask()
