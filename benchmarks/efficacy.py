"""How well edits hold: CounterFact's questions on known facts, for errata and its rivals.

Each of ``--edits`` random known facts is edited to another object of its relation. The model
must know the fact on the prompt that is edited. Efficacy is the share of those prompts then
answered with the new object; paraphrase asks the fact's held-out phrasings; neighbourhood
asks other subjects of the relation, those that share the old object first, in held-out
phrasings, before and after: all by exact free generation. ``score`` is CounterFact's S, the
harmonic mean of ES, PS and NS, which go by likelihoods; ``exact_score`` is the harmonic mean
of the exact three.

Regime ``single`` judges each edit alone, ``live`` all that were made at once, ``sequential``
all that were made one after another. ``--sweep`` judges after each of some numbers of edits,
``--method all`` compares every method.
"""

import json
import math
import random
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.document import Document
from benchmarks.editing.cases import Case, choose_cases
from benchmarks.editing.firings import explain, guards_of, selectivity
from benchmarks.editing.formats import read_cases
from benchmarks.editing.judging import Group, Judge, Tally, percent
from benchmarks.editing.methods import Condition, MethodName, opened
from benchmarks.editing.plot import write_plot
from benchmarks.editing.prose import look_at_prose
from benchmarks.editing.workbench import Workbench, open_workbench
from errata_server import files
from errata_server.domain.errors import ErrataError, InvalidInputError

COLUMNS = (
    "efficacy",
    "paraphrase",
    "neighbourhood_drop",
    "exact_score",
    "score",
    "perplexity_ratio",
)
log = Console(stderr=True)


class Regime(StrEnum):
    """How edits are made and how many are there while one is judged."""

    SINGLE = "single"
    LIVE = "live"
    SEQUENTIAL = "sequential"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one method did with some number of edits."""

    method: MethodName
    edits: int
    figures: dict[str, float]
    details: dict[str, object]

    @property
    def row(self) -> dict[str, str | float]:
        """The figures with what they are of."""
        return {"method": self.method.value, "edits": self.edits, **self.figures}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Some cases, and how methods are compared on them."""

    bench: Workbench
    cases: Sequence[Case]
    judge: Judge
    sizes: Sequence[int]
    judged: int
    """Edits judged at most of every size; all of them where 0."""

    seed: int
    revert_half: bool

    def chosen(self, size: int) -> list[Case]:
        """The edits that are judged once there are ``size``."""
        made = list(self.cases[:size])
        if not 0 < self.judged < size:
            return made
        return random.Random(self.seed).sample(made, self.judged)

    def learn(self) -> None:
        """Ask the base model everything that will be asked."""
        for size in self.sizes:
            self.judge.learn(self.chosen(size))

    def single(self, name: MethodName) -> Iterator[Measured]:
        """Every edit alone."""
        tally = Tally()
        for case in track(self.cases, description=f"single, {name}", console=log):
            self.judge.learn([case])
            with opened(name, self.bench) as method:
                method.edit([case])
                with method.answering() as condition:
                    self.judge.judge([case], condition, tally)
        yield self._measured(name, len(self.cases), tally, {})

    def live(self, name: MethodName) -> Iterator[Measured]:
        """For each size, all edits at once on the base model."""
        for size in self.sizes:
            with opened(name, self.bench) as method:
                method.edit(self.cases[:size])
                with method.answering() as condition:
                    yield self._look(name, size, condition)

    def sequential(self, name: MethodName) -> Iterator[Measured]:
        """One edit after another, judged at each size."""
        with opened(name, self.bench) as method:
            last = max(self.sizes)
            for made in track(range(1, last + 1), description=f"sequential, {name}", console=log):
                method.edit([self.cases[made - 1]])
                if made in self.sizes:
                    with method.answering() as condition:
                        yield self._look(name, made, condition)

    def _look(self, name: MethodName, size: int, condition: Condition) -> Measured:
        tally = Tally()
        self.judge.judge(self.chosen(size), condition, tally)
        details: dict[str, object] = {}
        extra: dict[str, float] = {}
        if name is MethodName.ERRATA:
            guards = guards_of(self.bench, self.cases[:size], condition)
            details = explain(guards, self.chosen(size), tally).to_json()
            extra, details["fire_most_in_prose"] = selectivity(guards, condition)
            prose, details["prose"] = look_at_prose(guards, self.cases[:size], condition)
            extra |= prose
        if name is MethodName.ERRATA and self.revert_half:
            extra |= self._half(size)
        return self._measured(name, size, tally, details, extra)

    def _measured(
        self,
        name: MethodName,
        size: int,
        tally: Tally,
        details: dict[str, object],
        extra: dict[str, float] | None = None,
    ) -> Measured:
        figures = {**tally.figures(), **(extra or {})}
        log.print(f"{name} {size}:", {c: round(figures[c], 4) for c in COLUMNS if c in figures})
        missed = {
            "efficacy_misses": tally.misses(Group.EFFICACY),
            "paraphrase_misses": tally.misses(Group.PARAPHRASES),
        }
        return Measured(method=name, edits=size, figures=figures, details={**missed, **details})

    def _half(self, size: int) -> dict[str, float]:
        """Revert a random half: what the rest still does, and the reverted as before."""
        made, judged = self.cases[:size], self.chosen(size)
        # Another draw than that of the judged edits, which may be half of them too.
        chooser = random.Random(f"{self.seed}|revert")
        kept = set(chooser.sample(range(size), size - size // 2))
        rest = [case for at, case in enumerate(made) if at in kept]
        still, back = Tally(), Tally()
        with opened(MethodName.ERRATA, self.bench) as method:
            method.edit(rest)
            with method.answering() as condition:
                self.judge.ask([case for case in judged if case in rest], condition, still)
                self.judge.ask([case for case in judged if case not in rest], condition, back)
        figures = still.figures()
        answers = [*back.answers[Group.EFFICACY], *back.answers[Group.PARAPHRASES]]
        same = [answer.before == answer.after for answer in answers]
        found = {
            "kept_efficacy": figures.get("efficacy", math.nan),
            "kept_paraphrase": figures.get("paraphrase", math.nan),
            "reverted_as_before": percent(same),
        }
        return {name: value for name, value in found.items() if not math.isnan(value)}


@contextmanager
def kept_in(cache: Path | None) -> Iterator[Path]:
    """``cache``, or a folder that goes when the block ends."""
    if cache is not None:
        yield cache
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def methods_of(text: str) -> list[MethodName]:
    """The methods that ``text`` names, separated by commas; all of them for ``all``.

    Raises:
        InvalidInputError: one is unknown.
    """
    if text == "all":
        return list(MethodName)
    try:
        return [MethodName(name.strip()) for name in text.split(",")]
    except ValueError as error:
        known = ", ".join(MethodName)
        raise InvalidInputError(f"{error}; the methods are {known}, or all", field="method") from (
            error
        )


def sizes_of(text: str, edits: int) -> list[int]:
    """The numbers of edits in ``text``, up to ``edits``; ``edits`` alone where it is empty.

    Raises:
        InvalidInputError: it is no list of positive numbers.
    """
    try:
        sizes = sorted({int(number) for number in text.split(",")}) if text else [edits]
    except ValueError as error:
        raise InvalidInputError(f"--sweep is a list such as 1,10,100: {error}") from error
    if sizes[0] < 1:
        raise InvalidInputError("--sweep needs numbers of at least 1", field="sweep")
    return sorted({min(size, edits) for size in sizes})


def cases_of(bench: Workbench, facts: Path | None, count: int, seed: int) -> list[Case]:
    """The first ``count`` cases of ``facts``, or of the known facts where None."""
    if facts is None:
        return choose_cases(bench.runner, files.read_known_facts(None), count, seed)
    return read_cases(facts)[:count]


def compare(
    comparison: Comparison, methods: Sequence[MethodName], regime: Regime
) -> Iterator[Measured]:
    """Every method at every size, as they are measured."""
    if regime is not Regime.SINGLE:
        comparison.learn()
    run = {
        Regime.SINGLE: comparison.single,
        Regime.LIVE: comparison.live,
        Regime.SEQUENTIAL: comparison.sequential,
    }[regime]
    for name in methods:
        yield from run(name)


def show(measured: Sequence[Measured]) -> None:
    """The comparison as a table, for people."""
    table = Table(title="methods by number of edits")
    for column in ("method", "edits", *COLUMNS):
        table.add_column(column, justify="left" if column == "method" else "right")
    for row in (one.row for one in measured):
        cells = [f"{row[column]:.5g}" if column in row else "-" for column in COLUMNS]
        table.add_row(str(row["method"]), str(row["edits"]), *cells)
    Console().print(table)


def main(
    edits: Annotated[int, typer.Option(min=1, help="Facts to edit.")] = 100,
    regime: Annotated[Regime, typer.Option(help="Each alone, all at once, or in turn.")] = (
        Regime.SINGLE
    ),
    method: Annotated[str, typer.Option(help="Methods, separated by commas, or all.")] = "errata",
    sweep: Annotated[str, typer.Option(help="Numbers of edits, such as 1,10,100.")] = "",
    seed: Annotated[int, typer.Option(help="Chooses facts, targets and neighbours.")] = 0,
    judged: Annotated[int, typer.Option(min=0, help="Edits judged at most; 0 for all.")] = 0,
    revert_half: Annotated[
        bool, typer.Option("--revert-half", help="Also revert half of errata's edits.")
    ] = False,
    facts: Annotated[
        Path | None, typer.Option(help="Facts in the published CounterFact or zsRE format.")
    ] = None,
    model: Annotated[str, typer.Option(help="A checkpoint; the bundled one if not given.")] = "",
    profile: Annotated[Path | None, typer.Option(help="That checkpoint's profile.")] = None,
    texts: Annotated[Path | None, typer.Option(help="The texts it was calibrated on.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Keeps patches between runs.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw quality by number of edits.")] = None,
    output: Annotated[Path | None, typer.Option(help="Also write the JSON here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Measure how well edits hold, for errata and for other ways to edit."""
    try:
        names = methods_of(method)
        with kept_in(cache) as folder, bench_opened(folder, model, profile, texts) as bench:
            cases = cases_of(bench, facts, edits, seed)
            comparison = Comparison(
                bench=bench,
                cases=cases,
                judge=Judge(bench, cases),
                sizes=sizes_of(sweep, len(cases)),
                judged=judged,
                seed=seed,
                revert_half=revert_half,
            )
            measured = []
            for one in compare(comparison, names, regime):
                measured.append(one)
                settings = {"regime": regime.value, "seed": seed, "judged": judged}
                document = _document(measured, bench, settings)
                # After every row, so that an interrupted comparison leaves what it has.
                keep(measured, document, output=output, plot=plot)
    except ErrataError as error:
        log.print(f"cannot measure this: {error}")
        raise typer.Exit(1) from error
    if len(measured) > 1 and not as_json:
        show(measured)
    document.show(as_json=as_json)


def keep(
    measured: Sequence[Measured], document: Document, *, output: Path | None, plot: Path | None
) -> None:
    """Write what has been measured so far, where it is wanted."""
    if output is not None:
        output.write_text(json.dumps(document.content, indent=1) + "\n", encoding="utf-8")
    if plot is not None:
        write_plot([one.row for one in measured], plot)


@contextmanager
def bench_opened(
    folder: Path, model: str, profile: Path | None, texts: Path | None
) -> Iterator[Workbench]:
    """A workbench whose model thread ends with the block; see `open_workbench`."""
    known = () if model else files.read_known_facts(None).subjects
    bench = open_workbench(folder, model=model, profile=profile, texts=texts, known=known)
    try:
        yield bench
    finally:
        bench.runner.close()


def _document(
    measured: Sequence[Measured], bench: Workbench, settings: Mapping[str, object]
) -> Document:
    """The first method at its largest size, and a row for all."""
    first = [one for one in measured if one.method is measured[0].method][-1]
    effort = {}
    if bench.effort.seconds:
        effort["seconds_per_edit"] = statistics.median(bench.effort.seconds)
    if bench.effort.patches:
        effort["converged"] = 100 * bench.effort.converged / bench.effort.patches
    return Document(
        benchmark="efficacy",
        settings={"method": first.method.value, "edits": first.edits, **settings},
        figures={**first.figures, **effort},
        details={**first.details, "table": [one.row for one in measured]},
    )


if __name__ == "__main__":
    typer.run(main)
