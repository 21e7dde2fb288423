"""Kills of a process that writes to the ledger, and of PostgreSQL under it.

The writer is a process of its own that uses `errata_server.ledger` as a server does, without
a model, so that it is up in milliseconds and can be killed hundreds of times a minute. It
says on a pipe what it is about to write and what has been acknowledged; the pipe outlives it.

Invariant: between two kills everything the ledger has ever acknowledged is looked for again.
"""

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Final

from benchmarks.reliability.breaches import noted
from benchmarks.reliability.chronicle import SYNTHETIC, Chronicle, Top
from benchmarks.reliability.databases import Kind, Store, opened
from benchmarks.reliability.forked import processes
from benchmarks.reliability.writes import Author, Change, Write, author, author_of
from errata_server.domain.errors import ErrataError
from errata_server.ledger.ledger import Ledger

EDITS: Final = 12
"""Edits a ledger begins with."""

ROUNDS_A_LEDGER: Final = 25
"""Kills before a new ledger, so that looking for everything stays cheap."""

LONGEST_LIFE: Final = 0.3
"""Seconds of writing at most before the kill."""

SETTLING: Final = 0.2
"""Seconds a writer whose database was killed may go on once that is back."""

PATIENCE: Final = 60.0


@dataclass(slots=True)
class LedgerTally:
    """What the kills did."""

    server_kills: int = 0
    """Kills of the process that writes."""

    database_kills: int = 0
    """Kills of PostgreSQL."""

    acknowledged: int = 0
    in_flight: int = 0
    in_flight_committed: int = 0
    acknowledged_lost: int = 0
    half_applied: int = 0
    unexplained: int = 0
    """Revisions nobody asked for."""

    audits_failed: int = 0
    not_ready: int = 0
    breaches: list[str] = field(default_factory=list)
    """Every one of them in words."""


def write_until_killed(pipe: Connection, url: str, seed: int) -> None:
    """The writer: write after write, until it is killed or the database is.

    Each write is sent before it is made; nothing is sent once it has been acknowledged.
    """
    with opened(url) as ledger:
        written = author_of(ledger, Chronicle(draw=random.Random(seed)))
        pipe.send(None)
        try:
            while True:
                for write, after in _next(written):
                    pipe.send(write)
                    write.perform(ledger)
                    pipe.send(None)
                    written.note(write, after)
        except ErrataError:
            return  # the database is gone: what was under way stays unacknowledged


def _next(written: Author) -> Iterator[tuple[Write, Top | None]]:
    """The next write, or the next few that belong together, each with what it leads to."""
    chance = written.chronicle.draw.random()
    if chance < 0.7:
        yield written.change()
    elif chance < 0.85:
        yield from ((write, None) for write in written.propose())
    elif chance < 0.9:
        yield from ((write, None) for write in written.operation())
    else:
        yield (written.approve() if chance < 0.95 else written.suite()), None


@dataclass(slots=True, kw_only=True)
class Witness:
    """All that a ledger has acknowledged, and what was under way at the last kill."""

    acknowledged: list[Write] = field(default_factory=list)
    in_flight: Write | None = None
    heard: int = 0
    """Acknowledgements, those of what was settled left out."""

    def listen(self, pipe: Connection, seconds: float) -> None:
        """Hear the writer for at most ``seconds``, or until it has nothing more to say."""
        deadline = time.monotonic() + seconds
        try:
            while pipe.poll(max(0.0, deadline - time.monotonic())):
                self._hear(pipe.recv())
        except (EOFError, OSError):  # cut off between two words, or within one
            return

    def _hear(self, said: Write | None) -> None:
        if said is not None:
            self.in_flight = said
        elif self.in_flight is not None:
            self.acknowledged.append(self.in_flight)
            self.in_flight = None
            self.heard += 1


def check(ledger: Ledger, witness: Witness, tally: LedgerTally) -> None:
    """Hold the ledger against what it acknowledged; settles what was under way."""
    _audit(ledger, tally)
    lost = (write for write in witness.acknowledged if not write.stored(ledger))
    tally.acknowledged_lost += noted(tally.breaches, "acknowledged_lost", lost)
    if witness.in_flight is not None:
        _settle(ledger, witness.in_flight, tally)
        witness.acknowledged.append(witness.in_flight)
        witness.in_flight = None
    asked = [write.revision for write in witness.acknowledged if isinstance(write, Change)]
    kept = ledger.revisions(SYNTHETIC, start=1, limit=100_000)
    odd = [revision for revision in (*asked, *kept) if (revision in asked) != (revision in kept)]
    unasked = [odd or "revisions in another order"] if asked != kept else []
    tally.unexplained += noted(tally.breaches, "unexplained", unasked)
    _audit(ledger, tally)


def _audit(ledger: Ledger, tally: LedgerTally) -> None:
    audit = ledger.audit(SYNTHETIC)
    unclean = [] if audit.clean else [audit]
    tally.audits_failed += noted(tally.breaches, "audits_failed", unclean)


def _settle(ledger: Ledger, write: Write, tally: LedgerTally) -> None:
    """Whether a write that was cut off is there or not, and whole once repeated."""
    tally.in_flight += 1
    tally.in_flight_committed += write.stored(ledger)
    try:
        first, second = write.perform(ledger), write.perform(ledger)
    except ErrataError as error:
        halves = [f"{write}: {error}"]
    else:
        whole = first == second and write.stored(ledger)
        halves = [] if whole else [f"{write}: gave {first}, then {second}"]
    tally.half_applied += noted(tally.breaches, "half_applied", halves)


def play(store: Store, rounds: int, seed: int, tally: LedgerTally) -> None:
    """Kill writers of one kind of database, and where it is PostgreSQL that in turn."""
    draw = random.Random(seed)
    left = rounds
    while left > 0:
        with store.ledger() as url:
            with opened(url) as ledger:
                author(ledger, Chronicle(draw=random.Random(draw.getrandbits(32))), edits=EDITS)
            witness = Witness()
            for number in range(min(left, ROUNDS_A_LEDGER)):
                at_database = store.kind is Kind.POSTGRESQL and number % 2 == 1
                _round(store, url, draw, witness, at_database=at_database)
                tally.server_kills += not at_database
                tally.database_kills += at_database
                _check_once_ready(url, witness, tally)
            tally.acknowledged += witness.heard
            left -= ROUNDS_A_LEDGER


def _check_once_ready(url: str, witness: Witness, tally: LedgerTally) -> None:
    try:
        with opened(url) as ledger:
            check(ledger, witness, tally)
    except ErrataError as error:
        tally.not_ready += noted(tally.breaches, "not_ready", [error])


def _round(
    store: Store, url: str, draw: random.Random, witness: Witness, *, at_database: bool
) -> None:
    """Let one writer write, and kill it or its database at a random instant."""
    mine, theirs = processes.Pipe(duplex=False)
    process = processes.Process(
        target=write_until_killed, args=(theirs, url, draw.getrandbits(32)), daemon=True
    )
    process.start()
    theirs.close()
    if mine.poll(PATIENCE):
        mine.recv()
    witness.listen(mine, draw.uniform(0, LONGEST_LIFE))
    if at_database and store.postgresql is not None:
        store.postgresql.kill()
        store.postgresql.start()
        witness.listen(mine, SETTLING)
    process.kill()
    witness.listen(mine, PATIENCE)
    process.join()
    mine.close()
