"""The options commands share, and the decorator that makes a function a command.

Invariant: an option means the same in every command that has it, because it is written
once. A command's parameter whose type is one of the groups here becomes all of the group's
options on the command line.
"""

import dataclasses
import inspect
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

import errata
from errata._exhibits import DATA, PICTURES, Exhibit, check_destination
from errata._keys import public_keys, read_public_keys
from errata._options import BatchOptions, ChangeOptions, MutationOptions, SignedOptions
from errata.cli._screen import Output, Screen, reporting
from errata.cli._session import Session


@dataclass(frozen=True, kw_only=True)
class Group:
    """Options that a command takes together."""


@dataclass(frozen=True, kw_only=True)
class Display(Group):
    """How results are written."""

    output: Annotated[
        Output, typer.Option("--output", "-o", help="Write a table, or one JSON document.")
    ] = Output.TABLE


@dataclass(frozen=True, kw_only=True)
class Connection(Display):
    """Which server is asked."""

    address: Annotated[
        str | None,
        typer.Option(
            help="The server, else $ERRATA_ADDRESS, else 127.0.0.1:50051.", metavar="HOST:PORT"
        ),
    ] = None
    timeout: Annotated[
        float | None,
        typer.Option(
            help="Seconds one call may take, 60 if not given; operations and watches go on.",
            metavar="SECONDS",
        ),
    ] = None
    model: Annotated[
        str | None, typer.Option(help="The model, where the server has several.", metavar="MODEL")
    ] = None


@dataclass(frozen=True, kw_only=True)
class Author(Group):
    """Who asks, and under which id."""

    actor: Annotated[
        str | None,
        typer.Option(help="In whose name, else $ERRATA_ACTOR, else the login name."),
    ] = None
    request_id: Annotated[
        str | None,
        typer.Option(
            help="Makes the call idempotent: the same id returns the earlier result.",
            metavar="ID",
        ),
    ] = None

    def signed(self) -> MutationOptions:
        """As the client takes it."""
        return {"actor": self.actor or "", "request_id": self.request_id or ""}


@dataclass(frozen=True, kw_only=True)
class Justified(Author):
    """Why it is asked."""

    reason: Annotated[str, typer.Option(help="Why; kept in the ledger.")] = ""
    ticket: Annotated[str, typer.Option(help="Where it was asked for; kept in the ledger.")] = ""


@dataclass(frozen=True, kw_only=True)
class Proposer(Justified):
    """Who proposes, and what they sign with."""

    sign_with: Annotated[
        str,
        typer.Option(
            help="Sign with this private key, else that of $ERRATA_PROPOSER_KEY.", metavar="KEY"
        ),
    ] = ""

    def proposed(self) -> SignedOptions:
        """As the client takes it."""
        return {**self.signed(), "proposer_key": self.sign_with}


@dataclass(frozen=True, kw_only=True)
class Witness(Group):
    """Whose signature must be on a ledger checkpoint."""

    key: Annotated[
        list[str] | None,
        typer.Option(
            help="A public key, or a file of them, that must have signed; give several. Else "
            "$ERRATA_CHECKPOINT_KEYS.",
            metavar="KEY",
        ),
    ] = None

    def keys(self) -> list[errata.PublicKey] | None:
        """As the client takes it; a key that makes no sense is wrong usage."""
        try:
            return [key for given in self.key for key in _public_keys(given)] if self.key else None
        except errata.InvalidInputError as error:
            raise typer.BadParameter(str(error), param_hint="--key") from None


def _public_keys(given: str) -> tuple[errata.PublicKey, ...]:
    return read_public_keys(given) if Path(given).is_file() else public_keys(given)


@dataclass(frozen=True, kw_only=True)
class Batched(Group):
    """Many edits at once."""

    file: Annotated[
        Path | None,
        typer.Option(
            help="Many edits: .json, .jsonl or .csv with subject, prompt and target, 2,000 records "
            "at most; those of one subject become one edit.",
            metavar="FACTS",
        ),
    ] = None
    batch: Annotated[
        str,
        typer.Option(
            help="With --file: the batch's name; its edits that are stored already are not "
            "computed again.",
            metavar="NAME",
        ),
    ] = ""
    together: Annotated[
        bool,
        typer.Option(
            "--together", help="With --file: check each as if all the others were live too."
        ),
    ] = False

    def options(self) -> BatchOptions:
        """As the client takes it; a fresh name where none is given."""
        name = self.batch or f"b-{secrets.token_hex(4)}"
        return {"batch": name, "together": self.together}


@dataclass(frozen=True, kw_only=True)
class DryRun(Group):
    """Whether it is only tried."""

    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Go through everything but the commit.")
    ] = False


@dataclass(frozen=True, kw_only=True)
class Guarded(DryRun):
    """On top of what."""

    expected_revision: Annotated[
        str, typer.Option(help="Fail where the branch's head is another.", metavar="REVISION")
    ] = ""


@dataclass(frozen=True, kw_only=True)
class Commit(Justified, Guarded):
    """How a branch is changed."""

    branch: Annotated[str, typer.Option(help="The branch to change.")] = "main"

    def change(self) -> ChangeOptions:
        """As the client takes it."""
        return {
            **self.signed(),
            "branch": self.branch,
            "reason": self.reason,
            "ticket": self.ticket,
            "expected_revision": self.expected_revision,
            "validate_only": self.dry_run,
        }


@dataclass(frozen=True, kw_only=True)
class Files(Group):
    """Which files a result is written to."""

    plot: Annotated[
        list[Path] | None,
        typer.Option(help="Draw a picture: .png, .svg or .pdf; give several.", metavar="FILE"),
    ] = None
    save: Annotated[
        list[Path] | None,
        typer.Option(help="Store the numbers: .npz, .json or .csv; give several.", metavar="FILE"),
    ] = None

    def check(self) -> None:
        """Refuse what cannot be written before any work is done.

        Raises:
            typer.BadParameter: a suffix is none of those, or a file cannot be written.
            MissingExtraError: what a file needs is not installed.
        """
        for option, paths, suffixes in (
            ("--plot", self.plot, PICTURES),
            ("--save", self.save, DATA),
        ):
            for path in paths or ():
                try:
                    check_destination(path, suffixes)
                except errata.InvalidInputError as error:
                    raise typer.BadParameter(str(error), param_hint=option) from None

    def write(self, exhibit: Exhibit, screen: Screen) -> None:
        """Write every file, and say so."""
        for path in (*(self.plot or ()), *(self.save or ())):
            exhibit.save(path)
            screen.note(f"wrote {path}")


G = TypeVar("G", bound=Group)
_KEYWORD = inspect.Parameter.KEYWORD_ONLY


def command(app: typer.Typer, name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function a command of ``app``.

    The function's first parameter is a `Session` with a server (which adds the options of
    `Connection`), or a `Screen` alone (which adds those of `Display`).
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(function, include_extras=True)
        first, *others = inspect.signature(function).parameters.values()
        connects = hints[first.name] is Session
        groups: dict[str, type[Group]] = {
            p.name: hints[p.name] for p in others if dataclasses.is_dataclass(hints[p.name])
        }
        own = [p.replace(annotation=hints[p.name]) for p in others if p.name not in groups]

        def run(**values: Any) -> None:  # noqa: ANN401 - typer has checked them
            display = _taken(Connection if connects else Display, values)
            arguments = {name: _taken(group, values) for name, group in groups.items()}
            call = partial(function, **arguments, **values)
            screen = Screen(display.output)
            with reporting(screen):
                if isinstance(display, Connection):
                    with _client(display) as client:
                        call(Session(client, screen))
                else:
                    call(screen)

        shared = [*groups.values(), Connection if connects else Display]
        parameters = [*own, *(p for group in shared for p in _parameters(group))]
        run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [p.replace(kind=_KEYWORD) for p in parameters]
        )
        run.__doc__ = function.__doc__
        app.command(name)(run)
        return function

    return register


def _client(connection: Connection) -> errata.Client:
    """The client these options ask for; one that makes no sense is wrong usage."""
    try:
        return errata.Client(connection.address, model=connection.model, timeout=connection.timeout)
    except errata.InvalidInputError as error:
        raise typer.BadParameter(str(error)) from None


def _parameters(group: type[G]) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(field.name, _KEYWORD, default=field.default, annotation=hints[field.name])
        for field in dataclasses.fields(group)
    ]


def _taken(group: type[G], values: dict[str, Any]) -> G:
    """One ``group`` out of ``values``, which no longer hold its options afterwards."""
    return group(**{field.name: values.pop(field.name) for field in dataclasses.fields(group)})
