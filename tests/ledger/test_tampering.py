"""Whatever the owner of the database does is found: by the audit, or by a kept checkpoint."""

import random
import shutil

import pytest

from benchmarks.tampering import CLUMSY, CONSISTENT, REHASHED, back_up, hand, restore
from errata import _checkpoints
from errata._checkpoints import LedgerCheckpoint
from errata_server.ledger.database import Database
from errata_server.ledger.ledger import Ledger
from errata_server.service.ledger_log import LedgerLog
from errata_server.signing import SigningKey
from tests.support import MODEL
from tests.support.histories import CHECKPOINT, Chronicler, profile

KEY = SigningKey.generate("errata")
SEEDS = range(6)


def log_of(ledger):
    """As a server that has just been started sees it."""
    return LedgerLog(ledger=ledger, model=MODEL, base=CHECKPOINT, key=KEY)


def kept_of(ledger):
    return LedgerCheckpoint.parse(log_of(ledger).checkpoint().note)


def problems(ledger, kept):
    """What holding the log against a kept checkpoint comes to."""
    log = log_of(ledger)
    present = LedgerCheckpoint.parse(log.checkpoint().note)
    needs = _checkpoints.needs_proof(kept, present)
    proof = log.consistency(kept.size, present.size).hashes if needs else ()
    found = _checkpoints.compare(kept, present, proof, ())
    return [finding.problem for finding in found.findings]


@pytest.fixture
def written(chronicler):
    """A ledger with a row of every kind, and three revisions after the first."""
    old, other = chronicler.propose(target="Rome"), chronicler.propose("Louvre")
    chronicler.approve(old, "a-1")
    chronicler.approve(other, "a-2")
    chronicler.add_suite("capitals", "the Space Needle stands in")
    chronicler.add_suite("capitals", "Pike Place Market is in")
    chronicler.apply(old)
    chronicler.apply(other)
    chronicler.ledger.put_profile(MODEL, profile(1))
    chronicler.revert(old)
    chronicler.ledger.record_report(chronicler.new_report(other.edit))
    return chronicler


@pytest.mark.parametrize("tamper", CLUMSY, ids=lambda operation: operation.__name__)
def test_what_does_not_fit_together_is_found_by_the_audit(written, ledger_url, tamper):
    backup = back_up(ledger_url)

    for seed in SEEDS:
        with hand(ledger_url, rearm=True) as found:
            said = tamper(found, random.Random(seed))
        assert written.ledger.audit(MODEL).findings, said
        with hand(ledger_url, rearm=True) as found:
            restore(found, backup)
        assert written.ledger.audit(MODEL).findings == (), seed


@pytest.mark.parametrize("tamper", CONSISTENT, ids=lambda operation: operation.__name__)
def test_a_history_that_is_in_order_by_itself_is_found_by_a_kept_checkpoint(
    written, ledger_url, tamper
):
    kept, backup = kept_of(written.ledger), back_up(ledger_url)
    assert problems(written.ledger, kept) == []

    for seed in SEEDS:
        with hand(ledger_url, rearm=True) as found:
            said = tamper(found, random.Random(seed))
        assert written.ledger.audit(MODEL).findings == (), said
        assert problems(written.ledger, kept), said
        with hand(ledger_url, rearm=True) as found:
            restore(found, backup)


@pytest.mark.parametrize("tamper", REHASHED, ids=lambda operation: operation.__name__)
def test_a_row_changed_together_with_its_entry_is_found_by_a_kept_checkpoint(
    written, ledger_url, tamper
):
    kept, backup = kept_of(written.ledger), back_up(ledger_url)

    for seed in SEEDS:
        with hand(ledger_url, rearm=True) as found:
            said = tamper(found, random.Random(seed))
        assert problems(written.ledger, kept), said
        with hand(ledger_url, rearm=True) as found:
            restore(found, backup)


def test_an_older_database_is_found_even_after_it_has_grown_again(written, ledger_url):
    backup = back_up(ledger_url)
    written.apply(written.propose("Prado"))
    kept = kept_of(written.ledger)

    with hand(ledger_url, rearm=True) as found:
        restore(found, backup)

    (problem,) = problems(written.ledger, kept)
    assert "older database was restored" in problem
    for number in range(3):  # a fork of what the kept checkpoint is of, and longer
        written.apply(written.propose(f"Subject {number}"))
    assert written.ledger.audit(MODEL).findings == ()
    (problem,) = problems(written.ledger, kept)
    assert "this database is a fork" in problem


def test_a_log_that_only_grew_goes_on_from_every_checkpoint_kept(chronicler):
    kept = [kept_of(chronicler.ledger)]
    for number in range(5):
        chronicler.apply(chronicler.propose(f"Subject {number}"))
        kept.append(kept_of(chronicler.ledger))

    assert [problems(chronicler.ledger, one) for one in kept] == [[]] * 6


def test_another_database_of_the_same_model_is_another_log(written, migrated_sqlite, tmp_path):
    path = tmp_path / "elsewhere.db"
    shutil.copy(migrated_sqlite, path)
    elsewhere = Database(f"sqlite:///{path}")
    other = Chronicler(Ledger(elsewhere))
    for number in range(9):
        other.apply(other.propose(f"Subject {number}"))

    (problem,) = problems(other.ledger, kept_of(written.ledger))

    assert "are not those of the kept checkpoint" in problem
    elsewhere.close()
