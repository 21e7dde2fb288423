"""The only code that touches forward hooks: capture a module's input, rewrite its output.

Invariants: a hook lives exactly as long as its ``with`` block; capturing never changes what
the model computes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

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


def is_hooked(module: nn.Module) -> bool:
    """Whether something captures or rewrites at ``module`` now."""
    return bool(module._forward_hooks or module._forward_pre_hooks)  # noqa: SLF001 - no public way


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

    handle = module.register_forward_pre_hook(before)
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

    handle = module.register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()
