"""What the servicers delegate to."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc

from errata_server.domain.errors import ModelNotFoundError
from errata_server.domain.ids import BranchName, ModelId
from errata_server.rpc.calls import Pools
from errata_server.rpc.convert import names
from errata_server.service.batches import Batches
from errata_server.service.branches import Branches
from errata_server.service.changes import Changes
from errata_server.service.history import History
from errata_server.service.inference import Inference
from errata_server.service.ledger_log import LedgerLog
from errata_server.service.models import Models
from errata_server.service.operations import Operations
from errata_server.service.proposals import Proposals
from errata_server.service.serving import Serving
from errata_server.service.traces import Traces
from errata_server.service.upkeep import Upkeep

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
"""What gRPC tells a servicer of a call; every servicer leaves it to the interceptor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The use cases of the one model this server serves, and the threads they run on."""

    model: ModelId
    proposals: Proposals
    batches: Batches
    changes: Changes
    branches: Branches
    history: History
    inference: Inference
    log: LedgerLog
    models: Models
    operations: Operations
    serving: Serving
    traces: Traces
    upkeep: Upkeep
    pools: Pools
    read_wait_seconds: float
    """Most a read waits for a sequence that is not served here yet."""

    def require(self, model: ModelId, field: str) -> None:
        """Do nothing if ``model`` is the one being served.

        Raises:
            ModelNotFoundError: it is another.
        """
        if model != self.model:
            raise ModelNotFoundError(
                f"{field} names model {model}; this server serves {self.model}",
                model=model,
                served=self.model,
                field=field,
            )

    def branch(self, name: str, field: str) -> BranchName:
        """The branch to be read, the one this server answers from where none is named.

        Raises:
            InvalidInputError: it holds characters that no branch's name has.
        """
        return names.branch_name(name, field) if name else self.serving.standing.branch

    def reference(self, name: str, field: str) -> str:
        """What ``models/*/revisions/*``, or its last part alone, refers to.

        Raises:
            InvalidInputError: the name has another form.
            ModelNotFoundError: it belongs to a model that is not served here.
        """
        if "/" not in name:
            return names.bare_reference(name, field)
        model, reference = names.revision_reference(name, field)
        self.require(model, field)
        return reference
