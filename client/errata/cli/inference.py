"""``generate`` and ``score``: ask the model, at any revision."""

from typing import Annotated

import typer

from errata.cli import _render as render
from errata.cli._options import command
from errata.cli._session import Session

app = typer.Typer()

Prompt = Annotated[str, typer.Argument(metavar="PROMPT", help="What the model is given.")]
At = Annotated[
    str,
    typer.Option(
        "--at", help="A revision, sequence or branch, or 'base'; else the head.", metavar="REVISION"
    ),
]
MinSequence = Annotated[
    int,
    typer.Option(
        "--min-sequence",
        min=0,
        help="Answer from this sequence of the branch or a later one; a replica that is behind "
        "waits for it.",
        metavar="N",
    ),
]


@command(app, "generate")
def generate(
    session: Session,
    prompt: Prompt,
    at: At = "",
    min_sequence: MinSequence = 0,
    max_tokens: Annotated[int, typer.Option(min=1, help="At most so many tokens.")] = 32,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 0.0,
    top_k: Annotated[int, typer.Option(min=0, help="0 keeps every token.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of sampling.")] = 0,
    stop: Annotated[list[str] | None, typer.Option(help="Stop behind this text.")] = None,
) -> None:
    """Continue a prompt."""
    generation = session.client.generate(
        prompt,
        max_new_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        seed=seed,
        stop=stop or (),
        revision=at,
        min_sequence=min_sequence,
    )
    for piece in generation:
        session.screen.piece(piece)
    session.screen.result(
        {
            "text": generation.text,
            "tokens": generation.tokens,
            "finish_reason": generation.finish_reason,
            "served": generation.served,
        },
        "",
    )
    if not session.screen.is_json:
        session.screen.note(f"[{render.served(generation.served)}; {generation.finish_reason}]")


@command(app, "score")
def score(
    session: Session,
    prompt: Prompt,
    continuation: Annotated[
        list[str], typer.Option("--continuation", "-c", help="What may follow; give several.")
    ],
    at: At = "",
    min_sequence: MinSequence = 0,
) -> None:
    """Show how likely continuations are."""
    found = session.client.score(prompt, continuation, revision=at, min_sequence=min_sequence)
    session.screen.result(
        {"scores": found.scores, "logits_digest": found.logits_digest, "served": found.served},
        render.scores(found),
        f"logits {found.logits_digest}",
        render.served(found.served),
    )
