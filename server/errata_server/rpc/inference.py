"""InferenceService: ask the model at any revision."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from time import perf_counter

from errata.v1 import inference_pb2 as pb
from errata.v1 import inference_pb2_grpc
from errata_server import telemetry
from errata_server.domain.generation import GeneratedChunk
from errata_server.rpc import calls, waiting
from errata_server.rpc.convert import inference as convert
from errata_server.rpc.convert import names, values
from errata_server.rpc.services import Context, Services


class InferenceServicer(inference_pb2_grpc.InferenceServiceServicer):
    """Converts, delegates, converts back."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def Generate(
        self, request: pb.GenerateRequest, context: Context
    ) -> AsyncIterator[pb.GenerateResponse]:
        """Stream a continuation; a client that leaves stops it at the next token."""
        generate = partial(
            self._services.inference.generate,
            convert.prompt(request.prompt),
            convert.options(request),
            self._reference(request),
            values.count(request.min_sequence, "min_sequence"),
        )
        pool = self._services.pools.calls
        figures = _Figures()
        await self._await_sequence(request, context)
        try:
            pinned, chunks = await calls.call(pool, generate)
            async with aclosing(calls.iterate(pool, chunks)) as stream:
                async for chunk in stream:
                    figures.saw(chunk)
                    yield convert.chunk_message(pinned, chunk)
        finally:
            figures.publish()

    async def Score(self, request: pb.ScoreRequest, context: Context) -> pb.ScoreResponse:
        """Log-probabilities of continuations."""
        await self._await_sequence(request, context)
        score = partial(
            self._services.inference.score,
            convert.prompt(request.prompt),
            convert.continuations(request.continuations),
            self._reference(request),
            values.count(request.min_sequence, "min_sequence"),
        )
        return convert.score_message(*await calls.call(self._services.pools.calls, score))

    async def _await_sequence(
        self, request: pb.GenerateRequest | pb.ScoreRequest, context: Context
    ) -> None:
        least = values.count(request.min_sequence, "min_sequence")
        if self._services.serving.follows(self._reference(request)):
            await waiting.await_sequence(self._services, context, least)

    def _reference(self, request: pb.GenerateRequest | pb.ScoreRequest) -> str:
        self._services.require(names.model_id(request.model, "model"), "model")
        return self._services.reference(request.revision, "revision") if request.revision else ""


class _Figures:
    """How long one generation took and how many tokens it gave."""

    def __init__(self) -> None:
        self._started = perf_counter()
        self._first: float | None = None
        self._tokens = 0

    def saw(self, chunk: GeneratedChunk) -> None:
        """Take note of a chunk."""
        if self._first is None:
            self._first = perf_counter() - self._started
        self._tokens = chunk.tokens

    def publish(self) -> None:
        """Add them to the metrics, if there was a token at all."""
        if self._first is not None:
            telemetry.tokens_generated(self._tokens)
            telemetry.generation_finished(perf_counter() - self._started, self._first)
