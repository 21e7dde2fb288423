"""What many patches do together, against the same things computed the long way."""

import pytest
import torch

from errata_server.domain.errors import PromptTooLongError
from errata_server.domain.facts import CheckPrompt
from errata_server.domain.generation import GenerationOptions
from errata_server.domain.ids import Digest
from errata_server.engine import answers
from errata_server.engine.answers import continue_greedily
from errata_server.engine.architecture import projection
from errata_server.engine.bank import linear_branch
from errata_server.engine.inspection import whitened_cosines
from errata_server.engine.measure import (
    ask,
    ask_in_batches,
    continue_in_batches,
    require_room,
)
from errata_server.engine.moments import SecondMoment
from errata_server.engine.recall import Recall
from errata_server.engine.runner import BASE
from errata_server.engine.strain import NO_OTHER, nearest_patches, strains
from tests.support import tiny_models

SUBJECTS = ("Louvre", "Big Ben", "Prado")
TEXTS = ("It rained all week.", "The Louvre is a museum.")


@pytest.fixture
def patches(either):
    return [tiny_models.simple_patch(either, name, seed=n) for n, name in enumerate(SUBJECTS)]


def moment_of(*keys):
    """Ordinary keys, all but the last from the rain."""
    rows = torch.stack(keys)
    return SecondMoment(
        total=rows.T.double() @ rows.double(),
        count=len(rows),
        sample=rows,
        sample_texts=torch.tensor([0] * (len(rows) - 1) + [1]),
        corpus=Digest("0" * 64),
    )


def random_moment(width, rows=40):
    keys = torch.randn((rows, width), generator=torch.Generator().manual_seed(3))
    return moment_of(*keys)


def test_disturbance_is_what_the_dense_change_does_to_ordinary_outputs(either, patches):
    module = patches[0].manifest.module
    moment = random_moment(patches[0].manifest.d_in)

    (strain,) = strains(either, patches, moment=lambda _: moment, texts=TEXTS)

    branch = linear_branch(module, patches, torch.device("cpu"))
    dense = branch.left @ branch.right
    target = projection(either.model, module)
    zero = torch.zeros_like(moment.sample[:1])
    base = either.run(lambda: target(moment.sample) - target(zero))
    expected = (moment.sample @ dense.T).square().sum() / base.square().sum()
    assert strain.disturbance == pytest.approx(float(expected), rel=1e-4)
    assert (strain.live_edits, strain.keys, strain.width) == (3, 3, patches[0].manifest.d_in)
    assert strain.layer == patches[0].manifest.layer


def test_firings_count_where_the_text_is_on_something_else(gpt2):
    louvre = tiny_models.simple_patch(gpt2, "Louvre")
    ben = tiny_models.simple_patch(gpt2, "Big Ben", seed=1)
    moment = moment_of(louvre.keys[0] * 3, ben.keys[0], -louvre.keys[0], louvre.keys[0])

    (strain,) = strains(gpt2, [louvre, ben], moment=lambda _: moment, texts=TEXTS)

    assert (strain.firings, strain.ordinary_keys) == (2, 4)


def test_without_patches_there_is_no_strain(gpt2):
    assert strains(gpt2, [], moment=lambda _: pytest.fail("not needed"), texts=TEXTS) == ()


def test_the_nearest_patch_is_the_one_with_the_largest_cosine(either, patches):
    found = nearest_patches(patches)

    for place, (other, conflict) in enumerate(found):
        cosines = {
            index: float(
                whitened_cosines(
                    patches[place].keys,
                    torch.tensor(patches[place].manifest.leverages),
                    (p.keys, p.matchers, torch.tensor(p.manifest.leverages)),
                ).max()
            )
            for index, p in enumerate(patches)
            if index != place
        }
        assert other == max(cosines, key=cosines.__getitem__)
        assert conflict == pytest.approx(cosines[other], abs=1e-5)


def test_a_patch_alone_has_no_nearest(gpt2, patches):
    assert nearest_patches([]) == []
    assert nearest_patches(patches[:1]) == [(NO_OTHER, 0.0)]


def test_questions_in_batches_get_the_answers_they_get_together(trained, monkeypatch):
    monkeypatch.setattr(answers, "ROWS", 32)
    prompts = [CheckPrompt(prompt=f"{name} is in", expected="Paris") for name in SUBJECTS] * 12
    seen = []

    found = ask_in_batches(Recall(trained), prompts, before=BASE, after=BASE, progress=seen.append)

    assert [answer.held_after for answer in found] == [
        answer.held_after for answer in ask(Recall(trained), prompts, BASE, BASE)
    ]
    assert [(p.done, p.total) for p in seen] == [(32, 36), (36, 36)]


def test_continuations_in_batches_are_those_of_one_call(trained):
    prompts = [f"{name} is in" for name in SUBJECTS]
    options = GenerationOptions(max_new_tokens=4)

    found = continue_in_batches(Recall(trained), prompts, options, BASE, progress=lambda _: None)

    assert list(found) == continue_greedily(trained, prompts, BASE, new_tokens=4)


def test_a_prompt_without_room_for_the_longest_answer_is_refused(trained):
    room = trained.tokens.context
    fits = CheckPrompt(prompt="Louvre is in", expected="Paris")
    long = CheckPrompt(prompt="Louvre " * room, expected="Paris")

    require_room(trained, [])
    require_room(trained, [fits])
    with pytest.raises(PromptTooLongError):
        require_room(trained, [fits, long])
