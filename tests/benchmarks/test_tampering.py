"""The suite `tampering` tells what is found from what is missed, and takes everything back."""

import random

import pytest
from sqlalchemy import delete, insert, update

from benchmarks.reliability import vandal
from benchmarks.reliability.databases import Kind, stores
from benchmarks.reliability.tampering import TamperingTally, play, try_one, write_history
from benchmarks.reliability.vandal import Tampering
from errata_server.ledger import tables
from errata_server.ledger.database import ledger_engine


@pytest.fixture(scope="module", params=Kind)
def scene(request):
    """A ledger with a history, what was kept of it, and its backups."""
    with stores([request.param]) as (store,), store.ledger() as url:
        checkpoint, copies = write_history(url, 1)
        engine = ledger_engine(url)
        yield engine, checkpoint, copies
        engine.dispose()


def counted(scene, perform):
    engine, checkpoint, _ = scene
    tally = TamperingTally()
    try_one(engine, Tampering(kind="planted", table="any", perform=perform), checkpoint, tally)
    return tally


def test_what_the_audit_sees_is_found(scene):
    revisions = tables.revisions
    spoilt = update(revisions).where(revisions.c.sequence == 1).values(kind="promote")

    tally = counted(scene, lambda connection: connection.execute(spoilt))

    assert (tally.found_by_audit, tally.found_by_checkpoint, tally.missed.total()) == (1, 0, 0)


def test_what_only_a_kept_revision_shows_is_found_by_it(scene):
    _, _, copies = scene

    tally = counted(scene, lambda connection: vandal.restore(connection, copies[0]))

    assert (tally.found_by_audit, tally.found_by_checkpoint, tally.missed.total()) == (0, 1, 0)


def test_what_nobody_can_see_is_missed(scene):
    _, _, copies = scene
    (model,) = copies[-1]["models"]

    tally = counted(
        scene,
        lambda connection: connection.execute(
            insert(tables.models), model | {"id": "another", "digest": "x"}
        ),
    )

    assert (tally.found_by_audit, tally.found_by_checkpoint, tally.missed.total()) == (0, 0, 1)


def test_what_the_database_refuses_or_what_changes_nothing_is_no_tampering(scene):
    nothing = delete(tables.edits).where(tables.edits.c.id == "none")
    refused = update(tables.edits).values(position=-1)

    assert counted(scene, lambda connection: connection.execute(nothing)) == TamperingTally()
    assert counted(scene, lambda connection: connection.execute(refused)).refused == 1


def test_everything_is_taken_back(scene):
    engine, _, copies = scene
    draw = random.Random(3)
    for family in vandal.FAMILIES:
        for tampering in family(copies[-1], draw):
            counted(scene, tampering.perform)

    with engine.connect() as connection:
        assert vandal.dump(connection) == copies[-1]


def test_every_table_of_evidence_is_tampered_with(scene):
    _, _, copies = scene
    draw = random.Random(3)

    changed = {tampering.table for tampering in vandal.changed_cells(copies[-1], draw)}

    assert changed == set(tables.metadata.tables) - vandal.WORKING
    assert all(copies[-1][name] for name in changed)


def test_a_few_tamperings_are_counted():
    tally = TamperingTally()

    with stores([Kind.SQLITE]) as (store,), store.ledger() as url:
        play(url, 30, 1, tally)

    found = tally.found_by_audit + tally.found_by_checkpoint + tally.missed.total()
    assert found == tally.tamperings == 30
    assert tally.found_by_audit > 20
