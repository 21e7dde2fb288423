"""A server with one applied edit, for tests of what must be refused and change nothing.

Fixtures to import in a conftest: `situation`, `elsewhere` and `codes`.
"""

from dataclasses import dataclass
from typing import Any, Final

import grpc
import pytest

import errata
from errata import _errors
from tests.support import tiny_models, torch_servers

TEMPLATE: Final = tiny_models.TEMPLATES[0]
LIVE: Final = "Eiffel Tower/Rome"
FREE: Final = "Big Ben/Madrid"
LARGEST: Final = 64 * 1024
"""Bytes of the largest message the server takes."""


@dataclass(frozen=True, slots=True)
class Situation:
    """A server on which `LIVE` is applied, and its only client."""

    client: errata.Client
    server: torch_servers.TorchServer
    edits: dict[str, str]

    @property
    def live(self) -> str:
        return self.edits[LIVE]

    @property
    def free(self) -> str:
        return self.edits[FREE]

    def state(self) -> tuple[object, ...]:
        """All that a refused request must leave as it is."""
        head = self.client.head()
        prompts = (TEMPLATE.format("Eiffel Tower"), TEMPLATE.format("Big Ben"))
        return (
            head,
            self.server.services.serving.head().weights.digest,
            [edit.id for edit in self.client.edits()],
            [revision.id for revision in self.client.revisions()],
            [self.client.score(prompt, [" x"]).logits_digest for prompt in prompts],
            self.server.engine.base_digest(),
        )


@pytest.fixture(scope="module")
def situation(proposed, tmp_path_factory):
    folder = proposed.copy(tmp_path_factory.mktemp("bad-input"))
    engine = proposed.engine(folder)
    with (
        torch_servers.serving(folder, engine, max_message_bytes=LARGEST) as server,
        errata.Client(server.address, actor="ana") as client,
    ):
        client.apply(proposed.edits[LIVE], request_id="used")
        yield Situation(client, server, proposed.edits)


@pytest.fixture
def elsewhere(proposed, tmp_path):
    """A server of its own, for a ledger that is spoilt for good; nothing is applied."""
    folder = proposed.copy(tmp_path)
    with (
        torch_servers.serving(folder, proposed.engine(folder)) as server,
        errata.Client(server.address, actor="ana") as client,
    ):
        yield Situation(client, server, proposed.edits)


@pytest.fixture
def codes(monkeypatch):
    """The gRPC code under each error the client raises."""
    seen: list[grpc.StatusCode] = []
    original = _errors.from_rpc_error

    def noting(error: Any, address: str) -> errata.ErrataError:
        seen.append(error.code())
        return original(error, address)

    monkeypatch.setattr(_errors, "from_rpc_error", noting)
    return seen
