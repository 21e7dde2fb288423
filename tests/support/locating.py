"""Cases for locators, and whole forward passes to hold them against.

The passes use the model's own modules through hooks of torch, and nothing of the locators.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from errata_server.domain.known_facts import KnownFact, KnownFacts
from errata_server.domain.locators import LocateRequest
from errata_server.domain.operations import Progress
from errata_server.engine.architecture import projection
from errata_server.engine.locate.case import Case, Findings, Row
from errata_server.engine.locate.table import Means, case_of
from errata_server.engine.runner import BASE, Runner
from tests.support import tiny_models

PROMPT = "They say it every day. Eiffel Tower is in the city of"
SUBJECT = "Eiffel Tower"
KNOWN_CITIES = KnownFacts(
    templates={"city": tiny_models.TEMPLATES},
    facts=tuple(
        KnownFact(subject=subject, relation="city", object=city)
        for subject, city in tiny_models.CITIES.items()
    ),
)


def silent(_: Progress) -> None:
    """Progress nobody follows."""


def case(runner: Runner, **changes: Any) -> Case:
    """A case about the Eiffel Tower; ``changes`` are of the request, the means or the bank."""
    means = Means(
        **{name: changes.pop(name) for name in ("texts", "known_facts") if name in changes}
    )
    bank = changes.pop("bank", BASE)
    fields = {"locator": "any", "prompt": PROMPT, "subject": SUBJECT} | changes
    return case_of(runner, bank, LocateRequest(**fields), means)


def located(row: Row, asked: Case, **options: float) -> Findings:
    """What the locator of ``row`` finds."""
    return row.run(asked, row.locator.chosen(options), silent)


def whole_pass(asked: Case, ids: Sequence[int] | None = None, *, gradients: bool = False) -> Tensor:
    """The model's logits over ``ids``, or the prompt, one row a position."""
    model = asked.runner.checkpoint.model
    row = torch.tensor([list(ids or asked.ids)])

    def step() -> Tensor:
        logits: Tensor = model.__class__.forward(model, input_ids=row, use_cache=False).logits[0]
        return logits.float()

    return asked.runner.run(step, asked.bank, gradients=gradients)


def answer_probability(asked: Case) -> float:
    """Joint probability of the answer in a whole pass."""
    read = asked.answer_ids
    scores = whole_pass(asked, [*asked.ids, *read[:-1]])[-len(read) :].log_softmax(dim=-1)
    return float(scores[torch.arange(len(read)), torch.tensor(read)].sum().exp())


def attentions(runner: Runner) -> list[nn.Module]:
    """The attention module of each layer."""
    ends = (".attn", ".self_attn")
    return [part for name, part in runner.checkpoint.model.named_modules() if name.endswith(ends)]


def mlps(runner: Runner) -> list[nn.Module]:
    """The MLP of each layer."""
    named = runner.checkpoint.model.named_modules()
    return [part for name, part in named if name.endswith(".mlp")]


def projections(runner: Runner) -> list[nn.Module]:
    """The MLP output projection of each layer."""
    checkpoint = runner.checkpoint
    paths = [checkpoint.projection_path(layer) for layer in range(checkpoint.layers)]
    return [projection(checkpoint.model, path) for path in paths]


@contextmanager
def masked(modules: Sequence[nn.Module], allowed: Tensor) -> Iterator[None]:
    """Attention of ``modules`` may look where ``allowed`` says, a row a position."""

    def before(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any]:
        return args, named | {"attention_mask": allowed[None, None]}

    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
        yield


@contextmanager
def outputs_changed(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """``module`` gives ``change`` of what it computes."""

    def after(_: nn.Module, __: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (change(output[0]), *output[1:])
        return change(output)

    handle = module.register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def inputs_changed(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """``module`` works on ``change`` of what it receives."""

    def before(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (change(args[0]), *args[1:])

    handle = module.register_forward_pre_hook(before)
    try:
        yield
    finally:
        handle.remove()


def with_answer(asked: Case, text: str) -> Case:
    """The same case about another answer."""
    ids = tuple(asked.runner.tokens.target(text))
    return replace(asked, answer=text, answer_ids=ids)
