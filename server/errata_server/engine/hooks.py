"""The only code that touches forward hooks: capture a module's input, rewrite its output.

Invariants: a hook lives exactly as long as its ``with`` block; one placed in a model thread acts in
that thread alone, so that several may run one model; capturing never changes what the model
computes.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from jaxtyping import Float
from torch import Tensor, nn

Rewrite = Callable[[Float[Tensor, "batch seq d_in"], Float[Tensor, "batch seq d_out"]], Tensor]
"""(input, output) of a projection to what its output becomes."""


@dataclass(slots=True)
class Capture:
    """Inputs a module received while capturing, in order of the calls."""

    inputs: list[Float[Tensor, "batch seq d_in"]] = field(default_factory=list)

    @property
    def last(self) -> Float[Tensor, "batch seq d_in"]:
        """The input of the latest call."""
        return self.inputs[-1]


class StopForwardError(Exception):
    """Ends a forward pass early; never leaves `capture`."""


class _Here(threading.local):
    """What a thread's hooks are to know of it."""

    alone = False


_here: Final = _Here()


def keep_hooks_here() -> None:
    """Let hooks that this thread places act in it alone; for threads that run the model."""
    _here.alone = True


@dataclass(frozen=True, slots=True)
class _Hook:
    """What is done at a module, by the threads that it is meant for."""

    act: Callable[..., Any]
    thread: int | None

    def __call__(self, *arguments: Any) -> Any:  # noqa: ANN401 - a hook's, of either kind
        return self.act(*arguments) if self.acts else None

    @property
    def acts(self) -> bool:
        """Whether this thread is one of them."""
        return self.thread in {None, threading.get_ident()}


def _hook(act: Callable[..., Any]) -> _Hook:
    return _Hook(act, threading.get_ident() if _here.alone else None)


def is_hooked(module: nn.Module) -> bool:
    """Whether something captures or rewrites at ``module`` in this thread now."""
    placed = (module._forward_hooks, module._forward_pre_hooks)  # noqa: SLF001 - no public way
    hooks = [hook for some in placed for hook in tuple(some.values())]
    return any(not isinstance(hook, _Hook) or hook.acts for hook in hooks)


@contextmanager
def capture(module: nn.Module, *, stop: bool = False) -> Iterator[Capture]:
    """Record the inputs of ``module``; with ``stop``, end the pass there.

    With ``stop`` the body of the block must be one forward pass; what it returns is lost.
    """
    seen = Capture()

    def before(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        seen.inputs.append(arguments[0].detach())
        if stop:
            raise StopForwardError

    handle = module.register_forward_pre_hook(_hook(before))
    try:
        yield seen
    except StopForwardError:
        if not stop:  # the stop of a capture around this one
            raise
    finally:
        handle.remove()


@contextmanager
def rewriting(module: nn.Module, rewrite: Rewrite) -> Iterator[None]:
    """Let ``rewrite`` change the output of ``module``."""

    def after(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return rewrite(arguments[0], output)

    handle = module.register_forward_hook(_hook(after))
    try:
        yield
    finally:
        handle.remove()
