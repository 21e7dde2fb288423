"""What the client returns: frozen dataclasses, one for each thing of the API.

Invariants: no protobuf message reaches a caller. A resource holds its full ``name`` and
offers its short ``id``; a field that refers to another resource holds that one's id, and is
empty where there is none. Times are in UTC.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Generic, TypeVar

T = TypeVar("T")


class EditState(StrEnum):
    """Where an edit stands on a branch, main unless another was named."""

    UNSPECIFIED = "unspecified"
    VERIFIED = "verified"
    REJECTED = "rejected"
    APPROVED = "approved"
    APPLIED = "applied"
    SUPERSEDED = "superseded"
    REVERTED = "reverted"


class Verdict(StrEnum):
    """What a check came to."""

    UNSPECIFIED = "unspecified"
    PASSED = "passed"
    WARNED = "warned"
    FAILED = "failed"
    SKIPPED = "skipped"


class Composition(StrEnum):
    """How live patches act on the edited projection."""

    UNSPECIFIED = "unspecified"
    GUARDED = "guarded"
    LINEAR = "linear"


class RevisionKind(StrEnum):
    """What made a revision."""

    UNSPECIFIED = "unspecified"
    GENESIS = "genesis"
    APPLY = "apply"
    REVERT = "revert"
    PROMOTE = "promote"
    POLICY = "policy"
    BRANCH = "branch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One thing to make true: the template filled with the subject continues as the target."""

    template: str
    """A sentence start with ``{}`` where the subject goes, or with the subject spelled out."""

    target: str
    """What the model should say next, without leading space."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckPrompt:
    """A prompt and what a right answer starts with."""

    prompt: str
    expected: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """Which weights answered a request."""

    revision: str
    sequence: int
    branch: str
    active_set_digest: str
    """Over the set of active edits; equal on every machine."""

    weights_digest: str
    """Over the composed side branch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """Somebody's word that an edit may be applied."""

    actor: str
    comment: str
    report: str
    created_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchSummary:
    """How a patch's value was found."""

    digest: str
    module: str
    layer: int
    keys: int
    steps: int
    restarts: int
    loss: float
    target_probability: float
    converged: bool
    residual_norm: float
    clamp_fraction: float
    key_agreement: float
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """A proposed change of what the model believes about one subject."""

    name: str
    subject: str
    facts: tuple[Fact, ...]
    paraphrases: tuple[CheckPrompt, ...]
    neighbours: tuple[CheckPrompt, ...]
    state: EditState
    patch: PatchSummary
    report: str
    profile: str
    approvals: tuple[Approval, ...]
    proposer: str
    reason: str
    ticket: str
    created_at: datetime | None
    superseded_by: str
    suite: tuple[CheckPrompt, ...] = ()
    """Regression prompts that came with the request."""

    aliases: tuple[str, ...] = ()
    """Other names of the subject that the edit knows."""

    signed_by: str = ""
    """Name and hash of the key that signed the proposal; empty where none did."""

    @property
    def id(self) -> str:
        """The last part of the name, short enough to type."""
        return short(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the model said to one prompt before and after."""

    prompt: str
    expected: str
    before: str
    after: str
    held_before: bool
    held_after: bool
    edit: str
    """The live edit this prompt belongs to, where it belongs to one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One measured value against one threshold."""

    kind: str
    verdict: Verdict
    measured: float | None
    threshold: float | None
    comparison: str
    """``>=`` or ``<=``: how ``measured`` must stand to ``threshold``."""

    explanation: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything measured of one edit at one revision."""

    name: str
    edit: str
    passed: bool
    checks: tuple[Check, ...]
    against: str
    """The revision the edit was measured on top of."""

    composition: Composition
    policy: str
    created_at: datetime | None
    suites: tuple[str, ...] = ()
    """The stored suites whose prompts were run, each as ``NAME@VERSION``."""

    @property
    def id(self) -> str:
        """The last part of the name."""
        return short(self.name)

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.verdict is Verdict.FAILED)

    def of_kind(self, kind: str) -> Check | None:
        """The check of this kind, if the report has one."""
        return next((check for check in self.checks if check.kind == kind), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """An edit with the report of its checks."""

    edit: Edit
    report: Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """One committed change of what a branch serves."""

    name: str
    sequence: int
    branch: str
    parent: str
    kind: RevisionKind
    edits: tuple[str, ...]
    superseded: tuple[str, ...]
    restored: tuple[str, ...]
    active_count: int
    composition: Composition
    active_set_digest: str
    weights_digest: str
    actor: str
    reason: str
    ticket: str
    override_reason: str
    request_id: str
    created_at: datetime | None
    body: bytes = field(repr=False)
    """The canonical bytes whose SHA-256 is the id."""

    source: str = ""
    """Of a promotion: the revision it has the applied edits of."""

    removed: tuple[str, ...] = ()
    """Of a promotion: edits it takes back, as its source had."""

    protected: bool = False
    """Whether the branch asks for approvals from this revision on."""

    @property
    def id(self) -> str:
        """SHA-256 of `body`, the last part of the name."""
        return short(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A revision and the weights that are served with it."""

    revision: Revision
    served: Served
    live_verification: str = ""
    """After applying several edits: the operation that verifies what is live."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """A line of revisions, and the newest one of it."""

    name: str
    head: Revision
    protected: bool = False
    """What is applied needs an approval by another actor than the edit's proposer."""

    @property
    def id(self) -> str:
        """The last part of the name, such as ``main``."""
        return short(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Diff:
    """What differs between two revisions."""

    before: Revision
    after: Revision
    added: tuple[Edit, ...]
    """Active in ``after`` alone."""

    removed: tuple[Edit, ...]
    """Active in ``before`` alone."""

    unchanged_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong with the ledger."""

    row: str
    """The table and key of the row."""

    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditResult:
    """What recomputing the whole ledger came to."""

    clean: bool
    findings: tuple[Finding, ...]
    revisions_checked: int
    edits_checked: int
    artifacts_checked: int
    reports_checked: int
    served_digest_matches: bool
    base_digest_matches: bool
    served: Served
    log_entries_checked: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How likely a continuation is after a prompt."""

    continuation: str
    log_probability: float
    """Natural logarithm, summed over the tokens."""

    token_log_probabilities: tuple[float, ...]
    tokens: tuple[str, ...]
    is_greedy: bool
    """Whether every token is the model's first choice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptScore:
    """A prompt's continuations, and a fingerprint of the numbers behind them."""

    scores: tuple[Score, ...]
    logits_digest: str
    """Equal for two revisions exactly if their logits are the same bits."""

    served: Served


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What calibration found out about a model."""

    id: str
    layer: int
    module: str
    prefixes: tuple[str, ...]
    learning_rate: float
    clamp: float
    max_steps: int
    guard_width: float
    ridge: float
    moment_tokens: int
    seed: int
    body: bytes = field(repr=False)
    """Canonical JSON of the whole profile, the calibration's evidence included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """One server's right to carry out operations on a model."""

    holder: str
    address: str
    """Where the holder says it can be reached."""

    token: int
    remaining_seconds: float
    """Until it ends, unless it is renewed; not above 0 where it has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a server stands to its ledger."""

    branch: str
    """What it answers from where no revision is named."""

    replica: bool
    """Whether it only follows: it refuses whatever changes the ledger."""

    reachable: bool
    """Whether the ledger answered when it was last asked."""

    staleness_seconds: float
    """Since the ledger last answered."""

    lag: int
    """Revisions of the branch that it knows of and does not serve yet."""

    quarantine: str
    """Why it has taken itself out; empty while it answers."""

    lease: Lease | None
    """Who carries out operations, as last heard of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """The served checkpoint and how it stands."""

    name: str
    source: str
    digest: str
    architecture: str
    layers: int
    d_model: int
    d_in: int
    vocabulary: int
    context: int
    parameters: int
    dtype: str
    device: str
    profile: Profile | None
    served: Served
    live_edits: int
    applied_edits: int
    started_at: datetime | None
    server_version: str
    standing: Standing | None = field(default=None, compare=False)
    """It changes from one moment to the next; None where the server is older than that."""

    @property
    def id(self) -> str:
        """The last part of the name."""
        return short(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A piece of a continuation as it is made."""

    text: str
    tokens: int
    """Tokens generated so far, this chunk's included."""

    finish_reason: str
    """``stop``, ``length`` or ``cancelled`` on the last chunk, else empty."""

    served: Served


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a long-running operation has come."""

    stage: str
    done: int
    total: int
    """0 where the length of the stage is not known."""

    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[T]):
    """One page of a list."""

    items: tuple[T, ...]
    next_token: str
    """Empty on the last page."""


def short(name: str) -> str:
    """The last part of a resource name: ``e-12`` of ``models/m/edits/e-12``."""
    return name.rsplit("/", 1)[-1]
