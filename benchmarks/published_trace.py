"""Causal tracing as published: whole forward passes of eleven rows, one a cell.

A port of the protocol of ROME's `causal_trace.py` to today's transformers, with the corrected
baseline (replacements are replaced in the baseline too): row 0 clean, the others corrupted, one
pass for every (token, layer, kind). It is the oracle of the exact trace's tests and the baseline
of its benchmark; nothing in the server uses it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Edit = Callable[[Tensor], None]
"""Changes a module's output, rows by tokens by width, in place."""

PATHS = {
    "gpt2": (
        "transformer.wte",
        "transformer.h.{}",
        "transformer.h.{}.attn",
        "transformer.h.{}.mlp",
    ),
    "llama": (
        "model.embed_tokens",
        "model.layers.{}",
        "model.layers.{}.self_attn",
        "model.layers.{}.mlp",
    ),
}


@dataclass(slots=True)
class PublishedTrace:
    """One prompt, one corruption; `cell` runs the whole model once (twice where severed)."""

    model: nn.Module
    family: str
    layers: int
    ids: Sequence[int]
    """The prompt's tokens, and the answer's but for its last one."""

    positions: Sequence[int]
    """Of the corrupted tokens."""

    noise: Tensor
    """Added to the embeddings: samples by corrupted tokens by width."""

    answer: Sequence[int]
    window: int = 10
    replaced: Sequence[Sequence[int]] = ()
    score: Callable[[Tensor], Tensor] | None = None
    """From logits (rows by tokens by vocabulary) to a score a row; the probability if None."""

    _corrupted: dict[str, list[Tensor]] = field(default_factory=dict)

    def base(self) -> tuple[float, Tensor]:
        """(clean score, corrupted scores)."""
        scores = self._run([])
        return float(scores[0]), scores[1:]

    def cell(self, kind: str, token: int, layer: int) -> Tensor:
        """The score of every sample with one site restored."""
        _, block, attention, mlp = PATHS[self.family]

        def restore(output: Tensor) -> None:
            output[1:, token] = output[0, token]

        if kind in {"mlp", "attn"}:
            path = mlp if kind == "mlp" else attention
            first = layer - self.window // 2
            inside = range(max(0, first), min(self.layers, first + self.window))
            return self._run([(path.format(at), restore) for at in inside])[1:]
        edits: list[tuple[str, Edit]] = [(block.format(layer), restore)]
        if kind.startswith("severed"):
            path = mlp if kind == "severed_mlp" else attention
            for at, held in enumerate(self._held(path)):
                edits.append((path.format(at), self._hold(held, token)))
        return self._run(edits)[1:]

    @staticmethod
    def _hold(held: Tensor, token: int) -> Edit:
        def hold(output: Tensor) -> None:
            output[1:, token] = held[1:, token]

        return hold

    def _held(self, path: str) -> list[Tensor]:
        """The outputs of a module in every layer of the corrupted run."""
        if path not in self._corrupted:
            seen: list[Tensor] = []
            self._run(
                [
                    (path.format(at), lambda output: seen.append(output.clone()))
                    for at in range(self.layers)
                ]
            )
            self._corrupted[path] = seen
        return self._corrupted[path]

    def _run(self, edits: Sequence[tuple[str, Edit]]) -> Tensor:
        rows = [list(self.ids)]
        rows += [list(row) for row in self.replaced] or [list(self.ids)] * len(self.noise)

        def corrupt(output: Tensor) -> None:
            if not self.replaced:
                output[1:, list(self.positions)] += self.noise.to(output.dtype)

        with ExitStack() as stack, torch.no_grad():
            for path, edit in [(PATHS[self.family][0], corrupt), *edits]:
                stack.enter_context(_editing(self.model.get_submodule(path), edit))
            device = next(self.model.parameters()).device
            logits = self.model(torch.tensor(rows, device=device), use_cache=False).logits
        return (self.score or self._probability)(logits)

    def _probability(self, logits: Tensor) -> Tensor:
        """Joint probability of the answer's tokens; every position has logits, as published."""
        last = logits[:, -len(self.answer) :].float().softmax(dim=-1)
        picked = [last[:, place, token] for place, token in enumerate(self.answer)]
        return torch.stack(picked).prod(dim=0)


@contextmanager
def _editing(module: nn.Module, edit: Edit) -> Iterator[None]:
    def after(_: nn.Module, __: Any, output: Any) -> None:  # noqa: ANN401 - a tensor or a tuple
        edit(output[0] if isinstance(output, tuple) else output)

    handle = module.register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()
