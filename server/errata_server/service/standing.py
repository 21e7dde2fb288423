"""How a server stands to its ledger: what it follows, since when it has heard nothing of it.

Invariants: a server that has lost its ledger goes on answering from what it has, and says how
old that is; one that has composed other weights than the ledger vouches for answers nothing
until a later check agrees. Whoever asks here waits for no database.
"""

import threading
import time
from collections.abc import Callable

from errata_server import telemetry
from errata_server.domain.errors import QuarantinedError
from errata_server.domain.ids import MAIN, BranchName
from errata_server.service.views import StandingView


class Standing:
    """What the threads that talk to the ledger tell those that answer."""

    def __init__(self, branch: BranchName = MAIN, *, replica: bool = False) -> None:
        """Nothing has been read yet; a ``replica`` changes nothing in the ledger."""
        self.branch = branch
        self.replica = replica
        self._lock = threading.Lock()
        self._read_at: float | None = None
        self._reachable = False
        self._head = 0
        self._quarantine = ""
        self._on_change: list[Callable[[], None]] = []
        telemetry.watch_staleness(self.staleness)

    @property
    def reading(self) -> bool:
        """Whether this server answers from weights that the ledger vouches for."""
        return not self._quarantine

    @property
    def writing(self) -> bool:
        """Whether this server can change the ledger at present."""
        return not self.replica and self._reachable

    def staleness(self) -> float:
        """Seconds since the ledger was last read; infinite if it never was."""
        read_at = self._read_at
        return float("inf") if read_at is None else max(0.0, time.monotonic() - read_at)

    def view(self, served: int) -> StandingView:
        """All of it, for a server that answers from sequence ``served``."""
        with self._lock:
            return StandingView(
                branch=self.branch,
                replica=self.replica,
                reachable=self._reachable,
                staleness_seconds=self.staleness(),
                lag=max(0, self._head - served),
                quarantine=self._quarantine,
            )

    def on_change(self, tell: Callable[[], None]) -> None:
        """Call ``tell``, on whatever thread it is, when `reading` or `writing` may be another."""
        self._on_change.append(tell)

    def read(self, head: int) -> None:
        """The ledger answered: the branch's head has sequence ``head``."""
        with self._lock:
            changed, self._reachable = not self._reachable, True
            self._read_at = time.monotonic()
            self._head = max(self._head, head)
        telemetry.ledger_reachable(reachable=True)
        if changed:
            self._tell()

    def unread(self) -> None:
        """The ledger did not answer."""
        with self._lock:
            changed, self._reachable = self._reachable, False
        telemetry.ledger_reachable(reachable=False)
        if changed:
            self._tell()

    def quarantine(self, why: str) -> None:
        """Answer nothing from now on, because of ``why``."""
        with self._lock:
            changed, self._quarantine = self._quarantine != why, why
        telemetry.set_quarantined(quarantined=True)
        if changed:
            self._tell()

    def restore(self) -> None:
        """Answer again."""
        with self._lock:
            changed, self._quarantine = bool(self._quarantine), ""
        telemetry.set_quarantined(quarantined=False)
        if changed:
            self._tell()

    def require_reading(self) -> None:
        """Do nothing unless this server has taken itself out.

        Raises:
            QuarantinedError: it has; says why.
        """
        why = self._quarantine
        if why:
            raise QuarantinedError(
                f"this replica has taken itself out: {why}. It answers `errata audit` and "
                "`errata status` alone; ask another server, and see the runbook's digest mismatch",
                branch=self.branch,
                why=why,
            )

    def _tell(self) -> None:
        for tell in self._on_change:
            tell()
