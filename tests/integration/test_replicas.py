"""Several servers in processes of their own behind one ledger, while things break."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import errata
from errata_server.rpc.server import READING, WRITING
from tests.support import torch_servers
from tests.support.databases import POSTGRESQL_ONLY, copy_rows
from tests.support.server_processes import server_process

PROMPT: Final = "The Eiffel Tower is in the city of"
CHANGES: Final = 24
PATIENCE: Final = 60.0
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@dataclass
class Observed:
    """What the threads of a test have seen."""

    acknowledged: int = 0
    """Highest sequence the writer has confirmed."""

    reads: int = 0
    too_old: list[tuple[int, int]] = field(default_factory=list)
    """Pairs of what was asked for and what was answered from, where that is older."""

    watched: dict[str, list[int]] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)


def change(writer: errata.Client, edits: list[str], number: int, seen: Observed) -> None:
    """Apply or revert one edit, again and again under one request id until it is acknowledged."""
    edit, request = edits[number // 2 % len(edits)], f"change-{number}"
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            act = writer.revert if number % 2 else writer.apply
            seen.acknowledged = act(edit, request_id=request).revision.sequence
        except errata.UnavailableError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        else:
            return


def read(address: str, seen: Observed) -> None:
    """Ask for what is acknowledged at least, until told to stop; an absent server is let be."""
    with errata.Client(address, timeout=5) as client:
        while not seen.stop.is_set():
            least = seen.acknowledged
            try:
                served = client.score(PROMPT, [" Rome"], min_sequence=least).served
            except (errata.UnavailableError, errata.DeadlineError):
                continue
            seen.reads += 1
            if served.sequence < least:
                seen.too_old.append((least, served.sequence))


def watch(address: str, count: int, seen: Observed) -> None:
    with errata.Client(address) as client:
        found = seen.watched.setdefault(address, [])
        found.extend(r.sequence for r in islice(client.watch(0, give_up_after=PATIENCE), count))


def health(address: str, name: str) -> int:
    with grpc.insecure_channel(address) as channel:
        request = health_pb2.HealthCheckRequest(service=name)
        return int(health_pb2_grpc.HealthStub(channel).Check(request, timeout=5).status)


def eventually(holds) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextmanager
def threads(*targets) -> Iterator[None]:
    running = [threading.Thread(target=target, args=given) for target, *given in targets]
    for thread in running:
        thread.start()
    try:
        yield
    finally:
        for thread in running:
            thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in running)


@pytest.mark.slow
@POSTGRESQL_ONLY
def test_replicas_end_where_the_writer_does_whatever_is_killed_or_stopped(
    proposed, tmp_path, ledger_url, postgresql_server
):
    """A replica is killed and comes back; the database goes and comes back."""
    folder = proposed.copy(tmp_path)
    copy_rows(torch_servers.ledger_url(folder), ledger_url)
    edits = [edit for name, edit in proposed.edits.items() if name != "failed"]
    seen = Observed()

    def server(name, *arguments):
        return server_process(folder, proposed.checkpoint, *arguments, name=name, ledger=ledger_url)

    with ExitStack() as stack, ThreadPoolExecutor() as pool:
        contexts = [server("writer"), server("one", "--follow", "main")]
        mortal = server("two", "--follow", "main")
        writer, one, two = pool.map(lambda context: context.__enter__(), [*contexts, mortal])
        for context in contexts:
            stack.push(context)
        client = stack.enter_context(errata.Client(writer.address, actor="ana"))
        watching = [(watch, s.address, CHANGES + 1, seen) for s in (writer, one, two)]
        reading = [(read, s.address, seen) for s in (one, two)]
        with threads(*watching, *reading):
            for number in range(CHANGES // 3):
                change(client, edits, number, seen)
            mortal.__exit__(None, None, None)
            for number in range(CHANGES // 3, CHANGES // 2):
                change(client, edits, number, seen)
            again = stack.enter_context(server("two", "--follow", "main", "--listen", two.address))
            database_goes_and_comes_back(postgresql_server, client, writer, one, edits)
            for number in range(CHANGES // 2, CHANGES):
                change(client, edits, number, seen)
            seen.stop.set()

        served = [
            ended_at(address, seen) for address in (writer.address, one.address, again.address)
        ]
        audit = client.audit()

    assert seen.acknowledged == CHANGES
    assert len({each.weights_digest for each in served}) == 1
    assert {each.sequence for each in served} == {CHANGES}
    assert seen.too_old == []
    assert seen.reads > 0
    assert list(seen.watched.values()) == [list(range(CHANGES + 1))] * 3
    assert audit.clean


def database_goes_and_comes_back(database, client, writer, replica, edits) -> None:
    before = client.head().revision.sequence
    database.halt()
    try:
        eventually(lambda: health(writer.address, WRITING) == NOT_SERVING)
        assert health(writer.address, READING) == SERVING
        assert health(replica.address, READING) == SERVING
        with errata.Client(replica.address) as asking:
            assert asking.score(PROMPT, [" Rome"]).served.sequence <= before
            standing = asking.model().standing
        with pytest.raises(errata.LedgerUnavailableError):
            client.apply(edits[0], request_id="while-away")
    finally:
        database.start()
    assert standing is not None
    assert standing.staleness_seconds > 0
    eventually(lambda: health(writer.address, WRITING) == SERVING)
    assert client.head().revision.sequence == before


def ended_at(address: str, seen: Observed) -> errata.Served:
    with errata.Client(address) as client:
        return client.score(PROMPT, [" Rome"], min_sequence=seen.acknowledged).served


@pytest.mark.slow
def test_watchers_outlive_a_killed_writer_and_a_replica_follows_beside_it(proposed, tmp_path):
    """On SQLite: a replica in a process of its own reads the file that the writer holds."""
    folder = proposed.copy(tmp_path)
    edit = proposed.edits["Big Ben/Madrid"]
    seen = Observed()
    checkpoint = proposed.checkpoint

    with (
        server_process(folder, checkpoint) as first,
        server_process(folder, checkpoint, "--follow", "main", name="replica") as replica,
        threads((watch, first.address, 3, seen), (watch, replica.address, 3, seen)),
    ):
        with errata.Client(first.address, actor="ana") as client:
            client.apply(edit)
        first.process.kill()
        first.process.wait()
        with errata.Client(replica.address) as client:
            assert client.score(PROMPT, [" Rome"], min_sequence=1).served.sequence == 1
        with (
            server_process(folder, checkpoint, "--listen", first.address, name="second") as second,
            errata.Client(second.address, actor="ana", read_your_writes=True) as client,
        ):
            client.revert(edit)
            with errata.Client(replica.address) as asking:
                served = asking.score(PROMPT, [" Rome"], min_sequence=2).served
            eventually(lambda: all(len(found) == 3 for found in seen.watched.values()))

    assert seen.watched == {first.address: [0, 1, 2], replica.address: [0, 1, 2]}
    assert served.sequence == 2
