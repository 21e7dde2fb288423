"""Logit lens and tuned lens: what the model would say from behind each layer.

The logit lens reads a layer's states as if they were the last layer's; the tuned lens sends
them through a trained translator first (`translators`). Invariant: behind the last layer both
are the model's own distribution.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from errata_server.domain.locators import Chart, ChartForm, Locator, LocatorOption
from errata_server.domain.operations import ReportProgress
from errata_server.engine.locate.case import Case, Findings, Row, Steps
from errata_server.engine.locate.charts import chart
from errata_server.engine.locate.suffix import CleanRun, clean_run
from errata_server.engine.locate.translators import Translators, fit

ROWS: Final = 64
"""Tokens whose logits are computed together."""

Translate = Callable[[int, Float[Tensor, "row d_model"]], Float[Tensor, "row d_model"]]
"""(layers run, states behind them) to states the model's head can read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerReading:
    """What a lens reads behind one layer."""

    top_probabilities: tuple[float, ...]
    """Of the likeliest token, at every token of the prompt."""

    top: int
    """The likeliest token at the last token."""

    answer: float
    """Log-probability of the answer's first token there."""

    rank: int
    """Its rank there; 1 is the likeliest."""

    divergence: float
    """KL(model || lens) there, in nats."""


def run_logit_lens(
    case: Case,
    options: Mapping[str, float],  # noqa: ARG001 - it has none
    progress: ReportProgress,
) -> Findings:
    """Read every layer as it is."""
    steps = Steps(progress, total=2 * case.blocks.layers + 1)
    readings = read(case, clean_run(case, case.ids, steps), untranslated, steps)
    depths, warnings = _depths(case, readings)
    return Findings(
        charts=_charts(case, {"logit lens": readings}, "logit lens"),
        figures=depths,
        warnings=(*case.first_token_warnings, *warnings),
    )


def run_tuned_lens(case: Case, options: Mapping[str, float], progress: ReportProgress) -> Findings:
    """Read every layer through translators trained on the case's texts."""
    updates = int(options["steps"])
    translators = fit(case, updates=updates, progress=progress)
    steps = Steps(progress, total=3 * case.blocks.layers + 2)
    clean = clean_run(case, case.ids, steps)
    lenses = {
        "tuned lens": read(case, clean, translators.translate, steps),
        "logit lens": read(case, clean, untranslated, steps),
    }
    depths, warnings = _depths(case, lenses["tuned lens"])
    return Findings(
        charts=(*_charts(case, lenses, "tuned lens"), _judgement(case, translators)),
        figures=depths | _quality(translators),
        warnings=(*case.first_token_warnings, *warnings),
    )


def untranslated(
    layers: int,  # noqa: ARG001 - the same behind all
    states: Float[Tensor, "row d_model"],
) -> Float[Tensor, "row d_model"]:
    """The logit lens' translation: none."""
    return states


def read(
    case: Case, clean: CleanRun, translate: Translate, steps: Steps
) -> tuple[LayerReading, ...]:
    """What a lens reads before the first layer and behind each, a step a layer."""
    states = clean.states
    final = case.step(lambda: _log_probabilities(case, states[-1][-1:])[0])
    readings = []
    for layers, here in enumerate(states):
        readings.append(case.step(partial(_reading, case, translate, layers, here, final)))
        steps.finish("reading")
    return tuple(readings)


def _reading(
    case: Case,
    translate: Translate,
    layers: int,
    states: Float[Tensor, "seq d_model"],
    final: Float[Tensor, " vocab"],
) -> LayerReading:
    translated = translate(layers, states)
    tops = [
        _log_probabilities(case, part).max(dim=-1).values.exp() for part in translated.split(ROWS)
    ]
    last = _log_probabilities(case, translated[-1:])[0]
    answer = last[case.answer_ids[0]]
    divergence = functional.kl_div(last, final, reduction="sum", log_target=True)
    return LayerReading(
        top_probabilities=tuple(torch.cat(tops).tolist()),
        top=int(last.argmax()),
        answer=float(answer),
        rank=1 + int((last > answer).sum()),
        divergence=max(float(divergence), 0.0),
    )


def _log_probabilities(
    case: Case, states: Float[Tensor, "row d_model"]
) -> Float[Tensor, "row vocab"]:
    return functional.log_softmax(case.blocks.logits(states), dim=-1)


def depth(readings: Sequence[LayerReading], token: int) -> int | None:
    """Layers it takes until ``token`` is on top for good; None where it never is."""
    behind = [reading.top == token for reading in readings]
    if not behind[-1]:
        return None
    return len(behind) - next(
        (n for n, held in enumerate(reversed(behind)) if not held), len(behind)
    )


def _depths(
    case: Case, readings: Sequence[LayerReading]
) -> tuple[dict[str, float], tuple[str, ...]]:
    final = depth(readings, readings[-1].top)
    answer = depth(readings, case.answer_ids[0])
    figures = {"layers": float(case.blocks.layers), "prediction_depth": float(final or 0)}
    if answer is None:
        return figures, (
            f"{case.answer!r} is not on top behind the last layer, so it has no depth; "
            "prediction_depth is that of the model's own next token",
        )
    return figures | {"answer_depth": float(answer)}, ()


def _names(case: Case) -> tuple[str, ...]:
    return ("embeddings", *case.layer_names)


def _charts(
    case: Case, lenses: Mapping[str, Sequence[LayerReading]], main: str
) -> tuple[Chart, ...]:
    return (*_top_charts(case, lenses[main], main), *_answer_charts(case, lenses))


def _top_charts(case: Case, readings: Sequence[LayerReading], lens: str) -> tuple[Chart, ...]:
    """What is likeliest at every token, and which token that is at the last one."""
    names = _names(case)
    said = [
        f"{name}: {case.runner.tokens.decode([reading.top])!r}"
        for name, reading in zip(names, readings, strict=True)
    ]
    at_tokens = [
        (text, [reading.top_probabilities[at] for reading in readings])
        for at, text in enumerate(case.token_texts)
    ]
    last = [reading.top_probabilities[-1] for reading in readings]
    return (
        chart(
            ChartForm.HEAT_MAP,
            f"How sure the {lens} is of its likeliest token",
            at_tokens,
            columns=names,
            axes=("token", "layer"),
            unit="probability",
        ),
        chart(
            ChartForm.BARS,
            f"The likeliest token at the last token ({lens})",
            [("probability", last)],
            columns=said,
            axes=("what", "layer"),
            unit="probability",
        ),
    )


def _answer_charts(case: Case, lenses: Mapping[str, Sequence[LayerReading]]) -> list[Chart]:
    """Log-probability, rank and divergence at the last token, a line a lens."""
    answer = f"{case.runner.tokens.decode(case.answer_ids[:1])!r} at the last token"
    kinds: tuple[tuple[str, str, Callable[[LayerReading], float]], ...] = (
        (f"Log-probability of {answer}", "nats", lambda one: one.answer),
        (f"Rank of {answer}", "rank; 1 is the likeliest", lambda one: one.rank),
        ("Divergence from the model's next token", "KL in nats", lambda one: one.divergence),
    )
    return [
        chart(
            ChartForm.LINES,
            title,
            [(name, [value(one) for one in readings]) for name, readings in lenses.items()],
            columns=_names(case),
            axes=("lens", "layer"),
            unit=unit,
        )
        for title, unit, value in kinds
    ]


def _judgement(case: Case, translators: Translators) -> Chart:
    return chart(
        ChartForm.LINES,
        f"Divergence on {translators.held_out_tokens} held-out tokens",
        [
            ("tuned lens", translators.tuned_divergence),
            ("logit lens", translators.logit_divergence),
        ],
        columns=_names(case)[:-1],
        axes=("lens", "layer"),
        unit="mean KL in nats",
    )


def _quality(translators: Translators) -> dict[str, float]:
    layers = len(translators.tuned_divergence)
    return {
        "held_out_kl_tuned": sum(translators.tuned_divergence) / layers,
        "held_out_kl_logit": sum(translators.logit_divergence) / layers,
        "held_out_tokens": float(translators.held_out_tokens),
        "train_tokens": float(translators.train_tokens),
    }


LOGIT_ROW: Final = Row(
    locator=Locator(
        name="logit_lens",
        title="Logit lens",
        shows="From which layer on the answer is what the model would say, read from each "
        "layer's states as they are.",
        cannot_show="Where the fact is kept, or that later layers use what is read; early "
        "layers speak another language, so a low reading there is no absence.",
        source="nostalgebraist 2020, interpreting GPT: the logit lens",
    ),
    run=run_logit_lens,
)
TUNED_ROW: Final = Row(
    locator=Locator(
        name="tuned_lens",
        title="Tuned lens",
        shows="From which layer on the answer can be read by an affine map that was trained on "
        "ordinary text for that layer.",
        cannot_show="That the model itself uses what the map can read; it is as good as its "
        "texts, so see its divergence on held-out ones.",
        source="Belrose et al. 2023, arXiv:2303.08112",
        options=(
            LocatorOption(
                name="steps",
                meaning="updates of each translator",
                default=100,
                minimum=1,
                maximum=10_000,
            ),
        ),
    ),
    run=run_tuned_lens,
)
