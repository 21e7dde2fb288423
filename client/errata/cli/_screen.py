"""Where a command's output goes: results to stdout, everything about the run to stderr.

Invariants: with ``--output json`` stdout holds one JSON document and nothing else (`watch`
prints one a line); text of others (prompts, answers, reasons) never reaches the terminal as
control sequences or as markup.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, TypeVar

import typer
from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

import errata
from errata._types import short

T = TypeVar("T")

FAILED: Final = 1
USAGE: Final = 2
REJECTED: Final = 3
INTERRUPTED: Final = 130

_PIPE_WIDTH: Final = 160
"""Columns of a table that nobody's terminal limits."""


class Output(StrEnum):
    """How a result is written."""

    TABLE = "table"
    JSON = "json"


def plain(text: str) -> str:
    """``text`` with control and invisible characters spelled out, line ends kept."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text
    )


def exit_code(error: errata.ErrataError) -> int:
    """The exit code a command ends with after ``error``."""
    rejections = errata.VerificationFailedError | errata.ApprovalRequiredError
    return REJECTED if isinstance(error, rejections) else FAILED


class Screen:
    """The output of one command."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._out = _console(stderr=False)
        self._err = _console(stderr=True)

    @property
    def is_json(self) -> bool:
        """Whether results are written as JSON."""
        return self._output is Output.JSON

    @property
    def width(self) -> int:
        """Columns a table may take."""
        return self._out.width

    def result(self, document: Mapping[str, Any], *renderables: RenderableType) -> None:
        """Write a result: the document, or what shows it to a person."""
        if self.is_json:
            self._document(document, indent=2)
        else:
            self.show(*renderables)

    def line(self, document: Mapping[str, Any], renderable: RenderableType) -> None:
        """Write one of a stream of results, as one line of JSON or as a line of text."""
        if self.is_json:
            self._document(document, indent=None)
        else:
            self._out.print(renderable, soft_wrap=True)

    def show(self, *renderables: RenderableType) -> None:
        """Write for a person alone; nothing with JSON."""
        if not self.is_json:
            for renderable in renderables:
                if isinstance(renderable, str):
                    self._out.print(plain(renderable), markup=False, soft_wrap=True)
                else:
                    self._out.print(renderable)

    def piece(self, text: str) -> None:
        """Write a piece of text as it comes; nothing with JSON."""
        if not self.is_json:
            self._out.print(plain(text), end="", markup=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """Say something about the run, on stderr."""
        self._err.print(plain(text), markup=False, soft_wrap=True)

    def failure(self, error: errata.ErrataError) -> None:
        """Say why the command failed: as the document, or as a sentence on stderr."""
        self.refusal(error.reason, str(error), error.metadata)

    def refusal(self, reason: str, message: str, metadata: Mapping[str, str]) -> None:
        """As `failure`, for what is no error of the client's."""
        if self.is_json:
            detail = {"reason": reason, "message": message, "metadata": dict(metadata)}
            self._document({"error": detail}, indent=2)
        else:
            self.note(f"error: {message}")

    @contextmanager
    def busy(self, what: str) -> Iterator[None]:
        """A spinner on stderr, if that is a terminal."""
        if not self._err.is_terminal:
            yield
            return
        with self._err.status(plain(what)):
            yield

    def follow(self, stages: Iterable[errata.Progress]) -> None:
        """A progress bar a stage on stderr, until ``stages`` ends."""
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        with Progress(*columns, console=self._err, disable=not self._err.is_terminal) as bars:
            _draw(bars, stages)

    def _document(self, document: Mapping[str, Any], indent: int | None) -> None:
        text = json.dumps(jsonable(document), indent=indent, ensure_ascii=False)
        self._out.print(text, markup=False, soft_wrap=True)


def _draw(bars: Progress, stages: Iterable[errata.Progress]) -> None:
    task, stage = None, ""
    for progress in stages:
        if task is None or progress.stage != stage:
            if task is not None:
                bars.update(task, total=1, completed=1, note="")
            stage = progress.stage
            task = bars.add_task(plain(stage) or "waiting", total=None, note="")
        bars.update(
            task,
            completed=progress.done,
            total=progress.total or None,
            note=plain(progress.note),
        )


def jsonable(value: Any) -> Any:  # noqa: ANN401 - JSON is whatever it is
    """``value`` as JSON has it; resources get an ``id`` beside their ``name``."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return jsonable(dataclasses.asdict(value, dict_factory=_with_id))
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value


def _with_id(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    return {"id": short(fields["name"]), **fields} if "name" in fields else fields


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    free = not stream.isatty() and "COLUMNS" not in os.environ
    return Console(file=stream, width=_PIPE_WIDTH if free else None, highlight=False, emoji=False)


@contextmanager
def reporting(screen: Screen) -> Iterator[None]:
    """Turn errors into a message and an exit code."""
    try:
        yield
    except errata.ErrataError as error:
        screen.failure(error)
        raise typer.Exit(exit_code(error)) from None
    except KeyboardInterrupt:
        screen.refusal("INTERRUPTED_BY_USER", "interrupted", {})
        raise typer.Exit(INTERRUPTED) from None


def unexpected(kind: type[BaseException], error: BaseException, _: object) -> None:
    """Say that something went wrong that nobody foresaw; in place of a traceback."""
    Screen(Output.TABLE).note(
        f"error: {kind.__name__}: {error}; this is a fault of errata, please report it with the "
        "command you gave"
    )
