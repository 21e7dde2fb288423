"""Canonical JSON: the one spelling of a value that is hashed and stored.

Invariant: ``decode(encode(x)) == x`` and ``encode(decode(b)) == b`` for every ``b`` that
`encode` wrote. What is hashed is what is stored; nothing is re-derived from columns.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from errata_server.domain.ids import Digest


def encode(value: Mapping[str, Any]) -> bytes:
    """UTF-8 JSON with sorted keys, no white space and no NaN.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode("utf-8")


def decode(body: bytes) -> dict[str, Any]:
    """Inverse of `encode`."""
    value: dict[str, Any] = json.loads(body)
    return value


def digest(body: bytes) -> Digest:
    """SHA-256 of ``body`` in hex."""
    return Digest(hashlib.sha256(body).hexdigest())
