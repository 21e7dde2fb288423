"""The call that proposes many edits as data, as in `errata._calls`; pure."""

from collections.abc import Iterable
from typing import Unpack

from google.longrunning import operations_pb2

from errata import _batch_messages as batch_messages
from errata import _operation_status as operation_status
from errata import _signing
from errata._arguments import checked, members
from errata._batches import EditProposal, ProposedBatch
from errata._call_types import Call, Scope
from errata._operation_status import OperationStatus
from errata._options import BatchOptions
from errata.v1 import edits_pb2


@checked
def propose_edits(
    proposals: Iterable[EditProposal], **options: Unpack[BatchOptions]
) -> Call[operations_pb2.Operation, OperationStatus[ProposedBatch]]:
    """Start to compute many patches and to check them."""
    listed = members(proposals, EditProposal, "proposals")

    def build(scope: Scope) -> edits_pb2.ProposeEditsRequest:
        request = edits_pb2.ProposeEditsRequest(
            parent=scope.model,
            proposals=[batch_messages.proposal_message(proposal) for proposal in listed],
            reason=options.get("reason", ""),
            ticket=options.get("ticket", ""),
            batch=options.get("batch", ""),
            together=options.get("together", False),
            **scope.signature(options),
        )
        if scope.proposer_key is not None:
            _signing.sign_batch(request, scope.base, scope.proposer_key)
        return request

    return Call(
        method="/errata.v1.EditService/ProposeEdits",
        reply=operations_pb2.Operation,
        build=build,
        parse=operation_status.parse,
        signs=True,
        proposer_key=options.get("proposer_key", ""),
    )
