"""Entry point of ``errata``: every verb, and usage errors in the form asked for."""

import sys
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException
from typer.main import get_command

import errata
from errata.cli import (
    branches,
    changes,
    crawls,
    demo,
    edits,
    evidence,
    history,
    inference,
    locators,
    models,
    operations,
    suites,
    traces,
)
from errata.cli._screen import USAGE, Output, Screen, unexpected


class _Verbs(TyperGroup):
    """The verbs; a usage error is JSON where JSON was asked for."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,  # noqa: ANN401 - as typer has it
    ) -> Any:  # noqa: ANN401 - likewise
        """Run one verb."""
        given = list(sys.argv[1:] if args is None else args)
        run = partial(
            super().main, given, prog_name, complete_var, windows_expand_args=windows_expand_args
        )
        if not _wants_json(given):
            return run(standalone_mode=standalone_mode, **extra)
        try:
            code = run(standalone_mode=False, **extra)
        except TyperException as error:
            Screen(Output.JSON).refusal("USAGE", error.format_message(), {})
            sys.exit(USAGE)
        sys.exit(code if isinstance(code, int) else 0)


def _wants_json(arguments: list[str]) -> bool:
    """Whether the output option says so, in any of the ways it can be written."""
    joined = "\0".join(arguments)
    return any(
        form in f"\0{joined}\0"
        for form in ("\0--output\0json\0", "\0--output=json\0", "\0-o\0json\0", "\0-ojson\0")
    )


app = typer.Typer(
    name="errata",
    cls=_Verbs,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Correct facts in a language model that is already serving.",
)
for _family in (
    models, edits, suites, changes, branches, history, evidence, inference, crawls, traces,
    locators, operations, demo,
):  # fmt: skip
    app.add_typer(_family.app)


def _show_version(asked: bool) -> None:
    if asked:
        Screen(Output.TABLE).show(f"errata {errata.__version__}")
        raise typer.Exit


@app.callback()
def _verbs(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line."""
    sys.excepthook = unexpected
    # Calling the app itself would put Typer's own hook, which prints tracebacks, in its place.
    get_command(app)(prog_name="errata")


if __name__ == "__main__":
    main()
