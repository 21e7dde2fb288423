"""Decoys: which known subjects an edit keeps off, and which of the two an input is nearer to."""

import pytest
import torch

from errata_server.engine import decoys
from errata_server.engine.decoys import Own, near_subjects, whitened
from errata_server.engine.solve import factor_second_moment, match, match_keys
from errata_server.engine.subjects import SubjectKeys

WIDTH = 6
FACTOR = factor_second_moment(torch.diag(torch.arange(1.0, WIDTH + 1)), 0.0)
KEY = torch.zeros(WIDTH)
KEY[0] = 2.0


def near(share: float, axis: int = 1) -> torch.Tensor:
    """An input of match ``share`` with `KEY`."""
    key = torch.zeros(WIDTH)
    key[0], key[axis] = share, (1 - share**2) ** 0.5
    return key * 3


def known(**keys: torch.Tensor) -> SubjectKeys:
    rows = torch.stack([*keys.values()]) if keys else torch.zeros(0, WIDTH)
    names = tuple(name.replace("_", " ") for name in keys)
    return SubjectKeys(subjects=names, keys=rows[:, None])


def found(subject: str, among: SubjectKeys, width: float = 0.4) -> list[str]:
    matchers, _ = match_keys(KEY[None], FACTOR)
    (near,) = near_subjects([Own(names=(subject,), matchers=matchers, width=width)], among)
    return near


def test_known_subjects_within_the_guard_and_a_margin_are_kept_off():
    among = known(far=near(0.45), margin=near(0.55), close=near(0.9), closest=near(0.99, 2))

    assert found("own", among) == ["margin", "close", "closest"]


def test_the_edit_s_own_subject_is_no_decoy_however_it_is_written():
    among = known(own_subject=near(0.99), The_Own_subject=near(0.98), other=near(0.9))

    assert found("Own Subject", among) == ["other"]


def test_a_row_is_nearer_to_its_own_subject_than_the_edit_s_key_and_the_other_way_round():
    among = known(close=near(0.9), closer=near(0.97, 3))
    rows = whitened(among.keys[:, 0], FACTOR).float()
    own = whitened(KEY[None], FACTOR).float()

    for place, key in enumerate(among.keys[:, 0]):
        assert match(key[None], rows)[0].argmax() == place
        assert float(match(key[None], rows).max()) > float(match(key[None], own))
    assert float(match(KEY[None], own)) > float(match(KEY[None], rows).max())


def test_nearness_is_the_cosine_in_the_metric_of_the_second_moment_but_for_the_input():
    inverse = torch.diag(1 / torch.arange(1.0, WIDTH + 1)).double()
    key, seen = near(0.9).double(), near(0.7, 2).double()

    nearness = float(match(seen[None], whitened(key[None], FACTOR)))

    length = (seen @ inverse @ seen).sqrt() / seen.norm()
    cosine = (key @ inverse @ seen) / ((key @ inverse @ key) * (seen @ inverse @ seen)).sqrt()
    assert nearness == pytest.approx(float(cosine * length))


def test_a_subject_is_near_if_it_is_in_any_context():
    rows = torch.stack([torch.stack([near(0.1), near(0.9)]), torch.stack([near(0.1), near(0.2)])])

    assert found("own", SubjectKeys(subjects=("x", "y"), keys=rows)) == ["x"]


def test_only_the_nearest_are_kept_off(monkeypatch):
    monkeypatch.setattr(decoys, "MAXIMUM_DECOYS", 2)
    among = known(a=near(0.8), b=near(0.99), c=near(0.7), d=near(0.9))

    assert found("own", among) == ["b", "d"]


def test_each_of_several_edits_has_the_near_ones_of_its_own_keys():
    among = known(close=near(0.9), other=near(0.1, 3), own=near(0.95))
    matchers, _ = match_keys(torch.stack([KEY, near(0.1, 3)]), FACTOR)
    first = Own(names=("own",), matchers=matchers[:1], width=0.4)
    second = Own(names=("x",), matchers=matchers[1:], width=0.0)

    assert near_subjects([first, second], among) == [["close"], ["other"]]


def test_nothing_known_is_nothing_kept_off():
    assert found("own", known()) == []
