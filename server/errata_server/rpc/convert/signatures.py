"""Proposers' signatures."""

import base64

from errata.v1 import edits_pb2, types_pb2
from errata_server.domain.ids import RequestId
from errata_server.domain.signatures import ProposerSignature
from errata_server.rpc.convert import values

_LONGEST_KEY = 300


def signature(
    message: edits_pb2.ProposeEditRequest | edits_pb2.EditProposal, request_id: RequestId
) -> ProposerSignature | None:
    """The signature over a proposal, if it bears one.

    Raises:
        InvalidInputError: the key's name is malformed.
    """
    if not message.HasField("signature"):
        return None
    with values.within("signature"):
        key = values.short_text(message.signature.key, "key", at_most=_LONGEST_KEY)
    return ProposerSignature(
        key=key,
        value=base64.b64encode(message.signature.value).decode(),
        request_id=request_id,
    )


def signature_message(found: ProposerSignature | None) -> types_pb2.ProposerSignature | None:
    """The signature of a stored edit; none stays unset."""
    if found is None:
        return None
    return types_pb2.ProposerSignature(key=found.key, value=base64.b64decode(found.value))
