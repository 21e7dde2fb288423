"""Does an acknowledged edit survive, and is none half done, when the server is killed?

Each round starts a real server over the same SQLite ledger, lets a client apply and revert
edits as fast as it can, and kills the server with SIGKILL at a random instant. The next
round's server is then asked: is every acknowledged revision in the history, exactly once and
as acknowledged; did the change that was under way happen whole or not at all, and does
asking again with the same request id settle which; is the audit clean?
"""

import os
import random
import signal
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.progress import track

import errata
import errata.testing
from benchmarks.document import Document

SUBJECTS: Final = (
    ("Eiffel Tower", "The {} is in the city of", "Rome"),
    ("Space Needle", "The {} is in the city of", "Paris"),
    ("Brandenburg Gate", "The {} is in the city of", "London"),
)
LONGEST_LIFE: Final = 0.5
"""Seconds of changes at most before the kill."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A change asked for, and the revision that acknowledged it, if one did."""

    kind: str
    edit: str
    request_id: str
    revision: str = ""


@dataclass(slots=True)
class Tally:
    """What the rounds found."""

    rounds: int = 0
    acknowledged: int = 0
    in_flight: int = 0
    in_flight_committed: int = 0
    acknowledged_lost: int = 0
    half_applied: int = 0
    audits_failed: int = 0
    ready_seconds: list[float] = field(default_factory=list)


class Worker(threading.Thread):
    """A client that applies and reverts until the server dies under it."""

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


def ask(client: errata.Client, attempt: Attempt) -> errata.Change:
    """Ask for a change, new or again."""
    call = client.revert if attempt.kind == "revert" else client.apply
    return call(attempt.edit, request_id=attempt.request_id)


def applied_edits(client: errata.Client) -> set[str]:
    """Edits the history leaves applied, by folding it from the start."""
    applied: set[str] = set()
    for revision in reversed(list(client.revisions(page_size=1000))):
        if revision.kind is errata.RevisionKind.APPLY:
            applied |= set(revision.edits)
        elif revision.kind is errata.RevisionKind.REVERT:
            applied -= set(revision.edits)
    return applied


def propose_edits(ledger: str) -> list[str]:
    """The edits all rounds play with, proposed and checked once."""
    with errata.testing.server(ledger=ledger) as running, errata.Client(running.address) as client:
        names = []
        for subject, template, target in SUBJECTS:
            fact = errata.Fact(template=template, target=target)
            proposal = client.propose(subject, fact).result()
            names.append(proposal.edit.id)
            if not proposal.report.passed:
                client.apply(proposal.edit.name, override_reason="reliability benchmark")
                client.revert(proposal.edit.name)
        return names


def check(client: errata.Client, workers: list[Worker], tally: Tally, edits: list[str]) -> None:
    """Hold what the restarted server knows against what was acknowledged before the kill."""
    history = {revision.name: revision for revision in client.revisions(page_size=1000)}
    requests = [revision.request_id for revision in history.values()]
    for worker in workers:
        for attempt in worker.acknowledged:
            kept = history.get(attempt.revision)
            whole = kept is not None and kept.edits == (attempt.edit,)
            tally.acknowledged_lost += not (whole and requests.count(attempt.request_id) == 1)
        if worker.in_flight is not None:
            tally.in_flight += 1
            tally.in_flight_committed += worker.in_flight.request_id in requests
            tally.half_applied += not settles(client, worker.in_flight)
    result = client.audit()
    tally.audits_failed += not result.clean
    head = client.head()
    states = {edit: client.edit(edit).state for edit in edits}
    live = {edit for edit, state in states.items() if state is errata.EditState.APPLIED}
    tally.half_applied += live != applied_edits(client)
    tally.half_applied += head.served.weights_digest != head.revision.weights_digest


def settles(client: errata.Client, attempt: Attempt) -> bool:
    """Whether asking again twice gives one and the same revision, present once."""
    try:
        first, second = ask(client, attempt), ask(client, attempt)
    except errata.ErrataError:
        return False
    found = [r for r in client.revisions(page_size=1000) if r.request_id == attempt.request_id]
    return len(found) == 1 and first.revision.name == second.revision.name == found[0].name


def play(ledger: str, rounds: int, seed: int) -> Tally:
    """All rounds, and a last start to check the last kill."""
    edits = propose_edits(ledger)
    chooser = random.Random(seed)
    tally = Tally()
    workers: list[Worker] = []
    for number in track(range(rounds + 1), "rounds", console=Console(stderr=True)):
        start = time.perf_counter()
        with (
            errata.testing.server(ledger=ledger) as running,
            errata.Client(running.address) as client,
        ):
            tally.ready_seconds.append(time.perf_counter() - start)
            check(client, workers, tally, edits)
            if number < rounds:
                workers = [Worker(running.address, edits, chooser.getrandbits(32))]
                kill_under(running.process_id, workers, chooser.uniform(0, LONGEST_LIFE))
                tally.rounds += 1
                tally.acknowledged += sum(len(worker.acknowledged) for worker in workers)
    return tally


def kill_under(process_id: int, workers: list[Worker], seconds: float) -> None:
    """Start the workers, wait, kill the server, and wait for the workers to notice."""
    for worker in workers:
        worker.start()
    time.sleep(seconds)
    os.kill(process_id, signal.SIGKILL)
    for worker in workers:
        worker.join()


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Servers to kill.")] = 200,
    seed: Annotated[int, typer.Option(help="Chooses edits and instants.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Kill the server at random instants during apply and revert, and count what breaks."""
    with tempfile.TemporaryDirectory() as folder:
        tally = play(f"sqlite:///{Path(folder) / 'ledger.db'}", rounds, seed)
    Document(
        benchmark="reliability",
        settings={"rounds": rounds, "seed": seed, "ledger": "sqlite"},
        figures={
            "rounds": tally.rounds,
            "acknowledged": tally.acknowledged,
            "in_flight": tally.in_flight,
            "in_flight_committed": tally.in_flight_committed,
            "acknowledged_lost": tally.acknowledged_lost,
            "half_applied": tally.half_applied,
            "audits_failed": tally.audits_failed,
            "ready_seconds_median": sorted(tally.ready_seconds)[len(tally.ready_seconds) // 2],
        },
    ).show(as_json=as_json)


if __name__ == "__main__":
    typer.run(main)
