"""How a subject is hidden: seeded noise on its embeddings, or another subject in its place.

Invariants: the same request gets the same noise for every cell, so that differences between
cells are not the noise's; only the positions of the subject's tokens differ from the clean run.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from errata_server.domain.errors import InvalidInputError
from errata_server.domain.traces import Corruption
from errata_server.engine.blocks import Blocks
from errata_server.engine.tokens import Tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Sigma:
    """Spread of subjects' embeddings: the unit of the noise."""

    value: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Corrupted:
    """Token embeddings of the corrupted runs, without positions."""

    embeddings: Float[Tensor, "sample seq d_model"]
    noise: float
    """Standard deviation of the noise as added; 0 with replacements."""

    source: str


def subject_sigma(blocks: Blocks, tokens: Tokens, subjects: Sequence[str]) -> Sigma:
    """One standard deviation over all embeddings of ``subjects``' tokens, each on its own.

    As the published code has it (ROME, `causal_trace.py`: ``s3``). Without subjects, over the
    whole embedding table.
    """
    ids = [token for subject in subjects for token in tokens.continuation(subject)]
    if not ids:
        table = blocks.embed(torch.arange(blocks.vocabulary, device=blocks.device)[None])
        return Sigma(value=float(table.float().std()), source="the embedding table")
    embedded = blocks.embed(torch.tensor([ids], device=blocks.device)).float()
    return Sigma(value=float(embedded.std()), source=f"{len(subjects)} known subjects")


def corrupt(
    blocks: Blocks,
    ids: Sequence[int],
    positions: Sequence[int],
    corruption: Corruption,
    *,
    sigma: Sigma,
    replaced: Sequence[Sequence[int]] = (),
) -> Corrupted:
    """The embeddings of ``ids`` with the subject at ``positions`` hidden, a row a sample.

    Args:
        replaced: Token ids with another subject in place, a row each, in place of noise.
    """
    device = blocks.device
    if replaced:
        embedded = blocks.embed(torch.tensor([list(row) for row in replaced], device=device))
        return Corrupted(embeddings=embedded, noise=0.0, source="")
    scale = corruption.scale * sigma.value
    # numpy's legacy generator and float64, as the published protocol draws it.
    draw = np.random.RandomState(corruption.seed)
    noise = draw.randn(corruption.samples, len(positions), blocks.d_model) * scale
    clean = blocks.embed(torch.tensor([list(ids)], device=device))
    embedded = clean.repeat(corruption.samples, 1, 1)
    embedded[:, list(positions)] += torch.from_numpy(noise).to(device, embedded.dtype)
    return Corrupted(embeddings=embedded, noise=scale, source=sigma.source)


def replace_subject(
    tokens: Tokens,
    prompt: str,
    subject: str,
    replacement: str,
    *,
    positions: Sequence[int],
    end: int | None = None,
) -> list[int]:
    """Token ids of ``prompt`` with another subject, which must take up the same positions.

    Args:
        end: What begins there or later is left as it is.

    Raises:
        InvalidInputError: it has another number of tokens, or changes tokens around it.
    """
    before = tokens.encode(prompt)
    behind = prompt[len(prompt) if end is None else end :]
    after = tokens.encode(prompt[:end].replace(subject, replacement) + behind)
    around = set(range(len(before))) - set(positions)
    if len(after) != len(before) or any(after[at] != before[at] for at in around):
        raise InvalidInputError(
            f"{replacement!r} does not take up the same tokens as {subject!r} in this prompt; "
            "symmetric replacement needs a subject of as many tokens, so name another",
            field="replacements",
            replacement=replacement,
        )
    if after == before:
        raise InvalidInputError(
            f"the replacement {replacement!r} is the subject itself; name another",
            field="replacements",
            replacement=replacement,
        )
    return after
