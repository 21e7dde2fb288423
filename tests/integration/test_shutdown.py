"""How a server process ends: told to by SIGTERM, and killed in the middle of things."""

import random
import threading
import time
from typing import Final

import pytest

import errata
from errata_server.domain.ids import OperationId
from errata_server.domain.operations import OperationState
from tests.support import tiny_models, torch_servers
from tests.support.server_processes import server_process

PROMPT: Final = "Nobody doubts that a tower is"
PATIENCE: Final = 120.0
ROUNDS: Final = 3
"""Of kills; `benchmarks/reliability.py` has hundreds."""


@pytest.fixture
def unhurried(random_checkpoint, tmp_path):
    """A folder whose profile never finds a value good enough, so that a proposal goes on."""
    engine = torch_servers.tiny_engine(
        random_checkpoint, tmp_path / "cache", max_steps=10**6, stop_probability=1.0
    )
    torch_servers.assemble(tmp_path, engine).database.close()
    engine.close()
    return tmp_path


@pytest.mark.slow
def test_sigterm_ends_what_can_end_and_cancels_the_rest(unhurried, random_checkpoint):
    with (
        server_process(unhurried, random_checkpoint, "--drain-seconds", "6") as server,
        errata.Client(server.address, actor="ana") as client,
    ):
        alone = client.generate(PROMPT, max_new_tokens=40).read()
        fact = errata.Fact(template=tiny_models.TEMPLATES[0], target="Rome")
        operation = client.propose("Louvre", fact)
        wait_for_stage(operation, "values")
        running = [client.generate(PROMPT, max_new_tokens=40) for _ in range(4)]

        server.process.terminate()
        texts = [generation.read() for generation in running]
        code = server.process.wait(PATIENCE)

    assert code == 0
    assert texts == [alone] * len(running)
    assert {generation.finish_reason for generation in running} == {"length"}
    assert generations_ended_after_the_signal(server) > 0
    stored = stored_operation(unhurried, random_checkpoint, operation.name)
    assert stored.state is OperationState.CANCELLED
    assert stored.failure is not None
    assert stored.failure.reason == "CANCELLED"


def wait_for_stage(operation, stage):
    deadline = time.monotonic() + PATIENCE
    while operation.progress.stage != stage:
        assert not operation.refresh(), operation.result()
        assert time.monotonic() < deadline, operation.progress
        time.sleep(0.02)


def generations_ended_after_the_signal(server) -> int:
    events = server.events()
    (stopping,) = (i for i, event in enumerate(events) if event["event"] == "stopping")
    return sum(event.get("method") == "Generate" for event in events[stopping:])


def stored_operation(folder, checkpoint, name):
    engine = torch_servers.tiny_engine(checkpoint, folder / "cache")
    assembled = torch_servers.assemble(folder, engine)
    try:
        return assembled.ledger.operation(OperationId(name.removeprefix("operations/")))
    finally:
        assembled.database.close()
        engine.close()


@pytest.mark.slow
def test_a_kill_loses_nothing_that_was_acknowledged(proposed, tmp_path):
    folder = proposed.copy(tmp_path)
    edits = [edit for name, edit in proposed.edits.items() if name != "failed"]
    chance = random.Random(7)
    acknowledged: list[errata.Revision] = []

    for _ in range(ROUNDS):
        with server_process(folder, proposed.checkpoint) as server:
            history = revisions_of(server.address)
            assert history[: len(acknowledged)] == acknowledged
            assert len(history) <= len(acknowledged) + 1  # the one that was under way
            acknowledged, before = history, len(history)
            worker = threading.Thread(
                target=change_until_killed, args=(server.address, edits, acknowledged)
            )
            worker.start()
            while len(acknowledged) == before and worker.is_alive():
                time.sleep(0.01)  # a busy machine takes its time to answer at all
            time.sleep(chance.uniform(0.0, 0.5))
            server.process.kill()
            worker.join()

    assert len(acknowledged) > ROUNDS
    engine = proposed.engine(folder)
    with (
        torch_servers.serving(folder, engine) as survivor,
        errata.Client(survivor.address) as client,
    ):
        history = revisions_of(survivor.address)
        assert history[: len(acknowledged)] == acknowledged
        assert client.audit().clean
        served = survivor.services.serving.head()
        assert served.weights.digest == history[-1].weights_digest


def revisions_of(address: str) -> list[errata.Revision]:
    with errata.Client(address, actor="ana") as client:
        return list(client.revisions())[::-1]


def change_until_killed(address: str, edits: list[str], acknowledged: list[errata.Revision]):
    """Apply and revert, each edit in turn, and note what the server said it did."""
    with errata.Client(address, actor="ana", timeout=10) as client:
        try:
            while True:
                for edit in edits:
                    state = client.edit(edit).state
                    live = state in {errata.EditState.APPLIED, errata.EditState.SUPERSEDED}
                    change = client.revert(edit) if live else client.apply(edit)
                    acknowledged.append(change.revision)
        except errata.ErrataError:
            return
