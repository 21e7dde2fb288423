"""Who asks, under which request id, and why."""

import re
from typing import Final

from errata_server.domain.errors import InvalidInputError
from errata_server.domain.ids import RequestId
from errata_server.rpc.convert import values
from errata_server.service.calls import Call

ANONYMOUS: Final = "anonymous"
"""The actor of a caller who gave no name."""

_LONGEST_ACTOR: Final = 200
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{0,128}")


def call(*, actor: str, request_id: str, reason: str = "", ticket: str = "") -> Call:
    """The circumstances of a mutation.

    Raises:
        InvalidInputError: a text is too long or holds what it must not.
    """
    if not _REQUEST_ID.fullmatch(request_id):
        raise InvalidInputError(
            "request_id must have at most 128 letters, digits, dots, colons, dashes or "
            "underscores; a UUID is best",
            field="request_id",
        )
    return Call(
        actor=values.short_text(actor, "actor", at_most=_LONGEST_ACTOR) or ANONYMOUS,
        request_id=RequestId(request_id),
        reason=values.short_text(reason, "reason"),
        ticket=values.short_text(ticket, "ticket"),
    )
