"""What keeps a served model well, put together: suites, health, live edits, crawls.

Invariant: all of it looks at one model through one `Serving`, and judges by one policy.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from errata_server.domain.ids import ModelId
from errata_server.ledger.ledger import Ledger
from errata_server.service.crawls import Crawls
from errata_server.service.health import HealthMonitor
from errata_server.service.live_edits import LiveEdits
from errata_server.service.operations import Operations
from errata_server.service.plans import Planner
from errata_server.service.ports import Engine
from errata_server.service.serving import Serving
from errata_server.service.suites import Suites


@dataclass(slots=True, kw_only=True, eq=False)
class Upkeep:
    """The use cases that are about all that is live, not about one edit."""

    engine: Engine
    ledger: Ledger
    model: ModelId
    serving: Serving
    operations: Operations
    planner: Planner
    """Known facts, fixed texts and the policy are the planner's."""

    now: Callable[[], datetime]
    suites: Suites = field(init=False)
    health: HealthMonitor = field(init=False)
    live_edits: LiveEdits = field(init=False)
    crawls: Crawls = field(init=False)

    def __post_init__(self) -> None:
        self.suites = Suites(engine=self.engine, ledger=self.ledger, model=self.model, now=self.now)
        self.health = HealthMonitor(
            engine=self.engine,
            serving=self.serving,
            drift_texts=self.planner.drift_texts,
            policy=self.planner.policy,
        )
        self.live_edits = LiveEdits(
            engine=self.engine,
            ledger=self.ledger,
            serving=self.serving,
            operations=self.operations,
            health=self.health,
            policy=self.planner.policy,
        )
        self.crawls = Crawls(
            engine=self.engine,
            ledger=self.ledger,
            serving=self.serving,
            operations=self.operations,
            known_facts=self.planner.known_facts,
        )
