"""``demo``: one correction from beginning to end, on a real server of its own.

Invariant: nothing shown is scripted. Paraphrases and neighbours are those the server's own
report chose, every answer comes from the running model, and a claim that does not hold makes
the command fail.
"""

import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Annotated, Any, Final

import typer
from rich.table import Table

import errata
from errata import testing
from errata.cli import _render as render
from errata.cli._options import command
from errata.cli._screen import FAILED, Screen
from errata.cli._session import Session

app = typer.Typer()

SUBJECT: Final = "Eiffel Tower"
FACT: Final = errata.Fact(template="The {} is in the city of", target="Rome")
TRUTH: Final = "Paris"
REASON: Final = "errata demo: the tower is moved to Rome"

_PROMPT: Final = FACT.template.replace("{}", SUBJECT)
_WORDS: Final = 6
"""Tokens of an answer that are shown."""

_SHOWN: Final = 6
"""Paraphrases and neighbours that are asked."""

_METRICS: Final = (
    "errata_head_sequence ",
    "errata_live_edits ",
    "errata_last_edit_efficacy_ratio ",
    "errata_last_edit_paraphrase_ratio ",
    "errata_last_edit_neighbourhood_drop_ratio ",
    "errata_operations_total",
    "errata_reverts_total",
    "errata_generated_tokens_total",
    "errata_generate_seconds_count",
)

_NOTHING: Final[dict[str, Any]] = {
    "applied": None,
    "after": None,
    "reverted": None,
    "bit_identical": None,
    "claims": {},
}
"""What a story leaves that ends with a report that failed."""


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """What the model said to one prompt at one time."""

    prompt: str
    expected: str
    answer: str

    @property
    def holds(self) -> bool:
        """Whether the answer begins as expected."""
        return self.answer.startswith(self.expected)


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What the model said to all prompts at one time, and the digests of its logits."""

    fact: Spoken
    paraphrases: tuple[Spoken, ...]
    neighbours: tuple[Spoken, ...]
    logits: dict[str, str]
    """Prompt to digest."""


@command(app, "demo")
def demo(
    screen: Screen,
    model: Annotated[
        str, typer.Option(help="The model to serve: 'bundled', a folder or a hub id.")
    ] = "bundled",
) -> None:
    """Move the Eiffel Tower to Rome and back, on a server started for the purpose."""
    with ExitStack() as stack:
        with screen.busy("starting errata-server with a new ledger"):
            running = stack.enter_context(testing.server(model))
        client = stack.enter_context(errata.Client(running.address, actor="demo"))
        document = _tell(Session(client, screen), running)
    claims: dict[str, bool] = document["claims"]
    screen.result(document, "\nWhat was claimed, and whether it holds:", _verdict(claims))
    if not all(claims.values()):
        raise typer.Exit(FAILED)


def _tell(session: Session, running: testing.RunningServer) -> dict[str, Any]:
    """The story, shown as it goes; the document it leaves."""
    client, screen = session.client, session.screen
    screen.show("\n1. A model is being served", render.pairs(_about(client.model(), running)))
    screen.show(f"\n   {_PROMPT} -> {_ask(client, _PROMPT)}")
    screen.show(f"\n2. It is to say {FACT.target}: an edit is computed and checked")
    proposal = session.finish(client.propose(SUBJECT, FACT, reason=REASON))
    screen.show(render.checks(proposal.report), render.tally(proposal.report))
    before = _listen(client, proposal.report, expected=TRUTH)
    told = _apply_and_revert(session, proposal, before) if proposal.report.passed else _NOTHING

    history, audit = list(client.revisions()), client.audit()
    screen.show("\n5. The ledger has it all", render.revisions(history), render.audit(audit))
    metrics = _metrics(running.metrics_url)
    screen.show("\n6. From the server's metrics", "\n".join(metrics))
    claims = {
        f"the model says {TRUTH} at first": before.fact.holds,
        "the checks pass": proposal.report.passed,
        **told["claims"],
        "the audit finds nothing wrong": audit.clean,
    }
    return {
        "server": running.address,
        "edit": proposal.edit,
        "report": proposal.report,
        "before": before,
        **told,
        "log": history,
        "audit": audit,
        "metrics": metrics,
        "claims": claims,
    }


def _apply_and_revert(session: Session, proposal: errata.Proposal, before: Heard) -> dict[str, Any]:
    client, screen, report = session.client, session.screen, proposal.report
    applied = client.apply(proposal.edit, reason=REASON)
    screen.show("\n3. It goes live", render.changed(applied, dry_run=False))
    after = _listen(client, report, expected=FACT.target)
    screen.show(_answers(before, after))

    reverted = client.revert(proposal.edit, reason="errata demo: and back")
    screen.show("\n4. It is taken back", render.changed(reverted, dry_run=False))
    again = _listen(client, report, expected=TRUTH)
    screen.show(f"\n   {_PROMPT} -> {again.fact.answer}", _digests(before, after, again))
    return {
        "applied": applied,
        "after": after,
        "reverted": {"change": reverted, "heard": again},
        "bit_identical": before.logits == again.logits,
        "claims": _claims(report, before, after, again),
    }


def _about(model: errata.Model, running: testing.RunningServer) -> list[tuple[str, object]]:
    return [
        ("server", f"{running.address} (process {running.process_id})"),
        ("model", model.name),
        ("checkpoint", model.digest),
        ("parameters", f"{model.parameters:,}"),
        ("head", f"revision {model.served.sequence}: {model.live_edits} edits live"),
    ]


def _ask(client: errata.Client, prompt: str) -> str:
    return client.generate(prompt, max_new_tokens=_WORDS).read().strip()


def _listen(client: errata.Client, report: errata.Report, *, expected: str) -> Heard:
    """Ask everything; the paraphrases should give ``expected``, the neighbours their truth."""
    paraphrases = _prompts(report, "paraphrase")
    neighbours = _prompts(report, "neighbourhood")
    prompts = [_PROMPT, *(a.prompt for a in (*paraphrases, *neighbours))]
    continuations = [f" {TRUTH}", f" {FACT.target}"]
    return Heard(
        fact=Spoken(prompt=_PROMPT, expected=expected, answer=_ask(client, _PROMPT)),
        paraphrases=tuple(
            Spoken(prompt=a.prompt, expected=expected, answer=_ask(client, a.prompt))
            for a in paraphrases
        ),
        neighbours=tuple(
            Spoken(prompt=a.prompt, expected=a.expected, answer=_ask(client, a.prompt))
            for a in neighbours
        ),
        logits={p: client.score(p, continuations).logits_digest for p in prompts},
    )


def _prompts(report: errata.Report, kind: str) -> Sequence[errata.Answer]:
    check = report.of_kind(kind)
    return check.answers[:_SHOWN] if check else ()


def _answers(before: Heard, after: Heard) -> Table:
    groups = [
        ("fact", (before.fact,), (after.fact,)),
        ("paraphrase", before.paraphrases, after.paraphrases),
        ("neighbour", before.neighbours, after.neighbours),
    ]
    rows = [
        (kind, was.prompt, was.answer, now.answer)
        for kind, old, new in groups
        for was, now in zip(old, new, strict=True)
    ]
    return render.table(("", "prompt", "said before", "says now"), rows)


def _digests(before: Heard, after: Heard, again: Heard) -> Table:
    rows = (
        (
            prompt,
            render.short(before.logits[prompt]),
            render.short(after.logits[prompt]),
            render.short(again.logits[prompt]),
            render.yes(before.logits[prompt] == again.logits[prompt]),
        )
        for prompt in before.logits
    )
    columns = ("prompt", "logits before", "while live", "after the revert", "same bits")
    return render.table(columns, rows)


def _claims(report: errata.Report, before: Heard, after: Heard, again: Heard) -> dict[str, bool]:
    measured = {a.prompt: a.held_after for a in _prompts(report, "paraphrase")}
    return {
        f"it says {FACT.target} once the edit is live": after.fact.holds,
        "paraphrases answer as the report measured": all(
            spoken.holds == measured[spoken.prompt] for spoken in after.paraphrases
        ),
        "neighbours answer as before": before.neighbours == after.neighbours,
        "the edit changed the logits": before.logits[_PROMPT] != after.logits[_PROMPT],
        f"it says {TRUTH} again once reverted": again.fact.holds,
        "all logits are the same bits as before": before.logits == again.logits,
    }


def _metrics(url: str) -> list[str]:
    """Some lines of the server's metrics; none where it has none."""
    if not url:
        return []
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - our own server's http URL
        lines: list[str] = answer.read().decode("utf-8").splitlines()
    return [line for line in lines if line.startswith(_METRICS)]


def _verdict(claims: dict[str, bool]) -> Table:
    return render.table(("claim", "holds"), ((c, render.yes(h)) for c, h in claims.items()))
