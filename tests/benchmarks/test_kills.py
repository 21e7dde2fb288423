"""The suite `kills` counts what is lost, half done or unasked for."""

import random
from dataclasses import replace

import pytest

import errata
from benchmarks.reliability import ledger_kills, server_kills
from benchmarks.reliability.chronicle import Chronicle
from benchmarks.reliability.databases import Kind, opened, stores
from benchmarks.reliability.ledger_kills import LedgerTally
from benchmarks.reliability.server_kills import Asked, Attempt, ServerTally
from benchmarks.reliability.writes import Change, author
from errata_server.ledger.database import Database
from errata_server.ledger.leases import Claim, Leases
from tests.support import MODEL, NOON
from tests.support.loopback import serving


@pytest.fixture
def ledger():
    with stores([Kind.SQLITE]) as (store,), store.ledger() as url, opened(url) as opened_ledger:
        yield opened_ledger


@pytest.fixture
def written(ledger):
    return author(ledger, Chronicle(draw=random.Random(1)), edits=4)


def counted(ledger, *acknowledged, in_flight=None):
    tally = LedgerTally()
    witness = ledger_kills.Witness(acknowledged=list(acknowledged), in_flight=in_flight)
    ledger_kills.check(ledger, witness, tally)
    return tally


def made(ledger, written):
    change, after = written.change()
    change.perform(ledger)
    written.note(change, after)
    return change


def test_what_is_as_it_was_acknowledged_counts_as_nothing(ledger, written):
    changes = [made(ledger, written) for _ in range(3)]
    approval = written.approve()
    approval.perform(ledger)

    assert counted(ledger, *changes, approval) == LedgerTally()


def test_an_acknowledged_write_that_is_not_there_is_lost(ledger, written):
    artifact, edit = written.propose()
    lost = [artifact, edit, written.approve(), written.suite(), *written.operation()]

    assert counted(ledger, *lost).acknowledged_lost == len(lost)


def test_an_acknowledged_change_that_is_there_otherwise_is_lost(ledger, written):
    change = made(ledger, written)
    otherwise = Change(revision=replace(change.revision, reason="another"))

    tally = counted(ledger, otherwise)

    assert (tally.acknowledged_lost, tally.unexplained) == (1, 1)


def test_a_revision_nobody_asked_for_is_unexplained_and_named(ledger, written):
    change = made(ledger, written)

    tally = counted(ledger)

    assert tally.unexplained == 1
    assert change.revision.request_id in tally.breaches[0]


def test_what_was_cut_off_is_settled_whether_it_happened_or_not(ledger, written):
    happened = made(ledger, written)
    first = counted(ledger, in_flight=happened)
    second = counted(ledger, happened, in_flight=written.change()[0])

    assert (first.in_flight, first.in_flight_committed, first.half_applied) == (1, 1, 0)
    assert (second.in_flight, second.in_flight_committed, second.half_applied) == (1, 0, 0)


def test_what_cannot_be_settled_is_half_applied(ledger, written):
    change, _ = written.change()
    made(ledger, written)

    assert counted(ledger, in_flight=change).half_applied == 1


@pytest.mark.parametrize("kind", Kind)
def test_a_few_kills_lose_nothing(kind):
    tally = LedgerTally()

    with stores([kind]) as (store,):
        ledger_kills.play(store, 4, 1, tally)

    assert tally.server_kills + tally.database_kills == 4
    assert 0 < tally.in_flight <= 4  # a kill between two writes finds none under way
    assert (tally.acknowledged_lost, tally.half_applied, tally.unexplained) == (0, 0, 0)
    assert (tally.audits_failed, tally.not_ready) == (0, 0)


def test_servers_are_held_against_what_they_acknowledged(tmp_path):
    with serving(tmp_path) as server, errata.Client(server.address) as client:
        fact = errata.Fact(template="{} is in the city of", target="Rome")
        edit = client.propose("Space Needle", fact).result(20).edit.id
        change = client.apply(edit, request_id="mine")
        kept = Attempt(kind="apply", edit=edit, request_id="mine", revision=change.revision.name)
        lost = replace(kept, revision=f"{change.revision.name[:-1]}x")
        other = replace(kept, edit="e-000000000000")
        unsettled = Attempt(kind="apply", edit=edit, request_id="new")
        asked = Asked(
            fact=("Louvre", "{} is in the city of", "Rome"),
            request_id="p",
            operation="operations/x",
        )

        def checked(*changes, in_flight=(), proposals=()):
            tally = ServerTally()
            witness = server_kills.Witness(
                edits=[edit],
                changes=list(changes),
                in_flight=list(in_flight),
                proposals=list(proposals),
            )
            server_kills.check(client, witness, tally)
            return tally, witness

        def count(*changes, **under_way):
            return checked(*changes, **under_way)[0]

        assert count(kept) == ServerTally()
        assert count(lost, other).acknowledged_lost == 2
        assert count().unexplained == 1
        assert count(kept, in_flight=[unsettled]).half_applied == 1
        assert count(kept, proposals=[asked]).acknowledged_lost == 1

        settled = Attempt(kind="revert", edit=edit, request_id="back")
        assert checked(kept, in_flight=[settled])[1].changes[1].revision


def test_a_proposal_is_asked_for_again_until_the_lease_of_who_was_killed_has_ended(tmp_path):
    with serving(tmp_path) as server:
        url = server.ledger
    database = Database(url)
    claim = Claim(model=MODEL, holder="killed", address="127.0.0.1:1", seconds=3)
    Leases(database).take(claim, at=NOON)
    database.close()
    asked = Asked(fact=("Louvre", "{} is in the city of", "Rome"), request_id="p")
    tally = ServerTally()

    with serving(tmp_path) as server, errata.Client(server.address) as client:
        with pytest.raises(errata.LeaseHeldError):
            server_kills.start(client, asked)
        server_kills.check(client, server_kills.Witness(edits=[], proposals=[asked]), tally)

    assert tally == ServerTally(in_flight=1)
