"""Who asks for a change, and how a request is told from another.

Invariant: two requests have the same digest exactly if they ask for the same thing in the
same name, so that a repeated request id can be told from a reused one.
"""

import secrets
from dataclasses import dataclass, field
from typing import Any

from errata_server.domain import canonical
from errata_server.domain.errors import InvalidInputError
from errata_server.domain.ids import Digest, RequestId


def new_request_id() -> RequestId:
    """A fresh request id, for a caller who gave none."""
    return RequestId(f"r-{secrets.token_hex(8)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """The circumstances of a mutation."""

    actor: str
    request_id: RequestId = field(default=RequestId(""))
    """Makes the call idempotent; a fresh one where empty."""

    reason: str = ""
    ticket: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "request_id", self.request_id or new_request_id())

    def digest(self, method: str, **content: Any) -> Digest:  # noqa: ANN401  # any JSON value
        """The digest of a call of ``method`` with ``content``."""
        circumstances = {"actor": self.actor, "reason": self.reason, "ticket": self.ticket}
        value = {"method": method, "call": circumstances, "content": content}
        return canonical.digest(canonical.encode(value))


DEFAULT_PAGE = 50
MAX_PAGE = 1_000


def page_limit(page_size: int) -> int:
    """How many items to give for a requested page size; 0 stands for the default.

    Raises:
        InvalidInputError: it is negative.
    """
    if page_size < 0:
        raise InvalidInputError(
            f"page_size must be at least 0, not {page_size}", field="page_size", value=page_size
        )
    return min(page_size or DEFAULT_PAGE, MAX_PAGE)
