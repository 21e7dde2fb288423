"""Hooks live as long as their block and no longer."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from errata_server.engine.hooks import (
    StopForwardError,
    capture,
    is_hooked,
    keep_hooks_here,
    rewriting,
)


class Chain(nn.Module):
    """Two layers and a count of how often the second ran."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.finished = 0

    def forward(self, x):
        out = self.second(self.first(x))
        self.finished += 1
        return out


@pytest.fixture
def chain():
    return Chain()


@pytest.fixture
def x():
    return torch.arange(6.0).reshape(1, 2, 3)


def hooks(module: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


def test_capturing_records_inputs_and_changes_nothing(chain, x):
    plain = chain(x)

    with capture(chain.second) as seen:
        captured = chain(x)

    assert torch.equal(captured, plain)
    assert torch.equal(seen.last, chain.first(x))
    assert not seen.last.requires_grad
    assert hooks(chain) == 0


def test_every_call_is_captured_in_order(chain, x):
    with capture(chain.first) as seen:
        chain(x)
        chain(x + 1)

    assert [int(i[0, 0, 0]) for i in seen.inputs] == [0, 1]
    assert torch.equal(seen.last, x + 1)


def test_a_stopping_capture_ends_the_pass_at_its_module(chain, x):
    with capture(chain.second, stop=True) as seen:
        chain(x)

    assert chain.finished == 0
    assert torch.equal(seen.last, chain.first(x))
    assert hooks(chain) == 0


@pytest.mark.parametrize("stop", [False, True])
def test_other_errors_leave_a_capture_as_they_are_and_take_the_hook_along(chain, stop):
    with pytest.raises(ZeroDivisionError), capture(chain.first, stop=stop):
        raise ZeroDivisionError

    assert hooks(chain) == 0


def test_a_plain_capture_inside_a_stopping_one_lets_the_stop_through(chain, x):
    reached = False
    with capture(chain.second, stop=True) as outer:
        with capture(chain.first) as inner:
            chain(x)
        reached = True

    assert not reached
    assert torch.equal(inner.last, x)
    assert len(outer.inputs) == 1


def test_the_stop_never_leaves_its_own_block(chain, x):
    try:
        with capture(chain.first, stop=True):
            chain(x)
    except StopForwardError:
        pytest.fail("the stop got out")


def test_rewriting_gets_input_and_output_and_replaces_the_output(chain, x):
    def double_and_add(inputs, outputs):
        return 2 * outputs + inputs

    with rewriting(chain.first, double_and_add):
        rewritten = chain.first(x)

    assert torch.equal(rewritten, 2 * chain.first(x) + x)
    assert hooks(chain) == 0


def test_rewrites_apply_in_the_order_they_were_installed(chain, x):
    with (
        rewriting(chain.first, lambda _, out: out + 1),
        rewriting(chain.first, lambda _, out: out * 2),
    ):
        rewritten = chain.first(x)

    assert torch.equal(rewritten, (chain.first(x) + 1) * 2)


def test_a_hook_of_a_model_thread_acts_in_that_thread_alone(chain, x):
    plain = chain(x)
    placed, seen = threading.Event(), threading.Event()

    def work():
        keep_hooks_here()
        with rewriting(chain.first, lambda _, out: out + 1), capture(chain.second) as inner:
            chain(x)
            placed.set()
            assert seen.wait(10)
            assert is_hooked(chain.first)
            return inner.inputs

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(work)
        assert placed.wait(10)
        with capture(chain.second) as mine:
            found = chain(x)
        here = is_hooked(chain.first)
        seen.set()
        theirs = other.result(10)

    assert torch.equal(found, plain)
    assert not here
    assert len(mine.inputs) == len(theirs) == 1
    assert torch.equal(theirs[0], mine.last + 1)
    assert hooks(chain) == 0


def test_a_hook_of_any_other_thread_acts_in_all(chain, x):
    with rewriting(chain.first, lambda _, out: out + 1), ThreadPoolExecutor(1) as pool:
        assert pool.submit(is_hooked, chain.first).result()
        found = pool.submit(chain.first, x).result()

    assert torch.equal(found, chain.first(x) + 1)


def test_a_rewrite_that_fails_is_removed_all_the_same(chain, x):
    def fail(inputs, outputs):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), rewriting(chain.first, fail):
        chain(x)

    assert hooks(chain) == 0
    assert chain.finished == 0
