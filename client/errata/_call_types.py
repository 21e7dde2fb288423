"""What a call is: how its request is built, whom it is for, and how its reply is read; pure.

Invariants: what a request cannot hold is told as `InvalidInputError`, before anything is sent.
"""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from errata import _types as types
from errata._errors import InvalidInputError
from errata._keys import SigningKey
from errata._options import MutationOptions

Reply = TypeVar("Reply", bound=Message)
Result = TypeVar("Result")

EditReference = str | types.Edit
"""An edit, or its name: ``e-12`` or ``models/m/edits/e-12``."""

_SINGULAR = {"branches": "branch", "proxies": "proxy"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What a client adds to the arguments of a call: its model and its actor."""

    model: str
    """``models/*``; empty for calls that need none."""

    actor: str
    base: str = ""
    """The digest of the checkpoint the model was loaded from, where the call is signed."""

    proposer_key: SigningKey | None = None
    """What the call is signed with, if it is."""

    def name(self, collection: str, reference: object) -> str:
        """The full name of a resource given by its id or already by its full name.

        Raises:
            InvalidInputError: it is no text, empty, or the full name of something else.
        """
        if isinstance(reference, str) and reference:
            if "/" not in reference:
                return f"{self.model}/{collection}/{reference}"
            if reference.startswith("models/") and f"/{collection}/" in reference:
                return reference
        raise InvalidInputError(
            f"{reference!r} names no {_SINGULAR.get(collection, collection[:-1])}; give its id as "
            f"a text, or models/*/{collection}/*",
            {"name": str(reference)},
        )

    def edit(self, reference: EditReference) -> str:
        """The full name of an edit."""
        return self.name(
            "edits", reference.name if isinstance(reference, types.Edit) else reference
        )

    def revision(self, reference: str) -> str:
        """The full name of a revision; empty stays empty, for the head."""
        return self.name("revisions", reference) if reference else ""

    def signature(self, options: MutationOptions) -> dict[str, str]:
        """Who asks and under which id, as a mutation's request has it."""
        return {
            "actor": options.get("actor") or self.actor,
            "request_id": options.get("request_id") or str(uuid.uuid4()),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[Reply, Result]):
    """One call: its method, how its request is built, and how its reply is read."""

    method: str
    """``/package.Service/Method``."""

    reply: type[Reply]
    build: Callable[[Scope], Message]
    parse: Callable[[Reply], Result]
    needs_model: bool = True
    acknowledges: bool = False
    """Whether the revision in its result is committed."""

    signs: bool = False
    """Whether a proposer's key signs it, where there is one."""

    proposer_key: str | Path = ""
    """The key's file, where the call names one itself."""

    def signing_key(self, default: Path | None) -> SigningKey | None:
        """What this call is signed with.

        Raises:
            InvalidInputError: the file holds no private key.
            MissingExtraError: ``cryptography`` is not installed.
        """
        path = (self.proposer_key or default) if self.signs else None
        return SigningKey.read(path) if path else None

    def request(self, scope: Scope) -> Message:
        """What is sent.

        Raises:
            InvalidInputError: a value has no form on the wire, such as half a surrogate pair.
        """
        try:
            return self.build(scope)
        except (AttributeError, TypeError, ValueError) as error:
            raise InvalidInputError(
                f"a value of the request is not of a kind that can be sent: {error}; correct it"
            ) from error


Pages = Callable[[str], Call[Any, types.Page[Result]]]
"""From a page token to the call that fetches that page."""


def serialize(message: Message) -> bytes:
    """The bytes of a request."""
    return message.SerializeToString()
