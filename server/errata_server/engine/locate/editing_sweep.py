"""The editing sweep: how well an edit works, by its layer and by the token it is tied to.

The fact in question and some others are edited at every layer and at four tokens, with the
code and the profile of real edits, and judged as calibration judges. Invariant: the cell of
the profile's layer and the subject's last token is the edit that would be proposed. It is this
picture, and no causal trace, that chooses a layer (Hase 2023, arXiv:2301.04213).
"""

import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from errata_server.domain.errors import InvalidInputError, NoEffectError, NotCalibratedError
from errata_server.domain.facts import PLACEHOLDER, CheckPrompt, EditRequest, Fact
from errata_server.domain.known_facts import KnownFact
from errata_server.domain.locators import Chart, ChartForm, Locator, LocatorOption
from errata_server.domain.operations import Progress, ReportProgress
from errata_server.domain.patches import Composition
from errata_server.domain.profiles import Profile
from errata_server.domain.traces import TokenRole
from errata_server.engine import moments
from errata_server.engine.bank import Bank, compose
from errata_server.engine.calibrate import profile_at
from errata_server.engine.editor import compute_patch
from errata_server.engine.locate.case import Case, Findings, Row, Steps
from errata_server.engine.locate.charts import chart
from errata_server.engine.patch import PatchTensors
from errata_server.engine.runner import BASE
from errata_server.engine.solve import factor_second_moment
from errata_server.engine.trials import (
    Shares,
    Trial,
    TrialAnswers,
    ask_trial,
    known_among,
    shares,
    trial_of,
)

SWEPT: Final[Mapping[TokenRole, str]] = {
    TokenRole.FIRST_SUBJECT: "first subject token",
    TokenRole.LAST_SUBJECT: "last subject token",
    TokenRole.FIRST_SUBSEQUENT: "first subsequent token",
    TokenRole.LAST: "last token",
}
PREFERRED: Final = (
    TokenRole.LAST_SUBJECT,
    TokenRole.FIRST_SUBJECT,
    TokenRole.LAST,
    TokenRole.FIRST_SUBSEQUENT,
)
"""Who a token that has two roles goes to, and which of two equal cells is named the best."""

POOL: Final = 24
"""Facts the model is asked beside those wanted, to find enough that it knows."""

RELATED: Final = 8
"""Facts of the located fact's own relation among them, for its neighbours."""

AS_GOOD: Final = 0.01
"""How far below the best score a cell may be and still count as good as it."""

Cells = Mapping[tuple[TokenRole, int], Sequence[TrialAnswers]]


@dataclass(frozen=True, slots=True)
class _Measure:
    """One of the charts."""

    title: str
    unit: str
    value: Callable[[Shares], float]
    prompts: Callable[[Trial], Sequence[CheckPrompt]]
    """What it is measured on."""


MEASURES: Final = (
    _Measure(
        "Edit score",
        "harmonic mean of efficacy, paraphrase and neighbourhood",
        lambda held: held.score,
        lambda trial: trial.efficacy,
    ),
    _Measure(
        "Efficacy",
        "share of edited prompts that say the target",
        lambda held: held.efficacy,
        lambda trial: trial.efficacy,
    ),
    _Measure(
        "Paraphrase",
        "share of paraphrases that say the target",
        lambda held: held.paraphrase,
        lambda trial: trial.paraphrases,
    ),
    _Measure(
        "Neighbourhood",
        "share of neighbours still answered right",
        lambda held: held.neighbourhood,
        lambda trial: trial.neighbours,
    ),
)


def run(case: Case, options: Mapping[str, float], progress: ReportProgress) -> Findings:
    """Edit every trial's fact in every cell and ask its prompts.

    Raises:
        NotCalibratedError: there is no profile, no text it was made over, or no known facts.
        SubjectNotFoundError: the prompt names the subject more than once.
        CancelledError: ``progress`` asked for it.
    """
    profile = _calibrated(case)
    trials, warnings = _choose(case, int(options["facts"]))
    composition = Composition.LINEAR if options["linear"] else Composition.GUARDED
    cells = _sweep(case, profile, trials, composition, progress)
    held = {cell: shares(answers) for cell, answers in cells.items()}
    charts = tuple(
        _chart(case, measure, held if _asked(measure, trials) else {}, len(trials))
        for measure in MEASURES
    )
    return Findings(
        charts=charts,
        figures={"facts": float(len(trials)), "profile_layer": float(profile.layer)} | _best(held),
        warnings=(*_live_edits(case), *warnings, *_unasked(trials)),
    )


def _calibrated(case: Case) -> Profile:
    """The case's profile, where all that a sweep needs is there."""
    if case.profile is None or case.cache is None:
        raise NotCalibratedError(
            "the editing sweep edits, and this model has no profile yet; run `errata-server "
            "calibrate` or `errata calibrate` first",
            model=case.runner.checkpoint.source,
        )
    if not case.known_facts.facts:
        raise NotCalibratedError(
            "the editing sweep needs known facts for targets and neighbours; start the server "
            "with --known-facts"
        )
    corpus = moments.corpus_digest(case.texts)
    if corpus != case.profile.moment_corpus:
        raise NotCalibratedError(
            "the editing sweep needs the texts the profile was calibrated over; ask without "
            "texts of your own, and give the server those of its calibration",
            profile_corpus=case.profile.moment_corpus,
            corpus=corpus,
        )
    return case.profile


def _choose(case: Case, further: int) -> tuple[list[Trial], tuple[str, ...]]:
    """The located fact's trial and those of ``further`` facts the model knows; and warnings."""
    chooser = random.Random(case.seed)
    facts = case.known_facts
    template = case.prompt.replace(case.subject, PLACEHOLDER)
    relation = facts.relation_of(template)
    others = [fact for fact in facts.facts if fact.subject != case.subject]
    asked = chooser.sample(others, min(len(others), POOL + 2 * further))
    if relation is not None:
        related = [f for f in others if f.relation == relation and f not in asked]
        asked += chooser.sample(related, min(RELATED, len(related)))
    known = known_among(case.runner, facts, asked)
    own = None
    if relation is not None:
        fact = KnownFact(subject=case.subject, relation=relation, object=case.answer)
        index = facts.templates[relation].index(template)
        own = trial_of(facts, fact, known, chooser, template=index)
    warnings = []
    if own is None:
        own = _unlisted(case, template, known, chooser)
        warnings.append(
            "the prompt is of no relation among the known facts: it has no paraphrases here, "
            "and its neighbours are of other relations"
        )
    found = [trial_of(facts, fact, known, chooser) for fact in known]
    trials = [own, *[trial for trial in found if trial is not None][:further]]
    if len(trials) <= further:
        warnings.append(f"only {len(trials) - 1} of {further} further facts were found")
    return trials, tuple(warnings)


def _unlisted(
    case: Case, template: str, known: Sequence[KnownFact], chooser: random.Random
) -> Trial:
    """A trial of a fact whose relation is not listed: to any other object, without paraphrases."""
    objects = {fact.object for fact in case.known_facts.facts}
    said = {case.answer_ids[0], case.predicted}
    others = sorted(o for o in objects if case.runner.tokens.target(o)[0] not in said)
    if not others:
        raise InvalidInputError(
            "every object among the known facts begins like the answer; there is nothing to "
            "edit this fact to",
            field="answer",
        )
    target = chooser.choice(others)
    request = EditRequest(subject=case.subject, facts=(Fact(template=template, target=target),))
    near = chooser.sample(list(known), min(RELATED // 2, len(known)))
    return Trial(
        request=request,
        efficacy=(CheckPrompt(prompt=case.prompt, expected=target),),
        paraphrases=(),
        neighbours=tuple(
            CheckPrompt(prompt=case.known_facts.prompt(fact), expected=fact.object) for fact in near
        ),
    )


def _sweep(
    case: Case,
    profile: Profile,
    trials: Sequence[Trial],
    composition: Composition,
    progress: ReportProgress,
) -> Cells:
    runner, layers = case.runner, range(case.blocks.layers)
    assert case.cache is not None  # noqa: S101 - `_calibrated` has seen it
    by_layer = moments.collect(
        runner, case.texts, list(layers), cache=case.cache, progress=progress
    )
    jobs = [(role, trial) for trial in trials for role in _roles(case, trial)]
    steps = Steps(progress, total=len(jobs) * len(layers))
    within = _within(steps)
    cells: dict[tuple[TokenRole, int], list[TrialAnswers]] = defaultdict(list)
    for layer in layers:
        here = profile_at(case.runner.checkpoint, profile, layer)
        factor = factor_second_moment(by_layer[layer].mean(), profile.ridge)
        for role, trial in jobs:
            edit = partial(
                compute_patch, runner, trial.request, here, factor, role=role, progress=within
            )
            # Behind the last attention nothing leaves its token, so only the last one is read.
            reaches = layer < layers[-1] or role is TokenRole.LAST
            bank = _bank(case, edit, composition) if reaches else BASE
            cells[role, layer].append(ask_trial(runner, trial, bank))
            steps.finish(f"layer {layer}, {SWEPT[role]}")
    return cells


def _bank(case: Case, edit: Callable[[], PatchTensors], composition: Composition) -> Bank:
    """The edit as a bank; an empty one where no residual changes anything."""
    try:
        return compose([edit()], composition, case.runner.device)
    except NoEffectError:
        return BASE


def _roles(case: Case, trial: Trial) -> list[TokenRole]:
    """The roles whose tokens differ in the trial's prompt; a token counts for one only."""
    subject = trial.request.subject
    (fact,) = trial.request.facts
    prompt, tokens = fact.prompt(subject), case.runner.tokens
    behind = tokens.subject_end(prompt, subject) < -1
    places: dict[int, TokenRole] = {}
    for role in PREFERRED:
        if behind or role not in {TokenRole.LAST, TokenRole.FIRST_SUBSEQUENT}:
            places.setdefault(tokens.place(prompt, subject, role), role)
    return list(places.values())


def _within(steps: Steps) -> ReportProgress:
    """Passes an optimisation's progress on, so that a sweep can be cancelled within an edit."""

    def report(progress: Progress) -> None:
        steps.progress(
            Progress(stage=steps.stage, done=steps.done, total=steps.total, note=progress.note)
        )

    return report


def _chart(
    case: Case, measure: _Measure, held: Mapping[tuple[TokenRole, int], Shares], facts: int
) -> Chart:
    layers = range(case.blocks.layers)
    cells = {cell: measure.value(one) for cell, one in held.items()}
    return chart(
        ChartForm.HEAT_MAP,
        f"{measure.title} of edits of {facts} facts",
        [(name, [cells.get((role, layer)) for layer in layers]) for role, name in SWEPT.items()],
        columns=case.layer_names,
        axes=("token", "layer"),
        unit=measure.unit,
    )


def _asked(measure: _Measure, trials: Sequence[Trial]) -> bool:
    return any(measure.prompts(trial) for trial in trials)


def _unasked(trials: Sequence[Trial]) -> tuple[str, ...]:
    return tuple(
        f"there was nothing to measure {measure.title.lower()} on; the edit score counts it as held"
        for measure in MEASURES
        if not _asked(measure, trials)
    )


def _best(held: Mapping[tuple[TokenRole, int], Shares]) -> dict[str, float]:
    """The best cell; of equal ones the subject's last token, then the lowest layer."""
    order = sorted(held, key=lambda cell: (-held[cell].score, PREFERRED.index(cell[0]), cell[1]))
    role, layer = order[0]
    score = held[order[0]].score
    return {
        "best_score": score,
        "best_layer": float(layer),
        "best_role": float(list(SWEPT).index(role)),
        "cells_as_good": float(sum(held[cell].score >= score - AS_GOOD for cell in order)),
    }


def _live_edits(case: Case) -> tuple[str, ...]:
    if not case.bank.branches:
        return ()
    return ("live edits take no part: edits are computed and judged on the base model",)


ROW: Final = Row(
    locator=Locator(
        name="editing_sweep",
        title="Editing sweep",
        shows="At which layer and tied to which token an edit works, by editing: the fact in "
        "question and further ones. best_role is a row of the heat maps, counted from 0.",
        cannot_show="Where the fact was kept before: an edit can work where nothing was stored. "
        "It is this sweep, and not a causal trace, that chooses the layer to edit; the best of "
        "several equal cells means little, so see cells_as_good.",
        source="Meng et al. 2022, arXiv:2202.05262; Hase et al. 2023, arXiv:2301.04213",
        options=(
            LocatorOption(
                name="facts",
                meaning="further known facts that are edited too",
                default=4,
                minimum=0,
                maximum=100,
            ),
            LocatorOption(
                name="linear",
                meaning="1 to judge each edit as a change of the weights, as published figures "
                "do; 0 as it is served, behind its guard",
                default=0,
                minimum=0,
                maximum=1,
            ),
        ),
    ),
    run=run,
)
