"""Notifications of commits: heard at once on PostgreSQL, never relied upon."""

import queue
import threading
import time

import pytest
from sqlalchemy import text

from errata_server.domain.ids import ModelId
from errata_server.ledger.wakeups import Listener
from tests.support import MODEL
from tests.support.databases import POSTGRESQL_ONLY, SQLITE_ONLY

PATIENCE = 20.0


@pytest.fixture
def listening(ledger_url, chronicler):
    """Listens for a model until the test ends; what was heard comes out of a queue."""
    stop, threads = threading.Event(), []

    def listen(model=MODEL):
        heard: queue.SimpleQueue[bool] = queue.SimpleQueue()
        thread = threading.Thread(
            target=Listener(ledger_url, model).run, args=(stop, lambda: heard.put(True))
        )
        thread.start()
        threads.append(thread)
        assert heard.get(timeout=PATIENCE)  # once it is connected
        return heard

    yield listen
    stop.set()
    for thread in threads:
        thread.join(PATIENCE)


@POSTGRESQL_ONLY
def test_a_commit_is_heard(listening, chronicler):
    heard = listening()

    chronicler.apply(chronicler.propose())

    assert heard.get(timeout=PATIENCE)


@POSTGRESQL_ONLY
def test_what_is_not_committed_is_not_heard(listening, chronicler, database):
    heard = listening()
    with database.writing() as connection:
        connection.execute(text(f"SELECT pg_notify('errata_revisions', '{MODEL}:main:1')"))
        connection.rollback()

    with pytest.raises(queue.Empty):
        heard.get(timeout=0.5)


@POSTGRESQL_ONLY
def test_other_models_and_other_notifications_wake_nobody(listening, chronicler, database):
    heard = listening(ModelId("another"))

    chronicler.apply(chronicler.propose())
    with database.writing() as connection:
        connection.execute(text("SELECT pg_notify('errata_revisions', 'nonsense')"))

    with pytest.raises(queue.Empty):
        heard.get(timeout=0.5)


@POSTGRESQL_ONLY
def test_a_listener_that_was_cut_off_connects_again_and_says_so(listening, chronicler, database):
    heard = listening()
    with database.writing() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE query LIKE 'LISTEN%' AND datname = current_database()"
            )
        )

    assert heard.get(timeout=PATIENCE)
    chronicler.apply(chronicler.propose())
    assert heard.get(timeout=PATIENCE)


@SQLITE_ONLY
def test_sqlite_has_nothing_to_listen_to(ledger_url):
    begun = time.monotonic()

    Listener(ledger_url, MODEL).run(threading.Event(), lambda: None)

    assert time.monotonic() - begun < PATIENCE
