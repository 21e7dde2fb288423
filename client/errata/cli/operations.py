"""``operations``: what outlives the command that started it, seen, awaited and cancelled."""

from itertools import islice
from typing import Annotated, Any

import typer

import errata
from errata._exhibits import Exhibit
from errata._types import short
from errata.cli import _next_steps as next_steps
from errata.cli import _render_operations as render
from errata.cli._options import command
from errata.cli._screen import REJECTED
from errata.cli._session import Session

app = typer.Typer()
_operations = typer.Typer(
    no_args_is_help=True, help="List, show, await and cancel operations of the server."
)
app.add_typer(_operations, name="operations")

Name = Annotated[str, typer.Argument(metavar="NAME", help="An operation's name, such as op-1234.")]


@command(_operations, "list")
def list_operations(
    session: Session,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")] = 50,
) -> None:
    """List operations, newest first."""
    found = list(islice(session.client.operations(page_size=min(limit, 1000)), limit))
    session.screen.result(
        {"operations": [_standing(one) for one in found]}, render.operations(found)
    )


@command(_operations, "show")
def show(session: Session, name: Name) -> None:
    """Show how an operation stands, and what it came to."""
    _show(session, session.client.operation(name))


@command(_operations, "wait")
def wait(session: Session, name: Name) -> None:
    """Follow an operation to its end; interrupted, it goes on."""
    operation = session.client.operation(name)
    try:
        session.screen.follow(operation)
    except KeyboardInterrupt:
        session.screen.note(f"{operation.name} goes on")
        raise
    found = operation.result()
    _show(session, operation)
    if not _passed(found):
        raise typer.Exit(REJECTED)


@command(_operations, "cancel")
def cancel(session: Session, name: Name) -> None:
    """Ask the server to stop an operation; one that has ended stays as it is."""
    operation = session.client.operation(name)
    operation.cancel()
    operation.refresh()
    id_ = short(operation.name)
    said = (
        f"{id_} has ended: {render.state(operation)}."
        if operation.done
        else f"{id_} stops between two of its steps. {next_steps.after_look(operation)}"
    )
    session.screen.result({"operation": _standing(operation)}, said)


def _show(session: Session, operation: errata.Operation[Any]) -> None:
    found = operation.result() if operation.done and operation.error is None else None
    session.screen.result(
        {
            "operation": _standing(operation),
            "result": found.to_dict() if isinstance(found, Exhibit) else found,
        },
        render.operation(operation),
        *render.result(found, session.screen.width),
        *filter(None, [next_steps.after_look(operation)]),
    )


def _standing(operation: errata.Operation[Any]) -> dict[str, Any]:
    """How an operation stands, as JSON has it."""
    error = operation.error
    return {
        "id": short(operation.name),
        "name": operation.name,
        "kind": operation.kind,
        "state": render.state(operation),
        "progress": operation.progress,
        "actor": operation.actor,
        "created_at": operation.created_at,
        "finished_at": operation.finished_at,
        "error": error
        and {"reason": error.reason, "message": str(error), "metadata": error.metadata},
    }


def _passed(found: object) -> bool:
    """Whether checks that a result has, if it has any, let it through."""
    match found:
        case errata.Proposal():
            return found.report.passed
        case errata.ProposedBatch() | errata.LiveVerification():
            return found.passed
    return True
