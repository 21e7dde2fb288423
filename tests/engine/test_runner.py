"""Every forward pass is a step of a model thread, with the bank its caller chose."""

import threading
import time
from functools import partial

import pytest
import torch

from errata_server.domain.patches import Composition
from errata_server.engine.answers import continue_greedily
from errata_server.engine.architecture import projection
from errata_server.engine.bank import compose
from errata_server.engine.checkpoint import load_checkpoint
from errata_server.engine.runner import BASE, Runner
from tests.support import tiny_models

PROMPTS = ("Louvre", "Big Ben is in the city of", "It rained all week. In the end we wrote")


def batch_of(runner, *prompts):
    return runner.tokens.pad([runner.tokens.encode(prompt) for prompt in prompts])


def test_each_pass_of_transformers_own_loop_runs_on_the_model_thread(gpt2):
    block = gpt2.model.get_submodule("transformer.h.0")
    seen = []
    handle = block.register_forward_hook(lambda *_: seen.append(threading.get_ident()))

    continue_greedily(gpt2, ["Rome"], BASE, new_tokens=4)
    handle.remove()

    assert set(seen) == {gpt2.lane.run(threading.get_ident)}
    assert len(seen) > 1
    assert threading.get_ident() not in seen


def test_left_padding_does_not_change_what_a_prompt_is_answered(either):
    together = either.logits(batch_of(either, *PROMPTS))[:, -1]

    for row, prompt in zip(together, PROMPTS, strict=True):
        alone = either.logits(batch_of(either, prompt))[0, -1]
        assert torch.allclose(row, alone, atol=1e-4)


def test_the_last_positions_alone_have_the_logits_they_have_among_all(either):
    batch = batch_of(either, PROMPTS[2])

    assert torch.allclose(either.logits(batch, last=2), either.logits(batch)[:, -2:], atol=1e-5)


def test_logits_carry_no_gradients(either):
    with torch.enable_grad():
        logits = either.logits(batch_of(either, "Rome"))

    assert not logits.requires_grad


@pytest.mark.parametrize("wanted", [False, True])
def test_the_model_thread_takes_over_whether_its_caller_wants_gradients(gpt2, wanted):
    batch, seen = batch_of(gpt2, "Rome"), []
    block = gpt2.model.get_submodule("transformer.h.0")
    handle = block.register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))

    with torch.set_grad_enabled(wanted):
        gpt2.model(input_ids=batch.ids)
    handle.remove()

    assert seen == [wanted]


def test_gradients_reach_a_caller_that_asks_for_them_and_no_other(either):
    batch = batch_of(either, "Rome is")
    module = projection(either.model, either.checkpoint.projection_path(0))
    asked = torch.zeros(tiny_models.D_MODEL, requires_grad=True)

    def pass_with_gradient():
        handle = module.register_forward_hook(lambda m, i, output: output + asked)
        try:
            with torch.enable_grad():
                return either.model(input_ids=batch.ids, attention_mask=batch.mask).logits
        finally:
            handle.remove()

    assert either.lane.run(pass_with_gradient).requires_grad
    assert not either.logits(batch).requires_grad
    assert not either.lane.run(lambda: torch.zeros(1, requires_grad=False)).requires_grad
    assert all(parameter.grad is None for parameter in either.model.parameters())


def test_the_base_models_inputs_are_captured_up_to_the_last_module(either):
    layers = either.checkpoint.layers
    modules = [either.checkpoint.projection_path(layer) for layer in range(layers)]
    batch = batch_of(either, *PROMPTS[:2])
    before = either.logits(batch)
    head_ran = []
    head = either.model.get_output_embeddings()
    handle = head.register_forward_hook(lambda *_: head_ran.append(1))

    inputs = either.inputs(batch, modules)
    handle.remove()

    width = either.checkpoint.description.d_in
    assert [tuple(x.shape) for x in inputs] == [(*batch.ids.shape, width)] * layers
    assert not any(x.requires_grad for x in inputs)
    assert head_ran == []
    assert torch.equal(either.logits(batch), before)


def test_capturing_runs_on_the_model_thread_too(gpt2):
    block = gpt2.model.get_submodule("transformer.h.0")
    seen = []
    handle = block.register_forward_hook(lambda *_: seen.append(threading.get_ident()))

    gpt2.inputs(batch_of(gpt2, "Rome"), [gpt2.checkpoint.projection_path(1)])
    handle.remove()

    assert seen == [gpt2.lane.run(threading.get_ident)]


def test_one_module_and_many_modules_capture_the_same(either):
    modules = [either.checkpoint.projection_path(layer) for layer in (0, 1)]
    batch = batch_of(either, PROMPTS[1])

    both = either.inputs(batch, modules)

    for module, seen in zip(modules, both, strict=True):
        (alone,) = either.inputs(batch, [module])
        assert torch.equal(alone, seen)


def test_what_is_captured_is_the_base_models_whatever_is_being_served(either, a_bank):
    module = either.checkpoint.projection_path(1)
    batch = batch_of(either, "Louvre")
    (base,) = either.inputs(batch, [module])

    with either.serving(a_bank):
        (served,) = either.inputs(batch, [module])

    assert torch.equal(served, base)


def test_a_bank_is_served_inside_its_block_and_not_behind_it(either, a_bank):
    batch = batch_of(either, "Louvre")
    base = either.logits(batch)

    with pytest.raises(ZeroDivisionError), either.serving(a_bank):
        inside = either.model(input_ids=batch.ids, attention_mask=batch.mask).logits
        raise ZeroDivisionError
    outside = either.model(input_ids=batch.ids, attention_mask=batch.mask).logits

    assert not torch.allclose(inside, base, atol=1e-2)
    assert torch.allclose(outside, base, atol=1e-5)


def test_threads_with_different_banks_each_get_what_they_would_get_alone(either):
    banks = [BASE] + [
        compose(
            [tiny_models.simple_patch(either, "Louvre", seed=seed, norm=60.0)],
            Composition.GUARDED,
            either.device,
        )
        for seed in (1, 2, 3)
    ]

    def generate(bank):
        return continue_greedily(either, ["Louvre"], bank, new_tokens=12)

    alone = [generate(bank) for bank in banks]
    assert len({str(answer) for answer in alone}) == len(banks)
    together: list[list[object]] = [[] for _ in banks]

    def many(index):
        for _ in range(10):
            together[index].append(generate(banks[index]))

    threads = [threading.Thread(target=many, args=(index,)) for index in range(len(banks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert together == [[answer] * 10 for answer in alone]


@pytest.fixture
def wide(gpt2_folder):
    """A runner with several streams, whatever the machine has."""
    whole = torch.get_num_threads()
    torch.set_num_threads(2)
    runner = Runner(load_checkpoint(str(gpt2_folder)))
    yield runner
    runner.close()
    torch.set_num_threads(whole)


def test_streams_go_on_side_by_side_and_none_sees_what_another_answers_with(wide):
    patches = [tiny_models.simple_patch(wide, s, norm=200.0) for s in ("Louvre", "Big Ben")]
    banks = [BASE, *(compose([one], Composition.GUARDED, wide.device) for one in patches)]
    alone = [continue_greedily(wide, PROMPTS, bank, new_tokens=8) for bank in banks]
    (inputs,) = wide.inputs(batch_of(wide, *PROMPTS), [patches[0].manifest.module])
    assert len({tuple(answers) for answers in alone}) == 3
    both = threading.Barrier(2)

    def work(bank):
        both.wait(10)
        for _ in range(10):
            said = continue_greedily(wide, PROMPTS, bank, new_tokens=8)
            (seen,) = wide.inputs(batch_of(wide, *PROMPTS), [patches[0].manifest.module])
            assert torch.allclose(seen, inputs, atol=1e-4)
        return said

    works = [partial(work, bank) for bank in (*banks, banks[1])]

    assert wide.side_by_side(works) == [*alone, alone[1]]


def test_the_first_error_of_a_stream_ends_them_and_begins_no_other(wide):
    begun, ended, failed = [], [], threading.Event()

    def fail():
        failed.set()
        raise ZeroDivisionError("mine")

    def go_on():
        assert failed.wait(10)
        time.sleep(0.05)
        ended.append(1)

    def later(number):
        time.sleep(0.02)
        begun.append(number)

    with pytest.raises(ZeroDivisionError, match="mine"):
        wide.side_by_side([fail, go_on, *(partial(later, n) for n in range(20))])

    assert ended == [1]
    assert len(begun) < 20


def test_works_of_one_caller_do_not_wait_for_another_s_or_for_their_own(wide):
    held, done = threading.Event(), []

    def hold():
        assert held.wait(10)

    def within():
        return sum(wide.side_by_side([lambda: 1, lambda: 2]))

    long = threading.Thread(target=lambda: done.append(wide.side_by_side([hold] * 9)))
    long.start()

    assert wide.side_by_side([within, within, within]) == [3, 3, 3]
    assert not done
    held.set()
    long.join(10)
    assert done == [[None] * 9]


def test_one_work_or_one_processor_is_no_reason_for_a_crew(wide, gpt2_folder):
    assert wide.side_by_side([threading.current_thread]) == [threading.current_thread()]
    torch.set_num_threads(1)
    narrow = Runner(load_checkpoint(str(gpt2_folder)))

    here = [threading.current_thread()]
    assert narrow.side_by_side([threading.current_thread] * 2) == here * 2
    narrow.close()
