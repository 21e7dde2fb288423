"""The suite `faults`: every call to the database fails once, in every use case that writes.

For each use case, database and kind of fault the n-th call is spoilt, n = 1, 2, ..., until
the use case gets through untouched. After each fault: a typed error or the right answer,
nothing half done, the same request id settles it, the audit is clean, and what is served is
the head. Everything runs in this process, on real databases and real drivers.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import select

from benchmarks.document import Document
from benchmarks.reliability.chronicle import Chronicle, now
from benchmarks.reliability.databases import stores
from benchmarks.reliability.in_process import InProcess, in_process
from benchmarks.reliability.injection import Fault, Injector
from benchmarks.reliability.options import Options, log
from benchmarks.reliability.writes import Author, Write, author
from errata_server.domain import canonical
from errata_server.domain.errors import ErrataError
from errata_server.domain.ids import MAIN, BranchName, ModelId
from errata_server.ledger import tables
from errata_server.ledger.database import Database
from errata_server.ledger.ledger import Ledger
from errata_server.service.calls import Call

ROUNDS: Final = 1
"""Times every call of every use case is spoilt in every way."""

EDITS: Final = 6
MOST_CALLS: Final = 200
"""A use case that makes more calls than this is taken for one that never ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One thing to be done, which may be done again."""

    perform: Callable[[], object]
    """Gives the same each time."""

    stored: Callable[[], bool] = lambda: True
    """Whether all of it is in the ledger."""

    undo: Callable[[], object] = lambda: None


@dataclass(frozen=True, slots=True, kw_only=True)
class UseCase:
    """Something that writes."""

    name: str
    prepare: Callable[[], Trial]
    atomic: bool = True
    """Whether it is one transaction; a proposal is several, each of them whole."""


@dataclass(slots=True)
class FaultTally:
    """What the faults did."""

    faults_injected: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    """Most calls to the database, by use case."""

    violations: Counter[str] = field(default_factory=Counter)
    """By use case and what was wrong."""


def rows_digest(database: Database) -> str:
    """What a ledger holds, in one word."""
    found = []
    with database.reading() as connection:
        for table in tables.metadata.sorted_tables:
            ordered = select(table).order_by(*table.primary_key.columns)
            found += [repr(tuple(row)) for row in connection.execute(ordered)]
    return canonical.digest("\n".join(found).encode())


@dataclass(slots=True, kw_only=True)
class Prosecutor:
    """Spoils the calls of use cases over one database, and looks at what that leaves."""

    database: Database
    model: ModelId
    injector: Injector
    tally: FaultTally
    served: Callable[[], bool] = lambda: True
    """Whether what is served is the head."""

    def try_all(self, case: UseCase, fault: Fault) -> None:
        """Spoil each call of ``case`` in turn."""
        for number in range(1, MOST_CALLS):
            trial = case.prepare()
            before = rows_digest(self.database)
            outcome = self._spoilt(case, fault, trial, number)
            if not self.injector.fired:
                self.tally.calls[case.name] = max(self.tally.calls[case.name], number - 1)
                trial.undo()
                return
            self.tally.faults_injected += 1
            self._judge(case, trial, before, outcome)
            trial.undo()
        self._charge(case, "never gets through")

    def _spoilt(self, case: UseCase, fault: Fault, trial: Trial, number: int) -> object:
        """What ``trial`` gives; nothing where it raised."""
        with self.injector.armed(fault, number):
            try:
                return trial.perform()
            except ErrataError:
                return None
            except Exception as error:  # noqa: BLE001  # what the use case may not let through
                self._charge(case, f"raised {type(error).__name__}")
                return None

    def _judge(self, case: UseCase, trial: Trial, before: str, outcome: object) -> None:
        left = rows_digest(self.database)
        self._require(case, Ledger(self.database).audit(self.model).clean, "audit")
        try:
            first, second = trial.perform(), trial.perform()
        except ErrataError as error:
            self._charge(case, f"not settled: {error.reason}")
            return
        settled = rows_digest(self.database)
        self._require(case, first == second, "repeated, it gave something else")
        self._require(case, outcome in {None, first}, "what it gave is not what it did")
        self._require(case, not case.atomic or left in {before, settled}, "half done")
        self._require(case, trial.stored(), "not stored")
        self._require(case, Ledger(self.database).audit(self.model).clean, "audit once settled")
        self._require(case, self.served(), "not served")

    def _require(self, case: UseCase, holds: bool, what: str) -> None:
        if not holds:
            self._charge(case, what)

    def _charge(self, case: UseCase, what: str) -> None:
        self.tally.violations[f"{case.name}: {what}"] += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerTrials:
    """Trials of the ledger's own writes, each one transaction."""

    ledger: Ledger
    written: Author

    def of(self, write: Write) -> Trial:
        """A write that nothing has to come before."""
        return Trial(
            perform=lambda: write.perform(self.ledger), stored=lambda: write.stored(self.ledger)
        )

    def change(self) -> Trial:
        """An apply or a revert."""
        write, after = self.written.change()
        self.written.note(write, after)
        return self.of(write)

    def edit(self) -> Trial:
        """An edit with its report; its artifact is there."""
        artifact, edit = self.written.propose()
        artifact.perform(self.ledger)
        self.written.note(edit)
        return self.of(edit)

    def report(self) -> Trial:
        """Another report of an edit."""
        stored = self.written.chronicle.draw.choice(list(self.written.edits.values()))
        again = self.written.chronicle.report(stored.edit, self.written.top.revision.id)
        return Trial(
            perform=lambda: self.ledger.record_report(again),
            stored=lambda: self.ledger.latest_report(stored.edit.id) == again,
        )

    def ending(self) -> Trial:
        """The end of an operation."""
        started, finished = self.written.operation()
        started.perform(self.ledger)
        return self.of(finished)

    def forgetting(self) -> Trial:
        """An ended operation is removed; whoever repeats that finds it gone."""
        started, finished = self.written.operation()
        started.perform(self.ledger)
        finished.perform(self.ledger)

        def forget() -> None:
            if finished.stored(self.ledger):
                self.ledger.forget_operation(finished.operation.id)

        return Trial(perform=forget, stored=lambda: not finished.stored(self.ledger))


def ledger_cases(ledger: Ledger, written: Author) -> Sequence[UseCase]:
    """What the ledger is asked to write."""
    trials = LedgerTrials(ledger=ledger, written=written)
    return (
        UseCase(name="ledger change", prepare=trials.change),
        UseCase(name="ledger artifact", prepare=lambda: trials.of(written.propose()[0])),
        UseCase(name="ledger edit and report", prepare=trials.edit),
        UseCase(name="ledger report", prepare=trials.report),
        UseCase(name="ledger approval", prepare=lambda: trials.of(written.approve())),
        UseCase(name="ledger suite", prepare=lambda: trials.of(written.suite())),
        UseCase(name="ledger operation begins", prepare=lambda: trials.of(written.operation()[0])),
        UseCase(name="ledger operation ends", prepare=trials.ending),
        UseCase(name="ledger operation forgotten", prepare=trials.forgetting),
    )


def service_cases(server: InProcess) -> Sequence[UseCase]:
    """A server's use cases, as its remote calls reach them."""
    edit = server.edits[0]

    def apply(call: Call) -> str:
        return server.changes.apply([edit], MAIN, call, override="a fault").revision.id

    def revert(call: Call) -> str:
        return server.changes.revert([edit], MAIN, call).revision.id

    def applying() -> Trial:
        call = _call()
        return Trial(perform=lambda: apply(call), undo=lambda: revert(_call()))

    def reverting() -> Trial:
        apply(_call())
        call = _call()
        return Trial(perform=lambda: revert(call))

    def approving() -> Trial:
        call = _call()
        return Trial(perform=lambda: server.approve(edit, call))

    def adding() -> Trial:
        call = _call()
        return Trial(perform=lambda: server.add_suite(call))

    def proposing() -> Trial:
        call = _call()
        return Trial(perform=lambda: server.propose(call))

    return (
        UseCase(name="apply", prepare=applying),
        UseCase(name="revert", prepare=reverting),
        UseCase(name="approve", prepare=approving),
        UseCase(name="suite", prepare=adding),
        UseCase(name="propose", prepare=proposing, atomic=False),
    )


def branch_cases(server: InProcess) -> Sequence[UseCase]:
    """A server's use cases that begin and move branches other than main."""

    def begun(call: Call) -> BranchName:
        name = BranchName(f"trial-{call.request_id[:12]}")
        server.branches.create(name, call, start="0")
        return name

    def beginning() -> Trial:
        call = _call()
        return Trial(perform=lambda: begun(call))

    source = begun(_call())
    server.changes.apply([server.edits[0]], source, _call(), override="a fault")

    def promoting() -> Trial:
        # To a branch of its own: what has been promoted to often takes more and more calls.
        target, call = begun(_call()), _call()
        return Trial(perform=lambda: server.branches.promote(source, target, call).revision.id)

    def protecting() -> Trial:
        branch, call = begun(_call()), _call()
        return Trial(
            perform=lambda: server.branches.protect(branch, call, protected=True).revision.id
        )

    return (
        UseCase(name="branch", prepare=beginning),
        UseCase(name="promote", prepare=promoting),
        UseCase(name="protect", prepare=protecting),
    )


def _call() -> Call:
    return Call(actor="ana", reason="a fault")


def prosecutions(
    database: Database, server: InProcess | None, tally: FaultTally, injector: Injector, seed: int
) -> Iterator[tuple[Prosecutor, UseCase]]:
    """Every use case on one database."""
    if server is None:
        ledger = Ledger(database)
        written = author(ledger, Chronicle(draw=random.Random(seed)), edits=EDITS)
        model, cases = written.chronicle.model, ledger_cases(ledger, written)
        prosecutor = Prosecutor(database=database, model=model, injector=injector, tally=tally)
    else:
        cases = (*service_cases(server), *branch_cases(server))
        prosecutor = Prosecutor(
            database=database,
            model=server.model,
            injector=injector,
            tally=tally,
            served=server.serves_the_head,
        )
    for case in cases:
        yield prosecutor, case


def try_every_fault(
    database: Database, server: InProcess | None, tally: FaultTally, seed: int = 0
) -> None:
    """Spoil every call of every use case in every way: the ledger's own, or a server's."""
    with Injector().listening() as injector:
        for prosecutor, case in prosecutions(database, server, tally, injector, seed):
            for fault in Fault:
                prosecutor.try_all(case, fault)


def run(options: Options) -> Document:
    """Every fault, on every database, as often as ``options`` say."""
    tally, begun = FaultTally(), now()
    with stores(options.kinds) as found:
        for store in found:
            for turn in range(options.rounds):
                log.print(f"{store.kind}: the ledger")
                with store.ledger() as url:
                    database = Database(url)
                    try_every_fault(database, None, tally, options.seed + turn)
                    database.close()
                log.print(f"{store.kind}: a server")
                with store.ledger() as url, in_process(url) as server:
                    try_every_fault(server.database, server, tally)
    return Document(
        benchmark="reliability faults",
        settings=options.settings,
        figures={
            "faults_injected": tally.faults_injected,
            "use_cases": len(tally.calls),
            "violations": sum(tally.violations.values()),
        },
        details={
            "calls": dict(tally.calls),
            "violations": dict(tally.violations),
            "seconds": (now() - begun).total_seconds(),
        },
    )
