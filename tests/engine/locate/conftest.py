"""Models of four layers, deep enough for windows of layers."""

from collections.abc import Iterator

import pytest

from errata_server.domain.patches import Composition
from errata_server.engine.bank import Bank, compose
from errata_server.engine.checkpoint import load_checkpoint
from errata_server.engine.runner import Runner
from tests.support import tiny_models

WRITE = {"gpt2": tiny_models.write_gpt2, "llama": tiny_models.write_llama}


@pytest.fixture(scope="session", params=sorted(WRITE))
def deep(request: pytest.FixtureRequest, tmp_path_factory) -> Iterator[Runner]:
    """A random model of each family in turn."""
    folder = WRITE[request.param](tmp_path_factory.mktemp(request.param) / "deep", layers=4)
    runner = Runner(load_checkpoint(str(folder)))
    yield runner
    runner.close()


@pytest.fixture
def a_patched_bank(deep: Runner) -> Bank:
    """A guarded patch that changes what the model says of Big Ben."""
    patch = tiny_models.simple_patch(deep, "Big Ben", seed=2, norm=300.0)
    return compose([patch], Composition.GUARDED, deep.device)
