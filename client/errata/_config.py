"""The server, how it is talked to, which keys count: arguments, then environment, then defaults.

Invariant: the environment is read here and nowhere else in the client.
"""

import getpass
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from errata._arguments import require_kind
from errata._errors import InvalidInputError

DEFAULT_ADDRESS: Final = "127.0.0.1:50051"
DEFAULT_TIMEOUT: Final = 60.0
"""Seconds one call may take; operations and watches go on for longer."""

LONGEST_TIMEOUT: Final = 7 * 24 * 3600.0
"""A week. gRPC takes far more for a time that is over, so that calls would fail at once."""

_HOST_AND_PORT: Final = re.compile(r"[^\s/\ud800-\udfff]+:\d{1,5}")

_MAX_MESSAGE: Final = 64 * 1024 * 1024
"""A report keeps every prompt with its answers, so it outgrows gRPC's 4 MiB."""

STREAMING: Final = (
    {"service": "errata.v1.InferenceService", "method": "Generate"},
    {"service": "errata.v1.LedgerService", "method": "WatchRevisions"},
)
"""Never retried by gRPC: where it may retry a stream and the server is killed, the caller waits
for ever, past its deadline too (grpcio 1.85)."""

_SERVICE_CONFIG: Final = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.2s",
                    "maxBackoff": "2s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            },
            {"name": STREAMING},
        ]
    }
)
"""Retries are safe because every mutation carries a request id, sent again as it was."""

CHANNEL_OPTIONS: Final[list[tuple[str, Any]]] = [
    ("grpc.service_config", _SERVICE_CONFIG),
    ("grpc.max_receive_message_length", _MAX_MESSAGE),
    ("grpc.max_send_message_length", _MAX_MESSAGE),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    # Less than the pauses between attempts of a call come to: clients of one process share a
    # connection, and one that waits to be tried again must not fail the calls of a new client.
    ("grpc.max_reconnect_backoff_ms", 500),
]


def _path(variable: str) -> Path | None:
    """The file a variable names, if it names one."""
    named = os.environ.get(variable)
    return Path(named) if named else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """How a client reaches its server, and in whose name it speaks."""

    address: str
    timeout: float
    actor: str
    proposer_key: Path | None = field(default_factory=lambda: _path("ERRATA_PROPOSER_KEY"))
    """The private key that signs proposals; they are not signed where there is none."""

    checkpoint_keys: Path | None = field(default_factory=lambda: _path("ERRATA_CHECKPOINT_KEYS"))
    """The public keys of which one must have signed a ledger checkpoint."""

    @classmethod
    def resolve(cls, *, address: str | None, timeout: float | None, actor: str | None) -> Self:
        """What is given, else ``ERRATA_ADDRESS`` and ``ERRATA_ACTOR``, else the defaults.

        Raises:
            InvalidInputError: the timeout is not above 0 and up to a week, or the address is no
                ``host:port``.
        """
        require_kind("address", address, str)
        require_kind("timeout", timeout, float)
        require_kind("actor", actor, str)
        chosen = address or os.environ.get("ERRATA_ADDRESS") or DEFAULT_ADDRESS
        if not chosen.startswith("unix:") and not _HOST_AND_PORT.fullmatch(chosen):
            raise InvalidInputError(
                f"the address {chosen!r} must look like host:port", {"field": "address"}
            )
        seconds = DEFAULT_TIMEOUT if timeout is None else timeout
        if not 0 < seconds <= LONGEST_TIMEOUT:
            raise InvalidInputError(
                f"the timeout must be above 0 seconds and at most {LONGEST_TIMEOUT:.0f}, a week; "
                f"{seconds} is not",
                {"field": "timeout"},
            )
        return cls(address=chosen, timeout=float(seconds), actor=actor or default_actor())


def checkpoint_file() -> Path | None:
    """``ERRATA_CHECKPOINT_FILE``: where the command line keeps a ledger checkpoint."""
    return _path("ERRATA_CHECKPOINT_FILE")


def default_actor() -> str:
    """``ERRATA_ACTOR``, else the login name, else ``unknown``."""
    named = os.environ.get("ERRATA_ACTOR")
    if named:
        return named
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user id need not have a name
        return "unknown"
