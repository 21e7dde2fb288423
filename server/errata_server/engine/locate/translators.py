"""Translators of the tuned lens: an affine map a layer, from its states to the last layer's.

Trained by Adam on KL(model || lens) over ordinary text, from the identity on (Belrose 2023,
arXiv:2303.08112). Invariants: seeded; judged on texts held out of the training; one layer's
update is one step of a model thread.
"""

import random
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from errata_server.domain.errors import InvalidInputError
from errata_server.domain.operations import ReportProgress
from errata_server.engine.blocks import Blocks
from errata_server.engine.locate.case import Case, Steps
from errata_server.engine.locate.suffix import clean_run
from errata_server.engine.moments import corpus_digest

HELD_OUT: Final = 0.2
"""Share of the texts the translators are judged on."""

TRAIN_TOKENS: Final = 4_096
"""Tokens whose states are kept to train on; every layer's lie in memory together."""

HELD_OUT_TOKENS: Final = 1_024
ROWS: Final = 128
"""Tokens of one update."""

RATE: Final = 1e-3
CACHED: Final = 2
"""Sets of translators kept in memory."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Translators:
    """A translator for the states before the first layer and behind each but the last."""

    weights: Float[Tensor, "layer d_model d_model"]
    """What is added to the identity."""

    biases: Float[Tensor, "layer d_model"]
    tuned_divergence: tuple[float, ...]
    """Mean KL(model || lens) by layer on held-out text, in nats."""

    logit_divergence: tuple[float, ...]
    """The same without translators."""

    train_tokens: int
    held_out_tokens: int

    def translate(
        self, layers: int, states: Float[Tensor, "row d_model"]
    ) -> Float[Tensor, "row d_model"]:
        """``states`` behind ``layers`` layers as the model's head can read them."""
        if layers == len(self.biases):
            return states
        return _translated(states, self.weights[layers], self.biases[layers])


@dataclass(slots=True)
class _Cache:
    """The latest translators, by everything they depend on."""

    kept: "OrderedDict[tuple[str | int, ...], Translators]" = field(default_factory=OrderedDict)
    lock: Lock = field(default_factory=Lock)

    def get(self, key: tuple[str | int, ...]) -> Translators | None:
        with self.lock:
            return self.kept.get(key)

    def put(self, key: tuple[str | int, ...], translators: Translators) -> None:
        with self.lock:
            self.kept[key] = translators
            while len(self.kept) > CACHED:
                self.kept.popitem(last=False)


_cache: Final = _Cache()


def fit(case: Case, *, updates: int, progress: ReportProgress) -> Translators:
    """Translators for the case's weights, trained on its texts; from memory where they are.

    Raises:
        InvalidInputError: there are fewer than two different texts of two tokens or more.
        CancelledError: the caller asked for it.
    """
    key = (
        case.runner.checkpoint.digest,
        case.bank.digest(),
        corpus_digest(case.texts),
        updates,
        case.seed,
    )
    found = _cache.get(key)
    if found is None:
        found = _fit(case, updates, progress)
        _cache.put(key, found)
    return found


def _fit(case: Case, updates: int, progress: ReportProgress) -> Translators:
    train_rows, held_out_rows = split(case)
    reading = Steps(progress, total=len(train_rows) + len(held_out_rows), stage="reading texts")
    train = _states(case, train_rows, reading)
    held_out = _states(case, held_out_rows, reading)
    steps = Steps(progress, total=updates, stage="training translators")
    weights, biases = _train(case, train, updates, steps)
    identity = [torch.zeros_like(one) for one in weights], [torch.zeros_like(b) for b in biases]
    return Translators(
        weights=torch.stack(weights).detach(),
        biases=torch.stack(biases).detach(),
        tuned_divergence=_divergences(case, held_out, weights, biases),
        logit_divergence=_divergences(case, held_out, *identity),
        train_tokens=train.shape[1],
        held_out_tokens=held_out.shape[1],
    )


def split(case: Case) -> tuple[list[list[int]], list[list[int]]]:
    """Token rows to train on and to judge on; equal texts never fall on both sides."""
    tokens = case.runner.tokens
    texts = sorted(set(case.texts))
    rows = [tokens.encode(text)[: case.longest] for text in texts]
    rows = [row for row in rows if len(row) > 1]
    if len(rows) < 2:
        raise InvalidInputError(
            "the tuned lens is trained on texts and judged on others; give at least two "
            "different ones, better a hundred",
            field="texts",
        )
    random.Random(case.seed).shuffle(rows)
    held_out = max(1, int(len(rows) * HELD_OUT))
    return _within(rows[held_out:], TRAIN_TOKENS), _within(rows[:held_out], HELD_OUT_TOKENS)


def _within(rows: Sequence[list[int]], tokens: int) -> list[list[int]]:
    """The first of ``rows``, up to ``tokens`` tokens; the last of them cut."""
    kept: list[list[int]] = []
    for row in rows:
        if tokens <= 0:
            break
        kept.append(row[:tokens])
        tokens -= len(row)
    return kept


def _states(
    case: Case, rows: Sequence[Sequence[int]], steps: Steps
) -> Float[Tensor, "layer row d_model"]:
    """States of every token of ``rows``: before the first layer and behind each."""
    found: list[Tensor] = []
    for row in rows:
        found.append(case.step(partial(torch.stack, clean_run(case, row).states)))
        steps.finish()
    return case.step(partial(torch.cat, found, dim=1))


def _train(
    case: Case, states: Float[Tensor, "layer row d_model"], updates: int, steps: Steps
) -> tuple[list[Tensor], list[Tensor]]:
    layers, width, device = case.blocks.layers, case.blocks.d_model, states.device
    weights = [torch.zeros(width, width, device=device, requires_grad=True) for _ in range(layers)]
    biases = [torch.zeros(width, device=device, requires_grad=True) for _ in range(layers)]
    optimisers = [torch.optim.Adam(pair, lr=RATE) for pair in zip(weights, biases, strict=True)]
    generator = torch.Generator().manual_seed(case.seed)
    for update in range(updates):
        chosen = torch.randint(states.shape[1], (ROWS,), generator=generator).to(device)
        final = case.step(partial(_log_probabilities, case.blocks, states[-1, chosen]))
        for layer, optimiser in enumerate(optimisers):
            optimiser.param_groups[0]["lr"] = RATE * (1 - update / updates)
            batch = states[layer, chosen]
            case.step(
                partial(_update, case.blocks, optimiser, batch, final),
                gradients=True,
            )
        steps.finish()
    return weights, biases


def _update(
    blocks: Blocks,
    optimiser: torch.optim.Optimizer,
    states: Float[Tensor, "row d_model"],
    final: Float[Tensor, "row vocab"],
) -> None:
    weight, bias = optimiser.param_groups[0]["params"]
    optimiser.zero_grad()
    loss = _lens_divergence(blocks, states, weight, bias, final).mean()
    loss.backward()
    optimiser.step()


def _divergences(
    case: Case,
    states: Float[Tensor, "layer row d_model"],
    weights: Sequence[Float[Tensor, "d_model d_model"]],
    biases: Sequence[Float[Tensor, " d_model"]],
) -> tuple[float, ...]:
    """Mean KL(model || lens) behind each layer but the last."""
    totals = [0.0] * len(biases)
    for rows in torch.arange(states.shape[1]).split(ROWS):
        final = case.step(partial(_log_probabilities, case.blocks, states[-1, rows]))
        for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            work = partial(_lens_divergence, case.blocks, states[layer, rows], weight, bias, final)
            totals[layer] += float(case.step(work).double().sum())
    return tuple(total / states.shape[1] for total in totals)


def _translated(
    states: Float[Tensor, "row d_model"],
    weight: Float[Tensor, "d_model d_model"],
    bias: Float[Tensor, " d_model"],
) -> Float[Tensor, "row d_model"]:
    whole = states.float()
    return (whole + whole @ weight.T + bias).to(states.dtype)


def _log_probabilities(
    blocks: Blocks, states: Float[Tensor, "row d_model"]
) -> Float[Tensor, "row vocab"]:
    return functional.log_softmax(blocks.logits(states), dim=-1)


def _lens_divergence(
    blocks: Blocks,
    states: Float[Tensor, "row d_model"],
    weight: Float[Tensor, "d_model d_model"],
    bias: Float[Tensor, " d_model"],
    final: Float[Tensor, "row vocab"],
) -> Float[Tensor, " row"]:
    """KL(model || lens) of each row, in nats."""
    read = _log_probabilities(blocks, _translated(states, weight, bias))
    return functional.kl_div(read, final, reduction="none", log_target=True).sum(dim=-1)
