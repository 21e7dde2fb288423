"""The set of applied edits: reverting gives what would be there had it never been applied."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errata_server.domain import canonical
from errata_server.domain.edits import AppliedEdit, AppliedSet
from errata_server.domain.errors import AlreadyAppliedError, NotAppliedError
from errata_server.domain.ids import EditId
from errata_server.domain.patches import Composition

BASE = canonical.digest(b"base")
SUBJECTS = ("Louvre", "Prado", "Colosseum")


def applied_edit(number: int, subject: str) -> AppliedEdit:
    return AppliedEdit(
        edit=EditId(f"e-{number:03}"), subject=subject, patch=canonical.digest(bytes([number]))
    )


@st.composite
def histories(draw):
    """Edits in the order they are applied, and those of them that are reverted, in order."""
    subjects = draw(st.lists(st.sampled_from(SUBJECTS), max_size=12))
    edits = draw(st.permutations([applied_edit(n, s) for n, s in enumerate(subjects)]))
    reverted = draw(st.lists(st.sampled_from(edits), unique=True)) if edits else []
    return edits, reverted


def digest(applied: AppliedSet) -> str:
    return applied.digest(model=BASE, composition=Composition.GUARDED)


@given(histories())
def test_reverting_in_any_order_equals_never_having_applied(history):
    edits, reverted = history

    after = AppliedSet().apply(edits).revert(edit.edit for edit in reverted)

    never = AppliedSet().apply(edit for edit in edits if edit not in reverted)
    assert after == never
    assert digest(after) == digest(never)


@given(histories(), st.data())
def test_a_set_carried_through_a_history_is_the_set_worked_out_anew(history, data):
    edits, reverted = history
    carried = AppliedSet()
    digest(carried)
    steps = [lambda one, e=edit: one.apply([e]) for edit in edits]
    steps += [lambda one, e=edit: one.revert([e.edit]) for edit in reverted]

    for step in steps:
        carried = step(carried)
        anew = AppliedSet(carried.applied)
        assert carried.active() == anew.active()
        if data.draw(st.booleans()):  # else the next step carries on without the digest
            assert digest(carried) == digest(anew)


@given(histories())
def test_the_digest_is_over_canonical_json(history):
    applied = AppliedSet().apply(history[0])

    body = canonical.encode(
        {
            "composition": Composition.GUARDED,
            "model": BASE,
            "patches": sorted(edit.patch for edit in applied.active()),
        }
    )
    assert digest(applied) == canonical.digest(body)


@given(histories(), st.randoms(use_true_random=False))
def test_what_has_shifted_is_what_is_active_in_one_of_two_sets_and_applied_in_both(history, random):
    edits, reverted = history
    before = AppliedSet().apply(edits[::2]).revert(e.edit for e in reverted if e in edits[::2])
    after = AppliedSet().apply(random.sample(edits, len(edits)))

    found = after.shifted_since(before)

    was, is_now = ({edit.edit for edit in one.active()} for one in (before, after))
    both = {edit.edit for edit in before.applied} & {edit.edit for edit in after.applied}
    assert found == (tuple(sorted(was & both - is_now)), tuple(sorted(is_now & both - was)))
    assert after.shifted_since(before, (edit.subject for edit in edits)) == found


@given(histories())
def test_the_newest_edit_of_each_subject_is_active_and_the_rest_superseded(history):
    edits, _ = history

    applied = AppliedSet().apply(edits)

    newest = {subject: [e for e in edits if e.subject == subject][-1:] for subject in SUBJECTS}
    expected = {edit.edit for found in newest.values() for edit in found}
    assert {edit.edit for edit in applied.active()} == expected
    assert {edit.edit for edit in applied.superseded()} == {e.edit for e in edits} - expected
    for edit in edits:
        newer = newest[edit.subject][0].edit
        assert applied.hiding(edit.edit) == (None if edit.edit == newer else newer)
    assert applied.hiding(EditId("e-none")) is None


@given(histories())
def test_applying_at_once_or_one_by_one_is_the_same(history):
    edits, _ = history
    one_by_one = AppliedSet()

    for edit in edits:
        one_by_one = one_by_one.apply([edit])

    assert one_by_one == AppliedSet().apply(edits)


@given(histories(), st.randoms(use_true_random=False))
def test_the_digest_depends_on_what_is_active_and_not_on_order(history, random):
    edits, _ = history
    active = list(AppliedSet().apply(edits).active())
    random.shuffle(active)

    assert digest(AppliedSet().apply(active)) == digest(AppliedSet().apply(edits))


def test_the_digest_tells_models_compositions_and_patches_apart():
    one = AppliedSet().apply([applied_edit(1, "Louvre")])
    digests = {
        digest(one),
        digest(AppliedSet()),
        digest(AppliedSet().apply([applied_edit(2, "Louvre")])),
        one.digest(model=BASE, composition=Composition.LINEAR),
        one.digest(model=canonical.digest(b"other"), composition=Composition.GUARDED),
    }

    assert len(digests) == 5


def test_an_applied_edit_is_not_applied_again():
    edit = applied_edit(1, "Louvre")
    applied = AppliedSet().apply([edit])

    with pytest.raises(AlreadyAppliedError, match="e-001"):
        applied.apply([edit])
    with pytest.raises(AlreadyAppliedError, match="e-001"):
        AppliedSet().apply([edit, edit])


def test_what_is_not_applied_is_not_reverted():
    applied = AppliedSet().apply([applied_edit(1, "Louvre")])

    with pytest.raises(NotAppliedError, match="e-002"):
        applied.revert([EditId("e-002")])
    with pytest.raises(NotAppliedError, match="e-001"):
        applied.revert([EditId("e-001"), EditId("e-001")])


def test_reverting_the_newest_restores_the_superseded():
    old, new = applied_edit(1, "Louvre"), applied_edit(2, "Louvre")
    applied = AppliedSet().apply([old]).apply([new])
    assert applied.active() == (new,)

    assert applied.revert([new.edit]).active() == (old,)
