"""Continuations as they are made, one class for each client.

Invariant: every chunk of a continuation comes from the one revision that `served` names;
the class exists only once the server has said which.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator

from errata import _types as types
from errata._errors import InternalError


class _Transcript:
    """What has come of a continuation so far."""

    def __init__(self, first: types.Chunk | None) -> None:
        if first is None:
            raise InternalError("the server ended the continuation before it began; ask again")
        self.served = first.served
        """Which weights answer: known before the first text."""

        self.text = ""
        """All text so far."""

        self.tokens = 0
        """Tokens generated so far."""

        self.finish_reason = ""
        """``stop``, ``length`` or ``cancelled`` once the continuation has ended."""

        self._first = first

    @property
    def revision(self) -> str:
        """The id of the revision that answers."""
        return self.served.revision

    def _take(self, chunk: types.Chunk) -> str:
        self.text += chunk.text
        self.tokens = max(self.tokens, chunk.tokens)
        self.finish_reason = chunk.finish_reason or self.finish_reason
        return chunk.text


class Generation(_Transcript):
    """A continuation: iterate over its text, or ``read`` it whole."""

    def __init__(self, chunks: Generator[types.Chunk]) -> None:
        self._chunks = chunks
        super().__init__(next(chunks, None))
        self._pieces = self._iterate()

    def _iterate(self) -> Generator[str]:
        if piece := self._take(self._first):
            yield piece
        for chunk in self._chunks:
            if piece := self._take(chunk):
                yield piece

    def __iter__(self) -> Iterator[str]:
        return self._pieces

    def read(self) -> str:
        """Wait for the end and give the whole text."""
        for _ in self._pieces:
            pass
        return self.text

    def close(self) -> None:
        """Stop early; the server stops generating."""
        self._chunks.close()


class AsyncGeneration(_Transcript):
    """As `Generation`, for `AsyncClient`."""

    def __init__(self, first: types.Chunk | None, chunks: AsyncGenerator[types.Chunk]) -> None:
        super().__init__(first)
        self._chunks = chunks
        self._pieces = self._iterate()

    async def _iterate(self) -> AsyncGenerator[str]:
        if piece := self._take(self._first):
            yield piece
        async for chunk in self._chunks:
            if piece := self._take(chunk):
                yield piece

    def __aiter__(self) -> AsyncIterator[str]:
        return self._pieces

    async def read(self) -> str:
        """As `Generation.read`."""
        async for _ in self._pieces:
            pass
        return self.text

    async def close(self) -> None:
        """As `Generation.close`."""
        await self._chunks.aclose()
