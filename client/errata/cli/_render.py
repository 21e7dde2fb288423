"""What a person sees of each of errata's types; one function a type.

Invariants: a verdict is a word, never a colour alone; a missing value is a dash; text of
others is shown as text, so that no prompt or reason can pass for markup.
"""

import math
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Final

from rich import box
from rich.table import Table
from rich.text import Text

import errata
from errata.cli._screen import plain

DASH: Final = "-"
SHORT: Final = 12
"""Characters of a digest that are shown."""

_STYLES: Final = {
    errata.Verdict.PASSED: "green",
    errata.Verdict.WARNED: "yellow",
    errata.Verdict.FAILED: "bold red",
    errata.Verdict.SKIPPED: "dim",
}


def short(digest: str) -> str:
    """The first characters of a digest; a dash where there is none."""
    return digest[:SHORT] or DASH


def when(time: datetime | None) -> str:
    """A time to the second, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S") if time else DASH


def yes(claim: bool) -> str:
    """A boolean as a word."""
    return "yes" if claim else "NO"


def cell(value: object, style: str = "") -> Text:
    """One cell: text as it is, on one line; a dash where it is empty."""
    text = plain(str(value)).replace("\n", "\\n")
    return Text(text if text else DASH, style=style)


def table(columns: Iterable[str], rows: Iterable[Iterable[object]], title: str = "") -> Table:
    """Rows under headings; cells are text, or already styled."""
    drawn = Table(box=box.SIMPLE, title=title or None, title_justify="left", pad_edge=False)
    for column in columns:
        drawn.add_column(column, overflow="fold")
    for row in rows:
        drawn.add_row(*(item if isinstance(item, Text) else cell(item) for item in row))
    return drawn


def pairs(rows: Iterable[tuple[str, object]]) -> Table:
    """Names with their values, one a line."""
    drawn = Table.grid(padding=(0, 2))
    drawn.add_column(style="bold", no_wrap=True)
    drawn.add_column(overflow="fold")
    for name, value in rows:
        drawn.add_row(name, cell(value))
    return drawn


def status(model: errata.Model, head: errata.Revision | None) -> Table:
    """The served model, and where its ledger stands; no head where the ledger is away."""
    profile, served = model.profile, model.served
    return pairs(
        [
            ("model", f"{model.name} ({model.source})"),
            ("architecture", f"{model.architecture}, {model.layers} layers"),
            ("parameters", f"{model.parameters:,} {model.dtype} on {model.device}"),
            ("checkpoint", model.digest),
            ("profile", f"{profile.id} (layer {profile.layer})" if profile else "not calibrated"),
            ("head", f"revision {head.sequence} on {head.branch}" if head else "unknown"),
            ("served", f"revision {served.sequence} on {served.branch}"),
            ("revision", served.revision),
            ("weights", served.weights_digest),
            ("edits", f"{model.live_edits} live, {model.applied_edits} applied"),
            *(_standing(model.standing) if model.standing else ()),
            ("server", f"{model.server_version}, up since {when(model.started_at)}"),
        ]
    )


def _standing(standing: errata.Standing) -> Iterator[tuple[str, str]]:
    """How a server stands to its ledger, in as many lines as there is something to say."""
    role = f"replica of {standing.branch}" if standing.replica else f"writes to {standing.branch}"
    yield "role", f"{role}, OUT OF SERVICE" if standing.quarantine else role
    if standing.quarantine:
        yield "because", standing.quarantine
    age = f"{standing.staleness_seconds:.1f} s ago"
    answered = f"answered {age}" if standing.reachable else f"AWAY, last answered {age}"
    behind = f", {standing.lag} revisions behind" if standing.lag else ""
    yield "ledger", f"{answered}{behind}"
    lease = standing.lease
    if lease is not None:
        held = f"{lease.remaining_seconds:.0f} s left" if lease.remaining_seconds > 0 else "ended"
        yield "operations", f"run on {lease.address or lease.holder} (lease {lease.token}, {held})"


def edit(shown: errata.Edit) -> Table:
    """One edit in full."""
    patch = shown.patch
    facts = [("fact", f"{fact.template} -> {fact.target}") for fact in shown.facts]
    approvals = [
        ("approved", f"{a.actor}, {when(a.created_at)}: {a.comment or DASH}")
        for a in shown.approvals
    ]
    converged = "converged" if patch.converged else "NOT converged"
    return pairs(
        [
            ("edit", shown.id),
            ("subject", shown.subject),
            *facts,
            ("state", shown.state),
            ("report", shown.report),
            ("patch", patch.digest),
            ("at", f"{patch.module} (layer {patch.layer}), {patch.size_bytes:,} bytes"),
            ("value", f"{converged} in {patch.steps} steps, p = {patch.target_probability:.3f}"),
            *approvals,
            ("proposed", f"{shown.proposer}, {when(shown.created_at)}"),
            ("signed by", shown.signed_by),
            ("reason", shown.reason),
            ("ticket", shown.ticket),
            ("superseded by", shown.superseded_by),
        ]
    )


def edits(shown: Iterable[errata.Edit]) -> Table:
    """A list of edits."""
    return table(
        ("edit", "state", "subject", "facts", "proposed by", "proposed (UTC)", "reason"),
        (
            (
                e.id,
                e.state,
                e.subject,
                "; ".join(f"{fact.template} -> {fact.target}" for fact in e.facts),
                e.proposer,
                when(e.created_at),
                e.reason,
            )
            for e in shown
        ),
    )


def verdict(shown: errata.Verdict) -> Text:
    """A verdict as a word; one that stops the edit in capitals."""
    word = shown.upper() if shown is errata.Verdict.FAILED else str(shown)
    return Text(word, style=_STYLES.get(shown, ""))


def number(value: float | None) -> str:
    """A measured value with as many digits as mean something."""
    return DASH if value is None else f"{value:.4g}"


def checks(report: errata.Report) -> Table:
    """What was measured, and what it came to."""
    return table(
        ("check", "verdict", "measured", "allowed", "explanation"),
        (
            (
                c.kind,
                verdict(c.verdict),
                number(c.measured),
                DASH if c.threshold is None else f"{c.comparison} {number(c.threshold)}",
                c.explanation,
            )
            for c in report.checks
        ),
    )


def tally(report: errata.Report) -> str:
    """How the checks came out, as a sentence."""
    counts = [
        f"{sum(c.verdict is kind for c in report.checks)} {kind}"
        for kind in _STYLES
        if any(c.verdict is kind for c in report.checks)
    ]
    outcome = "passed" if report.passed else "FAILED"
    return f"The report {outcome}: {', '.join(counts) or 'no checks'}."


def answers(checks_shown: Iterable[errata.Check], title: str = "") -> Table:
    """Every prompt of some checks, with what the model said before and after."""
    return table(
        ("check", "prompt", "expected", "before", "after", "holds"),
        (
            (c.kind, a.prompt, a.expected, a.before.strip(), a.after.strip(), yes(a.held_after))
            for c in checks_shown
            for a in c.answers
        ),
        title,
    )


def report_heading(report: errata.Report) -> Table:
    """Which edit a report is of, and what it was measured against."""
    return pairs(
        [
            ("report", report.id),
            ("edit", report.edit),
            ("against", f"revision {report.against}, {report.composition}"),
            ("policy", report.policy),
            ("made", when(report.created_at)),
        ]
    )


def revision(shown: errata.Revision) -> Table:
    """One revision in full."""
    return pairs(
        [
            ("revision", shown.id),
            ("sequence", f"{shown.sequence} on {shown.branch}"),
            ("parent", shown.parent),
            ("kind", shown.kind),
            ("edits", " ".join(shown.edits)),
            *([("removed", " ".join(shown.removed))] if shown.removed else []),
            *([("source", shown.source)] if shown.source else []),
            ("superseded", " ".join(shown.superseded)),
            ("restored", " ".join(shown.restored)),
            ("active", f"{shown.active_count} edits, {shown.composition}"),
            ("active set", shown.active_set_digest),
            ("weights", shown.weights_digest),
            ("by", f"{shown.actor}, {when(shown.created_at)}"),
            ("reason", shown.reason),
            ("ticket", shown.ticket),
            ("override", shown.override_reason),
            ("protected", "yes" if shown.protected else "no"),
            ("request", shown.request_id),
        ]
    )


def revisions(shown: Iterable[errata.Revision]) -> Table:
    """A history."""
    return table(
        ("seq", "revision", "kind", "edits", "active", "by", "time (UTC)", "reason"),
        (
            (
                r.sequence,
                short(r.id),
                f"{r.kind} (override)" if r.override_reason else r.kind,
                " ".join(r.edits),
                r.active_count,
                r.actor,
                when(r.created_at),
                r.reason,
            )
            for r in shown
        ),
    )


def revision_line(shown: errata.Revision) -> Text:
    """A revision on one line."""
    return cell(
        f"{shown.sequence}  {short(shown.id)}  {shown.kind}  {' '.join(shown.edits) or DASH}  "
        f"{shown.active_count} active  {shown.actor}  {when(shown.created_at)}  "
        f"{shown.reason or DASH}"
    )


def changed(change: errata.Change, *, dry_run: bool) -> str:
    """What applying or reverting came to, as a sentence."""
    revision_made = change.revision
    named = ", ".join(revision_made.edits) or "no edits"
    if dry_run:
        return f"Nothing was committed: {revision_made.kind} of {named} would go through."
    hidden = f" It hides {', '.join(revision_made.superseded)}." if revision_made.superseded else ""
    again = f" It restores {', '.join(revision_made.restored)}." if revision_made.restored else ""
    return (
        f"Revision {revision_made.sequence} ({short(revision_made.id)}) on "
        f"{revision_made.branch}: {revision_made.kind} of {named}; {revision_made.active_count} "
        f"active.{hidden}{again}"
    )


def diff(shown: errata.Diff) -> Table:
    """Edits that one revision has and the other has not."""
    marked = [("+", e) for e in shown.added] + [("-", e) for e in shown.removed]
    return table(
        ("", "edit", "subject", "facts"),
        (
            (sign, e.id, e.subject, "; ".join(f"{f.template} -> {f.target}" for f in e.facts))
            for sign, e in marked
        ),
        f"revision {shown.before.sequence} to {shown.after.sequence}: {len(shown.added)} added, "
        f"{len(shown.removed)} removed, {shown.unchanged_count} unchanged",
    )


def scores(shown: errata.PromptScore) -> Table:
    """How likely each continuation is."""
    return table(
        ("continuation", "log p", "p", "tokens", "first choice"),
        (
            (
                s.continuation,
                f"{s.log_probability:.4f}",
                f"{math.exp(s.log_probability):.4g}",
                len(s.tokens),
                yes(s.is_greedy),
            )
            for s in shown.scores
        ),
    )


def served(shown: errata.Served) -> str:
    """Which weights answered."""
    return f"revision {shown.sequence} ({short(shown.revision)}) on {shown.branch}"


def audit(shown: errata.AuditResult) -> Table:
    """What an audit looked at."""
    return pairs(
        [
            ("revisions", f"{shown.revisions_checked} checked"),
            ("edits", f"{shown.edits_checked} checked"),
            ("artifacts", f"{shown.artifacts_checked} checked"),
            ("reports", f"{shown.reports_checked} checked"),
            ("log entries", f"{shown.log_entries_checked} checked"),
            ("served weights", "match" if shown.served_digest_matches else "DO NOT MATCH"),
            ("base checkpoint", "untouched" if shown.base_digest_matches else "CHANGED"),
            ("result", "clean" if shown.clean else f"{len(shown.findings)} FINDINGS"),
        ]
    )


def findings(shown: Iterable[errata.Finding]) -> Table:
    """Each thing that is wrong."""
    return table(("row", "problem"), ((f.row, f.problem) for f in shown))


def profile(shown: errata.Profile) -> Table:
    """What calibration found."""
    return pairs(
        [
            ("profile", shown.id),
            ("edits at", f"{shown.module} (layer {shown.layer})"),
            ("learning rate", number(shown.learning_rate)),
            ("clamp", number(shown.clamp)),
            ("steps", f"at most {shown.max_steps}"),
            ("guard width", number(shown.guard_width)),
            ("ridge", number(shown.ridge)),
            ("second moment", f"{shown.moment_tokens:,} tokens"),
            ("prefixes", len(shown.prefixes)),
            ("seed", shown.seed),
        ]
    )
