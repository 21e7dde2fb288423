"""What is seen of a patch's keys and guard without asking the model anything."""

import pytest
import torch

from errata_server.domain.ids import Digest, EditId
from errata_server.engine.inspection import UNSEEN, best_matches, inspect
from errata_server.engine.moments import SecondMoment
from errata_server.engine.recall import Recall
from tests.support import tiny_models

TEXTS = ("It rained all week.", "The Louvre is a museum.")


def moment_of(runner, *keys):
    """A sample whose last key comes from the text on the Louvre, all others from the rain."""
    rows = torch.stack(keys)
    return SecondMoment(
        total=rows.T.double() @ rows.double(),
        count=len(rows),
        sample=rows,
        sample_texts=torch.tensor([0] * (len(rows) - 1) + [1]),
        corpus=Digest("0" * 64),
    )


@pytest.fixture
def patch(gpt2):
    return tiny_models.simple_patch(gpt2, "Louvre")


def looked_at(runner, patch, *, moment=None, live=(), neighbours=()):
    return inspect(
        Recall(runner),
        patch,
        moment=moment or moment_of(runner, patch.keys[0]),
        moment_texts=TEXTS,
        live=live,
        neighbours=neighbours,
    )


def test_the_match_is_measured_in_contexts_no_profile_uses(gpt2, patch):
    seen = looked_at(gpt2, patch).own_matches

    assert [text for text, _ in seen] == [f"{lead} Louvre".strip() for lead in UNSEEN]
    assert seen[0][1] == pytest.approx(1.0, abs=1e-5)  # the bare subject is its own key
    assert all(match < 0.999 for _, match in seen[1:])


def test_firings_on_ordinary_keys_are_counted_where_the_text_is_on_something_else(gpt2, patch):
    key = patch.keys[0]
    away = torch.zeros_like(key)
    away[0] = 1.0
    moment = moment_of(gpt2, key * 4, away, -key, key)

    seen = looked_at(gpt2, patch, moment=moment)

    assert (seen.corpus_firings, seen.corpus_keys) == (1, 3)


def test_the_guards_width_decides_what_fires(gpt2):
    key = tiny_models.simple_patch(gpt2, "Louvre").keys[0]
    aside = torch.randn(key.shape, generator=torch.Generator().manual_seed(1))
    aside -= (aside @ key) / (key @ key) * key
    near = key / key.norm() + aside / aside.norm() * 0.75  # match 0.8
    moment = moment_of(gpt2, near, key)

    counts = [
        looked_at(
            gpt2, tiny_models.simple_patch(gpt2, "Louvre", guard_width=width), moment=moment
        ).corpus_firings
        for width in (0.19, 0.21)
    ]

    assert counts == [0, 1]


def test_a_neighbours_match_is_the_best_over_its_tokens(gpt2, patch):
    prompts = ("Prado is in", "Louvre is in", "It rained")

    seen = looked_at(gpt2, patch, neighbours=prompts).neighbour_matches

    assert [prompt for prompt, _ in seen] == list(prompts)
    for prompt, match in seen:
        ids = gpt2.tokens.encode(prompt)
        (inputs,) = gpt2.inputs(gpt2.tokens.pad([ids]), [patch.manifest.module])
        assert match == pytest.approx(float(best_matches(patch, inputs[0]).max()), abs=1e-4)
    assert seen[1][1] == pytest.approx(1.0, abs=1e-4)


def test_conflict_is_the_whitened_cosine_of_two_keys_largest_first(gpt2, patch):
    others = [
        (EditId(f"e-{i}"), tiny_models.simple_patch(gpt2, s))
        for i, s in enumerate(("Prado", "Louvre", "Big Ben"))
    ]

    seen = looked_at(gpt2, patch, live=others).conflicts

    cosines = {
        edit: float(torch.cosine_similarity(patch.keys[0], other.keys[0], dim=0))  # C = I
        for edit, other in others
    }
    assert dict(seen) == pytest.approx(cosines, abs=1e-5)
    assert [edit for edit, _ in seen] == sorted(cosines, key=lambda e: -cosines[e])
    assert seen[0] == ("e-1", pytest.approx(1.0, abs=1e-5))


def test_live_edits_whose_key_the_guard_would_fire_on_are_named(gpt2, patch):
    live = [
        (
            EditId("e-far"),
            tiny_models.patch_tensors(
                gpt2,
                subject="far",
                keys=-patch.keys,
                matchers=patch.matchers,
                residual=patch.residual,
            ),
        ),
        (EditId("e-near"), tiny_models.simple_patch(gpt2, "Louvre", seed=3)),
    ]

    assert looked_at(gpt2, patch, live=live).fires_on_live == ("e-near",)


def test_a_live_edit_at_another_layer_is_no_conflict(gpt2, patch):
    elsewhere = tiny_models.patch_tensors(
        gpt2,
        subject="Louvre",
        keys=patch.keys,
        matchers=patch.matchers,
        residual=patch.residual,
        layer=1,
    )

    seen = looked_at(gpt2, patch, live=[(EditId("e-1"), elsewhere)])

    assert seen.conflicts == (("e-1", 0.0),)
    assert seen.fires_on_live == ()


def test_no_neighbours_and_no_live_edits_are_nothing_to_see(gpt2, patch):
    seen = looked_at(gpt2, patch)

    assert (seen.neighbour_matches, seen.conflicts, seen.fires_on_live) == ((), (), ())
    assert seen.finite
