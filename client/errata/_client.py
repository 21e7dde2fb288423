"""The synchronous client: each method names its call; the logic is in `errata._calls`.

Invariants: no gRPC error leaves it; every public method has a twin in `errata._async_client`.
"""

import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import grpc

from errata import (
    _batch_calls,
    _branch_calls,
    _calls,
    _errors,
    _model_calls,
    _trace_calls,
    _upkeep_calls,
    _watch,
)
from errata import _types as types
from errata._acknowledged import Acknowledged
from errata._averages import AverageTrace, TracedFact
from errata._batches import EditProposal, ProposedBatch
from errata._call_types import Call, EditReference, Pages, Scope, serialize
from errata._config import CHANNEL_OPTIONS, Config
from errata._crawls import Crawl
from errata._evidence import EvidenceMethods
from errata._generation import Generation
from errata._health import LiveVerification, ModelHealth
from errata._locations import Location, Locator
from errata._models import model_name, only_model
from errata._operation_status import OperationStatus
from errata._operations import Operation
from errata._options import (
    ApplyOptions,
    BatchOptions,
    BranchOptions,
    CrawlOptions,
    GenerateOptions,
    LiveOptions,
    LocateOptions,
    MutationOptions,
    PromoteOptions,
    ProposeOptions,
    ProtectOptions,
    ProxyOptions,
    ReadOptions,
    RevertOptions,
    SuiteOptions,
    TraceFactsOptions,
    TraceOptions,
    VerifyOptions,
)
from errata._proxies import LabelledText, Proxy
from errata._suites import Suite
from errata._traces import CausalTrace

T = TypeVar("T")


class Client(EvidenceMethods):
    """A connection to one errata server, for one model.

    Args:
        address: ``host:port``; else ``ERRATA_ADDRESS``, else ``127.0.0.1:50051``.
        model: ``bundled`` or ``models/bundled``; may be left out where the server has one.
        timeout: Seconds one call may take; operations and watches go on.
        actor: In whose name changes are made; else ``ERRATA_ACTOR``, else the login name.
        read_your_writes: `generate`, `score` and `head` see every change this client was told of.

    Use it as a context manager, or ``close`` it; threads may share it. A call that finds the
    server away is tried again a few times, under the same request id.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        model: str | None = None,
        timeout: float | None = None,
        actor: str | None = None,
        read_your_writes: bool = False,
    ) -> None:
        self._config = Config.resolve(address=address, timeout=timeout, actor=actor)
        self._model = model_name(model)
        self._acknowledged = Acknowledged()
        self._reads_own_writes = read_your_writes
        self._home = ""
        self._channel = grpc.insecure_channel(self._config.address, options=CHANNEL_OPTIONS)

    @property
    def address(self) -> str:
        """Where the server is."""
        return self._config.address

    def close(self) -> None:
        """Give the connection up; every later call is a `PreconditionError`."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def models(self) -> Iterator[types.Model]:
        """The models this server serves."""
        return self._pages(_model_calls.list_models(0))

    def model(self) -> types.Model:
        """The model this client talks to: architecture, profile, head."""
        return self._run(_model_calls.get_model())

    def propose(
        self,
        subject: str,
        facts: types.Fact | Iterable[types.Fact],
        **options: Unpack[ProposeOptions],
    ) -> Operation[types.Proposal]:
        """Start to compute a patch and to check it; nothing goes live.

        The result is a proposal whether the checks passed or not: see its report.

        Raises:
            InvalidInputError: the request is malformed.
        """
        return self._start(_calls.propose(subject, facts, **options))

    def propose_edits(
        self, proposals: Iterable[EditProposal], **options: Unpack[BatchOptions]
    ) -> Operation[ProposedBatch]:
        """Start to compute and check many edits, their values in shared passes.

        The result has an edit or a failure for every proposal. Those of one subject become
        one edit. A batch that was cut off goes on when proposed again with its ``batch``.

        Raises:
            InvalidInputError: there is nothing, or too much, in the batch.
        """
        return self._start(_batch_calls.propose_edits(proposals, **options))

    def validate(
        self,
        subject: str,
        facts: types.Fact | Iterable[types.Fact],
        **options: Unpack[ProposeOptions],
    ) -> None:
        """Check what `propose` checks before it computes anything; waits for the base model.

        Raises:
            InvalidInputError: the request is malformed.
            AlreadyTrueError: the base model gives every target already.
        """
        self._start(_calls.validate(subject, facts, **options)).result()

    def verify(
        self, edit: EditReference, **options: Unpack[VerifyOptions]
    ) -> Operation[types.Proposal]:
        """Start to check an edit again, on top of the head."""
        return self._start(_calls.verify(edit, **options))

    def verify_live(self, **options: Unpack[LiveOptions]) -> Operation[LiveVerification]:
        """Start to ask live edits again: all that conflict with another, a sample of the rest."""
        return self._start(_upkeep_calls.verify_live(**options))

    def health(self) -> ModelHealth:
        """How far the live edits have moved the model, and how many more it bears."""
        return self._run(_upkeep_calls.get_health())

    def add_suite(
        self, name: str, prompts: Iterable[types.CheckPrompt], **options: Unpack[SuiteOptions]
    ) -> Suite:
        """Store regression prompts as the next version of a suite.

        Every proposal and verification from now on runs them. No prompts retire the suite.

        Raises:
            InvalidInputError: the name or a prompt is malformed, or a prompt stands twice.
            PromptTooLongError: a prompt does not fit the context.
        """
        return self._run(_upkeep_calls.add_suite(name, prompts, **options))

    def suite(self, name: str) -> Suite:
        """One suite with its prompts: the latest version, or ``NAME@VERSION``.

        Raises:
            SuiteNotFoundError: there is none of that name.
        """
        return self._run(_upkeep_calls.get_suite(name))

    def suites(self, name: str = "", *, page_size: int = 0) -> Iterator[Suite]:
        """The latest version of every suite without its prompts, or all versions of one."""
        return self._pages(_upkeep_calls.list_suites(name, page_size))

    def crawl(self, subject: str, **options: Unpack[CrawlOptions]) -> Operation[Crawl]:
        """Start to ask what the model says around a subject, at two revisions.

        What differs without an edit that says so is in the result's ``side_effects``.

        Raises:
            InvalidInputError: the subject or a number is malformed.
            RevisionNotFoundError: there is no such revision.
        """
        return self._start(_upkeep_calls.crawl(subject, **options))

    def approve(
        self, edit: EditReference, comment: str = "", **options: Unpack[MutationOptions]
    ) -> types.Edit:
        """Say that an edit may be applied."""
        return self._run(_calls.approve(edit, comment, **options))

    def apply(
        self, edits: EditReference | Iterable[EditReference], **options: Unpack[ApplyOptions]
    ) -> types.Change:
        """Make edits live, all in one revision.

        Raises:
            VerificationFailedError: checks failed, without an override or on a protected branch.
            AlreadyAppliedError: one of them is live already.
            StaleRevisionError: the head is not ``expected_revision``.
        """
        return self._run(_calls.apply(edits, **options))

    def revert(
        self, edits: EditReference | Iterable[EditReference] = (), **options: Unpack[RevertOptions]
    ) -> types.Change:
        """Take edits back, or with ``to_revision`` return to what was applied there.

        Raises:
            NotAppliedError: one of them is not applied.
            StaleRevisionError: the head is not ``expected_revision``.
        """
        return self._run(_calls.revert(edits, **options))

    def edit(self, edit: EditReference, *, branch: str = "") -> types.Edit:
        """One edit as it stands now on a branch, main where empty.

        Raises:
            EditNotFoundError: there is none of that name.
        """
        return self._run(_calls.get_edit(edit, branch))

    def edits(
        self, *, state: types.EditState | None = None, branch: str = "", page_size: int = 0
    ) -> Iterator[types.Edit]:
        """All edits, newest first, fetched page by page; states are those on ``branch``."""
        return self._pages(_calls.list_edits(state, page_size, branch))

    def report(self, report: str) -> types.Report:
        """One report.

        Raises:
            ReportNotFoundError: there is none of that name.
        """
        return self._run(_calls.get_report(report))

    def head(self, branch: str = "", *, min_sequence: int = 0) -> types.Change:
        """The newest revision of a branch (the server's own where empty), and what is served.

        Raises:
            UnavailableError: the branch has not come to ``min_sequence`` in time.
        """
        least = min_sequence or self._own_writes(branch)
        return self._run(_calls.get_head(branch, least))

    def revision(self, reference: str) -> types.Revision:
        """One revision, by id, prefix of 6 characters or more, sequence or branch.

        Raises:
            RevisionNotFoundError: there is none of that name.
        """
        return self._run(_calls.get_revision(reference))

    def revisions(self, branch: str = "", *, page_size: int = 0) -> Iterator[types.Revision]:
        """The history of a branch, newest first, fetched page by page."""
        return self._pages(_calls.list_revisions(branch, page_size))

    def branches(self, *, page_size: int = 0) -> Iterator[types.Branch]:
        """All branches with their heads."""
        return self._pages(_calls.list_branches(page_size))

    def create_branch(self, name: str, **options: Unpack[BranchOptions]) -> types.Branch:
        """Begin a branch at any revision; it is not protected.

        Raises:
            BranchExistsError: there is one of that name.
            RevisionNotFoundError: what it should start from does not exist.
        """
        return self._run(_branch_calls.create_branch(name, **options))

    def promote(
        self, source: str, target: str = "main", **options: Unpack[PromoteOptions]
    ) -> types.Change:
        """Let a branch have applied exactly what another has, by fast-forward only.

        Raises:
            DivergedError: the target has changes of its own since.
            ApprovalRequiredError: the target is protected, and an edit lacks an approval.
            PreconditionError: there is nothing to promote.
        """
        return self._run(_branch_calls.promote(source, target, **options))

    def protect(self, branch: str, reason: str, **options: Unpack[ProtectOptions]) -> types.Branch:
        """Let a branch ask, from now on, for approvals of what is applied to it."""
        return self._run(_branch_calls.protect(branch, reason, **options))

    def unprotect(
        self, branch: str, reason: str, **options: Unpack[ProtectOptions]
    ) -> types.Branch:
        """Let a branch no longer ask for approvals."""
        return self._run(_branch_calls.unprotect(branch, reason, **options))

    def diff(self, before: str, after: str) -> types.Diff:
        """Which edits are active at one revision and not at the other."""
        return self._run(_calls.diff(before, after))

    def audit(self) -> types.AuditResult:
        """Recompute the chain, all digests and the weights that are served."""
        return self._run(_calls.audit())

    def watch(
        self, start: int | None = None, *, branch: str = "", give_up_after: float = 60.0
    ) -> Generator[types.Revision]:
        """Every revision from sequence ``start`` on, as it is committed.

        Starts after the head where no ``start`` is given. Goes on by itself after the server
        was away, without gaps or repeats.

        Raises:
            UnavailableError: the server does not answer at first, or has been away for
                ``give_up_after`` seconds.
        """
        cursor = _watch.Cursor(start, give_up_after)
        while True:
            ended: _errors.ErrataError | None = None
            try:
                cursor.connected(self._run(_calls.get_head(branch)).revision)
                with closing(self._stream(_calls.watch(branch, cursor.sequence))) as stream:
                    for revision in stream:
                        if cursor.accept(revision):
                            yield revision
            except _watch.RESUMED_AFTER as error:
                ended = error
            time.sleep(cursor.wait_after(ended))

    def generate(self, prompt: str, **options: Unpack[GenerateOptions]) -> Generation:
        """Continue a prompt; returns as soon as the server says which revision answers.

        Raises:
            PromptTooLongError: prompt and continuation do not fit the context.
            UnavailableError: the server has not come to ``min_sequence`` in time.
        """
        options.setdefault("min_sequence", self._own_writes(options.get("revision", "")))
        return Generation(self._stream(_calls.generate(prompt, **options), self._config.timeout))

    def score(
        self, prompt: str, continuations: Iterable[str], **options: Unpack[ReadOptions]
    ) -> types.PromptScore:
        """Log-probabilities of continuations, and a digest of the prompt's logits."""
        options.setdefault("min_sequence", self._own_writes(options.get("revision", "")))
        return self._run(_calls.score(prompt, continuations, **options))

    def calibrate(
        self, *, seed: int = 0, **options: Unpack[MutationOptions]
    ) -> Operation[types.Profile]:
        """Start to find layer, prefixes, step size, clamp and guard width."""
        return self._start(_model_calls.calibrate(seed, **options))

    def collect_moments(
        self, texts: Iterable[str] = (), **options: Unpack[MutationOptions]
    ) -> Operation[int]:
        """Start to accumulate the second moment over texts; results in tokens seen."""
        return self._start(_model_calls.collect_moments(texts, **options))

    def trace(
        self, prompt: str, subject: str, **options: Unpack[TraceOptions]
    ) -> Operation[CausalTrace]:
        """Start to trace one prompt: which sites of the model bring the answer back.

        The trace explains where the answer is carried; it does not choose the layer to edit
        (Hase 2023), `calibrate` does.

        Raises:
            InvalidInputError: a kind, metric or number is malformed.
        """
        return self._start(_trace_calls.trace(prompt, subject, **options))

    def trace_facts(
        self, facts: Iterable[TracedFact] = (), **options: Unpack[TraceFactsOptions]
    ) -> Operation[AverageTrace]:
        """Start to trace many facts and average their effects over the roles of tokens.

        Takes the server's known facts where none are given.

        Raises:
            InvalidInputError: a kind, metric or number is malformed.
        """
        return self._start(_trace_calls.trace_facts(facts, **options))

    def fit_proxy(
        self, texts: Iterable[LabelledText], **options: Unpack[ProxyOptions]
    ) -> Operation[Proxy]:
        """Start to fit a classifier on what the model says at the end of labelled texts.

        The result says how often it is right on texts held out of the fit; `trace` traces it.
        """
        return self._start(_trace_calls.fit_proxy(texts, **options))

    def locate(
        self, locator: str, prompt: str, subject: str, **options: Unpack[LocateOptions]
    ) -> Operation[Location]:
        """Start to ask another locator about one fact; `locators` lists them.

        Raises:
            NotFoundError: there is no locator of that name, once the operation is awaited.
        """
        return self._start(_trace_calls.locate(locator, prompt, subject, **options))

    def locators(self) -> Iterator[Locator]:
        """The locators the server knows, with what each can and cannot show."""
        return self._pages(_trace_calls.list_locators(0))

    def operation(self, name: str) -> Operation[Any]:
        """Pick an operation up again by its name.

        Raises:
            OperationNotFoundError: there is none of that name.
        """
        return self._start(_calls.get_operation(name))

    def operations(self, *, page_size: int = 0) -> Iterator[Operation[Any]]:
        """Operations, newest first, fetched page by page."""
        statuses = self._pages(_calls.list_operations(page_size))
        return (Operation(status, self._run) for status in statuses)

    def _start(self, call: Call[Any, OperationStatus[T]]) -> Operation[T]:
        return Operation(self._run(call), self._run)

    def _scope(self, call: Call[Any, Any]) -> Scope:
        if call.needs_model and not self._model:
            self._model = only_model(self.models())
        key = call.signing_key(self._config.proposer_key)
        base = self.model().digest if key else ""
        return Scope(model=self._model, actor=self._config.actor, base=base, proposer_key=key)

    def _own_writes(self, branch: str) -> int:
        """The sequence a read of ``branch`` is to see, or of what the server answers from."""
        if not self._reads_own_writes or not self._acknowledged:
            return 0
        if not branch and not self._home:
            standing = self.model().standing
            self._home = standing.branch if standing is not None else "main"
        return self._acknowledged.least(branch or self._home)

    def _run(self, call: Call[Any, T]) -> T:
        request = call.request(self._scope(call))
        method = self._channel.unary_unary(
            call.method,
            request_serializer=serialize,
            response_deserializer=call.reply.FromString,
        )
        with _errors.translated(self.address):
            reply = method(request, timeout=self._config.timeout)
        result = call.parse(reply)
        self._acknowledged.note(call, result)
        return result

    def _stream(self, call: Call[Any, T], timeout: float | None = None) -> Generator[T]:
        request = call.request(self._scope(call))
        method = self._channel.unary_stream(
            call.method,
            request_serializer=serialize,
            response_deserializer=call.reply.FromString,
        )
        with _errors.translated(self.address):
            replies = method(request, timeout=timeout)
        try:
            for reply in replies:
                yield call.parse(reply)
        except grpc.RpcError as error:
            raise _errors.from_rpc_error(error, self.address) from None
        finally:
            replies.cancel()

    def _pages(self, pages: Pages[T]) -> Iterator[T]:
        page = self._run(pages(""))
        yield from page.items
        while page.next_token:
            page = self._run(pages(page.next_token))
            yield from page.items
