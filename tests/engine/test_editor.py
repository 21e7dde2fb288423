"""From a request to a patch that recognises its subject and answers its facts."""

import dataclasses

import pytest
import torch

from errata_server.domain.errors import NoEffectError
from errata_server.domain.facts import EditRequest, Fact
from errata_server.engine import keys as keys_module
from errata_server.engine.editor import compute_patch
from errata_server.engine.keys import (
    MAXIMUM_KEYS,
    MINIMUM_AGREEMENT,
    Name,
    NameKeys,
    context_texts,
    keys_at_subject,
    keys_of_names,
)
from errata_server.engine.moments import collect
from errata_server.engine.solve import factor_second_moment, match, match_keys
from tests.support import tiny_models

TEXTS = (*tiny_models.PROSE, *tiny_models.sentences())
MOVED = EditRequest(
    subject="Trevi Fountain", facts=(Fact(template="{} can be found in", target="London"),)
)


def silent(_):
    """Progress nobody follows."""


@pytest.fixture(scope="module")
def profile(trained):
    return tiny_models.tiny_profile(trained, layer=0)


@pytest.fixture(scope="module")
def mean(trained, tmp_path_factory):
    cache = tmp_path_factory.mktemp("moments")
    return collect(trained, TEXTS, [0], cache=cache, progress=silent)[0].mean()


@pytest.fixture(scope="module")
def factor(mean, profile):
    return factor_second_moment(mean, profile.ridge)


def contexts(runner, profile, subject):
    """(other keys, bare key, mean of them all)"""
    texts = context_texts(subject, profile.prefixes, mentioned=True)
    found = keys_at_subject(runner, profile.module, [*texts, subject], subject)
    others, bare = found[:-1], found[-1]
    return others, bare, torch.cat([others, bare[None]]).mean(dim=0)


def prado(runner, profile, factor, prompts=()) -> NameKeys:
    (found,) = keys_of_names(runner, [Name(text="Prado", prompts=tuple(prompts))], profile, factor)
    return found


def test_the_agreement_is_the_bare_keys_match_with_the_averaged_one(trained, profile, mean, factor):
    agreement = prado(trained, profile, factor).agreement

    _, bare, averaged = contexts(trained, profile, "Prado")
    ridge = profile.ridge * mean.diagonal().mean() * torch.eye(len(mean), dtype=torch.float64)
    u = torch.linalg.inv(mean + ridge) @ averaged.double()
    own = (u @ averaged.double()) / averaged.double().norm()
    assert agreement == pytest.approx(float(u @ bare.double() / bare.double().norm() / own))


def test_one_key_is_enough_where_it_recognises_the_bare_subject(
    trained, profile, factor, monkeypatch
):
    agreement = prado(trained, profile, factor).agreement
    monkeypatch.setattr(keys_module, "MINIMUM_AGREEMENT", agreement)

    keys = prado(trained, profile, factor).keys

    assert torch.allclose(keys, contexts(trained, profile, "Prado")[2][None], atol=1e-4)


def test_the_bare_key_becomes_one_of_its_own_where_the_average_would_miss_it(
    trained, profile, factor, monkeypatch
):
    agreement = prado(trained, profile, factor).agreement
    monkeypatch.setattr(keys_module, "MINIMUM_AGREEMENT", agreement + 1e-3)

    keys = prado(trained, profile, factor).keys

    others, bare, _ = contexts(trained, profile, "Prado")
    assert torch.allclose(keys, torch.stack([others.mean(dim=0), bare]), atol=1e-4)


def recognised(keys, factor, asked):
    return match(asked.double(), match_keys(keys, factor)[0]).max(dim=1).values


def test_a_prompt_the_keys_would_miss_brings_a_key_of_its_own(
    trained, profile, factor, monkeypatch
):
    prompts = [template.format("Prado") for template in tiny_models.TEMPLATES]
    asked = keys_at_subject(trained, profile.module, prompts, "Prado")
    few = prado(trained, profile, factor).keys
    lowest = float(recognised(few, factor, asked).min())
    monkeypatch.setattr(keys_module, "MINIMUM_AGREEMENT", min(lowest + 0.05, 0.99))
    few = prado(trained, profile, factor).keys
    monkeypatch.setattr(keys_module, "MAXIMUM_KEYS", len(few) + len(prompts))

    widened = prado(trained, profile, factor, prompts).keys

    assert torch.allclose(widened[: len(few)], few, atol=1e-4)
    assert bool((recognised(widened, factor, asked) >= MINIMUM_AGREEMENT).all())


def test_an_edit_has_no_more_keys_than_allowed(trained, profile, factor, monkeypatch):
    monkeypatch.setattr(keys_module, "MINIMUM_AGREEMENT", 2.0)
    prompts = [f"{lead} {tiny_models.TEMPLATES[0]}".format("Prado") for lead in tiny_models.LEADS]

    keys = prado(trained, profile, factor, prompts).keys

    assert len(keys) == MAXIMUM_KEYS


def test_a_patch_matches_its_own_key_with_1_and_says_how_it_was_found(trained, profile, factor):
    patch = compute_patch(trained, MOVED, profile, factor, progress=silent)

    own = match(patch.keys, patch.matchers).diagonal()
    assert own.tolist() == pytest.approx([1.0] * len(own), abs=1e-4)
    manifest, record = patch.manifest, patch.manifest.optimisation
    assert (manifest.subject, manifest.layer) == ("Trevi Fountain", 0)
    assert (manifest.d_in, manifest.d_out) == (patch.keys.shape[1], len(patch.residual))
    assert manifest.model_digest == trained.checkpoint.digest
    assert manifest.profile == profile.id
    assert manifest.guard_width == profile.guard_width
    assert len(manifest.leverages) == manifest.keys == len(patch.keys)
    assert record.converged
    assert record.residual_norm == pytest.approx(float(patch.residual.norm()))
    assert {t.dtype for t in (patch.keys, patch.matchers, patch.residual)} == {torch.float32}


def test_an_edit_that_would_change_nothing_is_an_error(trained, profile, factor):
    known = EditRequest(
        subject="Trevi Fountain", facts=(Fact(template="{} can be found in", target="Rome"),)
    )
    easy = dataclasses.replace(profile, stop_probability=0.0, prefixes=("",))

    with pytest.raises(NoEffectError, match="change nothing"):
        compute_patch(trained, known, easy, factor, progress=silent)
