"""``trace``: where in the model an answer is carried, for one prompt or over many facts."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.table import Table

import errata
from errata._options import CorruptionOptions, ProxyOptions, TraceFactsOptions, TraceOptions
from errata.cli import _inputs as inputs
from errata.cli import _pictures as pictures
from errata.cli import _render as render
from errata.cli._options import Author, Files, Group, command
from errata.cli._session import Session

app = typer.Typer()

_KINDS: Final = tuple(str(k) for k in errata.TraceKind if k is not errata.TraceKind.UNSPECIFIED)
_METRICS: Final = tuple(
    str(m) for m in errata.TraceMetric if m is not errata.TraceMetric.UNSPECIFIED
)


@dataclass(frozen=True, kw_only=True)
class What(Group):
    """What is traced."""

    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="What the model is given.")
    ] = None
    subject: Annotated[
        str, typer.Option(help="The words that are corrupted, wherever the prompt has them.")
    ] = ""
    answer: Annotated[
        str, typer.Option(help="What the score is of, else the model's own next word.")
    ] = ""
    foil: Annotated[
        str, typer.Option(help="For the logit difference, else the corrupted run's favourite.")
    ] = ""
    known: Annotated[
        int | None,
        typer.Option(min=1, help="Average over so many of the server's known facts.", metavar="N"),
    ] = None
    facts: Annotated[
        Path | None,
        typer.Option(
            help="Average over these facts: .json, .jsonl or .csv with prompt, subject and, if "
            "wanted, answer.",
            metavar="FILE",
        ),
    ] = None
    at: Annotated[
        str,
        typer.Option(
            help="A revision, sequence or branch, or 'base'; else the head.", metavar="REVISION"
        ),
    ] = ""
    against: Annotated[
        str,
        typer.Option(
            help="Trace there too, and show the trace at the first less this one.",
            metavar="REVISION",
        ),
    ] = ""


@dataclass(frozen=True, kw_only=True)
class How(Group):
    """How it is traced."""

    kind: Annotated[
        list[str] | None,
        typer.Option(
            help="What is restored; give several, else hidden, mlp and attn.",
            metavar="|".join(_KINDS),
        ),
    ] = None
    metric: Annotated[
        str, typer.Option(help="What is scored, else probability.", metavar="|".join(_METRICS))
    ] = ""
    samples: Annotated[
        int | None, typer.Option(min=1, help="Draws of noise, 10 if not given.", metavar="N")
    ] = None
    noise: Annotated[
        float | None,
        typer.Option(
            help="In standard deviations of subjects' embeddings, 3 if not given.", metavar="X"
        ),
    ] = None
    seed: Annotated[int | None, typer.Option(min=0, help="Of the noise, 1 if not given.")] = None
    replace: Annotated[
        list[str] | None,
        typer.Option(
            help="Another subject to put in its place instead of noise; give several.",
            metavar="SUBJECT",
        ),
    ] = None
    window: Annotated[
        int | None,
        typer.Option(min=1, help="Layers restored together for mlp and attn, 10 if not given."),
    ] = None
    memory: Annotated[
        int | None,
        typer.Option(min=1, help="Most memory the cells in flight may take.", metavar="MIB"),
    ] = None

    def check(self) -> None:
        """Refuse kinds and metrics there are not.

        Raises:
            typer.BadParameter: there is no such kind or metric.
        """
        for option, given, known in (
            ("--kind", self.kind or (), _KINDS),
            ("--metric", (self.metric,) if self.metric else (), _METRICS),
        ):
            for name in given:
                if name not in known:
                    raise typer.BadParameter(
                        f"{name!r} is none of {', '.join(known)}", param_hint=option
                    )

    def tell(self, options: CorruptionOptions) -> None:
        """Add what was given; the rest is the server's to choose."""
        options["kinds"] = self.kind or ()
        options["replacements"] = self.replace or ()
        if self.metric:
            options["metric"] = self.metric
        if self.samples is not None:
            options["samples"] = self.samples
        if self.noise is not None:
            options["scale"] = self.noise
        if self.seed is not None:
            options["seed"] = self.seed
        if self.window is not None:
            options["window"] = self.window
        if self.memory is not None:
            options["memory_mib"] = self.memory


@dataclass(frozen=True, kw_only=True)
class Classifier(Group):
    """The classifier that is traced in place of an answer."""

    proxy: Annotated[
        Path | None,
        typer.Option(
            help="Fit a classifier on labelled texts, .json, .jsonl or .csv with text and label, "
            "and trace what it says; without PROMPT only fit it.",
            metavar="FILE",
        ),
    ] = None
    suffix: Annotated[
        str | None, typer.Option(help="Put behind every text, 'I am feeling' if not given.")
    ] = None
    words: Annotated[
        list[str] | None,
        typer.Option(
            help="A word whose probability is a feature; give several, else good and bad.",
            metavar="WORD",
        ),
    ] = None
    hidden_state: Annotated[
        bool, typer.Option("--hidden-state", help="Read the last hidden state in place of words.")
    ] = False
    positive: Annotated[
        str, typer.Option(help="The label the classifier gives the probability of.")
    ] = ""

    def options(self, author: Author, revision: str, seed: int | None) -> ProxyOptions:
        """As the client takes it."""
        told: ProxyOptions = {
            "actor": author.actor or "",
            "revision": revision,
            "words": self.words or (),
            "hidden_state": self.hidden_state,
            "positive_label": self.positive,
            "seed": seed or 0,
        }
        if self.suffix is not None:
            told["suffix"] = self.suffix
        return told


@command(app, "trace")
def trace(
    session: Session, what: What, how: How, classifier: Classifier, files: Files, author: Author
) -> None:
    """Find where the model carries an answer; it chooses no layer to edit, calibrate does."""
    _check(what, how, classifier, files)
    if what.known is not None or what.facts is not None:
        _average(session, what, how, files, author)
        return
    proxy = _fitted(session, what, how, classifier, author)
    if what.prompt is None:
        session.screen.result({"proxy": proxy})
        return
    if what.against:
        _compare(session, what, how, files, _Asked(author=author, proxy=proxy))
        return
    asked = _Asked(author=author, proxy=proxy)
    operation = asked.start(session, what, how, what.at)
    traced = session.finish(operation)
    files.write(traced, session.screen)
    session.screen.result(
        {"operation": operation.name, **asked.document, "trace": traced.to_dict()},
        *pictures.picture(traced.picture(), session.screen.width),
    )
    session.warn(traced.warnings)


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What a prompt is traced with: in whose name, and with which classifier."""

    author: Author
    proxy: errata.Proxy | None

    @property
    def document(self) -> dict[str, errata.Proxy]:
        return {"proxy": self.proxy} if self.proxy else {}

    def start(
        self, session: Session, what: What, how: How, revision: str
    ) -> errata.Operation[errata.CausalTrace]:
        options: TraceOptions = {
            "actor": self.author.actor or "",
            "request_id": self.author.request_id or "",
            "revision": revision,
            "answer": what.answer,
            "foil": what.foil,
        }
        how.tell(options)
        if self.proxy is not None:
            options["proxy"] = self.proxy
        return session.client.trace(what.prompt or "", what.subject, **options)


def _compare(session: Session, what: What, how: How, files: Files, asked: _Asked) -> None:
    """The trace at one revision less that at another."""
    first = asked.start(session, what, how, what.at)
    ours = session.finish(first)
    again = _Asked(author=Author(actor=asked.author.actor), proxy=asked.proxy)
    second = again.start(session, what, how, what.against)
    difference = ours.minus(session.finish(second))
    files.write(difference, session.screen)
    session.screen.result(
        {
            "operation": first.name,
            "operation_against": second.name,
            **asked.document,
            "difference": difference.to_dict(),
        },
        *pictures.picture(difference.picture(), session.screen.width),
    )
    session.warn(dict.fromkeys((*difference.trace.warnings, *difference.against.warnings)))


def _average(session: Session, what: What, how: How, files: Files, author: Author) -> None:
    """Effects over many facts."""
    given = inputs.facts(what.facts) if what.facts else ()
    options: TraceFactsOptions = {
        "actor": author.actor or "",
        "request_id": author.request_id or "",
        "revision": what.at,
    }
    if what.known is not None:
        options["limit"] = what.known
    how.tell(options)
    operation = session.client.trace_facts(given, **options)
    average = session.finish(operation)
    files.write(average, session.screen)
    session.screen.result(
        {"operation": operation.name, "average": average.to_dict()},
        *pictures.picture(average.picture(), session.screen.width, grids_only=True),
    )
    session.warn(
        (*average.warnings, *(f"dropped {d.prompt!r}: {d.reason}" for d in average.dropped))
    )


def _fitted(
    session: Session, what: What, how: How, classifier: Classifier, author: Author
) -> errata.Proxy | None:
    """The classifier, fitted and shown; None where none was asked for."""
    if classifier.proxy is None:
        return None
    texts = inputs.labelled_texts(classifier.proxy)
    operation = session.client.fit_proxy(texts, **classifier.options(author, what.at, how.seed))
    proxy = session.finish(operation)
    session.screen.show(_described(proxy))
    return proxy


def _described(proxy: errata.Proxy) -> Table:
    read = ", ".join(proxy.words) or "the last hidden state"
    return render.pairs(
        [
            ("proxy", proxy.id),
            ("reads", f"{read} behind \u201c{proxy.suffix}\u201d ({proxy.features} features)"),
            ("says", f"the probability of {proxy.positive_label!r}, not {proxy.negative_label!r}"),
            (
                "accuracy",
                f"{proxy.test_accuracy:.3f} on {proxy.test_texts} held-out texts; always naming "
                f"the commoner label gets {proxy.majority_accuracy:.3f}",
            ),
            ("fitted on", f"{proxy.train_texts} texts, accuracy {proxy.train_accuracy:.3f}"),
        ]
    )


def _check(what: What, how: How, classifier: Classifier, files: Files) -> None:
    """Refuse what does not go together before anything is asked of the server.

    Raises:
        typer.BadParameter: options are missing or contradict each other.
    """
    how.check()
    files.check()
    many = what.known is not None or what.facts is not None
    single = (what.subject, what.answer, what.foil, what.against)
    for wrong, said in (
        (
            (what.prompt is not None) + (what.known is not None) + (what.facts is not None) > 1,
            "give one of PROMPT, --known and --facts",
        ),
        (
            what.prompt is None and not many and classifier.proxy is None,
            "give a PROMPT, or --known, --facts or --proxy",
        ),
        (
            what.prompt is not None and not what.subject and classifier.proxy is None,
            "name the words of PROMPT to corrupt with --subject",
        ),
        (
            what.prompt is None and any(single),
            "--subject, --answer, --foil and --against go with a PROMPT",
        ),
        (many and classifier.proxy is not None, "--proxy goes with a PROMPT, not with many facts"),
        (
            what.prompt is None and not many and (files.plot or files.save),
            "--plot and --save need a PROMPT to trace",
        ),
        *_misplaced(how, classifier),
    ):
        if wrong:
            raise typer.BadParameter(said)


def _misplaced(how: How, classifier: Classifier) -> Iterable[tuple[bool, str]]:
    """What goes with a classifier alone."""
    told = classifier.suffix is not None or classifier.words or classifier.hidden_state
    without = classifier.proxy is None
    yield (
        without and bool(told or classifier.positive),
        "--suffix, --words, --hidden-state and --positive go with --proxy",
    )
    yield (
        without and how.metric == errata.TraceMetric.PROXY,
        "the metric 'proxy' needs a classifier; fit one with --proxy",
    )
    yield (
        not without and how.metric not in {"", errata.TraceMetric.PROXY},
        "with --proxy the metric is 'proxy'",
    )
    yield (
        bool(classifier.hidden_state and classifier.words),
        "read either --words or the --hidden-state",
    )
