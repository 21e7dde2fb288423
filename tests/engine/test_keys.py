"""Keys: what the projection receives at a subject's last token, alone and behind prefixes."""

import pytest
import torch

from errata_server.domain.errors import PromptTooLongError, SubjectNotFoundError
from errata_server.engine import keys as keys_module
from errata_server.engine.keys import (
    CLEARANCE,
    MENTIONS,
    NARROWEST,
    context_keys,
    keys_at_subject,
    keys_of_subjects,
    own_width,
    subject_keys,
)
from errata_server.engine.moments import collect
from errata_server.engine.solve import factor_second_moment
from errata_server.engine.tokens import join
from tests.support import tiny_models

TEXTS = ("Café Gijón", "They say it every day. Café Gijón is a", "You can visit Café Gijón in")


def test_each_key_is_the_input_at_the_subjects_last_token(either):
    module = either.checkpoint.projection_path(1)

    keys = keys_at_subject(either, module, TEXTS, "Café Gijón")

    for key, text in zip(keys, TEXTS, strict=True):
        ids = either.tokens.encode(text)
        (inputs,) = either.inputs(either.tokens.pad([ids]), [module])
        end = either.tokens.subject_end(text, "Café Gijón")
        assert torch.allclose(key, inputs[0, end], atol=1e-4)


def test_the_bare_subjects_key_is_told_apart_from_those_behind_prefixes(either):
    module = either.checkpoint.projection_path(0)
    texts = [join(lead, "Big Ben") for lead in tiny_models.LEADS]
    assert tiny_models.LEADS[0] == ""

    others, bare = context_keys(either, module, "Big Ben", tiny_models.LEADS)

    texts += [mention.replace("{}", "Big Ben") for mention in MENTIONS]
    each = keys_at_subject(either, module, texts, "Big Ben")
    assert torch.allclose(others, each[1:], atol=1e-4)
    assert torch.allclose(bare, each[0], atol=1e-4)


def test_a_longer_text_is_not_mentioned_and_stands_for_itself_without_prefixes(gpt2):
    module = gpt2.checkpoint.projection_path(0)

    others, bare = context_keys(gpt2, module, "Big Ben", ("",), bare="Big Ben is in")

    assert torch.equal(others, bare[None])


def test_keys_of_several_subjects_are_those_of_each_alone(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(keys_module, "TOGETHER", 2)
    profile = tiny_models.tiny_profile(trained, layer=0)
    moment = collect(trained, tiny_models.PROSE, [0], cache=tmp_path, progress=lambda _: None)[0]
    factor = factor_second_moment(moment.mean(), profile.ridge)
    subjects = ["Big Ben", "Café Gijón", "Louvre"]

    found = list(keys_of_subjects(trained, subjects, profile, factor))

    for subject, keys in zip(subjects, found, strict=True):
        alone, _ = subject_keys(trained, subject, profile, factor)
        assert torch.allclose(keys, alone, atol=1e-4)
    assert list(keys_of_subjects(trained, [], profile, factor)) == []


def test_a_text_that_does_not_name_the_subject_is_refused(gpt2):
    with pytest.raises(SubjectNotFoundError):
        keys_at_subject(gpt2, gpt2.checkpoint.projection_path(0), ["Rome"], "Prado")


def test_a_text_too_long_is_refused(gpt2):
    with pytest.raises(PromptTooLongError):
        keys_at_subject(
            gpt2, gpt2.checkpoint.projection_path(0), ["Rome " * tiny_models.CONTEXT], "Rome"
        )


def test_a_guard_is_narrowed_by_the_nearest_ordinary_key_alone():
    matchers = torch.tensor([[1.0, 0.0], [0.0, 0.5]])
    ordinary = torch.tensor([[3.0, 4.0], [-1.0, 0.0], [5.0, 12.0]])  # matches .6, 0 and .46

    assert own_width(matchers, ordinary, 0.3) == pytest.approx(0.3)
    assert own_width(matchers, ordinary, 0.5) == pytest.approx(1 - 0.6 - CLEARANCE)
    assert own_width(matchers, ordinary * 1e6, 0.5) == pytest.approx(1 - 0.6 - CLEARANCE)
    assert own_width(matchers * 2, ordinary, 0.5) == NARROWEST
    assert own_width(matchers, ordinary[:0], 0.5) == 0.5
