"""errata: correct facts in a language model that is already serving.

::

    import errata

    with errata.Client() as client:
        fact = errata.Fact(template="{} is in the city of", target="Rome")
        proposal = client.propose("Eiffel Tower", fact).result()
        if proposal.report.passed:
            client.apply(proposal.edit, reason="it was moved")
        print(client.generate("The Eiffel Tower is in the city of").read())
        client.revert(proposal.edit)

`Client` and `AsyncClient` have the same methods. Everything they return is a frozen
dataclass; everything they raise is an `ErrataError`.
"""

from errata._async_client import AsyncClient
from errata._averages import AverageTrace, DroppedFact, EffectCurve, TracedFact
from errata._batches import (
    EditProposal,
    FailedProposal,
    NearSubjects,
    ProposedBatch,
    ProposedEdit,
)
from errata._charts import Chart, ChartForm
from errata._client import Client
from errata._crawls import Belief, Crawl, CrawlChange, CrawledRelation
from errata._errors import (
    AlreadyAppliedError,
    AlreadyTrueError,
    BranchNotFoundError,
    CancelledError,
    DeadlineError,
    DigestMismatchError,
    EditNotFoundError,
    ErrataError,
    InternalError,
    InvalidFactError,
    InvalidInputError,
    InvalidPatchError,
    LeaseHeldError,
    LeaseLostError,
    LedgerCorruptError,
    LedgerUnavailableError,
    LocatorNotFoundError,
    MissingExtraError,
    ModelMismatchError,
    ModelNotFoundError,
    NoEffectError,
    NotAppliedError,
    NotCalibratedError,
    NotFoundError,
    OperationInterruptedError,
    OperationNotFoundError,
    OverloadedError,
    PreconditionError,
    PromptTooLongError,
    ProxyNotFoundError,
    QuarantinedError,
    ReadOnlyReplicaError,
    ReportNotFoundError,
    RequestIdReusedError,
    RevisionNotFoundError,
    SchemaMismatchError,
    StaleRevisionError,
    SubjectNotFoundError,
    SuiteNotFoundError,
    UnavailableError,
    UnsupportedModelError,
    VerificationFailedError,
)
from errata._generation import AsyncGeneration, Generation
from errata._health import CheckedEdit, LayerHealth, LiveVerification, ModelHealth
from errata._locations import Location, Locator, LocatorOption
from errata._operations import AsyncOperation, Operation
from errata._proxies import LabelledText, Proxy
from errata._suites import Suite
from errata._trace_types import (
    Corruption,
    Peak,
    Provenance,
    TokenRole,
    TracedToken,
    TraceGrid,
    TraceKind,
    TraceMetric,
)
from errata._traces import CausalTrace, TraceDifference
from errata._types import (
    Answer,
    Approval,
    AuditResult,
    Branch,
    Change,
    Check,
    CheckPrompt,
    Composition,
    Diff,
    Edit,
    EditState,
    Fact,
    Finding,
    Lease,
    Model,
    PatchSummary,
    Profile,
    Progress,
    PromptScore,
    Proposal,
    Report,
    Revision,
    RevisionKind,
    Score,
    Served,
    Standing,
    Verdict,
)
from errata._version import __version__

__all__ = [
    "AlreadyAppliedError",
    "AlreadyTrueError",
    "Answer",
    "Approval",
    "AsyncClient",
    "AsyncGeneration",
    "AsyncOperation",
    "AuditResult",
    "AverageTrace",
    "Belief",
    "Branch",
    "BranchNotFoundError",
    "CancelledError",
    "CausalTrace",
    "Change",
    "Chart",
    "ChartForm",
    "Check",
    "CheckPrompt",
    "CheckedEdit",
    "Client",
    "Composition",
    "Corruption",
    "Crawl",
    "CrawlChange",
    "CrawledRelation",
    "DeadlineError",
    "Diff",
    "DigestMismatchError",
    "DroppedFact",
    "Edit",
    "EditNotFoundError",
    "EditProposal",
    "EditState",
    "EffectCurve",
    "ErrataError",
    "Fact",
    "FailedProposal",
    "Finding",
    "Generation",
    "InternalError",
    "InvalidFactError",
    "InvalidInputError",
    "InvalidPatchError",
    "LabelledText",
    "LayerHealth",
    "Lease",
    "LeaseHeldError",
    "LeaseLostError",
    "LedgerCorruptError",
    "LedgerUnavailableError",
    "LiveVerification",
    "Location",
    "Locator",
    "LocatorNotFoundError",
    "LocatorOption",
    "MissingExtraError",
    "Model",
    "ModelHealth",
    "ModelMismatchError",
    "ModelNotFoundError",
    "NearSubjects",
    "NoEffectError",
    "NotAppliedError",
    "NotCalibratedError",
    "NotFoundError",
    "Operation",
    "OperationInterruptedError",
    "OperationNotFoundError",
    "OverloadedError",
    "PatchSummary",
    "Peak",
    "PreconditionError",
    "Profile",
    "Progress",
    "PromptScore",
    "PromptTooLongError",
    "Proposal",
    "ProposedBatch",
    "ProposedEdit",
    "Provenance",
    "Proxy",
    "ProxyNotFoundError",
    "QuarantinedError",
    "ReadOnlyReplicaError",
    "Report",
    "ReportNotFoundError",
    "RequestIdReusedError",
    "Revision",
    "RevisionKind",
    "RevisionNotFoundError",
    "SchemaMismatchError",
    "Score",
    "Served",
    "StaleRevisionError",
    "Standing",
    "SubjectNotFoundError",
    "Suite",
    "SuiteNotFoundError",
    "TokenRole",
    "TraceDifference",
    "TraceGrid",
    "TraceKind",
    "TraceMetric",
    "TracedFact",
    "TracedToken",
    "UnavailableError",
    "UnsupportedModelError",
    "Verdict",
    "VerificationFailedError",
    "__version__",
]

# Tracebacks and documentation show the public path of a name, not the module it is kept in.
for _name in __all__:
    _public = globals()[_name]
    if isinstance(_public, type):
        _public.__module__ = "errata"
