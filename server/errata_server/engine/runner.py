"""A checkpoint on its model threads: every forward pass goes through here.

Invariants: only model threads run the model; each forward pass is one step of the lane,
so passes of different requests take turns; the bank of a pass is chosen by its caller and
cannot change under it.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, wait
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from errata_server.engine.architecture import projection
from errata_server.engine.bank import Bank
from errata_server.engine.checkpoint import Checkpoint
from errata_server.engine.hooks import capture
from errata_server.engine.lane import ModelLane
from errata_server.engine.shares import sharing_pool
from errata_server.engine.tokens import Batch, Tokens

T = TypeVar("T")
Runs = Callable[[Callable[[], Any]], Any]
"""Runs one step where steps may run, and gives what it returned; `Runner.run` is one."""

BASE: Final = Bank()
_bank: ContextVar[Bank] = ContextVar("bank", default=BASE)
_urgent: ContextVar[bool] = ContextVar("urgent", default=False)
_beside: ContextVar[bool] = ContextVar("beside", default=False)

STREAMS: Final = 2
"""Streams of steps that are carried out side by side: where matrices are small, two threads do more
with half of the processors each than one does with all of them; and each holds its own batch."""


@dataclass(slots=True)
class Runner:
    """A checkpoint, its tokens and its lane."""

    checkpoint: Checkpoint
    lane: ModelLane = field(init=False)
    tokens: Tokens = field(init=False)
    _forward: Callable[..., Any] = field(init=False)

    def __post_init__(self) -> None:
        model = self.checkpoint.model
        alone = model.device.type != "cpu" or torch.get_num_threads() < STREAMS
        streams = 1 if alone else STREAMS
        self.lane = ModelLane(streams)
        self.tokens = Tokens(self.checkpoint.tokenizer, self.checkpoint.context, model.device)
        self._forward = model.forward

        # transformers' own generation loop calls model(...): make each such call one step of
        # the lane, so that loops of several requests and our own work take turns.
        @functools.wraps(self._forward)
        def stepping(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - as the model's
            return self._step(*arguments, **named)

        model.forward = stepping

    @property
    def model(self) -> Any:  # noqa: ANN401 - transformers' classes are untyped
        """The transformers model; call it only through `forward` or with `serving`."""
        return self.checkpoint.model

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.tokens.device

    @contextmanager
    def serving(self, bank: Bank) -> Iterator[None]:
        """Passes of this thread inside the block answer with ``bank``."""
        token = _bank.set(bank)
        try:
            yield
        finally:
            _bank.reset(token)

    @contextmanager
    def urgently(self) -> Iterator[None]:
        """Passes of this thread inside the block go before those of proposals."""
        token = _urgent.set(True)
        try:
            yield
        finally:
            _urgent.reset(token)

    def side_by_side(self, works: Sequence[Callable[[], T]]) -> list[T]:
        """What ``works`` return, several at once where the lane has several streams.

        Their passes go to the crew. The first error is raised once all that were begun have ended.
        """
        if self.lane.streams == 1 or len(works) == 1:
            return [work() for work in works]
        # A pool of its own: no caller waits for another's works, or for those of a work of its own.
        pool, _ = sharing_pool(self.lane.streams, "stream")
        with pool:
            ends = [pool.submit(copy_context().run, _by_the_crew, work) for work in works]
            wait(ends, return_when=FIRST_EXCEPTION)
            for end in ends:
                end.cancel()  # those that have not begun
        errors = [end.exception() for end in ends if not end.cancelled()]
        for error in filter(None, errors):
            raise error
        return [end.result() for end in ends]

    def logits(
        self, batch: Batch, bank: Bank = BASE, *, last: int = 0
    ) -> Float[Tensor, "batch seq vocab"]:
        """Logits of ``batch``; of the ``last`` positions only, where that is above 0."""
        with self.serving(bank), torch.no_grad():
            output = self.model(
                input_ids=batch.ids,
                attention_mask=batch.mask,
                position_ids=batch.positions,
                use_cache=False,
                logits_to_keep=last,
            )
        logits: Tensor = output.logits
        return logits

    def inputs(self, batch: Batch, modules: Sequence[str]) -> list[Float[Tensor, "batch seq d_in"]]:
        """What each of ``modules`` receives on the base model; stops behind the last one."""

        def step() -> list[Tensor]:
            targets = [projection(self.checkpoint.model, path) for path in modules]
            with (
                capture(targets[-1], stop=True) as final,
                _captures(targets[:-1]) as captures,
                torch.no_grad(),
            ):
                self._forward(
                    input_ids=batch.ids,
                    attention_mask=batch.mask,
                    position_ids=batch.positions,
                    use_cache=False,
                    logits_to_keep=1,
                )
            return [*(captured.last for captured in captures), final.last]

        return self._turn(step)

    def run(self, step: Callable[[], T], bank: Bank = BASE, *, gradients: bool = False) -> T:
        """What ``step`` returns when run on a model thread, where ``bank`` acts on the modules.

        For work that calls the model's modules itself, in place of a forward pass.
        """

        def guarded() -> T:
            with bank.installed(self.checkpoint.model), torch.set_grad_enabled(gradients):
                return step()

        return self._turn(guarded)

    def close(self) -> None:
        """Stop the model's threads."""
        self.lane.close()

    def _turn(self, step: Callable[[], T]) -> T:
        return self.lane.run(step, urgent=_urgent.get(), beside=_beside.get())

    def _step(self, *arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - as the model's
        call = functools.partial(self._forward, *arguments, **named)
        return self.run(call, _bank.get(), gradients=torch.is_grad_enabled())


def _by_the_crew(work: Callable[[], T]) -> T:
    _beside.set(True)
    return work()


@contextmanager
def _captures(modules: Sequence[nn.Module]) -> Iterator[list[Any]]:
    if not modules:
        yield []
        return
    with capture(modules[0]) as first, _captures(modules[1:]) as rest:
        yield [first, *rest]
