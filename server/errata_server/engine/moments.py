"""The second moment of keys, C = E[k k^T] over ordinary text.

Invariants: kept as sum and count, never only as a mean; the sum is float64; the cache's name
holds checkpoint, corpus, layer and sequence length, so that no two can be mixed up.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError, safe_open
from torch import Tensor

from errata_server.domain.errors import InvalidInputError
from errata_server.domain.ids import Digest
from errata_server.domain.operations import Progress, ReportProgress
from errata_server.engine.runner import Runner
from errata_server.engine.tensor_files import save_whole

SEQUENCE_LENGTH: Final = 128
ROWS: Final = 16
"""Sequences in one forward pass."""

SAMPLE_STRIDE: Final = 16
"""Every so many-th key is kept as a sample of ordinary keys."""

SAMPLE_SIZE: Final = 8_192
CHECKPOINT_EVERY: Final = 64
"""Forward passes between two saves of an unfinished collection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondMoment:
    """Sum of k k^T over a corpus at one layer, and a sample of the keys."""

    total: Float[Tensor, "d_in d_in"]
    count: int
    sample: Float[Tensor, "key d_in"]
    sample_texts: Int[Tensor, " key"]
    """Index of the text each sampled key comes from."""

    corpus: Digest

    def without(self, texts: Sequence[str], names: Sequence[str]) -> Bool[Tensor, " key"]:
        """Which of the sampled keys are of a text, one of ``texts``, that holds no ``names``."""
        quiet = torch.tensor([not any(name in text for name in names) for text in texts])
        found: Tensor = quiet[self.sample_texts]
        return found

    def mean(self) -> Float[Tensor, "d_in d_in"]:
        """C, in float64."""
        return self.total / max(self.count, 1)


def corpus_digest(texts: Sequence[str]) -> Digest:
    """SHA-256 over the texts in order."""
    sha = hashlib.sha256()
    for text in texts:
        encoded = text.encode("utf-8")
        sha.update(f"{len(encoded)}|".encode())
        sha.update(encoded)
    return Digest(sha.hexdigest())


@dataclass(slots=True)
class _Sums:
    """Running sums of one layer."""

    total: Tensor
    samples: list[Tensor]
    sample_texts: list[int]
    count: int = 0
    kept: int = 0

    def add(self, keys: Tensor, texts: Sequence[int]) -> None:
        self.total = self.total.to(keys.device)  # a resumed sum comes from a file
        self.total += (keys.T @ keys).double()
        start = -self.count % SAMPLE_STRIDE
        chosen = range(start, len(keys), SAMPLE_STRIDE)
        if self.kept < SAMPLE_SIZE and len(chosen) > 0:
            self.samples.append(keys[start::SAMPLE_STRIDE].cpu())
            self.sample_texts.extend(texts[index] for index in chosen)
            self.kept += len(chosen)
        self.count += len(keys)


def collect(
    runner: Runner,
    texts: Sequence[str],
    layers: Sequence[int],
    *,
    cache: Path,
    progress: ReportProgress,
) -> dict[int, SecondMoment]:
    """The second moment at each of ``layers`` over ``texts``, from the cache where it is.

    One forward pass serves all layers and stops at the highest. An unfinished collection is
    saved now and then, and resumed by the next call over the same texts. A damaged file
    counts as missing.

    Raises:
        InvalidInputError: ``texts`` have no tokens.
        CancelledError: ``progress`` asked for it.
    """
    corpus = corpus_digest(texts)
    stored = {layer: _stored(_path(runner, cache, corpus, layer)) for layer in layers}
    missing = [layer for layer, moment in stored.items() if moment is None]
    if missing:
        _collect_missing(runner, texts, missing, cache=cache, progress=progress)
    return {
        layer: moment or _load(_path(runner, cache, corpus, layer))
        for layer, moment in stored.items()
    }


def _collect_missing(
    runner: Runner,
    texts: Sequence[str],
    layers: Sequence[int],
    *,
    cache: Path,
    progress: ReportProgress,
) -> None:
    corpus = corpus_digest(texts)
    ordered = sorted(layers)
    modules = [runner.checkpoint.projection_path(layer) for layer in ordered]
    partial = {layer: _path(runner, cache, corpus, layer).with_suffix(".part") for layer in ordered}
    batches = list(_batches(runner, texts))
    if not batches:
        raise InvalidInputError(
            "there is no text to collect second moments over; give some", field="texts"
        )
    sums, done = _resume(partial)
    for index in range(done, len(batches)):
        rows, owners = batches[index]
        batch = runner.tokens.pad(rows)
        valid = batch.mask.bool().reshape(-1)
        token_texts = [owner for row, owner in zip(rows, owners, strict=True) for _ in row]
        for layer, inputs in zip(ordered, runner.inputs(batch, modules), strict=True):
            keys = inputs.reshape(-1, inputs.shape[-1])[valid].float()
            layer_sums = sums.setdefault(layer, _Sums(_square(keys), [], []))
            layer_sums.add(keys, token_texts)
        progress(Progress(stage="second moment", done=index + 1, total=len(batches)))
        if (index + 1) % CHECKPOINT_EVERY == 0:
            _save_all(sums, partial, corpus, index + 1)
    finished = {layer: _path(runner, cache, corpus, layer) for layer in ordered}
    _save_all(sums, finished, corpus, len(batches))
    for path in partial.values():
        path.unlink(missing_ok=True)


def _square(keys: Tensor) -> Tensor:
    width = keys.shape[1]
    return torch.zeros((width, width), dtype=torch.float64, device=keys.device)


def _batches(runner: Runner, texts: Sequence[str]) -> Iterator[tuple[list[list[int]], list[int]]]:
    """Rows of at most `SEQUENCE_LENGTH` tokens with the index of their text, `ROWS` at a time."""
    length = min(SEQUENCE_LENGTH, runner.tokens.context)
    rows: list[list[int]] = []
    owners: list[int] = []
    for index, text in enumerate(texts):
        ids = runner.tokens.encode(text)
        for start in range(0, len(ids), length):
            rows.append(ids[start : start + length])
            owners.append(index)
            if len(rows) == ROWS:
                yield rows, owners
                rows, owners = [], []
    if rows:
        yield rows, owners


def _path(runner: Runner, cache: Path, corpus: Digest, layer: int) -> Path:
    length = min(SEQUENCE_LENGTH, runner.tokens.context)
    model = runner.checkpoint.digest[:16]
    return cache / f"moments-{model}-{corpus[:16]}-layer{layer}-seq{length}.safetensors"


def _save_all(sums: dict[int, _Sums], paths: dict[int, Path], corpus: Digest, batches: int) -> None:
    for layer, path in paths.items():
        state = sums[layer]
        facts = {"count": state.count, "batches": batches, "corpus": corpus}
        save_whole(
            {
                "total": state.total.cpu(),
                "sample": torch.cat(state.samples)[:SAMPLE_SIZE],
                "sample_texts": torch.tensor(state.sample_texts[:SAMPLE_SIZE]),
            },
            path,
            {"facts": json.dumps(facts)},
        )


def _resume(partial: dict[int, Path]) -> tuple[dict[int, _Sums], int]:
    """Sums and batches done of an unfinished collection; nothing where the files disagree."""
    sums, done = {}, set()
    for layer, path in partial.items():
        moment = _stored(path)
        if moment is None:
            return {}, 0
        done.add(int(_facts(path)["batches"]))
        sums[layer] = _Sums(
            moment.total,
            [moment.sample],
            moment.sample_texts.tolist(),
            count=moment.count,
            kept=len(moment.sample),
        )
    return (sums, done.pop()) if len(done) == 1 else ({}, 0)


def _facts(path: Path) -> dict[str, str | int]:
    with safe_open(path, framework="pt") as stored:
        facts: dict[str, str | int] = json.loads(stored.metadata()["facts"])
    return facts


def _stored(path: Path) -> SecondMoment | None:
    """What is at ``path``, or None where that is nothing or not whole."""
    try:
        return _load(path)
    except (OSError, SafetensorError, LookupError, TypeError, ValueError):
        return None


def _load(path: Path) -> SecondMoment:
    facts = _facts(path)
    with safe_open(path, framework="pt") as stored:
        # Copies: what safetensors gives is the mapped file, and a file cut short under a
        # mapping kills the process.
        return SecondMoment(
            total=stored.get_tensor("total").clone(),
            count=int(facts["count"]),
            sample=stored.get_tensor("sample").clone(),
            sample_texts=stored.get_tensor("sample_texts").clone(),
            corpus=Digest(str(facts["corpus"])),
        )
