"""Tiny checkpoints and a ledger of proposed edits, made once a session and copied by tests."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

import errata
from errata_server.engine.engine import TorchEngine
from tests.support import tiny_models, torch_servers
from tests.support.situations import codes, elsewhere, situation  # noqa: F401 - fixtures

TEMPLATE: Final = tiny_models.TEMPLATES[0]
NO_PARAPHRASE: Final = errata.CheckPrompt(prompt="It rained all", expected="Rome")


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposed:
    """A folder with a ledger in which edits are proposed and none is applied."""

    checkpoint: Path
    folder: Path
    edits: dict[str, str]
    """Ids by ``subject/target``, and the one whose report failed as ``failed``."""

    def copy(self, to: Path) -> Path:
        """The folder, copied into ``to``."""
        return Path(shutil.copytree(self.folder, to / "server"))

    def engine(self, folder: Path, **profile: Any) -> TorchEngine:
        """The engine of a server in ``folder``."""
        return torch_servers.tiny_engine(self.checkpoint, folder / "cache", **profile)


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of a random GPT-2; never to be changed."""
    return tiny_models.write_gpt2(tmp_path_factory.mktemp("integration") / "random")


@pytest.fixture(scope="session")
def trained_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of a GPT-2 that has learnt a dozen facts; never to be changed."""
    return tiny_models.write_trained(tmp_path_factory.mktemp("integration") / "trained")


@pytest.fixture(scope="session")
def proposed(trained_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Proposed:
    """Edits of the trained model, proposed through the client; never to be changed."""
    folder = tmp_path_factory.mktemp("proposed")
    engine = torch_servers.tiny_engine(trained_checkpoint, folder / "cache")
    known = tuple(tiny_models.CITIES.items())
    moved = {"Eiffel Tower": ("Rome", "Berlin"), "Big Ben": ("Madrid",)}
    with (
        torch_servers.serving(folder, engine, known=known) as server,
        errata.Client(server.address, actor="ana") as client,
    ):
        edits = {
            f"{subject}/{target}": _propose(client, subject, target)
            for subject, targets in moved.items()
            for target in targets
        }
        failed = _propose(client, "Colosseum", "Paris", paraphrases=[NO_PARAPHRASE])
        states = {client.edit(edit).state for edit in edits.values()}
        assert states == {errata.EditState.VERIFIED}
        assert client.edit(failed).state is errata.EditState.REJECTED
    return Proposed(checkpoint=trained_checkpoint, folder=folder, edits={**edits, "failed": failed})


def _propose(client: errata.Client, subject: str, target: str, **options: Any) -> str:
    fact = errata.Fact(template=TEMPLATE, target=target)
    return client.propose(subject, fact, **options).result(120).edit.id
