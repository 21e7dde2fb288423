"""Page tokens: opaque to the client, and good for the very list they came from.

Invariant: a token names the list and its filters, so that it cannot continue another one.
"""

import base64
import json
from typing import Final

from errata_server.domain.errors import InvalidInputError

_LONGEST: Final = 1_024


def token(place: str, *query: str) -> str:
    """A token for the page after ``place`` in the list of ``query``; empty at its end."""
    if not place:
        return ""
    text = json.dumps([*query, place], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def place(given: str, *query: str) -> str:
    """Where the page of a token begins; empty for the first page.

    Raises:
        InvalidInputError: the token was not made here, or for another list.
    """
    if not given:
        return ""
    parts = _decoded(given)
    if len(parts) != len(query) + 1 or tuple(parts[:-1]) != query:
        raise InvalidInputError(
            "page_token belongs to another list; begin without one", field="page_token"
        )
    return parts[-1]


def _decoded(given: str) -> list[str]:
    padded = given[:_LONGEST] + "=" * (-len(given) % 4)
    try:
        parts = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, RecursionError):  # not Base64, not UTF-8 or not JSON
        parts = None
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise InvalidInputError(
            "page_token is not one this server gave out; begin without one", field="page_token"
        )
    return parts
