"""What a proposal costs alone and in a batch, from the call to the stored report.

Known facts of random subjects are moved to other objects and proposed through the client, with
the checks every proposal gets: some of them one after the other, and all of them as a batch, each
way against a server of its own, since a server remembers what its model has said.
"""

import random
import statistics
from functools import partial
from typing import Annotated, Final

import typer
from rich.console import Console

import errata
import errata.testing
from benchmarks.document import Document
from benchmarks.values import edit_of, timed
from errata_server import files
from errata_server.domain.facts import EditRequest

PATIENCE: Final = 3600.0
log = Console(stderr=True)


def requests_of(count: int, seed: int) -> list[EditRequest]:
    """Edits of ``count`` random subjects the bundled model knows."""
    known = files.read_known_facts(None)
    by_subject = {fact.subject: fact for fact in known.facts if fact.source != "invented"}
    chooser = random.Random(seed)
    chosen = chooser.sample(sorted(by_subject), count)
    return [edit_of(known, by_subject[subject], chooser) for subject in chosen]


def proposal_of(request: EditRequest) -> errata.EditProposal:
    """``request`` as the client takes it."""
    facts = (errata.Fact(template=fact.template, target=fact.target) for fact in request.facts)
    return errata.EditProposal(subject=request.subject, facts=tuple(facts))


def propose(client: errata.Client, request: EditRequest) -> errata.Proposal:
    """One proposal, carried out."""
    proposal = proposal_of(request)
    return client.propose(proposal.subject, proposal.facts).result(PATIENCE)


def seconds_alone(warm: EditRequest, requests: list[EditRequest]) -> list[float]:
    """Seconds of each of ``requests`` by itself."""
    with errata.testing.server() as running, errata.Client(running.address) as client:
        propose(client, warm)
        return [timed(partial(propose, client, request))[0] for request in requests]


def seconds_together(warm: EditRequest, requests: list[EditRequest]) -> tuple[float, int]:
    """Seconds of ``requests`` as one batch, and how many edits came of it."""
    with errata.testing.server() as running, errata.Client(running.address) as client:
        propose(client, warm)
        proposals = [proposal_of(request) for request in requests]
        spent, batch = timed(lambda: client.propose_edits(proposals).result(PATIENCE))
    return spent, len(batch.edits)


def main(
    edits: Annotated[int, typer.Option(min=2, help="Edits of the batch.")] = 64,
    alone: Annotated[int, typer.Option(min=1, help="How many of them are also made alone.")] = 16,
    seed: Annotated[int, typer.Option(help="Chooses facts and targets.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Measure proposals alone and in a batch."""
    warm, *requests = requests_of(edits + 1, seed)
    singles = seconds_alone(warm, requests[:alone])
    log.print(f"alone: {statistics.fmean(singles):.2f} s an edit")
    spent, made = seconds_together(warm, requests)
    Document(
        benchmark="proposals",
        settings={"edits": edits, "alone": len(singles), "seed": seed},
        figures={
            "speedup_batch": statistics.fmean(singles) / (spent / made),
            "single_seconds": statistics.fmean(singles),
            "single_seconds_median": statistics.median(singles),
            "batch_seconds_per_edit": spent / made,
            "batch_edits": made,
        },
    ).show(as_json=as_json)


if __name__ == "__main__":
    typer.run(main)
