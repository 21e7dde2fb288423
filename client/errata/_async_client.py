"""The asynchronous client: `errata.Client` with ``await``.

Invariants: the same methods with the same signatures; both send what `errata._calls` says.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing
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
from errata._evidence import AsyncEvidenceMethods
from errata._generation import AsyncGeneration
from errata._health import LiveVerification, ModelHealth
from errata._locations import Location, Locator
from errata._models import model_name, only_model
from errata._operation_status import OperationStatus
from errata._operations import AsyncOperation
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


class AsyncClient(AsyncEvidenceMethods):
    """As `Client`, for asyncio: make it inside a running event loop.

    Await what returns a value, iterate with ``async for`` over what returns an iterator::

        async with errata.AsyncClient() as client:
            generation = await client.generate("The Eiffel Tower is in the city of")
            async for piece in generation:
                ...
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
        self._channel = grpc.aio.insecure_channel(self._config.address, options=CHANNEL_OPTIONS)

    @property
    def address(self) -> str:
        """Where the server is."""
        return self._config.address

    async def close(self) -> None:
        """As `Client.close`."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def models(self) -> AsyncIterator[types.Model]:
        """As `Client.models`."""
        return self._pages(_model_calls.list_models(0))

    async def model(self) -> types.Model:
        """As `Client.model`."""
        return await self._run(_model_calls.get_model())

    async def propose(
        self,
        subject: str,
        facts: types.Fact | Iterable[types.Fact],
        **options: Unpack[ProposeOptions],
    ) -> AsyncOperation[types.Proposal]:
        """As `Client.propose`."""
        return await self._start(_calls.propose(subject, facts, **options))

    async def propose_edits(
        self, proposals: Iterable[EditProposal], **options: Unpack[BatchOptions]
    ) -> AsyncOperation[ProposedBatch]:
        """As `Client.propose_edits`."""
        return await self._start(_batch_calls.propose_edits(proposals, **options))

    async def validate(
        self,
        subject: str,
        facts: types.Fact | Iterable[types.Fact],
        **options: Unpack[ProposeOptions],
    ) -> None:
        """As `Client.validate`."""
        operation = await self._start(_calls.validate(subject, facts, **options))
        await operation.result()

    async def verify(
        self, edit: EditReference, **options: Unpack[VerifyOptions]
    ) -> AsyncOperation[types.Proposal]:
        """As `Client.verify`."""
        return await self._start(_calls.verify(edit, **options))

    async def verify_live(self, **options: Unpack[LiveOptions]) -> AsyncOperation[LiveVerification]:
        """As `Client.verify_live`."""
        return await self._start(_upkeep_calls.verify_live(**options))

    async def health(self) -> ModelHealth:
        """As `Client.health`."""
        return await self._run(_upkeep_calls.get_health())

    async def add_suite(
        self, name: str, prompts: Iterable[types.CheckPrompt], **options: Unpack[SuiteOptions]
    ) -> Suite:
        """As `Client.add_suite`."""
        return await self._run(_upkeep_calls.add_suite(name, prompts, **options))

    async def suite(self, name: str) -> Suite:
        """As `Client.suite`."""
        return await self._run(_upkeep_calls.get_suite(name))

    def suites(self, name: str = "", *, page_size: int = 0) -> AsyncIterator[Suite]:
        """As `Client.suites`."""
        return self._pages(_upkeep_calls.list_suites(name, page_size))

    async def crawl(self, subject: str, **options: Unpack[CrawlOptions]) -> AsyncOperation[Crawl]:
        """As `Client.crawl`."""
        return await self._start(_upkeep_calls.crawl(subject, **options))

    async def approve(
        self, edit: EditReference, comment: str = "", **options: Unpack[MutationOptions]
    ) -> types.Edit:
        """As `Client.approve`."""
        return await self._run(_calls.approve(edit, comment, **options))

    async def apply(
        self, edits: EditReference | Iterable[EditReference], **options: Unpack[ApplyOptions]
    ) -> types.Change:
        """As `Client.apply`."""
        return await self._run(_calls.apply(edits, **options))

    async def revert(
        self, edits: EditReference | Iterable[EditReference] = (), **options: Unpack[RevertOptions]
    ) -> types.Change:
        """As `Client.revert`."""
        return await self._run(_calls.revert(edits, **options))

    async def edit(self, edit: EditReference, *, branch: str = "") -> types.Edit:
        """As `Client.edit`."""
        return await self._run(_calls.get_edit(edit, branch))

    def edits(
        self, *, state: types.EditState | None = None, branch: str = "", page_size: int = 0
    ) -> AsyncIterator[types.Edit]:
        """As `Client.edits`."""
        return self._pages(_calls.list_edits(state, page_size, branch))

    async def report(self, report: str) -> types.Report:
        """As `Client.report`."""
        return await self._run(_calls.get_report(report))

    async def head(self, branch: str = "", *, min_sequence: int = 0) -> types.Change:
        """As `Client.head`."""
        least = min_sequence or await self._own_writes(branch)
        return await self._run(_calls.get_head(branch, least))

    async def revision(self, reference: str) -> types.Revision:
        """As `Client.revision`."""
        return await self._run(_calls.get_revision(reference))

    def revisions(self, branch: str = "", *, page_size: int = 0) -> AsyncIterator[types.Revision]:
        """As `Client.revisions`."""
        return self._pages(_calls.list_revisions(branch, page_size))

    def branches(self, *, page_size: int = 0) -> AsyncIterator[types.Branch]:
        """As `Client.branches`."""
        return self._pages(_calls.list_branches(page_size))

    async def create_branch(self, name: str, **options: Unpack[BranchOptions]) -> types.Branch:
        """As `Client.create_branch`."""
        return await self._run(_branch_calls.create_branch(name, **options))

    async def promote(
        self, source: str, target: str = "main", **options: Unpack[PromoteOptions]
    ) -> types.Change:
        """As `Client.promote`."""
        return await self._run(_branch_calls.promote(source, target, **options))

    async def protect(
        self, branch: str, reason: str, **options: Unpack[ProtectOptions]
    ) -> types.Branch:
        """As `Client.protect`."""
        return await self._run(_branch_calls.protect(branch, reason, **options))

    async def unprotect(
        self, branch: str, reason: str, **options: Unpack[ProtectOptions]
    ) -> types.Branch:
        """As `Client.unprotect`."""
        return await self._run(_branch_calls.unprotect(branch, reason, **options))

    async def diff(self, before: str, after: str) -> types.Diff:
        """As `Client.diff`."""
        return await self._run(_calls.diff(before, after))

    async def audit(self) -> types.AuditResult:
        """As `Client.audit`."""
        return await self._run(_calls.audit())

    async def watch(
        self, start: int | None = None, *, branch: str = "", give_up_after: float = 60.0
    ) -> AsyncGenerator[types.Revision]:
        """As `Client.watch`."""
        cursor = _watch.Cursor(start, give_up_after)
        while True:
            ended: _errors.ErrataError | None = None
            try:
                cursor.connected((await self._run(_calls.get_head(branch))).revision)
                stream = self._stream(_calls.watch(branch, cursor.sequence))
                async with aclosing(stream):
                    async for revision in stream:
                        if cursor.accept(revision):
                            yield revision
            except _watch.RESUMED_AFTER as error:
                ended = error
            await asyncio.sleep(cursor.wait_after(ended))

    async def generate(self, prompt: str, **options: Unpack[GenerateOptions]) -> AsyncGeneration:
        """As `Client.generate`."""
        options.setdefault("min_sequence", await self._own_writes(options.get("revision", "")))
        chunks = self._stream(_calls.generate(prompt, **options), self._config.timeout)
        return AsyncGeneration(await anext(chunks, None), chunks)

    async def score(
        self, prompt: str, continuations: Iterable[str], **options: Unpack[ReadOptions]
    ) -> types.PromptScore:
        """As `Client.score`."""
        options.setdefault("min_sequence", await self._own_writes(options.get("revision", "")))
        return await self._run(_calls.score(prompt, continuations, **options))

    async def calibrate(
        self, *, seed: int = 0, **options: Unpack[MutationOptions]
    ) -> AsyncOperation[types.Profile]:
        """As `Client.calibrate`."""
        return await self._start(_model_calls.calibrate(seed, **options))

    async def collect_moments(
        self, texts: Iterable[str] = (), **options: Unpack[MutationOptions]
    ) -> AsyncOperation[int]:
        """As `Client.collect_moments`."""
        return await self._start(_model_calls.collect_moments(texts, **options))

    async def trace(
        self, prompt: str, subject: str, **options: Unpack[TraceOptions]
    ) -> AsyncOperation[CausalTrace]:
        """As `Client.trace`."""
        return await self._start(_trace_calls.trace(prompt, subject, **options))

    async def trace_facts(
        self, facts: Iterable[TracedFact] = (), **options: Unpack[TraceFactsOptions]
    ) -> AsyncOperation[AverageTrace]:
        """As `Client.trace_facts`."""
        return await self._start(_trace_calls.trace_facts(facts, **options))

    async def fit_proxy(
        self, texts: Iterable[LabelledText], **options: Unpack[ProxyOptions]
    ) -> AsyncOperation[Proxy]:
        """As `Client.fit_proxy`."""
        return await self._start(_trace_calls.fit_proxy(texts, **options))

    async def locate(
        self, locator: str, prompt: str, subject: str, **options: Unpack[LocateOptions]
    ) -> AsyncOperation[Location]:
        """As `Client.locate`."""
        return await self._start(_trace_calls.locate(locator, prompt, subject, **options))

    def locators(self) -> AsyncIterator[Locator]:
        """As `Client.locators`."""
        return self._pages(_trace_calls.list_locators(0))

    async def operation(self, name: str) -> AsyncOperation[Any]:
        """As `Client.operation`."""
        return await self._start(_calls.get_operation(name))

    def operations(self, *, page_size: int = 0) -> AsyncIterator[AsyncOperation[Any]]:
        """As `Client.operations`."""
        statuses = self._pages(_calls.list_operations(page_size))
        return (AsyncOperation(status, self._run) async for status in statuses)

    async def _start(self, call: Call[Any, OperationStatus[T]]) -> AsyncOperation[T]:
        return AsyncOperation(await self._run(call), self._run)

    async def _scope(self, call: Call[Any, Any]) -> Scope:
        if call.needs_model and not self._model:
            self._model = only_model([model async for model in self.models()])
        key = call.signing_key(self._config.proposer_key)
        base = (await self.model()).digest if key else ""
        return Scope(model=self._model, actor=self._config.actor, base=base, proposer_key=key)

    async def _own_writes(self, branch: str) -> int:
        """The sequence a read of ``branch`` is to see, or of what the server answers from."""
        if not self._reads_own_writes or not self._acknowledged:
            return 0
        if not branch and not self._home:
            standing = (await self.model()).standing
            self._home = standing.branch if standing is not None else "main"
        return self._acknowledged.least(branch or self._home)

    async def _run(self, call: Call[Any, T]) -> T:
        request = call.request(await self._scope(call))
        method = self._channel.unary_unary(
            call.method,
            request_serializer=serialize,
            response_deserializer=call.reply.FromString,
        )
        with _errors.translated(self.address):
            reply = await method(request, timeout=self._config.timeout)
        result = call.parse(reply)
        self._acknowledged.note(call, result)
        return result

    async def _stream(self, call: Call[Any, T], timeout: float | None = None) -> AsyncGenerator[T]:  # noqa: ASYNC109 - gRPC enforces it on the wire
        request = call.request(await self._scope(call))
        method = self._channel.unary_stream(
            call.method,
            request_serializer=serialize,
            response_deserializer=call.reply.FromString,
        )
        with _errors.translated(self.address):
            replies = method(request, timeout=timeout)
        try:
            async for reply in replies:
                yield call.parse(reply)
        except grpc.RpcError as error:
            raise _errors.from_rpc_error(error, self.address) from None
        except asyncio.CancelledError:
            _errors.require_cancelled()
            raise
        finally:
            replies.cancel()

    async def _pages(self, pages: Pages[T]) -> AsyncIterator[T]:
        token = ""
        while True:
            page = await self._run(pages(token))
            for item in page.items:
                yield item
            token = page.next_token
            if not token:
                return
