"""Keys: what the projection receives at a subject's last token, alone and behind prefixes."""

import pytest
import torch

from errata_server.domain.errors import PromptTooLongError, SubjectNotFoundError
from errata_server.engine import answers
from errata_server.engine import keys as keys_module
from errata_server.engine.keys import (
    CLEARANCE,
    MENTIONS,
    NARROWEST,
    Name,
    context_texts,
    keys_at_subject,
    keys_in,
    keys_of_names,
    own_width,
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


def test_keys_of_many_texts_are_in_their_order_whatever_the_passes(either, monkeypatch):
    module = either.checkpoint.projection_path(1)
    mentions = [(text, "Café Gijón") for text in TEXTS] + [("Rome", "Rome")]
    whole = keys_in(either, module, mentions)
    monkeypatch.setattr(answers, "TOKENS", 1)

    apart = keys_in(either, module, mentions)

    alone = [keys_at_subject(either, module, [text], subject) for text, subject in mentions]
    assert torch.allclose(apart, torch.cat(alone), atol=1e-4)
    assert torch.allclose(whole, torch.cat(alone), atol=1e-4)


def test_a_name_is_told_apart_behind_prefixes_and_mentioned():
    assert tiny_models.LEADS[0] == ""

    found = context_texts("Big Ben", tiny_models.LEADS, mentioned=True)

    behind = [join(lead, "Big Ben") for lead in tiny_models.LEADS[1:]]
    assert found == [*behind, *(mention.replace("{}", "Big Ben") for mention in MENTIONS)]


def test_a_longer_text_is_not_mentioned_and_stands_for_itself_without_prefixes():
    assert context_texts("Big Ben is in", ("",), mentioned=False) == ["Big Ben is in"]


@pytest.fixture
def profile(trained):
    return tiny_models.tiny_profile(trained, layer=0)


@pytest.fixture
def factor(trained, profile, tmp_path):
    moment = collect(trained, tiny_models.PROSE, [0], cache=tmp_path, progress=lambda _: None)[0]
    return factor_second_moment(moment.mean(), profile.ridge)


def test_keys_of_several_names_are_those_of_each_alone(trained, profile, factor, monkeypatch):
    monkeypatch.setattr(keys_module, "MINIMUM_AGREEMENT", 0.99)  # so that names have several
    names = [
        Name(text="Big Ben", prompts=("Big Ben is in", "They say it every day. Big Ben is")),
        Name(text="Café Gijón"),
        Name(text="Louvre", prompts=("The Louvre is in",)),
    ]

    found = keys_of_names(trained, names, profile, factor)

    for name, one in zip(names, found, strict=True):
        (alone,) = keys_of_names(trained, [name], profile, factor)
        assert torch.allclose(one.keys, alone.keys, atol=1e-4)
        assert one.agreement == pytest.approx(alone.agreement, abs=1e-4)
    assert len({len(one.keys) for one in found}) > 1
    assert keys_of_names(trained, [], profile, factor) == []


def test_a_text_that_does_not_name_the_subject_is_refused(gpt2):
    with pytest.raises(SubjectNotFoundError):
        keys_at_subject(gpt2, gpt2.checkpoint.projection_path(0), ["Rome"], "Prado")


def test_a_text_too_long_is_refused(gpt2):
    with pytest.raises(PromptTooLongError):
        keys_at_subject(
            gpt2, gpt2.checkpoint.projection_path(0), ["Rome " * tiny_models.CONTEXT], "Rome"
        )


def test_a_guard_is_narrowed_by_the_nearest_ordinary_key_alone():
    matches = torch.tensor([[0.6, 0.4], [0.0, -1.0], [0.38, 0.46]])

    assert own_width(matches, 0.3) == pytest.approx(0.3)
    assert own_width(matches, 0.5) == pytest.approx(1 - 0.6 - CLEARANCE)
    assert own_width(matches * 2, 0.5) == NARROWEST
    assert own_width(matches[:0], 0.5) == 0.5
