"""What both clients do about the log: each method names its calls; the checks are elsewhere.

Invariants: a checkpoint or a proof reaches a caller only once it has been checked here; both
clients offer the same methods.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from errata import _checkpoints, _evidence_calls
from errata._call_types import Call, Pages, Scope
from errata._checkpoints import (
    CheckpointComparison,
    InclusionProof,
    LedgerCheckpoint,
    LogEntry,
)
from errata._config import Config
from errata._errors import ProofError
from errata._evidence_calls import Provable
from errata._keys import PublicKey, public_keys, read_public_keys

T = TypeVar("T")

Keys = Iterable[PublicKey | str] | None
"""Public keys, spelled out or parsed; those of ``ERRATA_CHECKPOINT_KEYS`` where None."""


def _trusted(keys: Keys, config: Config) -> tuple[PublicKey, ...]:
    if keys is not None:
        return public_keys(keys)
    return read_public_keys(config.checkpoint_keys) if config.checkpoint_keys else ()


def _vouched(checkpoint: LedgerCheckpoint, keys: Sequence[PublicKey]) -> LedgerCheckpoint:
    objection = checkpoint.objection(keys) if keys else ""
    if objection:
        raise ProofError(f"the server's checkpoint {objection}", {"key": checkpoint.key})
    return checkpoint


class EvidenceMethods(ABC):
    """The methods of `Client` about the log."""

    _config: Config

    def checkpoint(self, *, size: int = 0, keys: Keys = None) -> LedgerCheckpoint:
        """The size and root of the log, as it is now or was with ``size`` entries; keep it.

        Raises:
            ProofError: there are ``keys``, and none of them has signed it.
        """
        trusted = _trusted(keys, self._config)
        return _vouched(self._run(_evidence_calls.get_checkpoint(size)), trusted)

    def prove(
        self, what: Provable, *, against: LedgerCheckpoint | None = None, keys: Keys = None
    ) -> InclusionProof:
        """What proves an edit, a report or a revision to be in the log; checked here.

        Args:
            what: The thing or its name; a bare id is an edit's or a revision's.
            against: A checkpoint that was kept; else the server's present one.
            keys: Of whom one must have signed that checkpoint, where there are any.

        Raises:
            ProofError: it is not proven.
            NotFoundError: there is none of that name.
        """
        trusted = _trusted(keys, self._config)
        call = _evidence_calls.get_inclusion_proof(what, against.size if against else 0)
        proof = self._run(call)
        name = _evidence_calls.full_name(what, self._scope(call))
        proof.verify(name, against=against, keys=trusted)
        return proof

    def compare(self, kept: LedgerCheckpoint, *, keys: Keys = None) -> CheckpointComparison:
        """Whether the log as it is now goes on from a checkpoint that was kept.

        Args:
            kept: What `checkpoint` returned earlier.
            keys: Of whom one must have signed both checkpoints, where there are any.
        """
        trusted = _trusted(keys, self._config)
        present = self._run(_evidence_calls.get_checkpoint(0))
        proof: tuple[bytes, ...] = ()
        if _checkpoints.needs_proof(kept, present):
            proof = self._run(_evidence_calls.get_consistency_proof(kept.size, present.size))
        return _checkpoints.compare(kept, present, proof, trusted)

    def log_entries(self, *, page_size: int = 0) -> Iterator[LogEntry]:
        """The log, oldest entry first, fetched page by page."""
        return self._pages(_evidence_calls.list_log_entries(page_size))

    @abstractmethod
    def _scope(self, call: Call[Any, Any]) -> Scope: ...

    @abstractmethod
    def _run(self, call: Call[Any, T]) -> T: ...

    @abstractmethod
    def _pages(self, pages: Pages[T]) -> Iterator[T]: ...


class AsyncEvidenceMethods(ABC):
    """The methods of `AsyncClient` about the log."""

    _config: Config

    async def checkpoint(self, *, size: int = 0, keys: Keys = None) -> LedgerCheckpoint:
        """As `Client.checkpoint`."""
        trusted = _trusted(keys, self._config)
        return _vouched(await self._run(_evidence_calls.get_checkpoint(size)), trusted)

    async def prove(
        self, what: Provable, *, against: LedgerCheckpoint | None = None, keys: Keys = None
    ) -> InclusionProof:
        """As `Client.prove`."""
        trusted = _trusted(keys, self._config)
        call = _evidence_calls.get_inclusion_proof(what, against.size if against else 0)
        proof = await self._run(call)
        name = _evidence_calls.full_name(what, await self._scope(call))
        proof.verify(name, against=against, keys=trusted)
        return proof

    async def compare(self, kept: LedgerCheckpoint, *, keys: Keys = None) -> CheckpointComparison:
        """As `Client.compare`."""
        trusted = _trusted(keys, self._config)
        present = await self._run(_evidence_calls.get_checkpoint(0))
        proof: tuple[bytes, ...] = ()
        if _checkpoints.needs_proof(kept, present):
            proof = await self._run(_evidence_calls.get_consistency_proof(kept.size, present.size))
        return _checkpoints.compare(kept, present, proof, trusted)

    def log_entries(self, *, page_size: int = 0) -> AsyncIterator[LogEntry]:
        """As `Client.log_entries`."""
        return self._pages(_evidence_calls.list_log_entries(page_size))

    @abstractmethod
    async def _scope(self, call: Call[Any, Any]) -> Scope: ...

    @abstractmethod
    async def _run(self, call: Call[Any, T]) -> T: ...

    @abstractmethod
    def _pages(self, pages: Pages[T]) -> AsyncIterator[T]: ...
