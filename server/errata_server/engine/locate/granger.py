"""Granger causality between layers: does one layer's past help to predict another's next state?

The series are not of one prompt, which is too short, but of a running text: the prompt and then
the given texts, as one row of tokens in one pass. Token positions are the time axis; a layer's
series are the leading principal components of its states over those positions, each scaled to
unit variance. Linear F tests by statsmodels: bivariate (first component of each) and vector
(all components), for every ordered pair of layers, corrected by Benjamini and Hochberg.

Invariant: the result is held against what is known by construction. A position's state in a
layer is computed from lower layers alone, so a significant pair whose cause lies above its
effect cannot be causal; how many of those there are says what the others are worth.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from errata_server.domain.errors import InvalidInputError
from errata_server.domain.locators import Chart, ChartForm, Locator, LocatorOption
from errata_server.domain.operations import ReportProgress
from errata_server.engine.locate.case import Case, Findings, Row, Steps
from errata_server.engine.locate.charts import chart
from errata_server.engine.locate.suffix import clean_run

Series = npt.NDArray[np.float64]
"""Positions down, components across."""

SKIPPED: Final = 1
"""Positions left out at the start: the first token's states are many times larger."""

LEVEL: Final = 0.05
"""Corrected p below which a pair counts as significant."""

POSITIONS_A_COEFFICIENT: Final = 4
"""Positions there must be for each coefficient of the larger regression."""

FLAT: Final = 1e-9
"""Share of the largest value below which a component's is rounding."""

SMALLEST_P: Final = 1e-300


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One test of one ordered pair of layers."""

    statistic: float
    p_value: float


Verdicts = dict[tuple[int, int], Verdict]
"""(cause, effect) to what the test says; pairs it could not be made for are missing."""

Test = Callable[[Series, Series, int], Verdict]
"""(effect, cause, lags) to a verdict; raises what statsmodels raises."""

_one_at_a_time: Final = Lock()
"""Python's list of warning filters is the whole process's."""


def run(case: Case, options: Mapping[str, float], progress: ReportProgress) -> Findings:
    """Both tests over every ordered pair of layers.

    Raises:
        InvalidInputError: the running text is too short for so many lags and components.
    """
    layers, lags = case.blocks.layers, int(options["lags"])
    components = min(int(options["components"]), case.blocks.d_model)
    ids = _running_text(case, int(options["positions"]))
    _require_length(len(ids) - SKIPPED, components, lags)
    steps = Steps(progress, total=3 * layers)
    clean = clean_run(case, ids, steps)
    series = [
        case.step(partial(leading_components, layer.after[0, SKIPPED:], components))
        for layer in clean.layers
    ]
    charts: list[Chart] = []
    figures = {"positions": float(len(ids) - SKIPPED), "pairs_each_way": layers * (layers - 1) / 2}
    said = [_what(len(ids) - SKIPPED)]
    for kind, test in (("bivariate", bivariate), ("vector", vector)):
        verdicts = every_pair(series, test, lags, steps)
        corrected = _corrected(verdicts)
        charts += _charts(case, kind, verdicts, corrected)
        prefix = "" if kind == "bivariate" else f"{kind}_"
        figures |= {prefix + name: value for name, value in _counts(corrected).items()}
        said += _untested(kind, layers * (layers - 1) - len(verdicts))
    return Findings(charts=tuple(charts), figures=figures, warnings=tuple(said))


def _running_text(case: Case, positions: int) -> list[int]:
    """The prompt and the texts behind it as one row of tokens, cut to what the model sees."""
    most, tokens = min(positions + SKIPPED, case.longest), case.runner.tokens
    taken, count = [case.prompt], len(case.ids)
    for text in case.texts:  # no more of them than needed: there may be a whole corpus
        if count >= most:
            break
        taken.append(text)
        count += len(tokens.continuation(text))
    return tokens.encode(" ".join(taken))[:most]


def _require_length(positions: int, components: int, lags: int) -> None:
    needed = POSITIONS_A_COEFFICIENT * (2 * components * lags + 1)
    if positions < needed:
        raise InvalidInputError(
            f"{lags} lags of {components} components a layer need a running text of {needed} "
            f"positions, but there are {positions}; give more texts, or ask for fewer lags",
            field="texts",
            positions=positions,
            needed=needed,
        )


def leading_components(states: Float[Tensor, "seq d_model"], components: int) -> Series:
    """The leading principal components of ``states`` over positions, each of unit variance.

    A component without variance is left at 0, where no test can be made of it.
    """
    wide = states.double()
    left, values, _ = torch.linalg.svd(wide - wide.mean(dim=0), full_matrices=False)
    scores = left[:, :components] * len(states) ** 0.5
    scores[:, values[:components] <= float(wide.abs().max()) * FLAT] = 0
    return np.asarray(scores.cpu().numpy(), dtype=np.float64)


def bivariate(effect: Series, cause: Series, lags: int) -> Verdict:
    """Whether the cause's first component helps to predict the effect's."""
    from statsmodels.tsa.stattools import grangercausalitytests  # noqa: PLC0415 - slow to import

    pair = np.column_stack([effect[:, 0], cause[:, 0]])
    tests, _ = grangercausalitytests(pair, maxlag=[lags])[lags]
    statistic, p_value, *_ = tests["ssr_ftest"]
    return Verdict(statistic=float(statistic), p_value=float(p_value))


def vector(effect: Series, cause: Series, lags: int) -> Verdict:
    """Whether any of the cause's components helps to predict any of the effect's."""
    from statsmodels.tsa.api import VAR  # noqa: PLC0415 - slow to import

    width = effect.shape[1]
    fitted = VAR(np.column_stack([effect, cause])).fit(lags, trend="c")
    caused, causing = list(range(width)), list(range(width, width + cause.shape[1]))
    test = fitted.test_causality(caused, causing, kind="f")
    return Verdict(statistic=float(test.test_statistic), p_value=float(test.pvalue))


def every_pair(series: Sequence[Series], test: Test, lags: int, steps: Steps) -> Verdicts:
    """``test`` over every ordered pair; a constant or collinear pair is left out."""
    verdicts: Verdicts = {}
    for effect in range(len(series)):
        for cause in range(len(series)):
            if cause != effect:
                verdict = _tried(test, series[effect], series[cause], lags)
                if verdict is not None:
                    verdicts[cause, effect] = verdict
        steps.finish("granger tests")
    return verdicts


def _tried(test: Test, effect: Series, cause: Series, lags: int) -> Verdict | None:
    """The verdict, or None where statsmodels refuses the series or warns of them."""
    from statsmodels.tools.sm_exceptions import (  # noqa: PLC0415 - slow to import
        InfeasibleTestError,
    )

    with _one_at_a_time, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            verdict = test(effect, cause, lags)
        except (InfeasibleTestError, ValueError, np.linalg.LinAlgError):
            return None
    usable = math.isfinite(verdict.statistic) and math.isfinite(verdict.p_value)
    return None if warned or not usable else verdict


def _corrected(verdicts: Verdicts) -> dict[tuple[int, int], float]:
    """p-values after Benjamini and Hochberg's correction over all pairs tested."""
    from statsmodels.stats.multitest import multipletests  # noqa: PLC0415 - slow to import

    if not verdicts:
        return {}
    _, corrected, _, _ = multipletests([one.p_value for one in verdicts.values()], method="fdr_bh")
    return dict(zip(verdicts, map(float, corrected), strict=True))


def _counts(corrected: Mapping[tuple[int, int], float]) -> dict[str, float]:
    """How many pairs are significant with the cause below the effect, and above it."""
    significant = [pair for pair, p_value in corrected.items() if p_value < LEVEL]
    upward = sum(cause < effect for cause, effect in significant)
    return {
        "significant_upward": float(upward),
        "significant_downward": float(len(significant) - upward),
        "share_significant": len(significant) / len(corrected) if corrected else 0.0,
    }


def _charts(
    case: Case, kind: str, verdicts: Verdicts, corrected: Mapping[tuple[int, int], float]
) -> list[Chart]:
    strength = {pair: -math.log10(max(p, SMALLEST_P)) for pair, p in corrected.items()}
    statistics = {pair: verdict.statistic for pair, verdict in verdicts.items()}
    layers = range(case.blocks.layers)
    return [
        chart(
            ChartForm.HEAT_MAP,
            f"{kind.capitalize()} Granger test: {what}",
            [(str(cause), [cells.get((cause, effect)) for effect in layers]) for cause in layers],
            columns=case.layer_names,
            axes=("layer whose past is used", "layer that is predicted"),
            unit=unit,
        )
        for what, unit, cells in (
            ("corrected p-values", "-log10 p", strength),
            ("F statistics", "F", statistics),
        )
    ]


def _what(positions: int) -> str:
    return (
        f"the series run over {positions} token positions of the prompt followed by the texts, "
        "not over the prompt alone; they are deterministic, so p-values are no error rates: pairs "
        "whose cause lies above their effect cannot be causal, and measure what this test gets "
        "wrong"
    )


def _untested(kind: str, missing: int) -> list[str]:
    if not missing:
        return []
    return [
        f"{missing} pairs have no {kind} test: their series are constant, collinear or too short"
    ]


ROW: Final = Row(
    locator=Locator(
        name="granger",
        title="Granger causality between layers",
        shows="Whether one layer's earlier states help to predict another layer's next state "
        "over a running text, beyond that layer's own past.",
        cannot_show="What causes what: it is predictive and not interventional, on a short "
        "deterministic series; pairs that point downwards, which a transformer cannot have, come "
        "out significant too. Use the causal trace for causes.",
        source="Granger 1969, doi:10.2307/1912791",
        options=(
            LocatorOption(
                name="components",
                meaning="principal components of each layer",
                default=2,
                minimum=1,
                maximum=10,
            ),
            LocatorOption(
                name="lags", meaning="positions of past used", default=1, minimum=1, maximum=8
            ),
            LocatorOption(
                name="positions",
                meaning="length of the running text, at most what the model sees",
                default=512,
                minimum=16,
                maximum=4096,
            ),
        ),
    ),
    run=run,
)
