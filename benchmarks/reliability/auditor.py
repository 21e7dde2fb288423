"""What somebody does who trusts nobody who owns the database: `errata audit --against`.

Invariant: nothing is remembered between two looks but what the auditor keeps; the log is read
anew each time, as by a server that has just been started.
"""

from dataclasses import dataclass

from errata import _checkpoints
from errata._checkpoints import LedgerCheckpoint
from errata_server.domain.errors import ErrataError
from errata_server.domain.ids import Digest, ModelId
from errata_server.ledger.ledger import Ledger
from errata_server.service.ledger_log import LedgerLog


@dataclass(frozen=True, slots=True, kw_only=True)
class Auditor:
    """Looks at one model's ledger."""

    ledger: Ledger
    model: ModelId
    base: Digest
    """The digest of the checkpoint the model was loaded from."""

    def audit(self) -> list[str]:
        """What the audit of the ledger finds."""
        try:
            return [finding.problem for finding in self.ledger.audit(self.model).findings]
        except ErrataError as error:
            return [str(error)]

    def keep(self) -> LedgerCheckpoint:
        """The ledger checkpoint to keep elsewhere.

        Raises:
            LedgerCorruptError: the log or a row of it is not what it was.
        """
        return LedgerCheckpoint.parse(self._log().checkpoint().note)

    def compare(self, kept: LedgerCheckpoint) -> list[str]:
        """What a kept checkpoint shows to be wrong with the log as it is now."""
        log = self._log()
        try:
            present = LedgerCheckpoint.parse(log.checkpoint().note)
        except ErrataError as error:
            return [str(error)]
        needs = _checkpoints.needs_proof(kept, present)
        proof = log.consistency(kept.size, present.size).hashes if needs else ()
        found = _checkpoints.compare(kept, present, proof, ())
        return [finding.problem for finding in found.findings]

    def _log(self) -> LedgerLog:
        return LedgerLog(ledger=self.ledger, model=self.model, base=self.base)
