"""What a proposer signs: the request, in whose name and for which model, spelled one way.

Invariants: the statement follows from an edit alone, so that whoever has the edit can check the
signature again; its type is part of what is signed (DSSE's pre-authentication encoding), so that
a signature made for anything else can never pass for one over a proposal.
"""

from dataclasses import dataclass
from typing import Final

from errata_server.domain import canonical
from errata_server.domain.facts import EditRequest
from errata_server.domain.ids import Digest, ModelId, RequestId

PAYLOAD_TYPE: Final = "application/vnd.errata.proposal.v1+json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposerSignature:
    """A signature over a proposal, as it is stored with the edit."""

    key: str
    """Name and hash of the key: ``ana+5f1d0c2e``."""

    value: str
    """The Ed25519 signature in base64."""

    request_id: RequestId
    """Of the call that brought it; part of the statement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """Everything a proposer's signature is over."""

    model: ModelId
    base: Digest
    """The digest of the checkpoint the model was loaded from."""

    proposer: str
    request: EditRequest
    request_id: RequestId

    @property
    def signed_bytes(self) -> bytes:
        """The bytes that are signed: the statement's type and canonical JSON, each by length."""
        body = canonical.encode(
            {
                "model": self.model,
                "base": self.base,
                "proposer": self.proposer,
                "request": self.request.to_json(),
                "request_id": self.request_id,
            }
        )
        kind = PAYLOAD_TYPE.encode()
        return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(body), body)
