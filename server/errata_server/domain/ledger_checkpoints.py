"""Ledger checkpoints: the size and root of a model's log, in words that can be signed.

The text is that of a C2SP tlog-checkpoint, and with its signatures that of a C2SP signed-note.
"""

import base64
from dataclasses import dataclass
from typing import Final

from errata_server.domain.ids import Digest, ModelId

ORIGIN: Final = "errata"


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerCheckpoint:
    """What a log was when it had so many entries."""

    model: ModelId
    base: Digest
    """The digest of the checkpoint the model was loaded from."""

    size: int
    root: bytes

    @property
    def text(self) -> str:
        """What is signed: which log, how long, and its root."""
        root = base64.b64encode(self.root).decode()
        return f"{ORIGIN}/{self.model}/{self.base}\n{self.size}\n{root}\n"
