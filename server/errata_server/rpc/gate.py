"""Which calls a server answers as it stands: a replica no changes, one in quarantine little.

Invariants: a method that is not known to be a read counts as a change, so that a new one cannot
slip through a replica; nothing here asks the ledger, as interceptors run for every call.
"""

import re
from typing import Final

from errata_server.service.leases import LeaseKeeper
from errata_server.service.standing import Standing

_READS: Final = re.compile(r"(Get|List|Watch|Diff|Audit|Wait|Generate|Score)(?![a-z])\w*")
_FORENSIC: Final = frozenset({"AuditLedger", "GetModel", "ListModels"})
"""What a replica in quarantine still answers: what is needed to find out why."""


def is_read(method: str) -> bool:
    """Whether a method of ours changes nothing, by how it is called."""
    return _READS.fullmatch(method) is not None


class Gate:
    """Refuses what this server does not do at present."""

    def __init__(self, standing: Standing, lease: LeaseKeeper) -> None:
        self._standing = standing
        self._lease = lease

    def require(self, method: str) -> None:
        """Do nothing if ``method`` may be answered.

        Raises:
            ReadOnlyReplicaError: it is a change, and this server only follows.
            QuarantinedError: it is a read of what this server cannot vouch for.
        """
        if self._standing.replica and not is_read(method):
            raise self._lease.refusal()
        if method not in _FORENSIC:
            self._standing.require_reading()
