"""The grants that the guide of operations gives are enough to serve, and for nothing else."""

import re
from pathlib import Path

import psycopg
import pytest

from errata_server.ledger.database import Database
from errata_server.ledger.exports import export_ledger
from errata_server.ledger.integrity import check_ledger
from errata_server.ledger.leases import Claim, Leases
from errata_server.ledger.ledger import Ledger
from tests.support import MODEL, NOON
from tests.support.databases import POSTGRESQL_ONLY
from tests.support.histories import Chronicler, operation
from tests.support.tampering import raw_connection

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "operations.md"
ROLE = "errata_serving"


@pytest.fixture
def serving_url(ledger_url):
    """The ledger as the role sees it that the guide describes."""
    (grants,) = re.findall(r"```sql\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    owner = raw_connection(ledger_url)
    owner.execute(f"CREATE ROLE {ROLE} LOGIN")
    for grant in grants.split(";\n"):
        owner.execute(grant)
    yield ledger_url.replace("postgres:@", f"{ROLE}:@")
    owner.execute(f"DROP OWNED BY {ROLE}")
    owner.execute(f"DROP ROLE {ROLE}")
    owner.close()


@POSTGRESQL_ONLY
def test_the_serving_role_can_do_all_that_a_server_does(serving_url, tmp_path):
    database = Database(serving_url)
    database.check_schema()
    chronicler = Chronicler(Ledger(database))
    stored = chronicler.propose()
    chronicler.approve(stored, "a-1")
    chronicler.add_suite("capitals", "one is")
    chronicler.apply(stored)
    chronicler.revert(stored)
    chronicler.ledger.start_operation(operation())
    claim = Claim(model=MODEL, holder="next", address="next:1", seconds=1)
    assert Leases(database).take(claim, at=NOON).interrupted == 1
    chronicler.ledger.forget_operation(operation().id)

    assert check_ledger(database, lambda step: None).clean
    path = tmp_path / "ledger.gz"
    assert export_ledger(database, path, replace=False, progress=lambda step: None).rows["edits"]
    database.close()


@POSTGRESQL_ONLY
def test_the_serving_role_cannot_touch_history_or_what_guards_it(chronicler, serving_url):
    chronicler.apply(chronicler.propose())
    role = raw_connection(serving_url)
    refusals = (psycopg.errors.InsufficientPrivilege, psycopg.errors.RestrictViolation)

    for statement in (
        "UPDATE edits SET subject = 'x'",
        "UPDATE models SET digest = 'x'",
        "DELETE FROM revisions",
        "TRUNCATE reports CASCADE",
        "ALTER TABLE revisions DISABLE TRIGGER ALL",
        "DROP TRIGGER revisions_rows_guard ON revisions",
        "SET session_replication_role = replica",
        "DROP TABLE suites",
    ):
        with pytest.raises(refusals):
            role.execute(statement)
    role.close()

    assert chronicler.ledger.audit(MODEL).clean
