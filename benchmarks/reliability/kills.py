"""The suite `kills`: does what was acknowledged survive, and is nothing half done, after SIGKILL?

Four kills in five hit a process that writes to the ledger as a server does but has no model,
or PostgreSQL under it; the fifth hits a whole server with the bundled model, or PostgreSQL
under that. Both are counted apart.
"""

from dataclasses import asdict
from typing import Final

from benchmarks.document import Document
from benchmarks.reliability import ledger_kills, server_kills
from benchmarks.reliability.databases import stores
from benchmarks.reliability.ledger_kills import LedgerTally
from benchmarks.reliability.options import Options, log
from benchmarks.reliability.server_kills import ServerTally

ROUNDS: Final = 500
SERVER_SHARE: Final = 5
"""One in so many kills hits a whole server."""


def run(options: Options) -> Document:
    """Kill as often as ``options`` say, over all databases together."""
    ledger, server = LedgerTally(), ServerTally()
    share = options.rounds // len(options.kinds)
    at_servers = share // SERVER_SHARE
    with stores(options.kinds, durable=True) as found:
        for store in found:
            log.print(f"{store.kind}: {share - at_servers} kills at the ledger")
            ledger_kills.play(store, share - at_servers, options.seed, ledger)
        for store in found:
            log.print(f"{store.kind}: {at_servers} kills at servers")
            server_kills.play(store, at_servers, options.seed, server)
    return document(options, ledger, server)


def document(options: Options, ledger: LedgerTally, server: ServerTally) -> Document:
    """The figures of both kinds of kills together, and each kind in the details."""
    ready = sorted(server.ready_seconds)
    return Document(
        benchmark="reliability kills",
        settings=options.settings,
        figures={
            "rounds": ledger.server_kills
            + ledger.database_kills
            + server.server_kills
            + server.database_kills,
            "ledger_kills": ledger.server_kills + ledger.database_kills,
            "server_kills": server.server_kills + server.database_kills,
            "postgresql_kills": ledger.database_kills + server.database_kills,
            "acknowledged": ledger.acknowledged + server.acknowledged,
            "in_flight": ledger.in_flight + server.in_flight,
            "in_flight_committed": ledger.in_flight_committed + server.in_flight_committed,
            "acknowledged_lost": ledger.acknowledged_lost + server.acknowledged_lost,
            "half_applied": ledger.half_applied + server.half_applied,
            "unexplained": ledger.unexplained + server.unexplained,
            "audits_failed": ledger.audits_failed + server.audits_failed,
            "not_ready": ledger.not_ready + server.not_ready,
            "digests_differ": server.digests_differ,
            "ready_seconds_median": ready[len(ready) // 2] if ready else 0.0,
        },
        details={"ledger": asdict(ledger), "server": asdict(server)},
    )
