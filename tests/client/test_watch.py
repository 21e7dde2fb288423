"""Watching revisions: no gaps, no repeats, whatever the server does meanwhile."""

import threading
from functools import partial
from itertools import islice

import pytest

import errata
from errata import _messages
from errata._watch import Cursor
from errata.v1 import types_pb2
from tests.support import loopback


def revision(sequence):
    return _messages.revision(types_pb2.Revision(sequence=sequence))


def connected(start, *, head=0, give_up_after=60.0):
    cursor = Cursor(start, give_up_after)
    cursor.connected(revision(head))
    return cursor


def test_a_watch_starts_after_the_head_unless_told_where():
    assert connected(None, head=4).sequence == 5
    assert connected(0, head=4).sequence == 0


def test_a_repeated_revision_is_left_out():
    cursor = connected(0)

    taken = [n for n in (0, 1, 1, 0, 2) if cursor.accept(revision(n))]

    assert taken == [0, 1, 2]
    assert cursor.sequence == 3


def test_a_gap_is_an_error():
    cursor = connected(0)
    cursor.accept(revision(0))

    with pytest.raises(errata.InternalError, match="1 to 2"):
        cursor.accept(revision(3))


def test_a_server_that_never_answered_is_not_waited_for():
    away = errata.UnavailableError("away")

    with pytest.raises(errata.UnavailableError):
        Cursor(0, 60.0).wait_after(away)


def test_waits_grow_until_the_watch_gives_up():
    cursor, away = connected(0, give_up_after=3.0), errata.UnavailableError("away")

    waits = [cursor.wait_after(away) for _ in range(4)]

    assert waits == [0.2, 0.4, 0.8, 1.6]
    with pytest.raises(errata.UnavailableError):
        cursor.wait_after(away)


def test_patience_is_new_once_the_server_answered_again():
    cursor, away = connected(0, give_up_after=0.3), errata.UnavailableError("away")
    cursor.wait_after(away)
    cursor.wait_after(away)

    cursor.connected(revision(0))

    assert cursor.wait_after(away) == 0.2


def test_the_whole_history_can_be_watched(client, moved):
    edit = client.propose("Space Needle", moved).result(20).edit
    client.apply(edit)
    client.revert(edit)

    seen = list(islice(client.watch(0), 3))

    assert seen == list(client.revisions())[::-1]


def test_a_watch_goes_on_after_a_restart_without_gaps_or_repeats(folder, ledger_url, moved):
    """The server is stopped and started twice while one watcher watches."""
    serving = partial(loopback.serving, ledger_url=ledger_url)
    seen: list[errata.Revision] = []

    def watch(address):
        with errata.Client(address) as watcher:
            seen.extend(islice(watcher.watch(0, give_up_after=30), 4))

    with serving(folder) as first, errata.Client(first.address) as client:
        thread = threading.Thread(target=watch, args=(first.address,))
        thread.start()
        edit = client.propose("Space Needle", moved).result(20).edit
        client.apply(edit)
    with serving(folder, listen=first.address) as second, errata.Client(second.address) as client:
        client.revert(edit)
    with serving(folder, listen=first.address) as third, errata.Client(third.address) as client:
        client.apply(edit)
        thread.join(30)

    assert not thread.is_alive()
    assert [revision.sequence for revision in seen] == [0, 1, 2, 3]


def test_a_watch_of_a_server_that_is_not_there_fails_at_once():
    with (
        errata.Client("127.0.0.1:1", model="m") as client,
        pytest.raises(errata.UnavailableError),
    ):
        next(client.watch())
