"""``propose``, ``verify``, ``approve``, ``list``: edits before they go live."""

from itertools import islice
from pathlib import Path
from typing import Annotated, Final

import typer

import errata
from errata._options import BatchOptions, ProposeOptions
from errata.cli import _inputs as inputs
from errata.cli import _next_steps as next_steps
from errata.cli import _render as render
from errata.cli import _render_batches as render_batches
from errata.cli import _render_upkeep as render_upkeep
from errata.cli._options import Author, Batched, Proposer, command
from errata.cli._screen import REJECTED
from errata.cli._session import Session

app = typer.Typer()

_STATES: Final = tuple(s for s in errata.EditState if s is not errata.EditState.UNSPECIFIED)

SuiteFile = Annotated[
    Path | None,
    typer.Option(
        help="Regression prompts that must stay right: .json, .jsonl or .csv of prompt and "
        "expected.",
        metavar="FILE",
    ),
]
Edit = Annotated[str, typer.Argument(metavar="EDIT", help="An edit's id, such as e-1234.")]


@command(app, "propose")
def propose(
    session: Session,
    why: Proposer,
    batched: Batched,
    subject: Annotated[str, typer.Option(help="Whom or what the edit is about.")] = "",
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            help="A sentence start with {} for the subject, or with the subject spelled out; "
            "give several, each with its --target, for several facts.",
        ),
    ] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="What the model should say next.")
    ] = None,
    paraphrase: Annotated[
        list[str] | None,
        typer.Option(
            help="Another phrasing that must give the target, or what follows the last '='.",
            metavar="PROMPT[=EXPECTED]",
        ),
    ] = None,
    neighbour: Annotated[
        list[str] | None,
        typer.Option(
            help="A prompt about something else that must not change.",
            metavar="PROMPT=EXPECTED",
        ),
    ] = None,
    alias: Annotated[
        list[str] | None,
        typer.Option(help="Another name of the subject that the edit is to know as well."),
    ] = None,
    suite: SuiteFile = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Check the request, compute and store no edit. Of a single edit, not of --file.",
        ),
    ] = False,
) -> None:
    """Compute a patch and check it, or with --file many. Nothing goes live."""
    if batched.file is not None:
        _require_alone([subject, prompt, target, paraphrase, neighbour, alias, suite], dry_run)
        _propose_file(session, inputs.proposals(batched.file), batched, why)
        return
    if not (subject and prompt and target):
        raise typer.BadParameter("give --subject, --prompt and --target, or --file")
    facts = _facts(prompt, target)
    options = _propose_options(
        subject, target, why, prompts=(paraphrase or [], neighbour or []), suite=suite
    )
    options["aliases"] = alias or []
    if dry_run:
        session.client.validate(subject, facts, **options)
        session.screen.result({"valid": True}, "The request is well-formed; nothing was stored.")
        return
    operation = session.client.propose(subject, facts, **options)
    _conclude(session, operation)


def _require_alone(given: list[object], dry_run: bool) -> None:
    """Do nothing if a file of edits comes without options that are for one edit."""
    if any(given):
        raise typer.BadParameter("--file takes all of an edit from the file")
    if dry_run:
        raise typer.BadParameter(
            "--dry-run is for a single edit, and a batch has none; leave it out: nothing of a "
            "batch goes live either"
        )


@command(app, "verify")
def verify(
    session: Session,
    author: Author,
    edit: Annotated[
        str, typer.Argument(metavar="[EDIT]", help="An edit's id; none with --live.")
    ] = "",
    suite: SuiteFile = None,
    live: Annotated[
        bool,
        typer.Option(
            "--live",
            help="Ask live edits instead: all that conflict with another, and a sample.",
        ),
    ] = False,
    sample: Annotated[
        int | None,
        typer.Option(min=0, help="With --live: edits drawn; else as the policy says."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="With --live: of the draw.")] = 0,
) -> None:
    """Check an edit again on top of what is live now, or ask the live edits again."""
    if live == bool(edit):
        raise typer.BadParameter("name an edit, or give --live to ask those that are live")
    if live and suite:
        raise typer.BadParameter("--suite goes with an edit, not with --live")
    if not live and sample is not None:
        raise typer.BadParameter("--sample goes with --live")
    if not live:
        prompts = inputs.check_prompts(suite) if suite else []
        _conclude(session, session.client.verify(edit, suite=prompts, **author.signed()))
        return
    verify_live = session.client.verify_live
    _conclude_live(
        session,
        verify_live(seed=seed, **author.signed())
        if sample is None
        else verify_live(sample=sample, seed=seed, **author.signed()),
    )


@command(app, "approve")
def approve(
    session: Session,
    edit: Edit,
    author: Author,
    comment: Annotated[str, typer.Option(help="What the approval rests on.")] = "",
) -> None:
    """Record that an edit may be applied."""
    approved = session.client.approve(edit, comment, **author.signed())
    session.screen.result({"edit": approved}, next_steps.after_approval(approved))


@command(app, "list")
def list_edits(
    session: Session,
    state: Annotated[
        str, typer.Option(help="Only edits in this state.", metavar="|".join(_STATES))
    ] = "",
    branch: Annotated[str, typer.Option(help="The branch whose states are shown.")] = "main",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")] = 50,
) -> None:
    """List edits, newest first."""
    if state and state not in _STATES:
        raise typer.BadParameter(f"{state!r} is none of {', '.join(_STATES)}", param_hint="--state")
    wanted = errata.EditState(state) if state else None
    pages = session.client.edits(state=wanted, branch=branch, page_size=min(limit, 1000))
    found = list(islice(pages, limit))
    session.screen.result({"edits": found}, render.edits(found))


def _propose_file(
    session: Session, proposals: list[errata.EditProposal], batched: Batched, why: Proposer
) -> None:
    """Propose a file's edits, say what came of each, and exit as the worst of them says."""
    options: BatchOptions = {
        **batched.options(),
        **why.proposed(),
        "reason": why.reason,
        "ticket": why.ticket,
    }
    name = options["batch"]
    session.screen.note(f"Batch {name}; if it is cut off, give --batch {name} to go on")
    operation = session.client.propose_edits(proposals, **options)
    found = session.finish(operation)
    session.screen.result(
        {"operation": operation.name, "batch": found}, *render_batches.batch(found)
    )
    if not found.passed:
        raise typer.Exit(REJECTED)


def _facts(prompts: list[str], targets: list[str]) -> list[errata.Fact]:
    if len(prompts) != len(targets):
        raise typer.BadParameter(
            f"{len(prompts)} prompts and {len(targets)} targets; give each --prompt a --target"
        )
    return [errata.Fact(template=p, target=t) for p, t in zip(prompts, targets, strict=True)]


def _propose_options(
    subject: str,
    targets: list[str],
    why: Proposer,
    *,
    prompts: tuple[list[str], list[str]],
    suite: Path | None,
) -> ProposeOptions:
    """The options of a proposal; ``prompts`` are paraphrases and neighbours as they were typed."""
    paraphrases, neighbours = prompts
    only_target = targets[0] if len(set(targets)) == 1 else ""
    return {
        **why.proposed(),
        "reason": why.reason,
        "ticket": why.ticket,
        "paraphrases": [_check_prompt(text, subject, only_target) for text in paraphrases],
        "neighbours": [_check_prompt(text, subject, "") for text in neighbours],
        "suite": inputs.check_prompts(suite) if suite else [],
        "aliases": [],
    }


def _check_prompt(text: str, subject: str, default: str) -> errata.CheckPrompt:
    """``PROMPT=EXPECTED``, or ``PROMPT`` alone where there is a default."""
    prompt, separator, expected = text.rpartition("=")
    if not separator:
        prompt, expected = text, default
    if not prompt.strip() or not expected.strip():
        form = "PROMPT[=EXPECTED]" if default else "PROMPT=EXPECTED"
        raise typer.BadParameter(f"{text!r} must be written as {form}")
    return errata.CheckPrompt(
        prompt=prompt.strip().replace("{}", subject), expected=expected.strip()
    )


def _conclude(session: Session, operation: errata.Operation[errata.Proposal]) -> None:
    """Follow a proposal to its report, say what to do next, and exit as the report says."""
    proposal = session.finish(operation)
    edit, report = proposal.edit, proposal.report
    facts = "; ".join(f"{fact.template} -> {fact.target}" for fact in edit.facts)
    session.screen.result(
        {"operation": operation.name, "edit": edit, "report": report},
        f"Edit {edit.id} of {edit.subject}: {facts}",
        render.checks(report),
        render.tally(report),
        next_steps.after_report(proposal),
    )
    if not report.passed:
        raise typer.Exit(REJECTED)


def _conclude_live(session: Session, operation: errata.Operation[errata.LiveVerification]) -> None:
    """Follow a verification of live edits, name what no longer holds, and exit accordingly."""
    found = session.finish(operation)
    session.screen.result(
        {"operation": operation.name, "verification": found}, *render_upkeep.verification(found)
    )
    session.warn(found.health.warnings)
    if not found.passed:
        raise typer.Exit(REJECTED)
