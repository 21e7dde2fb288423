"""What is put into a ledger comes out of it, byte by byte, on both databases."""

from dataclasses import replace

import pytest

from errata_server.domain import canonical
from errata_server.domain.errors import (
    EditNotFoundError,
    InvalidInputError,
    ModelMismatchError,
    ModelNotFoundError,
    NotCalibratedError,
    NotFoundError,
    ReportNotFoundError,
    RequestIdReusedError,
)
from errata_server.domain.ids import MAIN, Digest, EditId, ModelId, ProfileId, ReportId
from errata_server.domain.revisions import RevisionKind
from tests.support import MODEL
from tests.support.histories import description, genesis, profile

OTHER = canonical.digest(b"another checkpoint")
EVERY_BYTE = bytes(range(256)) * 3


def test_a_registered_model_has_its_description_and_its_genesis(chronicler):
    ledger = chronicler.ledger

    assert ledger.model(MODEL) == description()
    assert ledger.head(MODEL, MAIN) == genesis()
    assert [(branch.name, branch.head.id) for branch in ledger.branches(MODEL)] == [
        (MAIN, genesis().id)
    ]


def test_registering_a_model_again_changes_nothing(chronicler):
    later = replace(genesis(), reason="a second start")

    chronicler.ledger.register_model(MODEL, description(), genesis=later)

    assert chronicler.ledger.head(MODEL, MAIN) == genesis()


def test_a_model_cannot_come_back_as_another_checkpoint(chronicler):
    other = replace(genesis(), model_digest=OTHER)

    with pytest.raises(ModelMismatchError, match="another model name or another ledger"):
        chronicler.ledger.register_model(MODEL, description(OTHER), genesis=other)


def test_a_ledger_keeps_two_models_apart(chronicler):
    second = ModelId("second")
    stored = chronicler.propose()
    chronicler.apply(stored)

    chronicler.ledger.register_model(second, description(), genesis=genesis(second))

    assert chronicler.ledger.head(second, MAIN).sequence == 0
    assert chronicler.ledger.edit_ids(second, limit=10) == []
    assert chronicler.ledger.audit(second).clean


def test_a_genesis_with_a_parent_is_refused(ledger):
    with pytest.raises(InvalidInputError, match="genesis"):
        ledger.register_model(MODEL, description(), genesis=replace(genesis(), parent=genesis().id))


def test_an_unknown_model_is_named_in_the_error(ledger):
    for ask in (
        lambda: ledger.model(MODEL),
        lambda: ledger.head(MODEL, MAIN),
        lambda: ledger.branches(MODEL),
        lambda: ledger.revisions(MODEL, MAIN, limit=5),
        lambda: ledger.revision(MODEL, genesis().id),
        lambda: ledger.find_revision(MODEL, "main"),
        lambda: ledger.put_profile(MODEL, profile()),
        lambda: ledger.audit(MODEL),
    ):
        with pytest.raises(ModelNotFoundError, match="scripted"):
            ask()


@pytest.mark.parametrize("payload", [b"", b"\x00", EVERY_BYTE], ids=["empty", "nul", "all"])
def test_artifacts_come_back_byte_by_byte(ledger, payload):
    digest = ledger.put_artifact(payload)

    assert digest == canonical.digest(payload)
    assert ledger.artifact(digest) == payload
    assert ledger.put_artifact(payload) == digest


def test_a_missing_artifact_is_not_found(ledger):
    with pytest.raises(NotFoundError, match="no artifact"):
        ledger.artifact(OTHER)


def test_the_profile_stored_last_is_the_latest_even_if_it_was_stored_before(chronicler):
    ledger = chronicler.ledger

    for seed in (1, 0, 0):
        ledger.put_profile(MODEL, profile(seed))

    assert ledger.latest_profile(MODEL) == profile(0)
    assert ledger.profile(profile(1).id) == profile(1)


def test_a_profile_of_another_checkpoint_is_refused(chronicler):
    with pytest.raises(ModelMismatchError):
        chronicler.ledger.put_profile(MODEL, profile(digest=OTHER))


def test_a_model_may_have_no_profile(ledger):
    ledger.register_model(MODEL, description(), genesis=genesis())

    assert ledger.latest_profile(MODEL) is None
    with pytest.raises(NotFoundError, match="no profile"):
        ledger.profile(ProfileId(OTHER))


def test_edits_and_reports_come_back_as_they_were(chronicler):
    stored = chronicler.propose("Brontë's house \N{EM DASH} \N{SNOWMAN}", "Zürich")

    assert chronicler.ledger.edit(stored.edit.id) == stored.edit
    assert chronicler.ledger.edit(stored.edit.id).body == stored.edit.body
    assert chronicler.ledger.report(stored.report.id) == stored.report
    assert chronicler.ledger.latest_report(stored.edit.id).body == stored.report.body


def test_recording_an_edit_again_changes_nothing(chronicler):
    stored = chronicler.propose()

    chronicler.ledger.record_edit(stored.edit, stored.report)

    assert chronicler.ledger.edit_ids(MODEL, limit=10) == [stored.edit.id]
    assert chronicler.ledger.audit(MODEL).reports == 1


def test_an_edit_without_its_artifact_or_profile_is_refused(chronicler):
    edit = chronicler.new_edit()
    cases = {
        NotFoundError: replace(edit, patch=OTHER),
        NotCalibratedError: replace(edit, profile=ProfileId(OTHER)),
    }

    for error, orphan in cases.items():
        with pytest.raises(error):
            chronicler.ledger.record_edit(orphan, chronicler.new_report(orphan))

    assert chronicler.ledger.edit_ids(MODEL, limit=10) == []


def test_an_edit_id_is_not_given_twice(chronicler):
    stored = chronicler.propose()
    other = replace(stored.edit, proposer="eve")

    with pytest.raises(InvalidInputError, match="taken"):
        chronicler.ledger.record_edit(other, stored.report)


def test_an_edit_is_refused_with_the_report_of_another(chronicler):
    stored = chronicler.propose()

    with pytest.raises(InvalidInputError, match="is about edit"):
        chronicler.ledger.record_edit(chronicler.new_edit(), stored.report)


def test_the_report_recorded_last_is_the_latest_whatever_its_time(chronicler):
    stored = chronicler.propose()
    earlier = replace(stored.report, created_at=stored.report.created_at.replace(year=2020))

    chronicler.ledger.record_report(earlier)

    assert chronicler.ledger.latest_report(stored.edit.id) == earlier


def test_a_report_on_an_unknown_edit_is_refused(chronicler):
    report = chronicler.new_report(chronicler.new_edit())

    with pytest.raises(EditNotFoundError):
        chronicler.ledger.record_report(report)


def test_edits_are_listed_newest_first_page_by_page(chronicler):
    made = [chronicler.propose(f"Tower {number}").edit for number in range(5)]
    pages, after = [], None

    while page := chronicler.ledger.edit_ids(MODEL, limit=2, after=after):
        pages.append(page)
        after = page[-1]

    assert [len(page) for page in pages] == [2, 2, 1]
    listed = [edit for page in pages for edit in page]
    assert chronicler.ledger.edits(listed) == made[::-1]
    assert chronicler.ledger.edits([made[3].id, made[1].id]) == [made[3], made[1]]


def test_edits_that_are_not_there_are_refused(chronicler):
    stored = chronicler.propose("Tower").edit.id

    with pytest.raises(EditNotFoundError, match="e-none"):
        chronicler.ledger.edits([stored, EditId("e-none")])


def test_a_page_after_an_unknown_edit_is_refused(chronicler):
    with pytest.raises(EditNotFoundError):
        chronicler.ledger.edit_ids(MODEL, limit=2, after=EditId("e-none"))


def test_approvals_are_kept_in_order_and_once_a_request(chronicler):
    stored = chronicler.propose()
    first = chronicler.approve(stored, "a-1")
    second = chronicler.approve(stored, "a-2")

    repeated = chronicler.approve(stored, "a-1")

    assert repeated == first
    assert chronicler.ledger.approvals(stored.edit.id) == [first, second]


def test_an_approval_request_id_serves_one_edit(chronicler):
    chronicler.approve(chronicler.propose(), "a-1")

    with pytest.raises(RequestIdReusedError, match="a-1"):
        chronicler.approve(chronicler.propose("Louvre"), "a-1")


def test_an_approval_rests_on_a_report_of_its_own_edit(chronicler):
    stored, other = chronicler.propose(), chronicler.propose("Louvre")

    with pytest.raises(ReportNotFoundError):
        chronicler.approve(replace(stored, report=other.report), "a-1")


def test_what_is_not_there_is_not_found(chronicler):
    ledger = chronicler.ledger

    for ask in (ledger.edit, ledger.latest_report, ledger.approvals):
        with pytest.raises(EditNotFoundError):
            ask(EditId("e-none"))
    with pytest.raises(ReportNotFoundError):
        ledger.report(ReportId(Digest(OTHER)))


def test_an_edit_was_applied_once_a_revision_has_applied_it(chronicler):
    stored, never = chronicler.propose(), chronicler.propose("Louvre")

    def was_applied(edit):
        return chronicler.ledger.evidence(MODEL, [edit.edit.id], MAIN).of[edit.edit.id].was_applied

    assert not was_applied(stored)

    chronicler.apply(stored)
    chronicler.revert(stored)

    assert was_applied(stored)
    assert not was_applied(never)


def test_a_value_the_database_cannot_store_is_refused_in_words(chronicler, ledger_url):
    revision = chronicler.next_revision(
        RevisionKind.APPLY, chronicler.propose(), request_id="a\x00b"
    )
    if ledger_url.startswith("sqlite"):
        assert chronicler.ledger.append(revision) == revision
        return

    with pytest.raises(InvalidInputError, match="NUL"):
        chronicler.ledger.append(revision)
    assert chronicler.head() == genesis().id
