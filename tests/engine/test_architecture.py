"""Where each model family keeps what is edited."""

import pytest

from errata_server.domain.errors import UnsupportedModelError
from errata_server.engine.architecture import ARCHITECTURES, architecture_of, projection
from errata_server.engine.runner import Runner


def test_an_unknown_family_is_refused_with_the_list_of_known_ones() -> None:
    with pytest.raises(UnsupportedModelError) as refusal:
        architecture_of("mamba")

    assert refusal.value.metadata == {"architecture": "mamba"}
    for family in ARCHITECTURES:
        assert family in str(refusal.value)


def test_the_projection_of_every_layer_is_where_the_table_says(either: Runner) -> None:
    description = either.checkpoint.description

    for layer in range(description.layers):
        module = projection(either.model, either.checkpoint.projection_path(layer))
        shape = set(module.get_parameter("weight").shape)
        assert shape == {description.d_in, description.d_model}


def test_a_layer_that_is_not_there_is_refused_by_path(either: Runner) -> None:
    path = either.checkpoint.projection_path(7)

    with pytest.raises(UnsupportedModelError, match="no module") as refusal:
        projection(either.model, path)

    assert refusal.value.metadata["module"] == path
