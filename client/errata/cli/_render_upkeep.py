"""What a person sees of health, suites and crawls; one function a type."""

from collections.abc import Iterable

from rich.console import RenderableType
from rich.table import Table

import errata
from errata.cli import _render as render

_STATES = {
    errata.Verdict.PASSED: "well",
    errata.Verdict.WARNED: "RETRAIN SOON",
    errata.Verdict.FAILED: "HURT",
}


def percent(share: float) -> str:
    """A share with as many digits as mean something."""
    return f"{100 * share:.3g} %"


def health(shown: errata.ModelHealth) -> list[RenderableType]:
    """The state of the model, and of each layer with live edits."""
    drift = render.DASH
    if shown.perplexity_base:
        drift = (
            f"{percent(shown.drift)} perplexity over the base (warned from "
            f"{percent(shown.warn_drift)}, limit {percent(shown.maximum_drift)})"
        )
    rows = [("health", _STATES.get(shown.verdict, str(shown.verdict))), ("drift", drift)]
    return [render.pairs([*rows, *((f"layer {x.layer}", _layer(x)) for x in shown.layers)])]


def _layer(shown: errata.LayerHealth) -> str:
    budget = "no sign of a limit yet"
    if shown.budget is not None:
        budget = f"bears about {shown.budget:,} at this rate ({shown.limited_by})"
    return (
        f"{shown.live_edits:,} edits, {budget}; guards fire on {percent(shown.firing_share)} of "
        f"ordinary keys; as one weight change {percent(shown.disturbance)} disturbance"
    )


def verification(shown: errata.LiveVerification) -> list[RenderableType]:
    """What asking live edits again came to, failures named."""
    asked = f"{shown.in_conflict} in conflict, {shown.drawn} drawn, of {shown.live_edits} live"
    failures = shown.failures
    said = f"All {len(shown.edits)} edits that were asked still hold ({asked})."
    if failures:
        named = ", ".join(checked.edit for checked in failures)
        said = f"{len(failures)} of {len(shown.edits)} edits no longer hold ({asked}): {named}"
    return [
        render.table(
            ("edit", "subject", "conflict", "with", "holds"),
            (
                (c.edit, c.subject, render.number(c.conflict), c.nearest, render.yes(c.held))
                for c in shown.edits
            ),
        ),
        *([_failed_answers(failures)] if failures else []),
        said,
        *health(shown.health),
    ]


def _failed_answers(failures: Iterable[errata.CheckedEdit]) -> Table:
    return render.table(
        ("edit", "prompt", "expected", "answer"),
        (
            (checked.edit, a.prompt, a.expected, a.after)
            for checked in failures
            for a in checked.answers
            if not a.held_after
        ),
    )


def suites(shown: Iterable[errata.Suite]) -> Table:
    """Versions of suites."""
    return render.table(
        ("suite", "prompts", "digest", "by", "stored (UTC)", "reason"),
        (
            (
                s.id,
                s.prompt_count or "retired",
                render.short(s.digest),
                s.actor,
                render.when(s.created_at),
                s.reason,
            )
            for s in shown
        ),
    )


def prompts(shown: errata.Suite) -> Table:
    """The prompts of a suite."""
    return render.table(("prompt", "expected"), ((p.prompt, p.expected) for p in shown.prompts))


def crawl(shown: errata.Crawl, *, everything: bool) -> list[RenderableType]:
    """What differs between the two revisions, or all that was asked."""
    listed = [
        relation
        for relation in shown.relations
        if everything
        or relation.change not in (errata.CrawlChange.SAME, errata.CrawlChange.UNKNOWN)
    ]
    effects = len(shown.side_effects)
    return [
        f"{render.served(shown.before)} against {render.served(shown.after)}: "
        f"{len(shown.relations)} relations asked with {shown.prompts} prompts",
        render.table(
            ("subject", "relation", "before", "after", "change", "said by"),
            (
                (
                    r.subject,
                    r.questions[0] if shown.known_relations and r.questions else r.relation,
                    _said(r.before),
                    _said(r.after),
                    r.change,
                    r.edit or ("SIDE EFFECT" if r.is_side_effect else ""),
                )
                for r in listed
            ),
        ),
        f"{effects} of {len(shown.relations)} relations changed without an edit that says so."
        if effects
        else "Nothing else changed.",
    ]


def _said(belief: errata.Belief) -> str:
    if not belief.object:
        return "don't know"
    return f"{belief.object} ({belief.votes}/{len(belief.answers)})"
