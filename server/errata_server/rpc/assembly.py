"""The use cases of one model and its ledger, put together for the servicers.

Invariant: all of them look at one model through one `Serving`, and run what outlives its
request through one `Operations`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from errata_server.config import Settings
from errata_server.rpc.calls import Pools
from errata_server.rpc.services import Services
from errata_server.service.batches import Batches
from errata_server.service.branches import Branches
from errata_server.service.changes import Changes
from errata_server.service.edits import EditReader
from errata_server.service.history import History
from errata_server.service.inference import Inference
from errata_server.service.ledger_log import LedgerLog
from errata_server.service.models import Models
from errata_server.service.operations import Operations
from errata_server.service.plans import Planner
from errata_server.service.proposals import Proposals
from errata_server.service.serving import Serving
from errata_server.service.traces import Traces
from errata_server.service.upkeep import Upkeep
from errata_server.signing import SigningKey, TrustedKeys


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What edits are planned and moments are taken from, and the keys of who vouches for what."""

    planner: Planner
    corpus: tuple[str, ...]
    """Ordinary texts, where a caller gives none."""

    keys: TrustedKeys = field(default_factory=TrustedKeys)
    """Of proposers."""

    signing: SigningKey | None = None
    """This server's, which signs ledger checkpoints."""


def services_over(
    settings: Settings,
    serving: Serving,
    operations: Operations,
    sources: Sources,
    *,
    now: Callable[[], datetime],
) -> Services:
    """The use cases over what ``serving`` serves, and the threads they run on."""
    planner, keys = sources.planner, sources.keys
    model, engine, ledger = settings.model_id, serving.engine, serving.ledger
    edits = EditReader(ledger=ledger, model=model, artifacts=serving.artifacts)
    upkeep = Upkeep(
        engine=engine,
        ledger=ledger,
        model=model,
        serving=serving,
        operations=operations,
        planner=planner,
        now=now,
    )
    base = engine.describe().digest
    log = LedgerLog(ledger=ledger, model=model, base=base, key=sources.signing)
    proposals = _proposals(upkeep, edits, keys)
    branches = _branches(upkeep, edits)
    return Services(
        model=model,
        log=log,
        proposals=proposals,
        batches=Batches(proposals=proposals),
        changes=branches.changes,
        branches=branches,
        history=_history(upkeep, edits, log, keys),
        inference=Inference(engine=engine, serving=serving),
        models=Models(
            engine=engine,
            ledger=ledger,
            model=model,
            serving=serving,
            operations=operations,
            known_facts=planner.known_facts,
            texts=sources.corpus,
            now=now,
            started_at=now(),
        ),
        operations=operations,
        serving=serving,
        traces=Traces(
            engine=engine,
            ledger=ledger,
            serving=serving,
            operations=operations,
            known_facts=planner.known_facts,
            memory_mib=settings.trace_memory_mib,
        ),
        upkeep=upkeep,
        pools=Pools(),
        read_wait_seconds=settings.read_wait_seconds,
    )


def _branches(upkeep: Upkeep, edits: EditReader) -> Branches:
    """Branches of the upkeep's model, and the changes that move them."""
    return Branches(
        ledger=upkeep.ledger,
        model=upkeep.model,
        serving=upkeep.serving,
        edits=edits,
        changes=Changes(
            engine=upkeep.engine,
            ledger=upkeep.ledger,
            model=upkeep.model,
            serving=upkeep.serving,
            edits=edits,
            now=upkeep.now,
        ),
    )


def _history(upkeep: Upkeep, edits: EditReader, log: LedgerLog, keys: TrustedKeys) -> History:
    """The history of what the upkeep looks at, with its log."""
    return History(
        engine=upkeep.engine,
        ledger=upkeep.ledger,
        model=upkeep.model,
        serving=upkeep.serving,
        edits=edits,
        log=log,
        keys=keys,
    )


def _proposals(upkeep: Upkeep, edits: EditReader, keys: TrustedKeys) -> Proposals:
    """Proposals over what the upkeep looks at, judged by its suites."""
    return Proposals(
        engine=upkeep.engine,
        ledger=upkeep.ledger,
        model=upkeep.model,
        serving=upkeep.serving,
        operations=upkeep.operations,
        edits=edits,
        planner=upkeep.planner,
        suites=upkeep.suites,
        now=upkeep.now,
        keys=keys,
    )
