"""The side branch: fires where it should, leaves every other bit alone, and forgets exactly."""

import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from errata_server.domain.patches import Composition
from errata_server.engine import bank
from errata_server.engine.architecture import projection
from errata_server.engine.bank import LINEAR_RIDGE, Bank, GuardedBranch, LinearBranch, compose
from errata_server.engine.runner import BASE
from tests.support import tiny_models

SUBJECTS = ("Louvre", "Big Ben", "Prado", "Colosseum", "Reichstag")
CPU = torch.device("cpu")


def branch(matchers, *, widths, residuals, owners=None, decoys=None) -> GuardedBranch:
    rows = torch.tensor(matchers)
    return GuardedBranch(
        module="m",
        matchers=rows,
        widths=torch.tensor(widths),
        residuals=torch.tensor(residuals),
        owners=torch.tensor(owners or range(len(rows))),
        scales=torch.ones(len(rows)),
        decoys=torch.tensor(decoys) if decoys else rows[:0],
    )


def batch_of(runner, *prompts):
    return runner.tokens.pad([runner.tokens.encode(prompt) for prompt in prompts])


@pytest.fixture
def patches(either):
    return {
        subject: tiny_models.simple_patch(either, subject, seed=seed)
        for seed, subject in enumerate(SUBJECTS)
    }


def test_an_edit_fires_within_its_width_of_1_and_not_outside():
    edit = branch([[1.0, 0.0]], widths=[0.25], residuals=[[10.0]])
    angles = torch.tensor([0.0, 0.5, 0.7, 0.75, 1.5])  # cosines 1, .88, .76, .73, .07
    inputs = torch.stack([angles.cos(), angles.sin()], dim=-1)[None] * 7

    out = edit.rewrite(inputs, torch.zeros(1, 5, 1))

    assert out[0, :, 0].tolist() == [10.0, 10.0, 10.0, 0.0, 0.0]


def test_of_two_that_match_the_better_one_alone_acts():
    both = branch([[1.0, 0.0], [0.0, 1.0]], widths=[0.9, 0.9], residuals=[[1.0], [2.0]])
    inputs = torch.tensor([[[1.0, 0.9], [0.9, 1.0]]])

    assert both.rewrite(inputs, torch.zeros(1, 2, 1))[0, :, 0].tolist() == [1.0, 2.0]


def test_each_edit_keeps_to_its_own_width():
    both = branch([[1.0, 0.0], [0.0, 1.0]], widths=[0.05, 0.5], residuals=[[1.0], [2.0]])
    inputs = torch.tensor([[[1.0, 0.5], [0.5, 1.0]]])  # .894 for the nearer one of each

    assert both.rewrite(inputs, torch.zeros(1, 2, 1))[0, :, 0].tolist() == [0.0, 2.0]


DIRECTIONS = torch.linalg.qr(torch.randn(512, 512, generator=torch.Generator().manual_seed(1))).Q


def many_guards(count: int = bank.SCREENED) -> GuardedBranch:
    """Enough keys for a single token to be screened, at right angles, a thousandfold at most."""
    rows = DIRECTIONS[:count] * torch.logspace(0, 3, count)[:, None]
    return GuardedBranch(
        module="m",
        matchers=rows,
        widths=torch.full((count,), 0.4),
        residuals=torch.arange(1.0, count + 1)[:, None],
        owners=torch.arange(count),
        scales=torch.ones(count),
        decoys=rows[:0],
    )


@pytest.mark.parametrize("beyond", [-1e-2, -1e-4, -1e-6, 0.0, 1e-6, 1e-4, 1e-2, 0.3])
@pytest.mark.parametrize("length", [1e-6, 1.0, 1e6])
def test_a_screened_token_gets_what_it_would_get_without(monkeypatch, beyond, length):
    screened = many_guards()
    monkeypatch.setattr(bank, "SCREENED", bank.SCREENED + 1)
    plain = many_guards()
    count = len(plain.matchers)
    sizes = plain.matchers.norm(dim=1, keepdim=True)
    cosines = (0.6 + beyond) / sizes  # of an input whose match is just so far beyond its guard's
    inputs = DIRECTIONS[:count] * cosines + DIRECTIONS[-count:] * (1 - cosines**2).sqrt()

    for row in inputs * length:
        one, zero = row[None, None], torch.zeros(1, 1, 1)
        assert torch.equal(screened.rewrite(one, zero), plain.rewrite(one, zero))


def test_a_screen_sees_that_all_guards_are_shut_and_does_not_trust_what_is_no_number():
    guards = replace(many_guards(), widths=torch.full((bank.SCREENED,), 0.01))
    guards = replace(guards, matchers=functional.normalize(guards.matchers))
    shut = guards.matchers[:1].flip(1)[None]

    assert guards._all_shut(shut)
    assert not guards._all_shut(guards.matchers[:1][None])
    assert not guards._all_shut(torch.full_like(shut, torch.nan))
    assert not guards._all_shut(torch.cat([shut, shut], dim=1))
    assert not replace(guards, matchers=guards.matchers * 1e6)._all_shut(shut)


def test_a_matcher_too_large_for_a_screen_is_not_screened():
    guards = many_guards()
    large = torch.zeros_like(guards.matchers)
    large[0, 0], large[0, 1] = -7e4, 6e4  # which would count as -inf for the input below
    one = torch.zeros(1, 1, 512)
    one[..., :2] = torch.tensor([3.0, 4.0])

    changed = replace(guards, matchers=large).rewrite(one, torch.zeros(1, 1, 1))

    assert changed.item() == 1.0


def test_a_screen_allows_for_roundings_that_all_go_one_way():
    guards = many_guards()
    row = torch.full((1024,), (1 + 0.95 * 2.0**-11) / 32)  # float16 has 1 / 32
    row[-1] = (1 - row[:-1].square().sum()).sqrt()
    matchers = torch.zeros(len(guards.matchers), 1024)
    matchers[0] = row
    widths = torch.full((len(matchers),), 1e-4)
    lone = replace(guards, matchers=matchers, widths=widths, decoys=matchers[:0])

    assert lone.rewrite(row[None, None], torch.zeros(1, 1, 1)).item() == 1.0


def test_of_two_guards_that_open_the_nearer_edit_acts_though_the_other_matches_more():
    both = branch([[1.0, 0.0], [1.2, 0.0]], widths=[0.9, 0.9], residuals=[[1.0], [2.0]])
    nearer = replace(both, scales=torch.tensor([1.0, 0.8]))
    inputs = torch.tensor([[[1.0, 0.0]]])

    assert both.rewrite(inputs, torch.zeros(1, 1, 1)).item() == 2.0
    assert nearer.rewrite(inputs, torch.zeros(1, 1, 1)).item() == 1.0


def test_a_nearer_edit_whose_guard_stays_shut_keeps_no_other_from_acting():
    both = branch([[1.0, 0.0], [0.0, 1.0]], widths=[0.1, 0.9], residuals=[[1.0], [2.0]])
    inputs = torch.tensor([[[0.8, 0.6]]])

    assert both.rewrite(inputs, torch.zeros(1, 1, 1)).item() == 2.0


def test_two_keys_of_one_edit_share_its_value():
    edit = branch([[1.0, 0.0], [0.0, 1.0]], widths=[0.1, 0.1], residuals=[[5.0]], owners=[0, 0])
    inputs = torch.tensor([[[3.0, 0.0], [0.0, 2.0], [1.0, 1.0]]])

    assert edit.rewrite(inputs, torch.zeros(1, 3, 1))[0, :, 0].tolist() == [5.0, 5.0, 0.0]


def test_no_guard_fires_where_a_decoy_is_nearer():
    edit = branch([[1.0, 0.0]], widths=[0.9], residuals=[[10.0]], decoys=[[0.6, 0.8]])
    inputs = torch.tensor([[[1.0, 0.0], [0.95, 0.3], [0.8, 0.6], [0.6, 0.8]]])

    out = edit.rewrite(inputs, torch.zeros(1, 4, 1))

    # Nearness to the decoy: .6, .81 and .96 and 1, against .95 and .8 to the key.
    assert out[0, :, 0].tolist() == [10.0, 10.0, 0.0, 0.0]


def test_a_decoy_is_compared_in_the_metric_of_the_second_moment():
    plain = branch([[1.0, 0.0]], widths=[0.9], residuals=[[10.0]], decoys=[[0.0, 1.0]])
    strong = replace(plain, scales=torch.tensor([3.0]))
    inputs = torch.tensor([[[0.6, 0.8]]])  # match .6, nearness to the decoy .8

    outputs = [edit.rewrite(inputs, torch.zeros(1, 1, 1)).item() for edit in (plain, strong)]

    assert outputs == [0.0, 10.0]


def test_an_edit_of_the_decoy_s_own_subject_takes_the_decoy_out(gpt2):
    rows = torch.eye(tiny_models.GPT2_INPUT)
    decoy = {"the Prado": rows[1]}
    louvre = tiny_models.patch_tensors(
        gpt2,
        subject="Louvre",
        keys=rows[:1],
        matchers=rows[:1] + 0.9 * rows[1:2],
        residual=torch.ones(tiny_models.D_MODEL),
        decoys=decoy,
    )
    prado = tiny_models.patch_tensors(
        gpt2,
        subject="Prado",
        keys=rows[1:2],
        matchers=rows[1:2] * 2,
        residual=torch.full((tiny_models.D_MODEL,), 2.0),
    )

    def fired(*patches):
        (guarded,) = compose(patches, Composition.GUARDED, CPU).branches
        return guarded.rewrite(rows[None, 1:2], torch.zeros(1, 1, tiny_models.D_MODEL))[0, 0, 0]

    assert fired(louvre) == 0
    assert fired(replace(louvre, manifest=replace(louvre.manifest, decoys=("Rijksmuseum",)))) == 0
    assert fired(louvre, prado) == 2


def test_a_decoy_of_several_edits_is_composed_once(gpt2):
    rows = torch.eye(tiny_models.GPT2_INPUT)
    several = [
        tiny_models.patch_tensors(
            gpt2,
            subject=name,
            keys=rows[place : place + 1],
            matchers=rows[place : place + 1],
            residual=torch.ones(tiny_models.D_MODEL),
            decoys={"Prado": rows[7], f"Hall of {name}": rows[place + 10]},
        )
        for place, name in enumerate(SUBJECTS[:2])
    ]

    (guarded,) = compose(several, Composition.GUARDED, CPU).branches

    assert isinstance(guarded, GuardedBranch)
    assert torch.equal(guarded.decoys, rows[[7, 10, 11]])


def test_a_key_belongs_to_its_own_edit_however_many_keys_come_before_it(gpt2):
    directions = torch.eye(tiny_models.GPT2_INPUT)
    edits = [
        tiny_models.patch_tensors(
            gpt2,
            subject=str(value),
            keys=rows,
            matchers=rows,
            residual=torch.full((tiny_models.D_MODEL,), value),
            guard_width=value / 8,
        )
        for value, rows in ((1.0, directions[:2]), (2.0, directions[2:5]), (3.0, directions[5:6]))
    ]

    (guarded,) = compose(edits, Composition.GUARDED, CPU).branches
    out = guarded.rewrite(directions[None, :7], torch.zeros(1, 7, tiny_models.D_MODEL))

    assert out[0, :, 0].tolist() == [1.0, 1.0, 2.0, 2.0, 2.0, 3.0, 0.0]
    assert isinstance(guarded, GuardedBranch)
    assert guarded.widths.tolist() == [0.125] * 2 + [0.25] * 3 + [0.375]


@settings(max_examples=30)
@given(st.integers(0, 2**16))
def test_rows_that_match_nothing_keep_every_bit(seed):
    generator = torch.Generator().manual_seed(seed)
    edits = branch(
        torch.randn(3, 8, generator=generator).tolist(),
        widths=[0.2] * 3,
        residuals=torch.randn(3, 4, generator=generator).tolist(),
    )
    inputs = torch.randn(2, 5, 8, generator=generator)
    inputs[0, 0] = 0
    outputs = torch.randn(2, 5, 4, generator=generator)
    outputs[1, 1, 1] = -0.0

    out = edits.rewrite(inputs, outputs)

    matches = (inputs @ edits.matchers.T) / inputs.norm(dim=-1, keepdim=True)
    quiet = ~(matches > 0.8).any(dim=-1)
    assert torch.equal(out[quiet].view(torch.int32), outputs[quiet].view(torch.int32))
    assert not torch.equal(out[~quiet], outputs[~quiet]) or not (~quiet).any()


def test_an_empty_bank_changes_no_bit(either):
    batch = batch_of(either, "Louvre", "It rained all week")
    empty = compose([], Composition.GUARDED, either.device)

    assert empty.branches == ()
    assert empty.digest() == BASE.digest() == compose([], Composition.LINEAR, CPU).digest()
    assert torch.equal(either.logits(batch, empty), either.logits(batch))


def test_a_patch_answers_its_subject_and_leaves_other_prompts_bit_for_bit(either, patches):
    batch = batch_of(either, "Louvre", "It rained all week")
    bank = compose([patches["Louvre"]], Composition.GUARDED, either.device)

    base, edited = either.logits(batch), either.logits(batch, bank)

    assert not torch.allclose(edited[0], base[0], atol=1e-2)
    assert torch.equal(edited[1], base[1])


def test_the_hooks_of_a_bank_go_with_its_pass(either, patches):
    bank = compose(list(patches.values()), Composition.GUARDED, either.device)
    module = projection(either.model, either.checkpoint.projection_path(0))

    with pytest.raises(ZeroDivisionError), bank.installed(either.model):
        assert len(module._forward_hooks) == 1
        raise ZeroDivisionError

    assert not module._forward_hooks


@pytest.mark.parametrize("composition", list(Composition))
def test_taking_an_edit_out_leaves_what_was_there_without_it(either, patches, composition):
    chance = random.Random(composition.value)
    batch = batch_of(either, *SUBJECTS, "It rained all week")
    for _ in range(6):
        kept = chance.sample(SUBJECTS, chance.randint(0, 4))
        gone = chance.choice([s for s in SUBJECTS if s not in kept])
        never = compose([patches[s] for s in kept], composition, either.device)
        live = compose([patches[s] for s in [*kept, gone]], composition, either.device)
        reverted = compose(
            [patches[s] for s in [*kept, gone] if s != gone], composition, either.device
        )

        assert reverted.digest() == never.digest() != live.digest()
        assert torch.equal(either.logits(batch, reverted), either.logits(batch, never))


@pytest.mark.parametrize("composition", list(Composition))
def test_composing_keeps_the_order_given(either, patches, composition):
    two = [patches["Louvre"], patches["Prado"]]

    forward = compose(two, composition, CPU)
    backward = compose(two[::-1], composition, CPU)

    assert forward.digest() == compose(two, composition, CPU).digest()
    assert forward.digest() != backward.digest()


def test_the_order_of_edits_does_not_change_the_answers(either, patches):
    batch = batch_of(either, *SUBJECTS)
    ordered = list(patches.values())

    forward = compose(ordered, Composition.GUARDED, either.device)
    backward = compose(ordered[::-1], Composition.GUARDED, either.device)

    assert torch.allclose(either.logits(batch, forward), either.logits(batch, backward), atol=1e-5)


@pytest.mark.parametrize("index", range(6))
def test_the_digest_sees_one_changed_bit_of_any_tensor(either, patches, index):
    louvre = patches["Louvre"]
    manifest = replace(louvre.manifest, decoys=("Rijksmuseum",))
    decoyed = replace(louvre, manifest=manifest, decoys=louvre.keys)
    bank = compose([*patches.values(), decoyed], Composition.GUARDED, CPU)
    (whole,) = bank.branches
    names = ("matchers", "widths", "residuals", "owners", "scales", "decoys")
    rows = (t.clone(memory_format=torch.contiguous_format) for t in whole.tensors())
    tensors = dict(zip(names, rows, strict=True))
    changed = tensors[names[index]]
    changed.view(torch.uint8).view(-1)[-8] ^= 1

    again = Bank((replace(whole, **tensors),))  # type: ignore[arg-type]

    assert again.digest() != bank.digest()


def test_the_digest_sees_a_changed_bit_of_a_linear_branch():
    left, right = torch.ones(3, 2), torch.ones(2, 4)
    digests = {
        Bank((LinearBranch(module=m, left=x, right=y),)).digest()
        for m, x, y in [
            ("a", left, right),
            ("b", left, right),
            ("a", left * 2, right),
            ("a", left, right * 2),
        ]
    }

    assert len(digests) == 4


def test_guarded_and_linear_compositions_have_different_digests(patches):
    one = [patches["Prado"]]

    guarded, linear = (compose(one, c, CPU).digest() for c in Composition)

    assert guarded != linear


def test_a_linear_branch_equals_the_dense_weight_change(either, patches):
    batch = batch_of(either, *SUBJECTS, "It rained all week. In the end")
    bank = compose(list(patches.values()), Composition.LINEAR, either.device)
    (linear,) = bank.branches
    assert isinstance(linear, LinearBranch)
    dense = linear.left @ linear.right  # (d_out, d_in)
    weight = projection(either.model, linear.module).get_parameter("weight")
    change = dense if weight.shape == dense.shape else dense.T  # Conv1D keeps the transpose

    factored = either.logits(batch, bank)
    original = weight.data.clone()
    weight.data += change
    merged = either.logits(batch)
    weight.data.copy_(original)

    assert torch.allclose(factored, merged, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(factored, either.logits(batch), atol=1e-2)


def test_a_linear_patch_with_two_keys_gives_both_its_value(gpt2):
    keys = torch.eye(tiny_models.GPT2_INPUT)[:2] * 3
    residual = torch.arange(float(tiny_models.D_MODEL))
    patch = tiny_models.patch_tensors(
        gpt2, subject="x", keys=keys, matchers=keys / 3, residual=residual, leverages=(9.0, 9.0)
    )

    (linear,) = compose([patch], Composition.LINEAR, CPU).branches
    out = linear.rewrite(keys[None], torch.zeros(1, 2, tiny_models.D_MODEL))

    strength = 9 / (9 + LINEAR_RIDGE * tiny_models.GPT2_INPUT)
    assert torch.allclose(out[0, 0], residual * strength, rtol=1e-4)
    assert torch.allclose(out[0, 1], residual * strength, rtol=1e-4)


def test_patches_at_different_layers_become_branches_of_their_own(either):
    patches = [
        tiny_models.simple_patch(either, subject, layer=layer)
        for subject, layer in (("Louvre", 1), ("Prado", 0), ("Big Ben", 1))
    ]

    bank = compose(patches, Composition.GUARDED, either.device)

    assert [b.module for b in bank.branches] == [
        either.checkpoint.projection_path(layer) for layer in (0, 1)
    ]
    assert [len(b.tensors()[0]) for b in bank.branches] == [1, 2]
