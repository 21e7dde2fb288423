"""Keys of known subjects: what each has alone, whatever was spoilt in the cache."""

import pytest
import torch

from errata_server.engine import subjects
from errata_server.engine.keys import keys_at_subject
from tests.support import tiny_models

KNOWN = ("Louvre", "Big Ben", "Prado", "Tower Bridge")


def silent(_):
    """Progress nobody follows."""


@pytest.fixture
def profile(either):
    return tiny_models.tiny_profile(either, layer=1)


@pytest.mark.parametrize("together", [1, 3, 96])
def test_a_subject_has_the_keys_it_would_have_alone(
    either, profile, tmp_path, together, monkeypatch
):
    monkeypatch.setattr(subjects, "SUBJECTS", together)

    found = subjects.collect(either, KNOWN, profile, cache=tmp_path, progress=silent)

    assert found.subjects == KNOWN
    for subject, keys in zip(KNOWN, found.keys, strict=True):
        texts = [context.replace("{}", subject) for context in subjects.CONTEXTS]
        alone = keys_at_subject(either, profile.module, texts, subject)
        assert torch.allclose(keys, alone, atol=1e-5)


def test_what_was_computed_is_not_computed_again(either, profile, tmp_path):
    first = subjects.collect(either, KNOWN, profile, cache=tmp_path, progress=silent)

    def refuse(_):
        raise AssertionError("computed again")

    again = subjects.collect(either, KNOWN, profile, cache=tmp_path, progress=refuse)

    assert again.subjects == first.subjects
    assert torch.equal(again.keys, first.keys)


@pytest.mark.parametrize("spoil", [b"", b"not safetensors", None])
def test_a_spoilt_file_counts_as_missing(either, profile, tmp_path, spoil):
    first = subjects.collect(either, KNOWN, profile, cache=tmp_path, progress=silent)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-9] if spoil is None else spoil)

    again = subjects.collect(either, KNOWN, profile, cache=tmp_path, progress=silent)

    assert torch.equal(again.keys, first.keys)


def test_other_subjects_or_projections_are_never_mixed_up(either, profile, tmp_path):
    for known, other in (
        (KNOWN, profile),
        (KNOWN[:2], profile),
        (KNOWN, tiny_models.tiny_profile(either, layer=0)),
    ):
        subjects.collect(either, known, other, cache=tmp_path, progress=silent)

    assert len(list(tmp_path.iterdir())) == 3


def test_a_subject_that_does_not_fit_is_left_out(either, profile, tmp_path):
    known = ("Louvre", "far too long " * 200, "Prado")

    found = subjects.collect(either, known, profile, cache=tmp_path, progress=silent)

    assert found.subjects == ("Louvre", "Prado")
    assert len(found.keys) == 2


def test_no_subjects_have_no_keys(either, profile, tmp_path):
    found = subjects.collect(either, (), profile, cache=tmp_path, progress=silent)

    assert found.keys.shape == (0, len(subjects.CONTEXTS), profile.d_in)
