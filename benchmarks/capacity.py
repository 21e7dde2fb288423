"""How many edits a linear export bears: the most whose weight change still passes the checks.

For each method the number of edits is doubled until the weight change fails twice in a row, and
the gap between the last that passed and the first that failed is halved until it is small. What is
asked of the edited model is the efficacy benchmark's: free generation on held-out phrasings,
and perplexity of fixed prose; ``--judged`` edits at most are asked about. The checks are those
of `errata_server.domain.linear.EXPORT_POLICY`. ``--ridge`` tries other ridges than the rows',
``--layers`` another number of layers.

A few edits have few prompts, and one miss would decide. So as many sets of that number are made,
each on its own, as it takes to have ``--judged`` edits; their answers are counted together, and
of perplexity and disturbance the worst set's stands. Below the number that is found some sets may
fail, and above it some may pass.
"""

import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.document import Document
from benchmarks.editing.cases import Case
from benchmarks.editing.judging import Judge, Tally
from benchmarks.editing.methods import Condition, linear_edits, weight_changes
from benchmarks.editing.workbench import Workbench
from benchmarks.efficacy import bench_opened, cases_of, kept_in
from errata_server.domain.checks import CheckKind
from errata_server.domain.errors import ErrataError, InvalidInputError
from errata_server.domain.linear import (
    EXPORT_POLICY,
    LINEAR_METHODS,
    ExportMeasurements,
    LinearMethod,
    failed_checks,
    linear_method,
)
from errata_server.engine.answers import perplexity
from errata_server.engine.bank import Bank
from errata_server.engine.gram import GramInverse
from errata_server.engine.linear import LinearEdit, WeightChange, bank_of
from errata_server.engine.protection import protector
from errata_server.engine.solve import disturbance
from errata_server.engine.strain import ordinary_energy

FIRST = 8
"""Edits that are tried first."""

PATIENCE = 2
"""Doublings in a row that fail before no larger number is tried."""

MEASURED = tuple(one.name for one in fields(ExportMeasurements))
log = Console(stderr=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One number of edits, and what the model does with them."""

    edits: int
    measured: ExportMeasurements
    disturbance: float
    """``tr(D C D^T)`` over ``tr(W C W^T)``, summed over the layers written to."""

    failed: tuple[CheckKind, ...]

    @property
    def row(self) -> dict[str, object]:
        """As JSON values; shares in percent, what could not be measured left out."""
        figures = {
            "efficacy": 100 * self.measured.efficacy,
            "paraphrase": 100 * self.measured.paraphrase,
            "neighbourhood_drop": 100 * self.measured.neighbourhood_drop,
            "perplexity_ratio": 1 + self.measured.perplexity_rise,
            "disturbance": self.disturbance,
        }
        known = {name: value for name, value in figures.items() if not math.isnan(value)}
        return {"edits": self.edits, **known, "failed": [str(kind) for kind in self.failed]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What the search came to."""

    edits: int
    """The most that passed; 0 where not even one did."""

    tried: tuple[int, ...]
    bounded: bool
    """Whether a larger number failed; else there were no more edits to try."""


def search(passes: Callable[[int], bool], most: int, *, resolution: float) -> Capacity:
    """The largest number of edits up to ``most`` that ``passes``, by doubling and bisection.

    Doubling goes on behind a first failure, since a few edits may fail by the luck of their
    neighbours; `PATIENCE` failures in a row end it.

    Args:
        resolution: The gap to the first that fails is at most this share of the answer.
    """
    tried: list[int] = []

    def fine(edits: int) -> bool:
        tried.append(edits)
        return passes(edits)

    low, high, failures = 0, most + 1, 0
    for size in _doublings(most):
        if fine(size):
            low, high, failures = size, most + 1, 0
        else:
            high, failures = min(high, size), failures + 1
            if failures == PATIENCE:
                break
    bounded = high <= most
    while bounded and high - low > max(1, int(resolution * low)):
        middle = (low + high) // 2
        if fine(middle):
            low = middle
        else:
            high = middle
    return Capacity(edits=low, tried=tuple(tried), bounded=bounded)


def _doublings(most: int) -> Iterator[int]:
    size = min(FIRST, most)
    while size < most:
        yield size
        size *= 2
    yield most


def sets_of(edits: int, made: int, judged: int) -> list[range]:
    """Sets of ``made`` of the ``edits``, none in two, as many as ``judged`` edits take.

    As many as there are where ``judged`` is 0; always one.
    """
    wanted = math.ceil((judged or edits) / made)
    count = max(1, min(wanted, edits // made))
    return [range(start, start + made) for start in range(0, count * made, made)]


class Moving:
    """The weight change of any edits in a row, by a method of one layer.

    The inverse is kept from one set to the next; what is exported is solved afresh.
    """

    def __init__(self, bench: Workbench, method: LinearMethod, edits: Sequence[LinearEdit]) -> None:
        moment = bench.moment(bench.profile.layer).mean()
        self._protector = protector(method, moment, bench.profile.ridge)
        self._held = GramInverse(len(moment), method.ridge * self._protector.leverage)
        self._patches = [edit.patch for edit in edits]
        self._owners: list[int] = []
        """The edit of each key that is held."""

    def changes(self, made: range) -> tuple[WeightChange, ...]:
        """Of the edits at ``made``.

        Raises:
            InvalidInputError: their keys are not independent, and the method has no ridge.
        """
        gone = [row for row, owner in enumerate(self._owners) if owner not in made]
        self._held.remove(gone)
        self._owners = [owner for owner in self._owners if owner in made]
        new = sorted(set(made) - set(self._owners))
        if new:
            keys = torch.cat([self._patches[edit].keys for edit in new])
            self._held.add(keys, self._protector.directions(keys))
            self._owners += [edit for edit in new for _ in self._patches[edit].keys]
        residuals = torch.stack([self._patches[owner].residual for owner in self._owners])
        manifest = self._patches[made[0]].manifest
        return (
            WeightChange(
                module=manifest.module,
                layer=manifest.layer,
                left=self._held.weights(residuals),
                right=self._held.directions,
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bearing:
    """Some edits, and how many of them a method bears."""

    bench: Workbench
    cases: Sequence[Case]
    judge: Judge
    judged: int
    seed: int
    resolution: float
    trials: dict[str, list[Trial]] = field(default_factory=dict)

    def find(self, name: str, method: LinearMethod) -> Capacity:
        """The capacity of ``method``; every trial on the way is kept under ``name``."""
        edits = linear_edits(self.bench, method, self.cases)
        edited = {edit.request.subject for edit in edits}
        cases = [case for case in self.cases if case.request.subject in edited]
        changes = self._changes(method, edits)
        found = self.trials.setdefault(name, [])

        def passes(made: int) -> bool:
            trial = self._try(changes, cases, made)
            found.append(trial)
            log.print(name, trial.row)
            return not trial.failed

        return search(passes, len(edits), resolution=self.resolution)

    def _changes(
        self, method: LinearMethod, edits: Sequence[LinearEdit]
    ) -> Callable[[range], tuple[WeightChange, ...]]:
        if method.layers == 1:
            return Moving(self.bench, method, edits).changes
        return lambda made: weight_changes(self.bench, method, edits[made.start : made.stop])

    def _try(
        self,
        changes: Callable[[range], tuple[WeightChange, ...]],
        cases: Sequence[Case],
        made: int,
    ) -> Trial:
        tally, disturbances = Tally(), []
        try:
            for those in sets_of(len(cases), made, self.judged):
                found = changes(those)
                disturbances.append(sum(self._disturbance(change) for change in found))
                self._ask(bank_of(found, self.bench.runner.device), cases, those, tally)
        except InvalidInputError as error:  # the keys are not independent
            log.print(f"{made} edits: {error}")
            unknown = ExportMeasurements(**dict.fromkeys(MEASURED, math.nan))
            failed = failed_checks(unknown, EXPORT_POLICY)
            return Trial(edits=made, measured=unknown, disturbance=math.nan, failed=failed)
        figures = tally.figures()
        measured = ExportMeasurements(
            efficacy=figures["efficacy"] / 100,
            paraphrase=figures["paraphrase"] / 100,
            neighbourhood_drop=figures["neighbourhood_drop"] / 100,
            perplexity_rise=figures["perplexity_ratio_largest"] - 1,
        )
        failed = failed_checks(measured, EXPORT_POLICY)
        return Trial(edits=made, measured=measured, disturbance=max(disturbances), failed=failed)

    def _ask(self, bank: Bank, cases: Sequence[Case], made: range, tally: Tally) -> None:
        """Add to ``tally`` what the model with ``bank`` makes of the edits at ``made``."""
        asked = [cases[place] for place in made]
        if 0 < self.judged < len(asked):
            asked = random.Random(self.seed).sample(asked, self.judged)
        self.judge.learn_answers(asked)
        self.judge.ask(asked, Condition(bank=bank), tally)
        after = perplexity(self.bench.runner, self.bench.texts.drift, bank)
        tally.perplexity_ratios.append(after / self.bench.base_perplexity)

    def _disturbance(self, change: WeightChange) -> float:
        moment = self.bench.moment(change.layer)
        energy = ordinary_energy(self.bench.runner, change.module, moment)
        return disturbance(change.left, change.right, moment.mean()) / energy


def methods_of(names: str, ridges: str, layers: int = 0) -> Iterator[tuple[str, LinearMethod]]:
    """(what it is called, row) of each method in ``names``, with each of ``ridges``.

    Args:
        names: Separated by commas, or all.
        ridges: Separated by commas; the rows' own where empty.
        layers: That share a residual; as many as the rows' where 0.

    Raises:
        InvalidInputError: a method is unknown, or a ridge no number of at least 0.
    """
    rows = (
        list(LINEAR_METHODS.values())
        if names == "all"
        else [linear_method(name.strip()) for name in names.split(",")]
    )
    for row in rows:
        name, given = row.name, row
        if layers:
            name, given = f"{name}, layers {layers}", replace(row, layers=layers)
        if not ridges:
            yield name, given
        for text in ridges.split(",") if ridges else ():
            yield f"{name}, ridge {text.strip()}", replace(given, ridge=_ridge(text))


def _ridge(text: str) -> float:
    try:
        ridge = float(text)
    except ValueError as error:
        raise InvalidInputError(f"--ridge is a list such as 0,0.01: {error}") from error
    if not 0 <= ridge < float("inf"):
        raise InvalidInputError("--ridge needs numbers of at least 0", field="ridge")
    return ridge


def document_of(
    found: Sequence[tuple[str, Capacity]], bearing: Bearing, settings: dict[str, object]
) -> Document:
    """A capacity for each method, and every trial."""
    return Document(
        benchmark="capacity",
        settings=settings,
        figures={f"capacity_{name}": capacity.edits for name, capacity in found},
        details={
            "bounded": {name: capacity.bounded for name, capacity in found},
            "policy": json.loads(EXPORT_POLICY.body),
            "trials": {
                name: [trial.row for trial in trials] for name, trials in bearing.trials.items()
            },
        },
    )


def show(found: Sequence[tuple[str, Capacity]], bearing: Bearing) -> None:
    """The capacities with what each method does there, and what fails first, for people."""
    columns = ("efficacy", "paraphrase", "neighbourhood_drop", "perplexity_ratio", "disturbance")
    table = Table(title="the most edits that pass, and what the model does with them")
    for column in ("method", "edits", *columns, "then fails"):
        table.add_column(column, justify="right" if column in {"edits", *columns} else "left")
    for name, capacity in found:
        trials = bearing.trials[name]
        there: dict[str, object] = next((t.row for t in trials if t.edits == capacity.edits), {})
        beyond = min((t for t in trials if t.failed), key=lambda t: t.edits, default=None)
        cells = [f"{there[column]:.4g}" if column in there else "-" for column in columns]
        reason = f"{', '.join(beyond.failed)} at {beyond.edits}" if beyond else "nothing tried"
        table.add_row(name, str(capacity.edits), *cells, reason)
    Console().print(table)


def main(
    method: Annotated[str, typer.Option(help="Methods, separated by commas, or all.")] = "all",
    ridge: Annotated[str, typer.Option(help="Ridges in place of the rows', as 0,0.01.")] = "",
    layers: Annotated[
        int, typer.Option(min=0, help="Layers that share a residual; the rows' where 0.")
    ] = 0,
    most: Annotated[int, typer.Option(min=1, help="Edits at most.")] = 300,
    judged: Annotated[int, typer.Option(min=0, help="Edits judged at most; 0 for all.")] = 50,
    resolution: Annotated[
        float, typer.Option(min=0, help="Gap between passing and failing, as a share.")
    ] = 0.1,
    seed: Annotated[int, typer.Option(help="Chooses facts, targets and neighbours.")] = 0,
    facts: Annotated[
        Path | None, typer.Option(help="Facts in the published CounterFact or zsRE format.")
    ] = None,
    model: Annotated[str, typer.Option(help="A checkpoint; the bundled one if not given.")] = "",
    profile: Annotated[Path | None, typer.Option(help="That checkpoint's profile.")] = None,
    texts: Annotated[Path | None, typer.Option(help="The texts it was calibrated on.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Keeps patches between runs.")] = None,
    output: Annotated[Path | None, typer.Option(help="Also write the JSON here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Find how many edits each linear method bears."""
    try:
        rows = list(methods_of(method, ridge, layers))
        with kept_in(cache) as folder, bench_opened(folder, model, profile, texts) as bench:
            cases = cases_of(bench, facts, most, seed)
            bearing = Bearing(
                bench=bench,
                cases=cases,
                judge=Judge(bench, cases),
                judged=judged,
                seed=seed,
                resolution=resolution,
            )
            settings: dict[str, object] = {"method": method, "most": len(cases), "judged": judged}
            settings |= {"seed": seed, "resolution": resolution}
            found: list[tuple[str, Capacity]] = []
            for name, row in rows:
                found.append((name, bearing.find(name, row)))
                document = document_of(found, bearing, settings)
                if output is not None:  # after each, so that an interrupted search leaves it
                    text = json.dumps(document.content, indent=1)
                    output.write_text(text + "\n", encoding="utf-8")
    except ErrataError as error:
        log.print(f"cannot measure this: {error}")
        raise typer.Exit(1) from error
    if not as_json:
        show(found, bearing)
    document.show(as_json=as_json)


if __name__ == "__main__":
    typer.run(main)
