"""The suite `replicas`: do servers that follow a ledger end up as one, and never answer too early?

A primary and three replicas (`errata-server serve --follow main`) share a PostgreSQL. Edits
are applied and reverted through the primary; readers ask every replica for answers from the
newest acknowledged sequence on. Meanwhile replicas are killed and started again, and the
database is stopped for a while. In the end all must serve the head, with one digest.
"""

import os
import random
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Final

import errata
import errata.testing
from benchmarks.document import Document
from benchmarks.reliability.databases import Kind, Store, stores
from benchmarks.reliability.options import Options, log
from benchmarks.reliability.playground import OVERRIDE, PATIENCE, propose_edits

ROUNDS: Final = 300
"""Revisions committed through the primary."""

REPLICAS: Final = 3
KILL_EVERY: Final = 40
"""Revisions between two kills of a replica."""

STOPPED_SECONDS: Final = 3.0
"""How long PostgreSQL is away, once, in the middle."""

READER_PATIENCE: Final = 60.0
PROMPT: Final = "The Eiffel Tower is in the city of"


@dataclass(slots=True)
class ReplicaTally:
    """What was committed, read and found in the end."""

    committed: int = 0
    kills: int = 0
    reads: int = 0
    refused_reads: int = 0
    """The replica said that it was not there yet, or was away."""

    stale_reads: int = 0
    digests_differ: int = 0
    """Reads at one revision that name other weights than an earlier one."""

    not_converged: int = 0
    slowest_convergence: float = 0.0
    hung_readers: int = 0
    """Clients that got neither an answer nor an error."""


@dataclass(slots=True, kw_only=True)
class Scoreboard:
    """What has been acknowledged, and which weights each revision was seen with."""

    tally: ReplicaTally = field(default_factory=ReplicaTally)
    acknowledged: int = 0
    weights: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Weights and active-set digests by revision."""

    _lock: threading.Lock = field(default_factory=threading.Lock)

    def commit(self, change: errata.Change) -> None:
        """Note a change that was acknowledged."""
        with self._lock:
            self.tally.committed += 1
            self.acknowledged = change.revision.sequence
        self.see(change.served)

    def read(self, served: errata.Served, wanted: int) -> None:
        """Note an answer to somebody who wanted it from sequence ``wanted`` on."""
        with self._lock:
            self.tally.reads += 1
            self.tally.stale_reads += served.sequence < wanted
        self.see(served)

    def see(self, served: errata.Served) -> None:
        """Hold what is served at a revision against what was seen there before."""
        digests = (served.weights_digest, served.active_set_digest)
        with self._lock:
            seen = self.weights.setdefault(served.revision, digests)
            self.tally.digests_differ += seen != digests

    def refuse(self) -> None:
        """Note a read that got no answer."""
        with self._lock:
            self.tally.refused_reads += 1


class Replica:
    """A server process that follows main, as often as it is started."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._running: AbstractContextManager[errata.testing.RunningServer] | None = None
        self.address = ""
        self._process_id = 0

    def start(self) -> None:
        """Start it and wait until it is ready."""
        self._running = errata.testing.server(
            ledger=self._url, arguments=["--follow", "main"], timeout=PATIENCE
        )
        ready = self._running.__enter__()
        self.address, self._process_id = ready.address, ready.process_id

    def kill(self) -> None:
        """SIGKILL."""
        os.kill(self._process_id, signal.SIGKILL)
        self.stop()

    def stop(self) -> None:
        """Give it up."""
        if self._running is not None:
            self._running.__exit__(None, None, None)
            self._running, self.address = None, ""


class Reader(threading.Thread):
    """Asks one replica, again and again, for answers that are new enough."""

    def __init__(self, replica: Replica, board: Scoreboard, stop: threading.Event) -> None:
        super().__init__(name="reader", daemon=True)
        self._replica = replica
        self._board = board
        self._stop_asking = stop

    def run(self) -> None:
        """Read until told to stop; a replica that is away is asked again."""
        while not self._stop_asking.wait(0.02):
            address, wanted = self._replica.address, self._board.acknowledged
            if not address:
                continue
            try:
                with errata.Client(address, timeout=10) as client:
                    generation = client.generate(PROMPT, max_new_tokens=1, min_sequence=wanted)
                    generation.read()
            except errata.ErrataError:
                self._board.refuse()
            else:
                self._board.read(generation.served, wanted)


def write(
    client: errata.Client, edits: Sequence[str], count: int, draw: random.Random, board: Scoreboard
) -> None:
    """Apply and revert until ``count`` more revisions are acknowledged."""
    applied: set[str] = {
        edit.id for edit in client.edits(state=errata.EditState.APPLIED) if edit.id in edits
    }
    for _ in range(count):
        edit = draw.choice(list(edits))
        if edit in applied:
            board.commit(client.revert(edit))
        else:
            board.commit(client.apply(edit, override_reason=OVERRIDE))
        applied ^= {edit}


def converge(replicas: Sequence[Replica], head: errata.Revision, board: Scoreboard) -> None:
    """Wait until every replica serves ``head``, and hold their digests against it."""
    begun = time.monotonic()
    for replica in replicas:
        with errata.Client(replica.address, timeout=30) as client:
            served = client.head().served
            while served.sequence < head.sequence and time.monotonic() - begun < PATIENCE:
                time.sleep(0.1)
                served = client.head().served
        board.see(served)
        board.tally.not_converged += (served.sequence, served.weights_digest) != (
            head.sequence,
            head.weights_digest,
        )
    board.tally.slowest_convergence = time.monotonic() - begun


def play(store: Store, rounds: int, seed: int, board: Scoreboard) -> None:
    """Commit ``rounds`` revisions while replicas and the database come and go."""
    draw, stop = random.Random(seed), threading.Event()
    with store.ledger() as url, ExitStack() as stack:
        primary = stack.enter_context(errata.testing.server(ledger=url, timeout=PATIENCE))
        client = stack.enter_context(errata.Client(primary.address, timeout=60))
        edits = propose_edits(client)
        replicas = [Replica(url) for _ in range(REPLICAS)]
        for replica in replicas:
            replica.start()
            stack.callback(replica.stop)
        readers = [Reader(replica, board, stop) for replica in replicas]
        for reader in readers:
            reader.start()
        left, away = rounds, rounds // 2
        while left > 0:
            write(client, edits, min(left, KILL_EVERY), draw, board)
            left -= KILL_EVERY
            if left <= away and store.postgresql is not None:
                store.postgresql.halt()
                time.sleep(STOPPED_SECONDS)
                store.postgresql.start()
                away = -rounds
            victim = draw.choice(replicas)
            victim.kill()
            board.tally.kills += 1
            write(client, edits, 2, draw, board)
            victim.start()
        converge(replicas, client.head().revision, board)
        stop.set()
        for reader in readers:
            reader.join(READER_PATIENCE)
            board.tally.hung_readers += reader.is_alive()


def run(options: Options) -> Document:
    """One run on PostgreSQL: a SQLite ledger has one server."""
    board = Scoreboard()
    with stores([Kind.POSTGRESQL]) as (store,):
        log.print(f"{REPLICAS} replicas, {options.rounds} revisions")
        play(store, options.rounds, options.seed, board)
    tally = board.tally
    return Document(
        benchmark="reliability replicas",
        settings=options.settings | {"databases": Kind.POSTGRESQL.value, "replicas": REPLICAS},
        figures={
            "committed": tally.committed,
            "kills": tally.kills,
            "reads": tally.reads,
            "refused_reads": tally.refused_reads,
            "stale_reads": tally.stale_reads,
            "digests_differ": tally.digests_differ,
            "not_converged": tally.not_converged,
            "hung_readers": tally.hung_readers,
            "slowest_convergence": tally.slowest_convergence,
        },
    )
