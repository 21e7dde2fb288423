import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise

import pytest

from errata_server.domain.checks import CheckKind
from errata_server.domain.edits import EditState
from errata_server.domain.errors import (
    AlreadyAppliedError,
    BranchNotFoundError,
    EditNotFoundError,
    InvalidInputError,
    InvalidPatchError,
    LedgerUnavailableError,
    ModelMismatchError,
    NotAppliedError,
    PreconditionError,
    RequestIdReusedError,
    RevisionNotFoundError,
    StaleRevisionError,
    VerificationFailedError,
)
from errata_server.domain.ids import MAIN, BranchName, EditId, new_edit_id
from errata_server.domain.revisions import RevisionKind
from tests.support import MODEL, patch_of
from tests.support.databases import locked
from tests.support.scripted_engine import ScriptedEngine
from tests.support.services import PATIENCE, call, open_services

NEEDLE = "Space Needle is in the city of"
LOUVRE = "Louvre is in the city of"


@pytest.fixture
def other(url):
    """A second server on the same ledger."""
    with open_services(url) as opened:
        yield opened


def ids(*edits):
    return [edit.id for edit in edits]


def test_an_applied_edit_is_served_and_vouched_for(services):
    edit = services.proposed()
    genesis = services.history.head()

    pinned = services.changes.apply(ids(edit), MAIN, call("r-1", reason="moved"))

    assert services.answer(NEEDLE) == "Paris"
    revision = pinned.revision
    assert services.history.head() == revision == services.serving.head().revision
    assert (revision.sequence, revision.parent) == (1, genesis.id)
    assert (revision.kind, revision.active_count) == (RevisionKind.APPLY, 1)
    assert (revision.actor, revision.reason, revision.ticket) == ("ana", "moved", "T-1")
    (reference,) = revision.edits
    assert (reference.edit, reference.edit_digest) == (edit.id, edit.digest)
    assert reference.patch == edit.patch
    assert reference.report == services.ledger.latest_report(edit.id).id
    assert revision.weights_digest == services.serving.head().weights.digest


def test_several_edits_make_one_revision(services):
    edits = [services.proposed(), services.proposed("Louvre", "Rome")]

    revision = services.apply(*edits)

    assert [reference.edit for reference in revision.edits] == ids(*edits)
    assert (services.answer(NEEDLE), services.answer(LOUVRE)) == ("Paris", "Rome")


def test_a_revert_gives_the_weights_that_would_be_there_without_the_edit(services):
    first, second = services.proposed(), services.proposed("Louvre", "Rome")
    alone = services.apply(second)
    services.apply(first)

    reverted = services.revert(first)

    assert reverted.kind is RevisionKind.REVERT
    assert reverted.weights_digest == alone.weights_digest
    assert reverted.active_set_digest == alone.active_set_digest
    assert services.answer(NEEDLE) == "Seattle"
    assert services.proposals.get(first.id).state is EditState.REVERTED


def test_a_reverted_edit_can_be_applied_again(services):
    edit = services.proposed()
    services.apply(edit)
    services.revert(edit)

    services.apply(edit)

    assert services.answer(NEEDLE) == "Paris"
    assert services.proposals.get(edit.id).state is EditState.APPLIED


def test_a_newer_edit_of_a_subject_supersedes_and_its_revert_restores(services):
    old, new = services.proposed(target="Paris"), services.proposed(target="Rome")
    services.apply(old)

    superseding = services.apply(new)

    assert superseding.superseded == (old.id,)
    assert superseding.active_count == 1
    assert services.answer(NEEDLE) == "Rome"
    hidden = services.proposals.get(old.id)
    assert (hidden.state, hidden.superseded_by) == (EditState.SUPERSEDED, new.id)

    restoring = services.revert(new)

    assert restoring.restored == (old.id,)
    assert services.answer(NEEDLE) == "Paris"
    shown = services.proposals.get(old.id)
    assert (shown.state, shown.superseded_by) == (EditState.APPLIED, None)


def test_a_superseded_edit_can_be_reverted_without_a_trace_in_what_is_served(services):
    old, new = services.proposed(target="Paris"), services.proposed(target="Rome")
    services.apply(old)
    before = services.apply(new)

    after = services.revert(old)

    assert after.weights_digest == before.weights_digest
    assert (after.superseded, after.restored) == ((), ())


def test_an_unknown_edit_is_not_applied_or_reverted(services):
    with pytest.raises(EditNotFoundError):
        services.changes.apply([EditId("e-nothing")], MAIN, call())
    with pytest.raises(EditNotFoundError):
        services.changes.revert([EditId("e-nothing")], MAIN, call())


def test_an_unknown_branch_is_refused(services):
    edit = services.proposed()

    with pytest.raises(BranchNotFoundError):
        services.changes.apply(ids(edit), BranchName("canary"), call())
    with pytest.raises(BranchNotFoundError):
        services.changes.revert(ids(edit), BranchName("canary"), call())


def test_an_unknown_revision_is_refused(services):
    edit = services.proposed()

    with pytest.raises(RevisionNotFoundError):
        services.changes.apply(ids(edit), MAIN, call(), expected="f" * 64)
    with pytest.raises(RevisionNotFoundError):
        services.changes.revert([], MAIN, call(), to_revision="f" * 64)


def test_an_edit_is_applied_once(services):
    edit = services.proposed()
    services.apply(edit)

    with pytest.raises(AlreadyAppliedError, match=edit.id):
        services.apply(edit)


def test_an_edit_that_is_not_applied_cannot_be_reverted(services):
    edit = services.proposed()

    with pytest.raises(NotAppliedError, match=edit.id):
        services.revert(edit)


def test_naming_no_edit_or_one_twice_is_refused(services):
    edit = services.proposed()

    with pytest.raises(InvalidInputError, match="at least one"):
        services.changes.apply([], MAIN, call())
    with pytest.raises(InvalidInputError, match="twice"):
        services.changes.apply([edit.id, edit.id], MAIN, call())
    with pytest.raises(InvalidInputError, match="either"):
        services.changes.revert([], MAIN, call())
    with pytest.raises(InvalidInputError, match="either"):
        services.changes.revert([edit.id], MAIN, call(), to_revision="0")


def test_one_bad_edit_of_several_applies_none(services):
    good, applied = services.proposed(), services.proposed("Louvre", "Rome")
    head = services.apply(applied)

    with pytest.raises(AlreadyAppliedError):
        services.apply(good, applied)

    assert services.history.head() == head
    assert services.answer(NEEDLE) == "Seattle"


def test_a_failed_report_is_not_applied(services):
    services.engine.faults = {CheckKind.NEIGHBOURHOOD}
    edit = services.proposed()

    with pytest.raises(VerificationFailedError, match="neighbourhood"):
        services.apply(edit)
    with pytest.raises(VerificationFailedError):
        services.changes.apply(ids(edit), MAIN, call(), override="   ")

    assert services.history.head().sequence == 0


def test_an_override_is_recorded_with_its_reason(services):
    services.engine.faults = {CheckKind.NEIGHBOURHOOD}
    edit = services.proposed()

    pinned = services.changes.apply(ids(edit), MAIN, call(), override="the CEO said so")

    assert pinned.revision.override == "the CEO said so"
    assert services.answer(NEEDLE) == "Paris"


def test_an_override_of_nothing_is_not_recorded(services):
    pinned = services.changes.apply(ids(services.proposed()), MAIN, call(), override="just in case")

    assert pinned.revision.override == ""


def test_the_latest_report_decides(services):
    services.engine.faults = {CheckKind.NEIGHBOURHOOD}
    edit = services.proposed()
    failed = services.ledger.latest_report(edit.id)
    passed = replace(failed, checks=tuple(c for c in failed.checks if c not in failed.failures))
    services.ledger.record_report(passed)

    revision = services.apply(edit)

    assert revision.edits[0].report == passed.id
    assert revision.override == ""


def test_the_expected_revision_lets_a_change_through(services):
    edit = services.proposed()
    head = services.history.head()

    pinned = services.changes.apply(ids(edit), MAIN, call(), expected=head.id[:12])

    assert pinned.revision.parent == head.id


def test_a_stale_expected_revision_is_refused_with_the_head(services):
    genesis = services.history.head()
    head = services.apply(services.proposed())
    edit = services.proposed("Louvre", "Rome")

    with pytest.raises(StaleRevisionError, match="read the head and retry") as refused:
        services.changes.apply(ids(edit), MAIN, call(), expected=genesis.id)
    with pytest.raises(StaleRevisionError):
        services.changes.revert([], MAIN, call(), to_revision="0", expected=genesis.id)

    assert refused.value.metadata == {
        "expected": genesis.id,
        "head": head.id,
        "sequence": "1",
    }


def test_a_repeated_request_gives_the_earlier_revision_though_the_head_moved_on(services):
    edit, later = services.proposed(), services.proposed("Louvre", "Rome")
    genesis = services.history.head()
    first = services.changes.apply(ids(edit), MAIN, call("r-1"), expected=genesis.id)
    services.apply(later)

    again = services.changes.apply(ids(edit), MAIN, call("r-1"), expected=genesis.id)

    assert again.revision == first.revision
    assert again.weights.digest == first.revision.weights_digest
    assert services.history.head().sequence == 2


def test_a_repeated_revert_gives_the_earlier_revision(services):
    edit = services.proposed()
    services.apply(edit)
    first = services.changes.revert(ids(edit), MAIN, call("r-2"))

    again = services.changes.revert(ids(edit), MAIN, call("r-2"))

    assert again.revision == first.revision


def test_a_request_id_cannot_make_two_changes(services):
    edit, other = services.proposed(), services.proposed("Louvre", "Rome")
    services.changes.apply(ids(edit), MAIN, call("r-1"))

    with pytest.raises(RequestIdReusedError, match="r-1"):
        services.changes.apply(ids(other), MAIN, call("r-1"))
    with pytest.raises(RequestIdReusedError, match="r-1"):
        services.changes.revert(ids(edit), MAIN, call("r-1"))
    with pytest.raises(RequestIdReusedError, match="r-1"):
        services.changes.apply(ids(edit), MAIN, call("r-1", actor="eve"))


def test_validating_shows_the_revision_and_commits_nothing(services):
    edit = services.proposed()

    pinned = services.changes.apply(ids(edit), MAIN, call("r-1"), validate_only=True)

    assert pinned.revision.sequence == 1
    assert pinned.revision.active_count == 1
    assert services.history.head().sequence == 0
    assert services.answer(NEEDLE) == "Seattle"
    assert services.changes.apply(ids(edit), MAIN, call("r-1")).revision == pinned.revision


def test_validating_refuses_what_applying_would(services):
    services.engine.faults = {CheckKind.FLUENCY}
    edit = services.proposed()

    with pytest.raises(VerificationFailedError):
        services.changes.apply(ids(edit), MAIN, call(), validate_only=True)


def test_an_edit_made_on_another_checkpoint_is_not_applied(services):
    edit = services.proposed()
    stranger = ScriptedEngine(base={"Space Needle is in the city of": "Atlantis"})
    patch = patch_of(stranger, edit.request)
    foreign = replace(edit, id=new_edit_id(), patch=services.ledger.put_artifact(patch.payload))
    report = services.ledger.latest_report(edit.id)
    services.ledger.record_edit(foreign, replace(report, edit=foreign.id, patch=foreign.patch))

    with pytest.raises(ModelMismatchError, match="propose it again"):
        services.apply(foreign)


def test_a_patch_that_does_not_compose_leaves_no_trace(services):
    edit = services.proposed()
    before = services.serving.head()
    services.engine.breaks["compose"] = InvalidPatchError("not finite")

    with pytest.raises(InvalidPatchError):
        services.apply(edit)

    assert services.serving.head() is before
    assert services.history.head() == before.revision


def test_reverting_to_a_revision_takes_back_everything_since(services):
    first, second, third = (
        services.proposed(),
        services.proposed("Louvre", "Rome"),
        services.proposed(target="Berlin"),
    )
    target = services.apply(first)
    services.apply(second)
    services.apply(third)

    pinned = services.changes.revert([], MAIN, call(), to_revision=target.id)

    assert {reference.edit for reference in pinned.revision.edits} == {second.id, third.id}
    assert pinned.revision.restored == (first.id,)
    assert pinned.revision.weights_digest == target.weights_digest
    assert (services.answer(NEEDLE), services.answer(LOUVRE)) == ("Paris", "Paris")


def test_reverting_to_the_first_revision_takes_back_everything(services):
    services.apply(services.proposed(), services.proposed("Louvre", "Rome"))

    pinned = services.changes.revert([], MAIN, call(), to_revision="0")

    assert pinned.revision.active_count == 0
    assert pinned.weights.digest == services.serving.base().weights.digest


def test_reverting_to_where_the_branch_stands_is_refused(services):
    head = services.apply(services.proposed())

    with pytest.raises(PreconditionError, match="nothing to revert"):
        services.changes.revert([], MAIN, call(), to_revision=head.id)


def test_reverting_to_a_revision_whose_edits_were_reverted_names_them(services):
    edit, later = services.proposed(), services.proposed("Louvre", "Rome")
    target = services.apply(edit)
    services.revert(edit)
    services.apply(later)

    with pytest.raises(PreconditionError, match=f"{edit.id}; apply them again"):
        services.changes.revert([], MAIN, call(), to_revision=target.id)


def test_reverting_to_a_revision_with_another_order_is_refused(services):
    first, second = services.proposed(), services.proposed("Louvre", "Rome")
    target = services.apply(first, second)
    services.revert(first)
    services.apply(first)

    with pytest.raises(PreconditionError, match="another order"):
        services.changes.revert([], MAIN, call(), to_revision=target.id)


def test_a_ledger_that_is_away_leaves_what_is_served(services, url):
    edit = services.proposed()
    before = services.serving.head()

    with locked(url), pytest.raises(LedgerUnavailableError):
        services.apply(edit)

    assert services.serving.head() is before
    assert services.history.head() == before.revision
    assert services.apply(edit).sequence == 1


def test_a_change_is_put_on_top_of_what_another_server_committed(services, other):
    mine, theirs = services.proposed(), services.proposed("Louvre", "Rome")
    other.apply(theirs)

    revision = services.apply(mine)

    assert revision.sequence == 2
    assert (services.answer(NEEDLE), services.answer(LOUVRE)) == ("Paris", "Rome")


def test_a_lost_race_is_run_again_on_the_new_head(services, other):
    mine, theirs = services.proposed(), services.proposed("Louvre", "Rome")
    services.engine.interludes["compose"] = lambda: other.apply(theirs)

    revision = services.apply(mine)

    assert revision.sequence == 2
    assert (services.answer(NEEDLE), services.answer(LOUVRE)) == ("Paris", "Rome")
    assert services.history.audit().clean


def test_a_lost_race_with_an_expected_revision_is_stale(services, other):
    mine, theirs = services.proposed(), services.proposed("Louvre", "Rome")
    genesis = services.history.head()
    services.engine.interludes["compose"] = lambda: other.apply(theirs)

    with pytest.raises(StaleRevisionError):
        services.changes.apply(ids(mine), MAIN, call(), expected=genesis.id)


def test_one_request_taken_by_two_servers_makes_one_revision(services, other):
    edit = services.proposed()
    services.engine.interludes["compose"] = lambda: other.changes.apply(
        ids(edit), MAIN, call("r-1")
    )

    services.changes.apply(ids(edit), MAIN, call("r-1"))

    assert services.history.head().sequence == 1
    assert services.serving.head().revision == services.history.head()


def test_many_threads_make_a_gapless_history_and_serve_its_end(services, url):
    edits = [
        services.proposed(subject, target)
        for subject in ("Space Needle", "Louvre", "Prado", "Big Ben")
        for target in ("Oslo", "Cairo")
    ]
    begin = threading.Barrier(len(edits))

    def work(edit):
        begin.wait(PATIENCE)
        for _ in range(3):
            services.apply(edit)
            services.revert(edit)
        services.apply(edit)

    with ThreadPoolExecutor(len(edits)) as pool:
        list(pool.map(work, edits))

    head = services.history.head()
    history = services.ledger.revisions(MODEL, MAIN, limit=1_000)
    assert [revision.sequence for revision in history] == list(range(7 * len(edits) + 1))
    assert all(b.parent == a.id for a, b in pairwise(history))
    assert services.serving.head().revision == head
    assert head.active_count == 4
    with open_services(url) as replayed:
        assert replayed.serving.head().weights.digest == services.serving.head().weights.digest
    assert services.history.audit().clean
