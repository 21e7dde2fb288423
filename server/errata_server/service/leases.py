"""This server's part in who carries out operations on the model.

Invariants: an operation begins only under a lease that this server holds, and what it stores
is checked against that lease's token by the ledger itself; so the clock here decides when to
ask again and never whether a write is allowed.
"""

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import structlog

from errata_server import telemetry
from errata_server.domain.errors import (
    ErrataError,
    LeaseHeldError,
    LeaseLostError,
    ReadOnlyReplicaError,
)
from errata_server.domain.ids import ModelId
from errata_server.domain.leases import Fence, Lease
from errata_server.ledger.leases import Claim, Leases

LEASE_SECONDS: Final = 15.0
HEARTBEATS: Final = 3
"""Renewals in the time of one lease."""

_LOG = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Seen:
    """A lease as the ledger last told of it, and when."""

    lease: Lease
    at: float

    def now(self) -> Lease:
        """The lease with the time it has left by now."""
        passed = time.monotonic() - self.at
        return replace(self.lease, remaining_seconds=self.lease.remaining_seconds - passed)


class LeaseKeeper:
    """Takes the model's lease, renews it, and gives it up at the end."""

    def __init__(
        self,
        leases: Leases,
        model: ModelId,
        *,
        now: Callable[[], datetime],
        seconds: float = LEASE_SECONDS,
        sole: bool = False,
        replica: bool = False,
    ) -> None:
        """Ask for the lease of ``model`` for ``seconds`` at a time.

        Args:
            leases: Of the ledger.
            model: What operations are about.
            now: When operations of earlier holders are said to have ended.
            seconds: How long the others wait after this server has vanished.
            sole: Whether no other server can be writing to this ledger.
            replica: Whether to look only, and never to take it.
        """
        self._leases = leases
        self._now = now
        self._replica = replica
        self._claim = Claim(
            model=model, holder=_new_holder(), address="", seconds=seconds, sole=sole
        )
        self._seen: _Seen | None = None
        self._asking = threading.Lock()

    @property
    def holder(self) -> str:
        """This server's own name as a holder."""
        return self._claim.holder

    def start(self, address: str = "") -> int:
        """Ask for the lease for the first time; how many abandoned operations that ended.

        Args:
            address: Where clients reach this server, for what other servers say of it.

        Raises:
            LedgerUnavailableError: the database does not answer.
            ModelNotFoundError: the ledger does not know the model.
        """
        self._claim = replace(self._claim, address=address)
        return self._ask()

    def keep(self, stop: threading.Event) -> None:
        """Renew the lease, or look who has it, until ``stop``; on a thread of its own."""
        while not stop.wait(self._claim.seconds / HEARTBEATS):
            try:
                self._ask()
            except ErrataError as error:
                _LOG.warning("the lease was not renewed", reason=error.reason)
            except Exception:  # noqa: BLE001 - the thread outlives what nobody foresaw
                _LOG.exception("the lease was not renewed")

    def fence(self) -> Fence:
        """What an operation that begins now is under.

        Raises:
            LeaseHeldError: another server carries out operations; says which.
            ReadOnlyReplicaError: this server carries out none.
            LedgerUnavailableError: the database does not answer.
        """
        if self._replica:
            raise self.refusal()
        lease = self.last()
        if lease is None or lease.ended or lease.holder != self.holder:
            self._ask()
            lease = self.last()
        if lease is None or lease.holder != self.holder:
            raise _held(lease)
        return lease.fence

    def lose(self, fence: Fence) -> None:
        """Forget a lease that the ledger says is another's."""
        seen = self._seen
        if seen is not None and seen.lease.fence == fence:
            self._seen = None

    def require(self, fence: Fence) -> None:
        """Do nothing unless this server has heard that ``fence`` is no longer valid.

        Raises:
            LeaseLostError: it has; what was begun under it cannot be stored.
        """
        seen = self._seen
        if seen is not None and seen.lease.token > fence.token:
            raise LeaseLostError(
                f"another server has taken over the operations of model {fence.model!r}; ask "
                "there, under a new request id",
                model=fence.model,
                token=fence.token,
                held=seen.lease.token,
            )

    def last(self) -> Lease | None:
        """The lease as last heard of, without asking; None where nobody has held one."""
        seen = self._seen
        return None if seen is None else seen.now()

    def refusal(self) -> ReadOnlyReplicaError:
        """The error for whatever a replica does not do; says where to send it."""
        lease = self.last()
        where = "a server that was started without --follow"
        if lease is not None and lease.address:
            last = f"the server at {lease.address}"
            where = f"{last}, if it is still there, or to {where}" if lease.ended else last
        return ReadOnlyReplicaError(
            f"this server follows a branch and changes nothing; send this to {where}",
            writer="" if lease is None else lease.address,
        )

    def release(self) -> None:
        """Let another server take over at once; what cannot be told ends by itself."""
        lease = self.last()
        if self._replica or lease is None or lease.holder != self.holder:
            return
        try:
            self._leases.release(lease.fence)
        except ErrataError as error:
            _LOG.warning("the lease was not given up", reason=error.reason)
        self._seen = None
        telemetry.set_lease_held(held=False)

    def _ask(self) -> int:
        """Take or renew the lease, or learn who has it; how many operations that ended."""
        with self._asking:
            asked_at, before = time.monotonic(), self._seen
            if self._replica:
                lease, interrupted = self._leases.get(self._claim.model), 0
            else:
                answer = self._leases.take(self._claim, at=self._now())
                lease, interrupted = answer.lease, answer.interrupted
            self._seen = None if lease is None else _Seen(lease, asked_at)
        held = lease is not None and lease.holder == self.holder
        telemetry.set_lease_held(held=held)
        if lease is not None and (before is None or before.lease.token != lease.token):
            _LOG.info("lease", held=held, token=lease.token, interrupted_operations=interrupted)
        return interrupted


def _held(lease: Lease | None) -> LeaseHeldError:
    if lease is None:
        return LeaseHeldError("the lease has just been taken by another server; retry")
    seconds = max(0.0, lease.remaining_seconds)
    where = f" at {lease.address}" if lease.address else ""
    return LeaseHeldError(
        f"server {lease.holder}{where} carries out the operations of model {lease.model!r}; send "
        f"this there. Its lease ends in {seconds:.0f} s unless it renews it, and then this "
        "server takes over",
        holder=lease.holder,
        address=lease.address,
        token=lease.token,
        remaining_seconds=f"{seconds:.1f}",
    )


def _new_holder() -> str:
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
