"""What a proposer signs: a request's own content, spelled the one way the server stores it.

Invariants: the statement is made from the message that is sent, so nothing is signed that is not
asked for; its type is part of what is signed (DSSE's pre-authentication encoding).
"""

import unicodedata
from collections.abc import Iterable
from typing import Final

from errata._checkpoints import canonical
from errata._keys import SigningKey
from errata._types import short
from errata.v1 import edits_pb2, types_pb2

PAYLOAD_TYPE: Final = "application/vnd.errata.proposal.v1+json"


def sign(request: edits_pb2.ProposeEditRequest, base: str, key: SigningKey) -> None:
    """Put the signature of ``key`` into a proposal."""
    request.signature.CopyFrom(_signature(request, request, base, key))


def sign_batch(request: edits_pb2.ProposeEditsRequest, base: str, key: SigningKey) -> None:
    """Put the signature of ``key`` into every proposal of a batch.

    Those of one subject are put together first: they become one edit, which has one signature.
    """
    together: dict[str, edits_pb2.EditProposal] = {}
    for proposal in request.proposals:
        found = together.setdefault(_clean(proposal.subject), proposal)
        if found is not proposal:
            _extend(found, proposal)
    kept = list(together.values())
    del request.proposals[:]
    request.proposals.extend(kept)
    for proposal in request.proposals:
        proposal.signature.CopyFrom(_signature(proposal, request, base, key))


def _extend(found: edits_pb2.EditProposal, more: edits_pb2.EditProposal) -> None:
    found.facts.extend(fact for fact in more.facts if fact not in found.facts)
    for own, others in (
        (found.paraphrases, more.paraphrases),
        (found.neighbours, more.neighbours),
        (found.suite, more.suite),
    ):
        own.extend(prompt for prompt in others if prompt not in own)
    found.aliases.extend(alias for alias in more.aliases if alias not in found.aliases)


def _signature(
    proposal: edits_pb2.ProposeEditRequest | edits_pb2.EditProposal,
    request: edits_pb2.ProposeEditRequest | edits_pb2.ProposeEditsRequest,
    base: str,
    key: SigningKey,
) -> types_pb2.ProposerSignature:
    asked = _asked(proposal)
    asked |= {"reason": request.reason.strip(), "ticket": request.ticket.strip()}
    body = canonical(
        {
            "model": short(request.parent),
            "base": base,
            "proposer": request.actor.strip(),
            "request": asked,
            "request_id": request.request_id,
        }
    )
    kind = PAYLOAD_TYPE.encode()
    signed = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(body), body)
    return types_pb2.ProposerSignature(key=key.public.id, value=key.sign(signed))


def _asked(
    proposal: edits_pb2.ProposeEditRequest | edits_pb2.EditProposal,
) -> dict[str, object]:
    subject = _clean(proposal.subject)
    asked: dict[str, object] = {
        "subject": subject,
        "facts": [
            {"template": _template(fact.template, subject), "target": _clean(fact.target)}
            for fact in proposal.facts
        ],
        "paraphrases": _prompts(proposal.paraphrases),
        "neighbours": _prompts(proposal.neighbours),
    }
    if proposal.suite:
        asked["suite"] = _prompts(proposal.suite)
    if proposal.aliases:
        asked["aliases"] = [_clean(alias) for alias in proposal.aliases]
    return asked


def _prompts(prompts: Iterable[types_pb2.CheckPrompt]) -> list[dict[str, str]]:
    return [{"prompt": _clean(p.prompt), "expected": _clean(p.expected)} for p in prompts]


def _template(prompt: str, subject: str) -> str:
    cleaned = _clean(prompt)
    return cleaned if "{}" in cleaned else cleaned.replace(subject, "{}")


def _clean(text: str) -> str:
    """``text`` as the server stores it."""
    return unicodedata.normalize("NFC", text).strip()
