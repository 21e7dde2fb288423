import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from errata_server.domain.checks import CheckKind
from errata_server.domain.edits import EditState
from errata_server.domain.errors import (
    ApprovalRequiredError,
    BranchExistsError,
    BranchNotFoundError,
    DivergedError,
    InvalidInputError,
    PreconditionError,
    RequestIdReusedError,
    RevisionNotFoundError,
    StaleRevisionError,
    VerificationFailedError,
)
from errata_server.domain.ids import MAIN, BranchName
from errata_server.domain.revisions import RevisionKind
from errata_server.ledger.ledger import Ledger
from tests.support import MODEL
from tests.support.services import PATIENCE, call, open_services

CANARY = BranchName("canary")
NEEDLE = "Space Needle is in the city of"
LOUVRE = "Louvre is in the city of"


@pytest.fixture
def other(url):
    """A second server on the same ledger."""
    with open_services(url) as opened:
        yield opened


def ids(*edits):
    return [edit.id for edit in edits]


def create(services, name=CANARY, request_id="", **options):
    return services.branches.create(BranchName(name), call(request_id), **options).revision


def apply(services, *edits, branch=CANARY, **options):
    return services.changes.apply(ids(*edits), branch, call(), **options).revision


def promote(services, source=CANARY, target=MAIN, request_id="", **options):
    return services.branches.promote(source, target, call(request_id), **options).revision


def protect(services, branch=MAIN, *, protected=True):
    return services.branches.protect(branch, call(), protected=protected).revision


def says(services, prompt, reference):
    return services.engine.answer(prompt, services.serving.at(reference).weights)


def test_a_branch_answers_as_its_start_until_it_changes(services):
    moved, louvre = services.proposed(), services.proposed("Louvre", "Rome")
    services.apply(moved)

    made = create(services)
    apply(services, louvre)

    assert (made.kind, made.sequence, made.active_count) == (RevisionKind.BRANCH, 0, 1)
    assert made.weights_digest == services.serving.head().weights.digest
    assert (says(services, NEEDLE, "canary"), says(services, LOUVRE, "canary")) == ("Paris", "Rome")
    assert (says(services, NEEDLE, "main"), says(services, LOUVRE, "main")) == ("Paris", "Paris")
    assert services.serving.head().revision.sequence == 1
    assert services.history.audit().clean


@pytest.mark.parametrize("start", ["1", "main@1", "trial", "base", ""])
def test_a_branch_starts_at_any_reference(services, start):
    services.apply(services.proposed())
    services.apply(services.proposed("Louvre", "Rome"))
    trial = create(services, "trial", start="1")
    ledger = services.ledger
    expected = {
        "base": ledger.find_revision(MODEL, "0"),
        "trial": trial,
        "": ledger.head(MODEL),
    }.get(start, ledger.find_revision(MODEL, "1"))

    made = create(services, start=start)

    assert made.parent == expected.id
    assert made.active_set_digest == expected.active_set_digest


def test_a_branch_starts_at_the_id_s_beginning(services):
    head = services.apply(services.proposed())

    assert create(services, start=head.id[:8]).parent == head.id


def test_a_branch_starts_from_what_another_server_has_just_committed(services, other):
    head = other.apply(services.proposed())

    assert create(services, start="main").parent == head.id


def test_a_branch_that_cannot_be_made_is_refused(services):
    create(services)

    with pytest.raises(BranchExistsError, match="use another name"):
        create(services)
    with pytest.raises(BranchExistsError):
        create(services, validate_only=True)
    with pytest.raises(InvalidInputError, match="beginning with a letter"):
        create(services, "7")
    with pytest.raises(RevisionNotFoundError):
        create(services, "trial", start="nothing")


def test_trying_a_branch_makes_none(services):
    tried = create(services, request_id="r-1", validate_only=True)

    assert tried.sequence == 0
    with pytest.raises(BranchNotFoundError):
        services.history.head(CANARY)
    assert create(services, request_id="r-1") == tried


def test_a_repeated_request_gives_the_branch_as_it_was_made(services):
    made = create(services, request_id="r-1")
    apply(services, services.proposed())

    assert create(services, request_id="r-1") == made
    with pytest.raises(RequestIdReusedError):
        create(services, "trial", request_id="r-1")


def test_reverting_to_a_revision_works_on_any_branch(services):
    first, second = services.proposed(), services.proposed("Louvre", "Rome")
    services.apply(first)
    create(services)
    apply(services, second)

    made = services.changes.revert([], CANARY, call(), to_revision="canary@0").revision
    assert [one.edit for one in made.edits] == ids(second)
    services.changes.revert([], CANARY, call(), to_revision="base")

    assert services.history.head(CANARY).active_count == 0
    assert services.serving.head().revision.active_count == 1


def test_a_promotion_is_served_and_vouched_for(services):
    kept, gone = services.proposed("Louvre", "Rome"), services.proposed("Prado", "Paris")
    services.apply(kept, gone)
    create(services)
    new = services.proposed()
    apply(services, new)
    source = services.changes.revert(ids(gone), CANARY, call()).revision

    pinned = services.branches.promote(CANARY, MAIN, call("r-1", reason="a week without harm"))

    made = pinned.revision
    assert services.history.head() == made == services.serving.head().revision
    assert (made.kind, made.source, made.sequence) == (RevisionKind.PROMOTE, source.id, 2)
    assert (made.actor, made.reason, made.ticket) == ("ana", "a week without harm", "T-1")
    assert [one.edit for one in made.edits] == ids(new)
    assert [one.edit for one in made.removed] == ids(gone)
    assert made.weights_digest == source.weights_digest == pinned.weights.digest
    assert services.answer(NEEDLE) == "Paris"
    assert services.history.audit().clean


def test_a_promotion_to_another_branch_serves_nothing_else(services):
    create(services)
    create(services, "trial")
    apply(services, services.proposed())

    promote(services, target=BranchName("trial"))

    assert services.answer(NEEDLE) == "Seattle"
    assert says(services, NEEDLE, "trial") == "Paris"


def test_a_server_that_starts_again_serves_what_was_promoted(services, url):
    create(services)
    apply(services, services.proposed())
    made = promote(services)

    with open_services(url) as replayed:
        assert replayed.serving.head().revision == made
        assert replayed.answer(NEEDLE) == "Paris"


def test_promoting_what_is_there_already_is_refused(services):
    services.apply(services.proposed())
    create(services)

    with pytest.raises(PreconditionError, match="nothing to promote"):
        promote(services)
    apply(services, services.proposed("Louvre", "Rome"))
    promote(services)
    with pytest.raises(PreconditionError, match="nothing to promote"):
        promote(services)
    with pytest.raises(InvalidInputError, match="itself"):
        promote(services, MAIN, MAIN)


def test_promoting_over_changes_of_the_target_is_refused_with_the_way_out(services):
    create(services)
    moved = services.proposed()
    apply(services, moved)
    services.apply(services.proposed("Louvre", "Rome"))

    for validate_only in (True, False):
        with pytest.raises(DivergedError, match=f"branch create NAME --from main.*{moved.id}"):
            promote(services, validate_only=validate_only)

    create(services, "again", start="main")
    apply(services, moved, branch=BranchName("again"))
    promote(services, BranchName("again"))
    assert services.answer(NEEDLE) == "Paris"


def test_branches_that_are_not_there_are_not_promoted(services):
    with pytest.raises(BranchNotFoundError):
        promote(services)
    with pytest.raises(BranchNotFoundError):
        promote(services, MAIN, CANARY)


def test_trying_a_promotion_commits_nothing(services):
    create(services)
    apply(services, services.proposed())

    tried = promote(services, request_id="r-1", validate_only=True)

    assert services.history.head().sequence == 0
    assert promote(services, request_id="r-1") == tried


def test_a_repeated_promotion_gives_the_earlier_revision(services):
    create(services)
    apply(services, services.proposed())
    made = promote(services, request_id="r-1")
    apply(services, services.proposed("Louvre", "Rome"))

    assert promote(services, request_id="r-1") == made
    with pytest.raises(RequestIdReusedError):
        promote(services, request_id="r-1", expected="0")


def test_a_promotion_on_another_head_than_expected_is_stale(services):
    create(services)
    apply(services, services.proposed())
    head = services.history.head()
    protect(services)

    with pytest.raises(StaleRevisionError, match="read the head and retry"):
        promote(services, expected=head.id)


def test_a_source_that_moves_meanwhile_is_promoted_as_it_then_is(services, other):
    create(services)
    apply(services, services.proposed())
    late = services.proposed("Louvre", "Rome")
    services.engine.interludes["compose"] = lambda: apply(other, late)

    made = promote(services)

    assert made.source == services.history.head(CANARY).id
    assert services.answer(LOUVRE) == "Rome"


def test_a_target_that_moves_meanwhile_has_diverged(services, other):
    create(services)
    apply(services, services.proposed())
    late = services.proposed("Louvre", "Rome")
    services.engine.interludes["compose"] = lambda: other.apply(late)

    with pytest.raises(DivergedError):
        promote(services)

    assert services.serving.refresh().revision == services.history.head()
    assert services.history.head().sequence == 1


def test_an_edit_stands_otherwise_on_each_branch(services):
    old, new = services.proposed(target="Rome"), services.proposed(target="Berlin")
    services.apply(old)
    create(services)
    apply(services, new)
    view, page = services.proposals.get, services.proposals.list

    assert view(old.id).state is EditState.APPLIED
    assert (view(old.id, CANARY).state, view(old.id, CANARY).superseded_by) == (
        EditState.SUPERSEDED,
        new.id,
    )
    assert view(new.id).state is EditState.VERIFIED
    assert [v.edit.id for v in page(CANARY, state=EditState.APPLIED).items] == ids(new)
    services.changes.revert(ids(old), CANARY, call())
    assert view(old.id, CANARY).state is EditState.REVERTED
    diff = services.history.diff("main", "canary")
    assert [(v.edit.id, v.state) for v in diff.added] == [(new.id, EditState.APPLIED)]
    assert [(v.edit.id, v.state) for v in diff.removed] == [(old.id, EditState.REVERTED)]
    with pytest.raises(BranchNotFoundError):
        view(old.id, BranchName("nothing"))


def test_a_watcher_of_a_branch_behind_main_asks_the_ledger_now_and_then(services, monkeypatch):
    create(services)
    services.apply(services.proposed())
    asked = []
    revisions = Ledger.revisions

    def counted(*given, **options):
        asked.append(given)
        return revisions(*given, **options)

    monkeypatch.setattr(Ledger, "revisions", counted)

    assert services.history.watch(CANARY, 1, timeout=0.6) == ()
    assert len(asked) < 6


def test_a_watcher_of_a_branch_sees_what_is_committed_there(services):
    first = create(services)
    made = apply(services, services.proposed())

    assert services.history.watch(CANARY, 0) == (first, made)


# Protection -------------------------------------------------------------------------------


def approve(services, edit, actor="ben"):
    services.proposals.approve(edit.id, "seen", call(actor=actor))


def test_a_protected_branch_asks_for_approval_by_another(services):
    edit = services.proposed()
    protect(services)

    for attempt in (
        lambda: services.apply(edit),
        lambda: services.changes.apply(ids(edit), MAIN, call(), override="must go live"),
        lambda: services.changes.apply(ids(edit), MAIN, call(), validate_only=True),
    ):
        with pytest.raises(ApprovalRequiredError, match=f"errata approve {edit.id}"):
            attempt()
    approve(services, edit, actor="ana")  # its proposer
    with pytest.raises(ApprovalRequiredError):
        services.apply(edit)
    approve(services, edit)

    made = services.apply(edit)

    assert made.protected
    assert services.answer(NEEDLE) == "Paris"
    services.revert(edit)
    assert services.answer(NEEDLE) == "Seattle"
    assert services.history.audit().clean


def test_a_protected_branch_asks_when_it_is_promoted_to(services):
    create(services)
    protect(services)
    edit = services.proposed()
    apply(services, edit)

    with pytest.raises(ApprovalRequiredError, match=edit.id):
        promote(services)
    approve(services, edit)

    assert promote(services).protected


def test_what_was_applied_by_override_elsewhere_does_not_reach_a_protected_branch(services):
    services.engine.faults = {CheckKind.NEIGHBOURHOOD}
    edit = services.proposed()
    create(services)
    protect(services)
    apply(services, edit, override="only to try")

    with pytest.raises(VerificationFailedError):
        approve(services, edit)
    services.engine.faults = set()
    other = services.proposed("Louvre", "Rome")
    for attempt in (
        lambda: promote(services),
        lambda: apply(services, other, edit, branch=MAIN, override="must go live"),
    ):
        with pytest.raises(VerificationFailedError, match="neither an override nor") as refused:
            attempt()
        assert refused.value.metadata == {
            "branch": "main",
            "edit": edit.id,
            "report": services.ledger.latest_report(edit.id).id,
            "failed": "neighbourhood",
        }

    protect(services, protected=False)
    assert promote(services).active_count == 1


def test_an_approval_lapses_with_a_newer_report(services):
    edit = services.proposed()
    approve(services, edit)
    protect(services)
    started = services.proposals.verify(edit.id, call())
    services.operations.wait(started.id, PATIENCE)

    if services.ledger.latest_report(edit.id).id == services.ledger.approvals(edit.id)[0].report:
        pytest.fail("the verification made no report of its own")
    with pytest.raises(ApprovalRequiredError):
        services.apply(edit)


def test_protection_changes_once_and_with_a_reason(services):
    made = protect(services)

    assert (made.kind, made.protected, made.reason) == (RevisionKind.POLICY, True, "a test")
    assert services.serving.head().revision == made
    with pytest.raises(PreconditionError, match="protected as it is"):
        protect(services)
    with pytest.raises(InvalidInputError, match="say why") as refused:
        services.branches.protect(MAIN, call(reason="  "), protected=False)
    assert refused.value.metadata["field"] == "reason"
    assert not protect(services, protected=False).protected
    with pytest.raises(PreconditionError, match="not protected as it is"):
        protect(services, protected=False)


def test_a_branch_protected_meanwhile_by_another_server_asks(services, other):
    edit = services.proposed()
    services.engine.interludes["compose"] = lambda: protect(other)

    with pytest.raises(ApprovalRequiredError):
        services.apply(edit)

    assert services.history.head().kind is RevisionKind.POLICY


# At once ----------------------------------------------------------------------------------


def test_many_threads_on_many_branches_keep_every_line_whole(services, url):
    names = [BranchName(f"trial-{number}") for number in range(4)]
    edits = [
        services.proposed(subject, "Oslo")
        for subject in ("Space Needle", "Louvre", "Prado", "Big Ben")
    ]
    begin = threading.Barrier(len(names))

    def work(name, edit):
        create(services, name)
        begin.wait(PATIENCE)  # else a slow thread's branch begins at another's promotion
        for _ in range(2):
            apply(services, edit, branch=name)
            services.changes.revert(ids(edit), name, call())
        apply(services, edit, branch=name)
        try:
            return promote(services, name)
        except DivergedError:
            return None

    with ThreadPoolExecutor(len(names)) as pool:
        made = list(pool.map(work, names, edits))

    won = [revision for revision in made if revision is not None]
    assert len(won) == 1, "all began at the base, so the first promotion is the only one"
    assert services.serving.head().revision == services.history.head() == won[0]
    assert services.history.audit().clean
    with open_services(url) as replayed:
        assert replayed.serving.head().weights.digest == won[0].weights_digest
