"""Weight changes against the same thing done by hand, on whole weights."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from errata_server.domain.errors import CancelledError, InvalidInputError
from errata_server.domain.facts import EditRequest, Fact
from errata_server.domain.ids import Digest
from errata_server.domain.linear import LINEAR_METHODS, LinearMethod, Protection
from errata_server.engine import keys as keys_module
from errata_server.engine.bank import LinearBranch, linear_branch
from errata_server.engine.checkpoint import tensors_digest
from errata_server.engine.keys import MENTIONS
from errata_server.engine.linear import LinearEdit, bank_of, linear_changes
from errata_server.engine.mentions import Mentions
from errata_server.engine.moments import SecondMoment
from errata_server.engine.runner import BASE
from tests.support import tiny_models

SUBJECTS = ("Louvre", "Big Ben", "Prado")
BOTH = LinearMethod(name="both", protection=Protection.SECOND_MOMENT, ridge=0.3, layers=2)


def silent(_):
    """Progress nobody follows."""


def request(subject):
    return EditRequest(
        subject=subject, facts=(Fact(template="You can visit {} in", target="Rome"),)
    )


def edits(runner, layer):
    return [
        LinearEdit(
            request=request(name),
            patch=tiny_models.simple_patch(runner, name, seed=seed, layer=layer),
        )
        for seed, name in enumerate(SUBJECTS)
    ]


def moment_at(width):
    def moment(layer):
        rows = torch.randn((4 * width, width), generator=torch.Generator().manual_seed(layer))
        return SecondMoment(
            total=rows.T.double() @ rows.double(),
            count=len(rows),
            sample=rows,
            sample_texts=torch.zeros(len(rows), dtype=torch.long),
            corpus=Digest("0" * 64),
        )

    return moment


def changes(runner, method, layer, **options):
    width = runner.checkpoint.description.d_in
    given = {
        "method": method,
        "profile": tiny_models.tiny_profile(runner, layer=layer),
        "moment": moment_at(width),
        "progress": silent,
    }
    last = method.span(layer, runner.checkpoint.layers)[-1]
    return linear_changes(runner, edits(runner, last), **(given | options))


@pytest.fixture
def one_key(monkeypatch):
    """Every edit has the average of its prefixed mentions and the bare one, and no other."""
    monkeypatch.setattr(keys_module, "MINIMUM_AGREEMENT", -2.0)


class Whole:
    """A model of transformers' own, edited by writing its weights; one text at a time."""

    def __init__(self, folder, tokenizer):
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = tokenizer

    def projection(self, layer):
        if self.model.config.model_type == "gpt2":
            return self.model.transformer.h[layer].mlp.c_proj
        return self.model.model.layers[layer].mlp.down_proj

    def at_subject(self, text, layer):
        """(key, state behind the model's last layer) at the text's last token."""
        body = self.model.base_model
        last = (body.h if self.model.config.model_type == "gpt2" else body.layers)[-1]
        seen = {}

        def key(_, arguments):
            seen["key"] = arguments[0][0, -1]

        def state(_, __, output):
            seen["state"] = (output[0] if isinstance(output, tuple) else output)[0, -1]

        hooks = [
            self.projection(layer).register_forward_pre_hook(key),
            last.register_forward_hook(state),
        ]
        with torch.no_grad():
            self.model(**self.tokenizer(text, return_tensors="pt"))
        for hook in hooks:
            hook.remove()
        return seen["key"].double(), seen["state"].double()

    def averages(self, texts, layer):
        """Of each subject's texts."""
        rows = [[self.at_subject(text, layer) for text in of] for of in texts]
        keys = torch.stack([torch.stack([key for key, _ in of]).mean(0) for of in rows])
        return keys, torch.stack([torch.stack([state for _, state in of]).mean(0) for of in rows])

    def add(self, layer, change):
        module = self.projection(layer)
        with torch.no_grad():
            module.weight += (change.T if isinstance(module, Conv1D) else change).float()


def memit(whole, residuals, profile, moment):
    """MEMIT as published, on whole weights; the change of each layer."""
    lead = [*(f"{prefix} {{}}" for prefix in profile.prefixes if prefix), *MENTIONS, "{}"]
    texts = [[text.format(subject) for text in lead] for subject in SUBJECTS]
    wanted = whole.averages(texts, 0)[1] + residuals
    found = []
    for done, layer in enumerate(range(2)):
        keys, states = whole.averages(texts, layer)
        mean = moment(layer).mean()
        mean = mean + profile.ridge * mean.diagonal().mean() * torch.eye(len(mean))
        weight = BOTH.ridge * len(mean)
        adjusted = torch.linalg.solve(weight * mean + keys.T @ keys, keys.T)  # (d_in, key)
        change = ((wanted - states) / (2 - done)).T @ adjusted.T
        whole.add(layer, change)
        found.append(change)
    return found


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_spread_change_is_memits_written_layer_by_layer(request, family, one_key):
    runner = request.getfixturevalue(family)
    profile = tiny_models.tiny_profile(runner, layer=1)
    whole = Whole(request.getfixturevalue(f"{family}_folder"), runner.checkpoint.tokenizer)
    moment = moment_at(profile.d_in)
    residuals = torch.stack([edit.patch.residual for edit in edits(runner, 1)]).double()

    found = changes(runner, BOTH, 1)

    assert [change.layer for change in found] == [0, 1]
    for change, expected in zip(found, memit(whole, residuals, profile, moment), strict=True):
        dense = change.left @ change.right
        assert float((dense - expected).norm() / expected.norm()) < 1e-3


def test_without_a_ridge_to_speak_of_the_last_layer_leaves_nothing_missing(either, one_key):
    method = replace(BOTH, ridge=1e-9)
    profile = tiny_models.tiny_profile(either, layer=1)
    mentions = Mentions(either, [request(name) for name in SUBJECTS], profile.prefixes)
    # Two behind prefixes, those within sentences and one bare have a key; that in the prompt none.
    average = torch.tensor([[True] * (2 + len(MENTIONS) + 1) + [False]] * 3).flatten()

    found = changes(either, method, 1)

    before = mentions.look(0, 1, BASE).states
    after = mentions.look(0, 1, bank_of(found, either.device)).states
    for place, edit in enumerate(edits(either, 1)):
        own = (mentions.owners == place) & average
        moved = (after - before)[own].mean(dim=0)
        assert torch.allclose(moved, edit.patch.residual, atol=1e-2)


@pytest.mark.parametrize("layer", [0, 1])
def test_the_default_is_what_a_branch_of_linear_composition_serves(either, layer):
    patches = [edit.patch for edit in edits(either, layer)]
    width = patches[0].manifest.d_in

    def moment(_):
        identity = torch.eye(width, dtype=torch.float64)
        return replace(moment_at(width)(0), total=identity, count=1)

    (change,) = changes(
        either,
        LINEAR_METHODS["linear"],
        layer,
        moment=moment,
        profile=tiny_models.tiny_profile(either, layer=layer, ridge=0.0),
    )

    served = linear_branch(patches[0].manifest.module, patches, torch.device("cpu"))
    (branch,) = bank_of([change], torch.device("cpu")).branches
    assert isinstance(branch, LinearBranch)
    assert (change.module, change.layer) == (served.module, layer)
    assert torch.allclose(branch.left @ branch.right, served.left @ served.right, atol=1e-5)


@pytest.mark.parametrize("name", ["plain", "alphaedit"])
def test_what_a_method_spares_it_spares_at_every_layer(either, name):
    width = either.checkpoint.description.d_in
    method = replace(LINEAR_METHODS[name], layers=2, null_share=1.0)

    found = changes(either, method, 1)

    for change in found:
        values, vectors = torch.linalg.eigh(moment_at(width)(change.layer).mean())
        used = vectors[:, values >= values.mean()]
        heard = (change.left @ (change.right @ used)).norm() / change.left.norm()
        assert (float(heard) < 1e-6) == (name == "alphaedit")


def test_a_mention_in_a_prompt_has_a_key_of_its_own_where_the_others_would_miss_it(
    either, monkeypatch
):
    monkeypatch.setattr(keys_module, "MINIMUM_AGREEMENT", 2.0)

    found = changes(either, BOTH, 1)

    # prefixed, bare, and the prompt until there are as many keys as an edit may have
    assert [change.left.shape[1] for change in found] == [4 * len(SUBJECTS)] * 2


def test_an_alias_has_keys_of_its_own_with_the_same_value(either, one_key):
    profile = tiny_models.tiny_profile(either, layer=1)
    patch = tiny_models.simple_patch(either, "Louvre", layer=1)
    named = replace(request("Louvre"), aliases=("Big Ben",))

    found = linear_changes(
        either,
        [LinearEdit(request=named, patch=patch)],
        method=replace(BOTH, ridge=1e-9),
        profile=profile,
        moment=moment_at(profile.d_in),
        progress=silent,
    )

    assert [change.left.shape[1] for change in found] == [2, 2]
    mentions = Mentions(either, [request("Big Ben")], profile.prefixes)
    before = mentions.look(0, 1, BASE).states[:-1]  # the prompt has no key of its own
    after = mentions.look(0, 1, bank_of(found, either.device)).states[:-1]
    assert torch.allclose((after - before).mean(dim=0), patch.residual, atol=1e-2)


def test_the_same_edits_give_the_same_bits(either):
    first, second = (changes(either, BOTH, 1) for _ in range(2))

    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.left, other.left)
        assert torch.equal(one.right, other.right)


def test_no_weight_is_written(either):
    before = either.run(lambda: tensors_digest(either.model))

    changes(either, BOTH, 1)

    assert either.run(lambda: tensors_digest(either.model)) == before


def test_without_edits_nothing_changes(either):
    profile = tiny_models.tiny_profile(either, layer=1)

    found = linear_changes(
        either, [], method=BOTH, profile=profile, moment=moment_at(1), progress=silent
    )

    assert found == ()
    assert bank_of(found, either.device).branches == ()


def test_a_patch_of_another_layer_than_the_methods_last_is_refused(either):
    given = {"method": BOTH, "moment": moment_at(1), "progress": silent}
    profile = tiny_models.tiny_profile(either, layer=1)

    with pytest.raises(InvalidInputError, match="is of layer 0, but .* at layer 1") as refusal:
        linear_changes(either, edits(either, 0), profile=profile, **given)

    assert refusal.value.metadata["field"] == "method"


def test_a_model_with_fewer_layers_than_the_method_is_refused(either):
    with pytest.raises(InvalidInputError, match="spread over 3 layers, but the model has 2"):
        changes(either, replace(BOTH, layers=3), 1)


def test_a_spread_change_can_be_cancelled_between_layers(either):
    told = []

    def cancel(progress):
        told.append((progress.done, progress.total))
        if progress.done == 1:
            raise CancelledError("enough")

    with pytest.raises(CancelledError):
        changes(either, BOTH, 1, progress=cancel)

    assert told == [(0, 2), (1, 2)]
