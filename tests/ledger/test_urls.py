"""What a ledger's URL may say, and that nothing of it is passed over."""

import pytest
from sqlalchemy import text

from errata_server.domain.errors import InvalidInputError
from errata_server.ledger.database import Database
from errata_server.ledger.migrate import migrate
from errata_server.ledger.urls import TUNING, read_url

SECRET = "hunter2"


def test_tls_reaches_the_driver_as_it_was_written():
    said = "sslmode=verify-full&sslrootcert=/etc/ca.pem&connect_timeout=3"
    url = read_url(f"postgres://me:{SECRET}@db/errata?{said}&pool_size=3")

    assert dict(url.driver.query) == {
        "sslmode": "verify-full",
        "sslrootcert": "/etc/ca.pem",
        "connect_timeout": "3",
    }
    assert url.tuning.pool_size == 3
    assert url.driver.password == SECRET


@pytest.mark.parametrize(
    ("parameter", "problem"),
    [
        ("pool_size=0", "pool_size .* whole number from 1"),
        ("pool_size=2.5", "pool_size .* whole number"),
        ("pool_overflow=-1", "pool_overflow .* from 0"),
        ("pool_timeout=nan", "pool_timeout .* seconds"),
        ("lock_timeout=soon", "lock_timeout .* seconds"),
        ("statement_timeout=inf", "statement_timeout .* seconds"),
        ("pool_size=1&pool_size=2", "pool_size .* once"),
    ],
)
def test_a_parameter_that_cannot_be_used_is_named(parameter, problem):
    with pytest.raises(InvalidInputError, match=problem) as refused:
        read_url(f"postgresql://me:{SECRET}@db/errata?{parameter}")

    assert SECRET not in str(refused.value)


def test_a_parameter_of_postgresql_means_nothing_to_sqlite():
    with pytest.raises(InvalidInputError, match="idle_timeout .* is for PostgreSQL"):
        read_url("sqlite:///ledger.db?idle_timeout=3")

    assert read_url("sqlite:///ledger.db?lock_timeout=3").tuning.lock_timeout == 3
    assert read_url("sqlite:///ledger.db").tuning == TUNING["sqlite"]


@pytest.mark.parametrize("base", ["sqlite:///ledger.db", f"postgresql://me:{SECRET}@db/errata"])
@pytest.mark.parametrize(
    "query", ["lock_timout=2", "pool_size=3&lock_timout=2", "lock_timout=", "lock_timout"]
)
def test_a_parameter_nobody_knows_is_refused_by_its_name(base, query):
    with pytest.raises(InvalidInputError, match="lock_timout .* unknown.* lock_timeout") as refused:
        read_url(f"{base}?{query}")

    assert refused.value.metadata == {"field": "ledger", "parameter": "lock_timout"}
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "parameter"),
    [
        ("sqlite:///ledger.db?timeout=3", "timeout"),  # in vain: ours has the last word
        ("sqlite:///ledger.db?mode=rw", "mode"),
        ("sqlite:///ledger.db?uri=no&mode=rw", "mode"),
        ("sqlite:///ledger.db?sslmode=require", "sslmode"),
        ("postgresql://db/errata?autocommit=true", "autocommit"),
        ("postgresql://db/errata?plugin=any", "plugin"),
        ("postgresql://db/errata?sslmode=require&sslmode=disable", "sslmode"),
    ],
)
def test_a_parameter_that_would_do_nothing_or_harm_is_refused(url, parameter):
    with pytest.raises(InvalidInputError) as refused:
        read_url(url)

    assert refused.value.metadata["parameter"] == parameter


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///ledger.db?cached_statements=some",
        "sqlite:///file:ledger.db?uri=perhaps",
        "sqlite://here/ledger.db",
        "postgresql://db/errata?port=any",
    ],
)
def test_what_the_driver_cannot_be_given_is_malformed(url):
    with pytest.raises(InvalidInputError, match="malformed"):
        read_url(url)


def test_several_postgresql_servers_can_be_named():
    url = read_url("postgresql:///errata?host=a:1&host=b:2&target_session_attrs=read-write")

    assert url.driver.query["host"] == ("a:1", "b:2")


def test_a_sqlite_file_may_be_given_as_a_uri(tmp_path):
    url = f"sqlite:///file:{tmp_path}/ledger.db?uri=true&mode=rwc&cached_statements=9"

    migrate(url)
    database = Database(url)
    with database.reading() as connection:
        assert connection.scalar(text("SELECT count(*) FROM revisions")) == 0
    database.close()

    assert (tmp_path / "ledger.db").exists()
