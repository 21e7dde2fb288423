"""Which tokens a model never learned."""

import torch

from errata_server.engine.vocabulary import untrained_tokens


def test_tokens_at_the_centre_of_the_embeddings_were_never_trained():
    embeddings = torch.randn(200, 32, generator=torch.Generator().manual_seed(0))
    embeddings[[7, 90]] = embeddings.mean(dim=0) + 0.01

    assert untrained_tokens(embeddings) == {7, 90}


def test_a_freshly_drawn_vocabulary_has_none():
    assert untrained_tokens(torch.randn(500, 48, generator=torch.Generator().manual_seed(1))) == (
        frozenset()
    )
