"""What a person sees of operations, and of what any of them came to."""

from collections.abc import Iterable
from typing import Any

from rich.console import RenderableType
from rich.table import Table

import errata
from errata._exhibits import Exhibit
from errata._types import short
from errata.cli import _next_steps as next_steps
from errata.cli import _pictures as pictures
from errata.cli import _render as render
from errata.cli import _render_batches as render_batches
from errata.cli import _render_upkeep as render_upkeep


def state(shown: errata.Operation[Any]) -> str:
    """Where an operation stands: running, succeeded, failed or cancelled."""
    if not shown.done:
        return "running"
    if shown.error is None:
        return "succeeded"
    return "cancelled" if isinstance(shown.error, errata.CancelledError) else "failed"


def operations(shown: Iterable[errata.Operation[Any]]) -> Table:
    """A list of operations."""
    return render.table(
        ("operation", "kind", "state", "stage", "by", "started (UTC)", "ended (UTC)", "because"),
        (
            (
                short(o.name),
                o.kind,
                state(o),
                _stage(o),
                o.actor,
                render.when(o.created_at),
                render.when(o.finished_at),
                o.error.reason if o.error else "",
            )
            for o in shown
        ),
    )


def operation(shown: errata.Operation[Any]) -> Table:
    """One operation in full."""
    error = shown.error
    return render.pairs(
        [
            ("operation", short(shown.name)),
            ("kind", shown.kind),
            ("state", state(shown)),
            *([] if shown.done else [("stage", _stage(shown))]),
            ("started", f"{shown.actor}, {render.when(shown.created_at)}"),
            ("ended", render.when(shown.finished_at)),
            *([("because", f"{error.reason}: {error}")] if error else []),
        ]
    )


def result(found: object, width: int) -> Iterable[RenderableType]:
    """What an operation came to, where there is more to see of it than that it succeeded."""
    shown: Iterable[RenderableType] = ()
    match found:
        case errata.Proposal() if found.edit.name:  # a dry run has stored none
            report, steps = found.report, next_steps.after_report(found)
            shown = (render.checks(report), render.tally(report), steps)
        case errata.ProposedBatch():
            shown = render_batches.batch(found)
        case errata.LiveVerification():
            shown = render_upkeep.verification(found)
        case errata.Crawl():
            shown = render_upkeep.crawl(found, everything=False)
        case errata.Profile():
            shown = (render.profile(found),)
        case Exhibit():
            shown = pictures.picture(found.picture(), width)
    return shown


def _stage(shown: errata.Operation[Any]) -> str:
    if shown.done:
        return ""
    progress = shown.progress
    of = f"/{progress.total}" if progress.total else ""
    counted = f" {progress.done}{of}" if progress.done or progress.total else ""
    note = f" ({progress.note})" if progress.note else ""
    return f"{progress.stage}{counted}{note}"
