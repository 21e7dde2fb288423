"""Kills of a whole server with its model, and of PostgreSQL under it, as clients see them.

Each life of a server has clients that apply, revert and propose as fast as they can. On
PostgreSQL the database is killed under it a few times; every life ends with a SIGKILL of the
server. Whoever is up next is asked: is every acknowledged revision in the history, exactly
once and as acknowledged; did what was under way happen whole or not at all, and does asking
again with the same request id settle which; is the audit clean, and is what is served the
head?
"""

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Final

import errata
import errata.testing
from benchmarks.reliability import forked
from benchmarks.reliability.breaches import noted
from benchmarks.reliability.databases import Kind, Store
from benchmarks.reliability.playground import (
    FACTS,
    OVERRIDE,
    PATIENCE,
    applied_edits,
    propose_edits,
)

LONGEST_LIFE: Final = 0.5
"""Seconds of changes at most before a kill."""

DATABASE_KILLS_A_LIFE: Final = 3
LEASE_PATIENCE: Final = 60.0
"""Seconds a killed server may keep others from proposing; its lease ends after 15."""

LOOK_AGAIN: Final = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A change asked for, and the revision that acknowledged it, if one did."""

    kind: str
    edit: str
    request_id: str
    revision: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A proposal asked for, and the operation that acknowledged it, if one did."""

    fact: tuple[str, str, str]
    request_id: str
    operation: str = ""
    edit: str = ""
    """What the operation came to, where the client heard of that."""


@dataclass(slots=True)
class ServerTally:
    """What the kills did."""

    server_kills: int = 0
    database_kills: int = 0
    acknowledged: int = 0
    in_flight: int = 0
    in_flight_committed: int = 0
    acknowledged_lost: int = 0
    half_applied: int = 0
    unexplained: int = 0
    """Revisions nobody asked for."""

    audits_failed: int = 0
    not_ready: int = 0
    digests_differ: int = 0
    """Servers started on the same ledger that serve something else."""

    breaches: list[str] = field(default_factory=list)
    """Every one of these in words."""

    ready_seconds: list[float] = field(default_factory=list)
    """Of every start, its imports left out."""


class Worker(threading.Thread):
    """A client that applies and reverts until it is told to stop or the server dies under it."""

    def __init__(self, address: str, edits: list[str], seed: int) -> None:
        super().__init__(name="worker")
        self._address = address
        self._edits = edits
        self._chooser = random.Random(seed)
        self.acknowledged: list[Attempt] = []
        self.in_flight: Attempt | None = None

    def run(self) -> None:
        """Change after change; ends at the first call the server does not answer."""
        with errata.Client(self._address, timeout=5) as client:
            try:
                applied = applied_edits(client)
                while True:
                    self._change(client, applied)
            except errata.ErrataError:
                return

    def _change(self, client: errata.Client, applied: set[str]) -> None:
        edit = self._chooser.choice(self._edits)
        kind = "revert" if edit in applied else "apply"
        request_id = f"{self._chooser.getrandbits(128):032x}"
        self.in_flight = Attempt(kind=kind, edit=edit, request_id=request_id)
        change = ask(client, self.in_flight)
        self.acknowledged.append(
            Attempt(kind=kind, edit=edit, request_id=request_id, revision=change.revision.name)
        )
        self.in_flight = None
        applied ^= {edit}


class Proposer(threading.Thread):
    """A client that proposes until the server dies under it."""

    def __init__(self, address: str, seed: int) -> None:
        super().__init__(name="proposer")
        self._address = address
        self._chooser = random.Random(seed)
        self.asked: list[Asked] = []

    def run(self) -> None:
        """Proposal after proposal."""
        with errata.Client(self._address, timeout=5) as client:
            try:
                while True:
                    self._propose(client)
            except errata.ErrataError:
                return

    def _propose(self, client: errata.Client) -> None:
        fact = self._chooser.choice(FACTS)
        request_id = f"{self._chooser.getrandbits(128):032x}"
        self.asked.append(Asked(fact=fact, request_id=request_id))
        started = start(client, self.asked[-1])
        self.asked[-1] = Asked(fact=fact, request_id=request_id, operation=started.name)
        edit = started.result(PATIENCE).edit.id
        self.asked[-1] = Asked(fact=fact, request_id=request_id, operation=started.name, edit=edit)


def ask(client: errata.Client, attempt: Attempt) -> errata.Change:
    """Ask for a change, new or again."""
    if attempt.kind == "revert":
        return client.revert(attempt.edit, request_id=attempt.request_id)
    return client.apply(attempt.edit, request_id=attempt.request_id, override_reason=OVERRIDE)


def start(client: errata.Client, asked: Asked) -> errata.Operation[errata.Proposal]:
    """Ask for a proposal, new or again."""
    subject, template, target = asked.fact
    fact = errata.Fact(template=template, target=target)
    return client.propose(subject, fact, request_id=asked.request_id)


@dataclass(slots=True, kw_only=True)
class Witness:
    """All that a ledger has acknowledged through any server."""

    edits: list[str]
    changes: list[Attempt] = field(default_factory=list)
    in_flight: list[Attempt] = field(default_factory=list)
    proposals: list[Asked] = field(default_factory=list)

    def load(self, address: str, draw: random.Random) -> "list[Worker | Proposer]":
        """Clients that have begun to work."""
        clients: list[Worker | Proposer] = [
            Worker(address, self.edits, draw.getrandbits(32)),
            Proposer(address, draw.getrandbits(32)),
        ]
        for client in clients:
            client.start()
        return clients

    def hear(self, clients: "list[Worker | Proposer]") -> int:
        """Take down what ended clients were told; how many acknowledgements that were."""
        heard = 0
        for client in clients:
            client.join()
            if isinstance(client, Proposer):
                self.proposals += client.asked
                heard += sum(bool(asked.operation) for asked in client.asked)
            else:
                self.changes += client.acknowledged
                heard += len(client.acknowledged)
                if client.in_flight is not None:
                    self.in_flight.append(client.in_flight)
        return heard


def check(client: errata.Client, witness: Witness, tally: ServerTally) -> None:
    """Hold what the server knows against what was acknowledged; settles what was under way."""
    history = {revision.name: revision for revision in client.revisions(page_size=1000)}
    _check_history(history, witness, tally)
    requests = Counter(revision.request_id for revision in history.values())
    for attempt in witness.in_flight:
        tally.in_flight += 1
        tally.in_flight_committed += attempt.request_id in requests
        _settle(client, attempt, witness, tally)
    witness.in_flight.clear()
    for asked in witness.proposals:
        _check_proposal(client, asked, tally)
    audit = client.audit()
    tally.audits_failed += noted(tally.breaches, "audits_failed", [] if audit.clean else [audit])
    tally.half_applied += noted(tally.breaches, "half_applied", _torn(client, witness.edits))


def _check_history(
    history: Mapping[str, errata.Revision], witness: Witness, tally: ServerTally
) -> None:
    """Everything acknowledged is there as it was, once, and nothing that nobody asked for."""
    requests = Counter(revision.request_id for revision in history.values())
    lost = []
    for attempt in witness.changes:
        kept = history.get(attempt.revision)
        whole = kept is not None and kept.edits == (attempt.edit,)
        if not (whole and requests[attempt.request_id] == 1):
            lost.append(f"{attempt}: kept as {kept}, {requests[attempt.request_id]} times")
    tally.acknowledged_lost += noted(tally.breaches, "acknowledged_lost", lost)
    asked = {attempt.request_id for attempt in (*witness.changes, *witness.in_flight)}
    changes = (one for one in history.values() if one.kind is not errata.RevisionKind.GENESIS)
    unasked = (change for change in changes if change.request_id not in asked)
    tally.unexplained += noted(tally.breaches, "unexplained", unasked)


def _settle(client: errata.Client, attempt: Attempt, witness: Witness, tally: ServerTally) -> None:
    """Whether asking again twice gives one and the same revision, present once."""
    try:
        first, second = ask(client, attempt), ask(client, attempt)
    except errata.ErrataError as error:
        tally.half_applied += noted(tally.breaches, "half_applied", [f"{attempt}: {error}"])
        return
    found = [r for r in client.revisions(page_size=1000) if r.request_id == attempt.request_id]
    names = [first.revision.name, second.revision.name, *(revision.name for revision in found)]
    halves = [] if names == names[:1] * 3 else [f"{attempt}: gave {names}"]
    tally.half_applied += noted(tally.breaches, "half_applied", halves)
    witness.changes.append(replace(attempt, revision=first.revision.name))


def _torn(client: errata.Client, edits: Sequence[str]) -> Iterator[str]:
    """Where edits' states, the history and what is served contradict each other."""
    head = client.head()
    states = {edit: client.edit(edit).state for edit in edits}
    live = {edit for edit, state in states.items() if state is errata.EditState.APPLIED}
    applied = applied_edits(client)
    if live != applied:
        yield f"{states}, but the history leaves {applied}"
    if head.served.weights_digest != head.revision.weights_digest:
        yield f"the head is {head.revision}, but served is {head.served}"


def _start_once_free(client: errata.Client, asked: Asked) -> errata.Operation[errata.Proposal]:
    """`start`, as soon as the lease of a server that was killed has ended."""
    deadline = time.monotonic() + LEASE_PATIENCE
    while True:
        try:
            return start(client, asked)
        except errata.LeaseHeldError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(LOOK_AGAIN)


def _check_proposal(client: errata.Client, asked: Asked, tally: ServerTally) -> None:
    """A proposal is one operation, which ended or will, and its edit has a report."""
    if not asked.operation:
        tally.in_flight += 1
    try:
        again = _start_once_free(client, asked)
    except errata.ErrataError as error:  # nobody will learn what came of it
        tally.half_applied += noted(tally.breaches, "half_applied", [f"{asked}: {error}"])
        return
    lost = []
    if asked.operation not in {"", again.name}:
        lost.append(f"{asked}: now {again.name}")
    try:
        edit = again.result(PATIENCE).edit
    except errata.ErrataError as error:  # it ended badly, and says so for ever
        lost += [f"{asked}: {error}"] if asked.edit else []
    else:
        lost += [f"{asked}: now {edit.id}"] if asked.edit not in {"", edit.id} else []
        halves = [] if client.report(client.edit(edit.id).report).checks else [f"{asked}: {edit}"]
        tally.half_applied += noted(tally.breaches, "half_applied", halves)
    tally.acknowledged_lost += noted(tally.breaches, "acknowledged_lost", lost)


class Life:
    """One server on the ledger, from its start to its kill."""

    def __init__(self, store: Store, url: str, tally: ServerTally) -> None:
        self._store = store
        self._url = url
        self._tally = tally

    def play(self, witness: Witness, draw: random.Random, kills: int) -> None:
        """Check what the last life left, and kill the database and then the server."""
        begun = time.perf_counter()
        with (
            forked.server(self._url) as running,
            errata.Client(running.address, timeout=30) as client,
        ):
            self._tally.ready_seconds.append(time.perf_counter() - begun)
            self._check(client, witness)
            for _ in range(kills - 1):
                self._kill_database_under(running.address, witness, draw)
                self._check(client, witness)
            if kills:
                self._kill(running, witness, draw)

    def _check(self, client: errata.Client, witness: Witness) -> None:
        try:
            check(client, witness, self._tally)
        except errata.ErrataError as error:
            self._tally.not_ready += noted(self._tally.breaches, "not_ready", [error])
        witness.proposals.clear()

    def _kill_database_under(self, address: str, witness: Witness, draw: random.Random) -> None:
        postgresql = self._store.postgresql
        if postgresql is None:
            return
        clients = witness.load(address, draw)
        time.sleep(draw.uniform(0, LONGEST_LIFE))
        postgresql.kill()
        self._tally.acknowledged += witness.hear(clients)
        postgresql.start()
        self._tally.database_kills += 1

    def _kill(
        self, running: errata.testing.RunningServer, witness: Witness, draw: random.Random
    ) -> None:
        clients = witness.load(running.address, draw)
        time.sleep(draw.uniform(0, LONGEST_LIFE))
        os.kill(running.process_id, signal.SIGKILL)
        self._tally.acknowledged += witness.hear(clients)
        self._tally.server_kills += 1


def play(store: Store, rounds: int, seed: int, tally: ServerTally) -> None:
    """Kill until ``rounds`` are over; a last start checks the last kill."""
    draw = random.Random(seed)
    with store.ledger() as url:
        with (
            forked.server(url) as running,
            errata.Client(running.address) as client,
        ):
            witness = Witness(edits=propose_edits(client))
        most = 1 + DATABASE_KILLS_A_LIFE * (store.kind is Kind.POSTGRESQL)
        left = rounds
        while left > 0:
            Life(store, url, tally).play(witness, draw, min(left, most))
            left -= most
        Life(store, url, tally).play(witness, draw, 0)
        if store.kind is Kind.POSTGRESQL:
            digests = _digests_on(url)
            differing = [digests] if len(digests) != 1 else []
            tally.digests_differ += noted(tally.breaches, "digests_differ", differing)


def _digests_on(url: str, servers: int = 2) -> set[str]:
    """The weights that several servers on one ledger answer with."""
    with ExitStack() as stack:
        running = [stack.enter_context(forked.server(url)) for _ in range(servers)]
        clients = [stack.enter_context(errata.Client(server.address)) for server in running]
        return {client.head().served.weights_digest for client in clients}
