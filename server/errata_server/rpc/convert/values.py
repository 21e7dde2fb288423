"""Times, numbers, short texts and page sizes: the values every kind of message has.

Invariant: no NaN, infinity or negative count passes; every complaint names the field.
"""

import math
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from errata_server.domain.errors import InvalidInputError

DEFAULT_PAGE: Final = 50
LARGEST_PAGE: Final = 1_000
_LONGEST_TEXT: Final = 2_000


def timestamp(moment: datetime | None) -> Timestamp | None:
    """``moment`` as a message; None stays unset."""
    if moment is None:
        return None
    message = Timestamp()
    message.FromDatetime(moment.astimezone(UTC))
    return message


def count(value: int, field: str, *, at_most: int | None = None) -> int:
    """``value`` if it is at least 0, and at most ``at_most`` where given.

    Raises:
        InvalidInputError: it is not.
    """
    if value < 0 or (at_most is not None and value > at_most):
        bounds = "at least 0" if at_most is None else f"between 0 and {at_most}"
        raise InvalidInputError(
            f"{field} is {value}; it must be {bounds}", field=field, value=value
        )
    return value


def number(value: float, field: str, *, at_most: float) -> float:
    """``value`` if it is a number between 0 and ``at_most``.

    Raises:
        InvalidInputError: it is NaN, infinite or out of bounds.
    """
    if not math.isfinite(value) or not 0 <= value <= at_most:
        raise InvalidInputError(
            f"{field} is {value}; it must be a number between 0 and {at_most:g}",
            field=field,
            value=value,
        )
    return value


def short_text(value: str, field: str, *, at_most: int = _LONGEST_TEXT) -> str:
    """``value`` without surrounding white space, if it is text a person can read.

    Raises:
        InvalidInputError: it is too long or holds a control character.
    """
    text = value.strip()
    if len(text) > at_most:
        raise InvalidInputError(
            f"{field} has {len(text)} characters; at most {at_most} are allowed",
            field=field,
            limit=at_most,
        )
    for character in text:
        if unicodedata.category(character) == "Cc" and character not in "\n\t":
            raise InvalidInputError(
                f"{field} holds the control character U+{ord(character):04X}; remove it",
                field=field,
                character=f"U+{ord(character):04X}",
            )
    return text


def page_size(value: int) -> int:
    """How many items a page may have: the default where 0, never more than the largest.

    Raises:
        InvalidInputError: it is negative.
    """
    return min(count(value, "page_size"), LARGEST_PAGE) or DEFAULT_PAGE


@contextmanager
def within(path: str, **renamed: str) -> Iterator[None]:
    """Name the field of a complaint raised inside from the request down: ``facts[0].target``.

    Args:
        path: Where in the request the inner fields are.
        renamed: Inner fields that have another name on the wire.
    """
    try:
        yield
    except InvalidInputError as error:
        field = error.metadata.get("field")
        field = renamed.get(field, field) if field else field
        error.metadata["field"] = f"{path}.{field}" if field else path
        raise
