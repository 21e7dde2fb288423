"""A request is answered by one revision from its first token to its last.

Over real gRPC, with the real engine. What happens when is decided by a gate in front of the
model's forward passes, never by how long anything takes.
"""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pytest

import errata
from errata_server.engine.lane import MAX_WAITING
from errata_server.engine.runner import Runner
from tests.support import tiny_models, torch_servers

TEMPLATE: Final = tiny_models.TEMPLATES[0]
PROMPT: Final = TEMPLATE.format("Eiffel Tower")
ROME: Final = ("Eiffel Tower", "Rome")
TOKENS: Final = 24
PATIENCE: Final = 120.0
ANYTHING_GOES: Final = {
    **torch_servers.LENIENT,
    "minimum_efficacy": 0.0,
    "minimum_paraphrase": 0.0,
}


class Gate:
    """Stands in front of the model's forward passes and can be closed."""

    def __init__(self, runner: Runner) -> None:
        self._forward = runner._forward
        self._left = 0
        self._closed = False
        self.reached = threading.Event()
        self.opened = threading.Event()
        runner._forward = self

    def close_after(self, passes: int) -> None:
        """Let so many more passes through, then hold the model."""
        self.reached.clear()
        self.opened.clear()
        self._left, self._closed = passes, True

    def open(self) -> None:
        """Let everything through."""
        self._closed = False
        self.opened.set()

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        if self._closed:
            if self._left == 0:
                self.reached.set()
                assert self.opened.wait(PATIENCE), "nobody opened the gate"
            self._left -= 1
        return self._forward(*arguments, **named)


@pytest.fixture(scope="module")
def server(random_checkpoint, tmp_path_factory):
    """On a random model, which never finds that it has said enough."""
    folder = tmp_path_factory.mktemp("one-revision")
    engine = torch_servers.tiny_engine(random_checkpoint, folder / "cache", max_steps=4)
    with torch_servers.serving(folder, engine, policy=ANYTHING_GOES) as running:
        yield running


@pytest.fixture(scope="module")
def edits(server):
    """Edits by subject and target; what they say does not matter, only that it differs."""
    with errata.Client(server.address, actor="ana") as client:
        return {
            (subject, target): client.propose(
                subject, errata.Fact(template=TEMPLATE, target=target)
            )
            .result(PATIENCE)
            .edit.id
            for subject, target in (
                ("Eiffel Tower", "Rome"),
                ("Eiffel Tower", "Berlin"),
                ("Big Ben", "Madrid"),
            )
        }


@pytest.fixture(scope="module")
def gate(server):
    gate = Gate(server.engine._runner)
    yield gate
    gate.open()


@pytest.fixture
def client(server):
    with errata.Client(server.address, actor="ana") as client:
        yield client
        if client.head().revision.active_count:
            client.revert(to_revision="0")


def apply(client, edit):
    """Nobody can converge on a random model."""
    return client.apply(edit, override_reason="a test")


def said(client, **options):
    generation = client.generate(PROMPT, max_new_tokens=TOKENS, **options)
    return generation.read(), generation.tokens, generation.served.revision


def test_a_generation_goes_on_at_its_revision_while_another_is_applied(edits, client, gate):
    before = client.head().served.revision
    alone = said(client)
    gate.close_after(6)
    running = client.generate(PROMPT, max_new_tokens=TOKENS)
    assert gate.reached.wait(PATIENCE)

    # The model stands still in the middle of the continuation, and apply returns all the same.
    applied = apply(client, edits[ROME])
    gate.open()
    text = running.read()

    assert (text, running.tokens, running.served.revision) == alone
    assert running.served.revision == before != applied.revision.id
    assert said(client)[0] != text
    assert said(client, revision=before) == alone


def test_a_generation_goes_on_at_its_revision_while_its_edit_is_reverted(edits, client, gate):
    applied = apply(client, edits[ROME]).revision.id
    alone = said(client)
    gate.close_after(6)
    running = client.generate(PROMPT, max_new_tokens=TOKENS)
    assert gate.reached.wait(PATIENCE)

    client.revert(edits[ROME])
    gate.open()

    assert (running.read(), running.tokens, running.served.revision) == alone
    assert running.served.revision == applied
    assert said(client)[0] != alone[0]


def test_generations_at_several_revisions_at_a_time_equal_each_alone(edits, client, server, gate):
    order = (ROME, ("Big Ben", "Madrid"), ("Eiffel Tower", "Berlin"))
    revisions = ["base", *(apply(client, edits[one]).revision.id for one in order)]
    alone = {revision: said(client, revision=revision) for revision in revisions}
    assert len({text for text, _, _ in alone.values()}) == 3  # Big Ben's says nothing here

    asked = revisions * 2
    gate.close_after(0)
    with ThreadPoolExecutor(len(asked)) as pool:
        running = [pool.submit(said, client, revision=revision) for revision in asked]
        wait_until_waiting(server.engine._runner, len(asked))
        client.revert(edits[("Big Ben", "Madrid")])
        gate.open()
        together = [one.result(PATIENCE) for one in running]

    # All of them waited for the model at once, and it serves them a token in turn.
    assert together == [alone[revision] for revision in asked]


def wait_until_waiting(runner: Runner, steps: int) -> None:
    """Return once so many steps wait for the model's thread or stand on it."""
    deadline = time.monotonic() + PATIENCE
    while MAX_WAITING - runner.lane._waiting._value < steps:
        assert time.monotonic() < deadline
        time.sleep(0.005)
