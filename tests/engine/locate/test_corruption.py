"""Noise is the published one, and reaches the subject alone."""

import numpy as np
import pytest
import torch

from errata_server.domain.traces import Corruption
from errata_server.engine.blocks import blocks_of
from errata_server.engine.locate.corruption import Sigma, corrupt, subject_sigma

SIGMA = Sigma(value=0.5, source="a test")


def test_noise_is_the_seeded_legacy_draw_on_the_subject_alone(gpt2):
    blocks = blocks_of(gpt2.checkpoint)
    hidden = corrupt(blocks, [5, 6, 7, 8], [1, 2], Corruption(samples=3, seed=9), sigma=SIGMA)

    clean = blocks.embed(torch.tensor([[5, 6, 7, 8]]))
    noise = np.random.RandomState(9).randn(3, 2, blocks.d_model) * 1.5
    moved = (hidden.embeddings - clean).double()
    assert torch.allclose(moved[:, 1:3], torch.from_numpy(noise), atol=1e-6)
    assert not moved[:, [0, 3]].any()
    assert hidden.noise == pytest.approx(1.5)


def test_sigma_is_one_number_over_the_subjects_own_tokens(gpt2):
    blocks = blocks_of(gpt2.checkpoint)
    subjects = ["Eiffel Tower", "Prado"]
    found = subject_sigma(blocks, gpt2.tokens, subjects)

    table = gpt2.checkpoint.model.get_input_embeddings().weight
    rows = table[[token for name in subjects for token in gpt2.tokens.encode(name)]]
    assert found.value == pytest.approx(float(rows.std()))
    assert found.source == "2 known subjects"


def test_without_subjects_sigma_is_that_of_the_embedding_table(gpt2):
    found = subject_sigma(blocks_of(gpt2.checkpoint), gpt2.tokens, [])

    table = gpt2.checkpoint.model.get_input_embeddings().weight
    assert found.value == pytest.approx(float(table.std()))
    assert found.source == "the embedding table"
