"""Whatever the owner of the database does is found: by the audit, or by a kept checkpoint."""

import random
import shutil

import pytest

from benchmarks.reliability.auditor import Auditor
from benchmarks.reliability.families import CLUMSY, CONSISTENT, EITHER, forged_with_entries
from benchmarks.reliability.hand import REFUSED, back_up, hand, restore
from errata_server.ledger.database import Database
from errata_server.ledger.ledger import Ledger
from tests.support import MODEL
from tests.support.histories import CHECKPOINT, Chronicler, profile

SEEDS = range(6)


def auditor_of(ledger):
    return Auditor(ledger=ledger, model=MODEL, base=CHECKPOINT)


def tampered(url, family, seed):
    """What one of a family does, once it does anything; nothing if none can."""
    draw, backup = random.Random(seed), back_up(url)
    possible = list(family(backup, draw))
    for tampering in draw.sample(possible, len(possible)):
        try:
            if tampering.commit(url):
                return f"{tampering.kind}: {tampering.table}, seed {seed}"
        except REFUSED:
            continue
    return ""


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


@pytest.mark.parametrize("family", CLUMSY, ids=lambda family: family.__name__)
def test_what_does_not_fit_together_is_found_by_the_audit(written, ledger_url, family):
    backup, auditor = back_up(ledger_url), auditor_of(written.ledger)

    for seed in SEEDS:
        said = tampered(ledger_url, family, seed)
        assert said
        assert auditor.audit(), said
        with hand(ledger_url, rearm=True) as found:
            restore(found, backup)
        assert auditor.audit() == [], said


@pytest.mark.parametrize("family", CONSISTENT, ids=lambda family: family.__name__)
def test_a_history_that_is_in_order_by_itself_is_found_by_a_kept_checkpoint(
    written, ledger_url, family
):
    backup, auditor = back_up(ledger_url), auditor_of(written.ledger)
    kept = auditor.keep()
    assert auditor.compare(kept) == []

    for seed in SEEDS:
        said = tampered(ledger_url, family, seed)
        assert said
        assert auditor.audit() == [], said
        assert auditor.compare(kept), said
        with hand(ledger_url, rearm=True) as found:
            restore(found, backup)


@pytest.mark.parametrize("family", EITHER, ids=lambda family: family.__name__)
def test_what_may_be_in_order_by_itself_is_found_by_the_audit_or_a_kept_checkpoint(
    written, ledger_url, family
):
    backup, auditor = back_up(ledger_url), auditor_of(written.ledger)
    kept = auditor.keep()

    for seed in SEEDS:
        said = tampered(ledger_url, family, seed)
        assert said
        assert auditor.audit() or auditor.compare(kept), said
        with hand(ledger_url, rearm=True) as found:
            restore(found, backup)


def test_a_row_changed_together_with_its_entry_is_found_by_a_kept_checkpoint(written, ledger_url):
    backup, auditor = back_up(ledger_url), auditor_of(written.ledger)
    kept = auditor.keep()

    for seed in SEEDS:
        said = tampered(ledger_url, forged_with_entries, seed)
        assert auditor.compare(kept), said
        with hand(ledger_url, rearm=True) as found:
            restore(found, backup)


def test_entries_of_different_kinds_that_change_places_are_found_by_a_kept_checkpoint(
    written, ledger_url
):
    auditor, backup = auditor_of(written.ledger), back_up(ledger_url)
    kept = auditor.keep()
    suite, approval = (
        next(one for one in backup["log_entries"] if one["kind"] == kind)
        for kind in ("suite", "approval")
    )

    with hand(ledger_url, rearm=True) as found:
        found.delete("log_entries", suite)
        found.delete("log_entries", approval)
        found.insert(
            "log_entries",
            suite | {"position": approval["position"]},
            approval | {"position": suite["position"]},
        )

    assert auditor.compare(kept)


def test_triggers_that_were_gone_for_a_while_leave_no_trace(written, ledger_url):
    backup = back_up(ledger_url)

    with hand(ledger_url, rearm=True):
        pass
    with pytest.raises(ZeroDivisionError), hand(ledger_url) as found:
        found.run("DELETE FROM log_entries")
        raise ZeroDivisionError

    assert back_up(ledger_url) == backup
    assert auditor_of(written.ledger).audit() == []


def test_an_older_database_is_found_even_after_it_has_grown_again(written, ledger_url):
    backup = back_up(ledger_url)
    written.apply(written.propose("Prado"))
    auditor = auditor_of(written.ledger)
    kept = auditor.keep()

    with hand(ledger_url, rearm=True) as found:
        restore(found, backup)

    (problem,) = auditor.compare(kept)
    assert "older database was restored" in problem
    for number in range(3):  # a fork of what the kept checkpoint is of, and longer
        written.apply(written.propose(f"Subject {number}"))
    assert auditor.audit() == []
    (problem,) = auditor.compare(kept)
    assert "this database is a fork" in problem


def test_a_log_that_only_grew_goes_on_from_every_checkpoint_kept(chronicler):
    auditor = auditor_of(chronicler.ledger)
    kept = [auditor.keep()]
    for number in range(5):
        chronicler.apply(chronicler.propose(f"Subject {number}"))
        kept.append(auditor.keep())

    assert [auditor.compare(one) for one in kept] == [[]] * 6


def test_another_database_of_the_same_model_is_another_log(written, migrated_sqlite, tmp_path):
    path = tmp_path / "elsewhere.db"
    shutil.copy(migrated_sqlite, path)
    elsewhere = Database(f"sqlite:///{path}")
    other = Chronicler(Ledger(elsewhere))
    for number in range(9):
        other.apply(other.propose(f"Subject {number}"))

    (problem,) = auditor_of(other.ledger).compare(auditor_of(written.ledger).keep())

    assert "are not those of the kept checkpoint" in problem
    elsewhere.close()
