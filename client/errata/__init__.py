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
from errata._checkpoints import (
    CheckpointComparison,
    InclusionProof,
    LedgerCheckpoint,
    LogEntry,
    NoteSignature,
)
from errata._client import Client
from errata._crawls import Belief, Crawl, CrawlChange, CrawledRelation
from errata._errors import (
    AlreadyAppliedError,
    AlreadyTrueError,
    ApprovalRequiredError,
    BranchExistsError,
    BranchNotFoundError,
    CancelledError,
    DeadlineError,
    DivergedError,
    EditNotFoundError,
    ErrataError,
    InternalError,
    InvalidFactError,
    InvalidInputError,
    InvalidPatchError,
    InvalidSignatureError,
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
    ProofError,
    ProxyNotFoundError,
    ReportNotFoundError,
    RequestIdReusedError,
    RevisionNotFoundError,
    SchemaMismatchError,
    SignatureRequiredError,
    StaleRevisionError,
    SubjectNotFoundError,
    SuiteNotFoundError,
    UnavailableError,
    UnsupportedModelError,
    UntrustedKeyError,
    VerificationFailedError,
)
from errata._generation import AsyncGeneration, Generation
from errata._health import CheckedEdit, LayerHealth, LiveVerification, ModelHealth
from errata._keys import PublicKey, SigningKey
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
    Verdict,
)
from errata._version import __version__

__all__ = [
    "AlreadyAppliedError",
    "AlreadyTrueError",
    "Answer",
    "Approval",
    "ApprovalRequiredError",
    "AsyncClient",
    "AsyncGeneration",
    "AsyncOperation",
    "AuditResult",
    "AverageTrace",
    "Belief",
    "Branch",
    "BranchExistsError",
    "BranchNotFoundError",
    "CancelledError",
    "CausalTrace",
    "Change",
    "Chart",
    "ChartForm",
    "Check",
    "CheckPrompt",
    "CheckedEdit",
    "CheckpointComparison",
    "Client",
    "Composition",
    "Corruption",
    "Crawl",
    "CrawlChange",
    "CrawledRelation",
    "DeadlineError",
    "Diff",
    "DivergedError",
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
    "InclusionProof",
    "InternalError",
    "InvalidFactError",
    "InvalidInputError",
    "InvalidPatchError",
    "InvalidSignatureError",
    "LabelledText",
    "LayerHealth",
    "LedgerCheckpoint",
    "LedgerCorruptError",
    "LedgerUnavailableError",
    "LiveVerification",
    "Location",
    "Locator",
    "LocatorNotFoundError",
    "LocatorOption",
    "LogEntry",
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
    "NoteSignature",
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
    "ProofError",
    "Proposal",
    "ProposedBatch",
    "ProposedEdit",
    "Provenance",
    "Proxy",
    "ProxyNotFoundError",
    "PublicKey",
    "Report",
    "ReportNotFoundError",
    "RequestIdReusedError",
    "Revision",
    "RevisionKind",
    "RevisionNotFoundError",
    "SchemaMismatchError",
    "Score",
    "Served",
    "SignatureRequiredError",
    "SigningKey",
    "StaleRevisionError",
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
    "UntrustedKeyError",
    "Verdict",
    "VerificationFailedError",
    "__version__",
]

# Tracebacks and documentation show the public path of a name, not the module it is kept in.
for _name in __all__:
    _public = globals()[_name]
    if isinstance(_public, type):
        _public.__module__ = "errata"
