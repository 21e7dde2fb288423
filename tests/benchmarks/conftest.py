"""A small trained model on the workbench."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks.editing.workbench import Workbench, ignored
from errata_server import files
from errata_server.engine import moments, subjects
from errata_server.engine.checkpoint import load_checkpoint
from errata_server.engine.crowd import Crowd
from errata_server.engine.runner import Runner
from errata_server.engine.solve import factor_second_moment
from tests.support import tiny_models


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """A GPT-2 that has learnt a dozen facts."""
    torch.set_num_threads(1)
    runner = Runner(
        load_checkpoint(str(tiny_models.write_trained(tmp_path_factory.mktemp("gpt2"))))
    )
    yield runner
    runner.close()


@pytest.fixture
def bench(trained: Runner, tmp_path: Path) -> Workbench:
    """The trained model with a profile and a second moment."""
    profile = tiny_models.tiny_profile(trained, layer=0)
    texts = (*tiny_models.PROSE, *tiny_models.sentences())
    moment = moments.collect(trained, texts, [0], cache=tmp_path, progress=ignored)[0]
    return Workbench(
        runner=trained,
        profile=profile,
        factor=factor_second_moment(moment.mean(), profile.ridge),
        texts=files.Texts(drift=tiny_models.PROSE, corpus=texts),
        crowd=Crowd(
            moment=moment,
            texts=texts,
            known=subjects.collect(trained, (), profile, cache=tmp_path, progress=ignored),
        ),
        base_perplexity=1.0,
        cache=tmp_path,
    )
