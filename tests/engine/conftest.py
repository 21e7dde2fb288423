"""Tiny models, built once a session, each on its own model thread."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from errata_server.domain.patches import Composition
from errata_server.engine.bank import Bank, compose
from errata_server.engine.checkpoint import load_checkpoint
from errata_server.engine.runner import Runner
from tests.support import tiny_models

torch.set_num_threads(1)  # tiny matrices: more threads only get into each other's way


@pytest.fixture(scope="session")
def gpt2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random GPT-2's files; never to be changed."""
    return tiny_models.write_gpt2(tmp_path_factory.mktemp("checkpoints") / "gpt2")


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama's files; never to be changed."""
    return tiny_models.write_llama(tmp_path_factory.mktemp("checkpoints") / "llama")


@pytest.fixture(scope="session")
def gpt2(gpt2_folder: Path) -> Iterator[Runner]:
    """A random GPT-2."""
    runner = Runner(load_checkpoint(str(gpt2_folder)))
    yield runner
    runner.close()


@pytest.fixture(scope="session")
def llama(llama_folder: Path) -> Iterator[Runner]:
    """A random Llama."""
    runner = Runner(load_checkpoint(str(llama_folder)))
    yield runner
    runner.close()


@pytest.fixture(scope="session")
def trained_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of a GPT-2 that has learnt a dozen facts; never to be changed."""
    return tiny_models.write_trained(tmp_path_factory.mktemp("checkpoints") / "trained")


@pytest.fixture(scope="session")
def trained(trained_folder: Path) -> Iterator[Runner]:
    """A GPT-2 that has learnt a dozen facts."""
    runner = Runner(load_checkpoint(str(trained_folder)))
    yield runner
    runner.close()


@pytest.fixture(scope="session", params=["gpt2", "llama"])
def either(request: pytest.FixtureRequest) -> Runner:
    """Each family in turn."""
    runner: Runner = request.getfixturevalue(request.param)
    return runner


@pytest.fixture
def a_bank(either: Runner) -> Bank:
    """Two guarded patches that change what either model says of the Louvre and Big Ben."""
    patches = [
        tiny_models.simple_patch(either, "Louvre", seed=1),
        tiny_models.simple_patch(either, "Big Ben", seed=2),
    ]
    return compose(patches, Composition.GUARDED, either.device)
