"""The suite `tampering` tells what is found from what is missed, and takes everything back."""

import random
from dataclasses import replace

import pytest

from benchmarks.reliability import tampering as suite
from benchmarks.reliability.databases import Kind, stores
from benchmarks.reliability.families import FAMILIES, WORKING, Tampering, changed_cells
from benchmarks.reliability.hand import back_up, restore
from benchmarks.reliability.tampering import TamperingTally, play, try_one
from errata_server.domain.ids import ModelId
from errata_server.ledger import tables


@pytest.fixture(scope="module", params=Kind)
def scene(request):
    """A ledger with a history, its backups, and an auditor."""
    with (
        stores([request.param]) as (store,),
        store.ledger() as url,
        suite.scene(url, 1) as made,
    ):
        yield made


def counted(scene, perform):
    tally = TamperingTally()
    try_one(scene, Tampering(kind="planted", table="any", perform=perform), tally)
    return tally


def test_what_the_audit_sees_is_found(scene):
    spoilt = "UPDATE revisions SET kind = 'promote' WHERE sequence = 1"

    tally = counted(scene, lambda found: found.run(spoilt))

    assert (tally.found_by_audit, tally.found_by_checkpoint, tally.missed.total()) == (1, 0, 0)


def test_what_only_a_kept_checkpoint_shows_is_found_by_it(scene):
    tally = counted(scene, lambda found: restore(found, scene.copies[0]))

    assert (tally.found_by_audit, tally.found_by_checkpoint, tally.missed.total()) == (0, 1, 0)


def test_what_nobody_can_see_is_missed(scene):
    (model,) = scene.copies[-1]["models"]
    other = model | {"id": "another", "digest": "x"}

    tally = counted(scene, lambda found: found.insert("models", other))

    assert (tally.found_by_audit, tally.found_by_checkpoint, tally.missed.total()) == (0, 0, 1)


def test_what_the_database_refuses_or_what_changes_nothing_is_no_tampering(scene):
    nothing = "DELETE FROM edits WHERE id = 'none'"
    refused = "UPDATE edits SET position = -1"

    assert counted(scene, lambda found: found.run(nothing)) == TamperingTally()
    assert counted(scene, lambda found: found.run(refused)).refused == 1
    assert scene.clean


def test_everything_is_taken_back(scene):
    draw = random.Random(3)
    for family in FAMILIES:
        possible = list(family(scene.copies[-1], draw))
        for tampering in draw.sample(possible, min(4, len(possible))):
            try_one(scene, tampering, TamperingTally())

    assert back_up(scene.url) == scene.copies[-1]
    assert scene.clean


def test_every_table_of_evidence_is_tampered_with(scene):
    rows = scene.copies[-1]

    changed = {tampering.table for tampering in changed_cells(rows, random.Random(3))}

    assert changed == set(tables.metadata.tables) - WORKING
    assert all(rows[name] for name in changed)


def test_a_ledger_in_which_something_is_found_from_the_start_proves_nothing(scene):
    other = replace(scene, auditor=replace(scene.auditor, model=ModelId("another")))

    suite.require_clean(scene)
    with pytest.raises(RuntimeError, match="not in order by itself"):
        suite.require_clean(other)


def test_a_few_tamperings_are_counted():
    tally = TamperingTally()

    with stores([Kind.SQLITE]) as (store,), store.ledger() as url:
        play(url, 30, 1, tally)

    found = tally.found_by_audit + tally.found_by_checkpoint + tally.missed.total()
    assert found == tally.tamperings == 30
    assert tally.found_by_audit > 20
