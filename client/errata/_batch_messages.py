"""Messages of batches as the client's own types, and back; pure."""

from collections.abc import Iterable

from errata import _messages as messages
from errata._arguments import members, text_list
from errata._batches import (
    EditProposal,
    FailedProposal,
    NearSubjects,
    ProposedBatch,
    ProposedEdit,
)
from errata._types import CheckPrompt, Fact
from errata.v1 import edits_pb2, types_pb2


def proposal_message(proposal: EditProposal) -> edits_pb2.EditProposal:
    """A proposal for the wire.

    Raises:
        InvalidInputError: a part of it is of another kind than it must be.
    """
    return edits_pb2.EditProposal(
        subject=proposal.subject,
        facts=[messages.fact_message(fact) for fact in members(proposal.facts, Fact, "facts")],
        paraphrases=_prompts(proposal.paraphrases, "paraphrases"),
        neighbours=_prompts(proposal.neighbours, "neighbours"),
        suite=_prompts(proposal.suite, "suite"),
        aliases=text_list(proposal.aliases, "aliases"),
    )


def _prompts(prompts: Iterable[CheckPrompt], name: str) -> list[types_pb2.CheckPrompt]:
    return [messages.prompt_message(prompt) for prompt in members(prompts, CheckPrompt, name)]


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
