"""The second moment: what the naive sum says, whatever was interrupted or spoilt meanwhile."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from errata_server.domain.errors import CancelledError, InvalidInputError
from errata_server.engine import moments
from errata_server.engine.moments import collect, corpus_digest
from tests.support import tiny_models

TEXTS = (*tiny_models.PROSE, *tiny_models.sentences(), " ".join(tiny_models.PROSE * 2))


def silent(_):
    """Progress nobody follows."""


class CancelAfter:
    """Progress that asks to stop after so many steps."""

    def __init__(self, steps):
        self.left, self.seen = steps, []

    def __call__(self, progress):
        self.seen.append((progress.done, progress.total))
        self.left -= 1
        if self.left < 0:
            raise CancelledError("enough")


def keys_of(runner, text, layer):
    """Keys of one text in pieces that fit, each run alone."""
    ids = runner.tokens.encode(text)
    module = [runner.checkpoint.projection_path(layer)]
    pieces = [ids[i : i + tiny_models.CONTEXT] for i in range(0, len(ids), tiny_models.CONTEXT)]
    return np.concatenate(
        [runner.inputs(runner.tokens.pad([p]), module)[0][0].double().numpy() for p in pieces]
    )


def naive(runner, texts, layer):
    keys = np.concatenate([keys_of(runner, text, layer) for text in texts])
    return keys.T @ keys / len(keys), keys


def test_the_moment_is_the_naive_mean_over_every_token(either, tmp_path):
    collected = collect(either, TEXTS, [0, 1], cache=tmp_path, progress=silent)

    for layer in (0, 1):
        expected, keys = naive(either, TEXTS, layer)
        got = collected[layer].mean().numpy()
        assert collected[layer].count == len(keys)
        assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()
        assert collected[layer].total.dtype == torch.float64
        assert collected[layer].corpus == corpus_digest(TEXTS)


def test_the_sample_holds_every_so_many_th_key_with_the_text_it_came_from(gpt2, tmp_path):
    moment = collect(gpt2, TEXTS, [1], cache=tmp_path, progress=silent)[1]

    keys = [keys_of(gpt2, text, 1) for text in TEXTS]
    owners = [index for index, rows in enumerate(keys) for _ in rows]
    expected = np.concatenate(keys)[:: moments.SAMPLE_STRIDE]
    np.testing.assert_allclose(moment.sample.numpy(), expected, atol=1e-4)
    assert moment.sample_texts.tolist() == owners[:: moments.SAMPLE_STRIDE]


def test_the_sample_stops_at_its_size(gpt2, tmp_path, monkeypatch):
    monkeypatch.setattr(moments, "SAMPLE_SIZE", 5)

    moment = collect(gpt2, TEXTS, [0], cache=tmp_path, progress=silent)[0]

    assert moment.sample.shape == (5, tiny_models.GPT2_INPUT)
    assert len(moment.sample_texts) == 5


@pytest.mark.parametrize("steps", [0, 1, 3, 4])
def test_a_collection_cut_off_is_resumed_to_the_same_sum(gpt2, tmp_path, monkeypatch, steps):
    monkeypatch.setattr(moments, "CHECKPOINT_EVERY", 2)
    monkeypatch.setattr(moments, "ROWS", 8)
    whole = collect(gpt2, TEXTS, [0, 1], cache=tmp_path / "whole", progress=silent)
    with pytest.raises(CancelledError):
        collect(gpt2, TEXTS, [0, 1], cache=tmp_path / "cut", progress=CancelAfter(steps))
    rest = CancelAfter(1000)

    resumed = collect(gpt2, TEXTS, [0, 1], cache=tmp_path / "cut", progress=rest)

    assert rest.seen[0][0] == steps // 2 * 2 + 1  # what was saved is not done again
    for layer in (0, 1):
        assert torch.equal(resumed[layer].total, whole[layer].total)
        assert resumed[layer].count == whole[layer].count
        assert torch.equal(resumed[layer].sample, whole[layer].sample)
        assert torch.equal(resumed[layer].sample_texts, whole[layer].sample_texts)
    assert [p.suffix for p in (tmp_path / "cut").iterdir()] == [".safetensors"] * 2


def test_progress_counts_up_to_its_total(gpt2, tmp_path, monkeypatch):
    monkeypatch.setattr(moments, "ROWS", 8)
    progress = CancelAfter(1000)

    collect(gpt2, TEXTS, [0], cache=tmp_path, progress=progress)

    total = progress.seen[0][1]
    assert progress.seen == [(done, total) for done in range(1, total + 1)]


def test_a_finished_collection_is_read_from_its_file(gpt2, tmp_path):
    first = collect(gpt2, TEXTS, [0], cache=tmp_path, progress=silent)
    nothing = CancelAfter(0)

    second = collect(gpt2, TEXTS, [0], cache=tmp_path, progress=nothing)

    assert nothing.seen == []
    assert torch.equal(first[0].total, second[0].total)
    assert torch.equal(first[0].sample, second[0].sample)


def test_no_two_models_corpora_layers_or_lengths_share_a_file(gpt2, llama, tmp_path, monkeypatch):
    short = TEXTS[:3]
    collect(gpt2, short, [0, 1], cache=tmp_path, progress=silent)
    collect(gpt2, short[:2], [0], cache=tmp_path, progress=silent)
    collect(llama, short, [0], cache=tmp_path, progress=silent)
    monkeypatch.setattr(moments, "SEQUENCE_LENGTH", 16)
    collect(gpt2, short, [0], cache=tmp_path, progress=silent)

    assert len(list(tmp_path.iterdir())) == 5


def test_the_corpus_digest_sees_order_and_where_texts_end():
    digests = {corpus_digest(t) for t in (["ab", "c"], ["a", "bc"], ["c", "ab"], ["abc"], [])}

    assert len(digests) == 5


def spoil_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def spoil_all(path: Path) -> None:
    path.write_bytes(b"\xff" * 64)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("spoil", [spoil_half, spoil_all, empty])
@pytest.mark.parametrize("suffix", [".safetensors", ".part"])
def test_a_damaged_file_is_collected_again(gpt2, tmp_path, monkeypatch, spoil, suffix):
    monkeypatch.setattr(moments, "CHECKPOINT_EVERY", 1)
    whole = collect(gpt2, TEXTS, [0], cache=tmp_path, progress=silent)
    (finished,) = tmp_path.iterdir()
    if suffix == ".part":
        finished.rename(finished.with_suffix(".part"))
    (stored,) = tmp_path.iterdir()
    spoil(stored)

    again = collect(gpt2, TEXTS, [0], cache=tmp_path, progress=silent)

    assert torch.equal(again[0].total, whole[0].total)
    assert again[0].count == whole[0].count


def test_unfinished_files_of_two_layers_that_disagree_are_not_mixed(gpt2, tmp_path, monkeypatch):
    monkeypatch.setattr(moments, "CHECKPOINT_EVERY", 1)
    monkeypatch.setattr(moments, "ROWS", 8)
    whole = collect(gpt2, TEXTS, [0, 1], cache=tmp_path / "whole", progress=silent)
    for steps, folder in ((1, "early"), (3, "late")):
        with pytest.raises(CancelledError):
            collect(gpt2, TEXTS, [0, 1], cache=tmp_path / folder, progress=CancelAfter(steps))
    (early,) = (tmp_path / "early").glob("*layer0*.part")
    shutil.copy(early, tmp_path / "late" / early.name)

    mixed = collect(gpt2, TEXTS, [0, 1], cache=tmp_path / "late", progress=silent)

    for layer in (0, 1):
        assert mixed[layer].count == whole[layer].count
        assert torch.equal(mixed[layer].total, whole[layer].total)


@pytest.mark.parametrize("texts", [[], [""]])
def test_no_text_at_all_is_refused(gpt2, tmp_path, texts):
    with pytest.raises(InvalidInputError, match="no text") as refusal:
        collect(gpt2, texts, [0], cache=tmp_path, progress=silent)

    assert refusal.value.metadata["field"] == "texts"
