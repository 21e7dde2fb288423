"""Patches by digest, kept in memory as long as they fit.

Invariant: an artifact is immutable and was hashed when the ledger gave it, so a cached one
is never out of date.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from errata_server.domain.ids import Digest
from errata_server.domain.patches import PatchManifest
from errata_server.domain.payloads import read_manifest
from errata_server.ledger.ledger import Ledger

MAX_BYTES: Final = 256 * 1024 * 1024
MAX_MANIFESTS: Final = 20_000
"""Manifests kept, a kilobyte or two each: of all live edits, with every proposal."""

AT_ONCE: Final = 200
"""Payloads fetched with one statement."""


class Artifacts:
    """The ledger's artifacts behind a least-recently-used cache."""

    def __init__(self, ledger: Ledger, *, max_bytes: int = MAX_BYTES) -> None:
        """Read from ``ledger``, keeping at most ``max_bytes`` of payloads."""
        self._ledger = ledger
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._payloads: OrderedDict[Digest, bytes] = OrderedDict()
        self._held = 0
        self._manifest = lru_cache(MAX_MANIFESTS)(self._read_manifest)

    def load(self, digest: Digest) -> bytes:
        """The payload of a patch.

        Raises:
            LedgerCorruptError: the stored bytes hash to something else.
            LedgerUnavailableError: the database does not answer.
        """
        with self._lock:
            if digest in self._payloads:
                self._payloads.move_to_end(digest)
                return self._payloads[digest]
        payload = self._ledger.artifact(digest)
        self._keep(digest, payload)
        return payload

    def preload(self, digests: Iterable[Digest]) -> None:
        """Fetch those of ``digests`` that are not held, many in one statement.

        What the ledger lacks is left for `load` to complain about.

        Raises:
            LedgerCorruptError: stored bytes hash to something else.
            LedgerUnavailableError: the database does not answer.
        """
        with self._lock:
            wanted = [digest for digest in digests if digest not in self._payloads]
        for start in range(0, len(wanted), AT_ONCE):
            found = self._ledger.artifacts(wanted[start : start + AT_ONCE])
            for digest, payload in found.items():
                self._keep(digest, payload)

    def manifest(self, digest: Digest) -> PatchManifest:
        """What the patch is for.

        Raises:
            InvalidPatchError: the artifact is not a patch.
        """
        return self._manifest(digest)

    def _read_manifest(self, digest: Digest) -> PatchManifest:
        return read_manifest(self.load(digest))

    def _keep(self, digest: Digest, payload: bytes) -> None:
        with self._lock:
            if digest not in self._payloads:
                self._payloads[digest] = payload
                self._held += len(payload)
            while self._held > self._max_bytes:
                _, dropped = self._payloads.popitem(last=False)
                self._held -= len(dropped)
