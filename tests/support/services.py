"""Every use case wired to a real ledger and the scripted engine, as `app` wires the server."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from errata_server.domain import canonical
from errata_server.domain.edits import Edit
from errata_server.domain.facts import EditRequest
from errata_server.domain.ids import MAIN, Digest, EditId, RequestId
from errata_server.domain.operations import Operation, OperationState
from errata_server.domain.patches import Composition
from errata_server.domain.policies import Policy
from errata_server.domain.revisions import Revision
from errata_server.ledger.database import Database
from errata_server.ledger.leases import Leases
from errata_server.ledger.ledger import Ledger
from errata_server.service.batches import Batches
from errata_server.service.branches import Branches
from errata_server.service.calls import Call
from errata_server.service.changes import Changes
from errata_server.service.edits import EditReader
from errata_server.service.history import History
from errata_server.service.inference import Inference
from errata_server.service.leases import LeaseKeeper
from errata_server.service.ledger_log import LedgerLog
from errata_server.service.models import Models
from errata_server.service.operations import Operations
from errata_server.service.plans import Planner
from errata_server.service.proposals import Proposals
from errata_server.service.serving import Serving
from errata_server.service.traces import Traces
from errata_server.service.upkeep import Upkeep
from errata_server.signing import SigningKey, TrustedKeys
from tests.support import MODEL, NOON, edit_request, known_facts
from tests.support.scripted_engine import ScriptedEngine, answers_of

DRIFT_TEXTS: Final = ("The river was low that year. People walked across it.", "Snow fell early.")
TRACE_MEMORY_MIB: Final = 256
PATIENCE: Final = 20.0
"""Seconds a test waits for an operation before it gives up."""


def scripted_engine() -> ScriptedEngine:
    """An engine that knows `known_facts`."""
    return ScriptedEngine(base=answers_of(known_facts()))


def genesis(engine: ScriptedEngine) -> Revision:
    """The first revision of the scripted model."""
    composition = Composition.GUARDED
    return Revision.genesis(
        model=MODEL,
        model_digest=engine.describe().digest,
        composition=composition,
        weights_digest=engine.compose([], _nothing, composition).digest,
        request_digest=canonical.digest(b"genesis"),
        created_at=NOON,
    )


def call(request_id: str = "", *, actor: str = "ana", reason: str = "a test") -> Call:
    """The circumstances of an ordinary mutation."""
    return Call(actor=actor, request_id=RequestId(request_id), reason=reason, ticket="T-1")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Services:
    """One server's use cases, and shorthands for what tests do all the time."""

    engine: ScriptedEngine
    ledger: Ledger
    serving: Serving
    operations: Operations
    proposals: Proposals
    batches: Batches
    changes: Changes
    branches: Branches
    history: History
    inference: Inference
    log: LedgerLog
    models: Models
    traces: Traces
    upkeep: Upkeep

    def propose(self, request: EditRequest | None = None, request_id: str = "") -> Operation:
        """Propose an edit and wait until that has ended."""
        started = self.proposals.propose(request or edit_request(), call(request_id))
        return self.operations.wait(started.id, PATIENCE)

    def proposed(self, subject: str = "Space Needle", target: str = "Paris") -> Edit:
        """A stored edit."""
        ended = self.propose(edit_request(subject, target))
        assert ended.state is OperationState.SUCCEEDED, ended.failure
        return self.ledger.edit(EditId(ended.result["edit"]))

    def apply(self, *edits: Edit) -> Revision:
        """Apply edits to main."""
        return self.changes.apply([edit.id for edit in edits], MAIN, call()).revision

    def revert(self, *edits: Edit) -> Revision:
        """Revert edits on main."""
        return self.changes.revert([edit.id for edit in edits], MAIN, call()).revision

    def answer(self, prompt: str) -> str:
        """What the served model says."""
        return self.engine.answer(prompt, self.serving.head().weights)


@contextmanager
def open_services(
    url: str,
    *,
    engine: ScriptedEngine | None = None,
    policy: Policy | None = None,
    keys: TrustedKeys | None = None,
    signing: SigningKey | None = None,
) -> Iterator[Services]:
    """A started server over the migrated database at ``url``; closed at the end.

    Where several are open on one ledger, whichever is asked takes the lease over at once.
    """
    engine = engine or scripted_engine()
    database = Database(url)
    ledger = Ledger(database)
    ledger.register_model(MODEL, engine.describe(), genesis=genesis(engine))
    if engine.profile is not None:
        ledger.put_profile(MODEL, engine.profile)
    log = LedgerLog(ledger=ledger, model=MODEL, base=engine.describe().digest, key=signing)
    lease = LeaseKeeper(Leases(database), MODEL, now=_noon, sole=True)
    evidence = (log, keys or TrustedKeys())
    services = _services(engine, ledger, policy or Policy(), lease, evidence)
    lease.start()
    services.serving.start()
    try:
        yield services
    finally:
        engine.resume.set()
        services.operations.close(grace=0)
        lease.release()
        database.close()


def _services(
    engine: ScriptedEngine,
    ledger: Ledger,
    policy: Policy,
    lease: LeaseKeeper,
    evidence: tuple[LedgerLog, TrustedKeys],
) -> Services:
    log, keys = evidence
    known, serving = known_facts(), Serving(engine, ledger, MODEL)
    operations = Operations(ledger, MODEL, now=_noon, lease=lease)
    edits = EditReader(ledger=ledger, model=MODEL, serving=serving)
    planner = Planner(known_facts=known, drift_texts=DRIFT_TEXTS, policy=policy)
    upkeep = Upkeep(
        engine=engine,
        ledger=ledger,
        model=MODEL,
        serving=serving,
        operations=operations,
        planner=planner,
        now=_noon,
    )
    proposals = _proposals(upkeep, edits, keys)
    branches = _branches(engine, edits)
    return Services(
        engine=engine,
        log=log,
        ledger=ledger,
        serving=serving,
        operations=operations,
        proposals=proposals,
        batches=Batches(proposals=proposals),
        changes=branches.changes,
        branches=branches,
        history=_history(upkeep, edits, log, keys),
        inference=Inference(engine=engine, serving=serving),
        models=Models(
            engine=engine,
            ledger=ledger,
            model=MODEL,
            serving=serving,
            operations=operations,
            known_facts=known,
            texts=DRIFT_TEXTS,
            now=_noon,
            started_at=NOON,
        ),
        traces=Traces(
            engine=engine,
            ledger=ledger,
            serving=serving,
            operations=operations,
            known_facts=known,
            memory_mib=TRACE_MEMORY_MIB,
        ),
        upkeep=upkeep,
    )


def _branches(engine: ScriptedEngine, edits: EditReader) -> Branches:
    ledger, serving = edits.ledger, edits.serving
    changes = Changes(
        engine=engine, ledger=ledger, model=MODEL, serving=serving, edits=edits, now=_noon
    )
    return Branches(ledger=ledger, model=MODEL, serving=serving, edits=edits, changes=changes)


def _history(upkeep: Upkeep, edits: EditReader, log: LedgerLog, keys: TrustedKeys) -> History:
    return History(
        engine=upkeep.engine,
        ledger=upkeep.ledger,
        model=MODEL,
        serving=upkeep.serving,
        edits=edits,
        log=log,
        keys=keys,
    )


def _proposals(upkeep: Upkeep, edits: EditReader, keys: TrustedKeys) -> Proposals:
    return Proposals(
        engine=upkeep.engine,
        ledger=upkeep.ledger,
        model=MODEL,
        serving=upkeep.serving,
        operations=upkeep.operations,
        edits=edits,
        planner=upkeep.planner,
        suites=upkeep.suites,
        now=upkeep.now,
        keys=keys,
    )


def _noon():
    return NOON


def _nothing(digest: Digest) -> bytes:
    raise AssertionError(f"nothing is stored under {digest}")
