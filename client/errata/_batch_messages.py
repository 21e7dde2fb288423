"""Messages of batches as the client's own types, and back; pure."""

from errata import _messages as messages
from errata._batches import (
    EditProposal,
    FailedProposal,
    NearSubjects,
    ProposedBatch,
    ProposedEdit,
)
from errata.v1 import edits_pb2


def proposal_message(proposal: EditProposal) -> edits_pb2.EditProposal:
    """A proposal for the wire."""
    return edits_pb2.EditProposal(
        subject=proposal.subject,
        facts=[messages.fact_message(fact) for fact in proposal.facts],
        paraphrases=[messages.prompt_message(prompt) for prompt in proposal.paraphrases],
        neighbours=[messages.prompt_message(prompt) for prompt in proposal.neighbours],
        suite=[messages.prompt_message(prompt) for prompt in proposal.suite],
        aliases=proposal.aliases,
    )


def batch(message: edits_pb2.ProposeEditsResponse) -> ProposedBatch:
    """`ProposedBatch` of the wire."""
    return ProposedBatch(
        batch=message.batch,
        edits=tuple(
            ProposedEdit(
                edit=messages.edit(one.edit),
                report=one.report,
                passed=one.passed,
                failed_checks=tuple(one.failed_checks),
                conflicts=one.conflicts,
                places=tuple(one.places),
            )
            for one in message.edits
        ),
        failures=tuple(
            FailedProposal(
                places=tuple(one.places),
                subject=one.subject,
                reason=one.reason,
                message=one.message,
                metadata=dict(one.metadata),
            )
            for one in message.failures
        ),
        near=tuple(
            NearSubjects(
                first=pair.first,
                second=pair.second,
                conflict=pair.conflict,
                first_fires=pair.first_fires,
                second_fires=pair.second_fires,
            )
            for pair in message.near
        ),
    )
