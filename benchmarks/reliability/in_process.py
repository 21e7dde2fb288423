"""A server's use cases in this process, over the bundled model and a real ledger."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.reliability.chronicle import now
from benchmarks.reliability.playground import FACTS, PATIENCE
from errata_server import app, files
from errata_server.config import load_settings
from errata_server.domain.edits import Approval
from errata_server.domain.facts import CheckPrompt, EditRequest, Fact
from errata_server.domain.ids import EditId, ModelId
from errata_server.domain.operations import Operation, OperationState
from errata_server.domain.policies import Policy
from errata_server.domain.suites import suite_name
from errata_server.ledger.database import Database
from errata_server.ledger.leases import Leases
from errata_server.ledger.ledger import Ledger
from errata_server.rpc.assembly import Sources, services_over
from errata_server.service.branches import Branches
from errata_server.service.calls import Call
from errata_server.service.changes import Changes
from errata_server.service.leases import LeaseKeeper
from errata_server.service.operations import Operations
from errata_server.service.plans import Planner
from errata_server.service.proposals import Proposals
from errata_server.service.serving import Serving
from errata_server.service.suites import Suites


@dataclass(frozen=True, slots=True, kw_only=True)
class InProcess:
    """The use cases that write, and edits to use them on."""

    database: Database
    ledger: Ledger
    model: ModelId
    serving: Serving
    operations: Operations
    changes: Changes
    branches: Branches
    proposals: Proposals
    suites: Suites
    edits: Sequence[EditId] = ()
    """Edits that may be applied."""

    request: EditRequest
    """What `propose` asks for."""

    def propose(self, call: Call) -> tuple[str, OperationState]:
        """Propose the request again, wait for it, and say how that ended."""
        started = self.proposals.propose(self.request, call)
        ended = self.operations.wait(started.id, PATIENCE)
        return ended.id, ended.state

    def approve(self, edit: EditId, call: Call) -> tuple[Approval, ...]:
        """Approve an edit; the approvals of that comment, which only this call makes."""
        comment = f"seen, {call.request_id}"
        given = self.proposals.approve(edit, comment, call).approvals
        return tuple(approval for approval in given if approval.comment == comment)

    def add_suite(self, call: Call) -> str:
        """Store the next version of a suite."""
        prompt = CheckPrompt(prompt=f"Tower {call.request_id} is in the city of", expected="Rome")
        return str(self.suites.add(suite_name("towers"), (prompt,), call).version.reference)

    def serves_the_head(self) -> bool:
        """Whether what is served is the head, composed as it vouches for."""
        pinned, head = self.serving.refresh(), self.ledger.head(self.model)
        return pinned.revision == head and pinned.weights.digest == head.weights_digest


@contextmanager
def in_process(url: str) -> Iterator[InProcess]:
    """The use cases over the migrated ledger at ``url``, with edits proposed."""
    settings = load_settings(ledger=url)
    database = Database(url)
    engine = app.load_engine(settings)
    ledger, model = Ledger(database), settings.model_id
    try:
        app.register(ledger, model, engine, Policy().composition)
        app.adopt_profile(ledger, model, engine, bundled=True)
        lease = LeaseKeeper(Leases(database), model, now=now, sole=True)
        serving = Serving(engine, ledger, model)
        operations = Operations(ledger, model, now=now, lease=lease)
        planner = Planner(
            known_facts=files.read_known_facts(None),
            drift_texts=files.read_texts(None).drift,
            policy=Policy(),
        )
        sources = Sources(planner=planner, corpus=files.read_texts(None).corpus)
        services = services_over(settings, serving, operations, sources, now=now)
        proposals = services.proposals
        lease.start()
        serving.start()
        started = proposals.propose(request_of(FACTS[0]), Call(actor="ana"))
        yield InProcess(
            database=database,
            ledger=ledger,
            model=model,
            serving=serving,
            operations=operations,
            changes=services.changes,
            branches=services.branches,
            proposals=proposals,
            suites=services.upkeep.suites,
            edits=[_made(operations, started)],
            request=request_of(FACTS[1]),
        )
        operations.close(grace=0)
        lease.release()
    finally:
        engine.close()
        database.close()


def request_of(fact: tuple[str, str, str]) -> EditRequest:
    """A proposal of one of the playground's facts."""
    subject, template, target = fact
    return EditRequest(subject=subject, facts=(Fact(template=template, target=target),))


def _made(operations: Operations, started: Operation) -> EditId:
    return EditId(operations.wait(started.id, PATIENCE).result["edit"])
