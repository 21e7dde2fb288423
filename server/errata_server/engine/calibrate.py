"""Calibration: the model is asked what in other tools is a file of hyper-parameters.

Facts the model knows are edited over and over: the layer is the one whose edits work best,
not the one a causal trace points at (Hase et al. 2023, arXiv:2301.04213: the layer alone
explains most of an edit's success, the trace next to none of it).
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from errata_server.domain.errors import NotCalibratedError
from errata_server.domain.known_facts import KnownFact, KnownFacts
from errata_server.domain.operations import Progress, ReportProgress
from errata_server.domain.patches import Composition
from errata_server.domain.profiles import Profile
from errata_server.engine import moments
from errata_server.engine.bank import compose
from errata_server.engine.checkpoint import Checkpoint
from errata_server.engine.editor import compute_patch
from errata_server.engine.keys import Name, keys_at_subject, keys_of_names
from errata_server.engine.runner import Runner
from errata_server.engine.solve import factor_second_moment, match, match_keys
from errata_server.engine.trials import Shares, Trial, ask_trial, known_among, shares, trial_of

MINIMUM_KNOWN: Final = 24
ASKED: Final = 300
"""Known facts the model is asked for at most."""

PREFIXES: Final = 8
PREFIX_WORDS: Final = 12
GUARD_SUBJECTS: Final = 40
LAYER_TRIALS: Final = 10
STEP_TRIALS: Final = 8
RIDGE: Final = 1e-3
QUIET: Final = 0.75
"""Share of guards that fire on no sampled ordinary key at the width chosen. The rest are of
subjects that are ordinary words; their edits are narrowed one by one (`keys.own_width`)."""

RECOGNITION_SHARE: Final = 0.9
"""A layer is tried only if its guards know this much of what the best layer's know."""

WIDTHS: Final = (0.2, 0.9)
LEARNING_RATES: Final = (0.15, 0.5, 1.5)
CLAMPS: Final = (4.0, 12.0, 30.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome(Shares):
    """How a setting did over its trials."""

    converged: float
    steps: float
    residual_norm: float


@dataclass(slots=True)
class _Calibration:
    runner: Runner
    known_facts: KnownFacts
    known: list[KnownFact]
    prefixes: tuple[str, ...]
    texts: Sequence[str]
    by_layer: dict[int, moments.SecondMoment]
    seed: int
    stages: "_Stages"
    evidence: list[dict[str, float]]


@dataclass(slots=True)
class _Stages:
    progress: ReportProgress
    total: int
    done: int = 0

    def skip(self, stages: int) -> None:
        self.done += stages

    def finish(self, note: str) -> None:
        self.done += 1
        self.progress(
            Progress(
                stage="calibrate", done=min(self.done, self.total), total=self.total, note=note
            )
        )


def calibrate(
    runner: Runner,
    known_facts: KnownFacts,
    texts: Sequence[str],
    *,
    cache: Path,
    seed: int,
    progress: ReportProgress,
) -> Profile:
    """A profile for ``runner``'s checkpoint.

    In order: which facts the model knows; prefixes; second moments at every layer; for each
    layer the guard width and a few edits; at the best layer, step size and clamp.

    Args:
        known_facts: Facts the model may know; at least `MINIMUM_KNOWN` of them it must.
        texts: Ordinary text.
        cache: Folder for second moments.

    Raises:
        NotCalibratedError: no text, or too few facts are known to the model.
        CancelledError: ``progress`` asked for it.
    """
    if not texts:
        raise NotCalibratedError("calibration needs ordinary text; give some with --texts")
    chooser = random.Random(seed)
    known = find_known(runner, known_facts, chooser)
    layers = list(range(max(1, runner.checkpoint.layers - 1)))  # the last one reads, not recalls
    by_layer = moments.collect(runner, texts, layers, cache=cache, progress=progress)
    settings = len(LEARNING_RATES) + len(CLAMPS) - 1
    total = len(layers) * (1 + LAYER_TRIALS) + settings * STEP_TRIALS
    work = _Calibration(
        runner=runner,
        known_facts=known_facts,
        known=known,
        prefixes=choose_prefixes(texts, chooser),
        texts=texts,
        by_layer=by_layer,
        seed=seed,
        stages=_Stages(progress, total),
        evidence=[],
    )
    profile = _sweep_layers(work, layers, _trials(work, LAYER_TRIALS, chooser))
    profile = _sweep_steps(work, profile, _trials(work, STEP_TRIALS, chooser))
    return replace(profile, evidence=tuple(work.evidence))


def find_known(runner: Runner, known_facts: KnownFacts, chooser: random.Random) -> list[KnownFact]:
    """Facts the base model answers right, asked in up to three phrasings each.

    Raises:
        NotCalibratedError: fewer than `MINIMUM_KNOWN` of them.
    """
    facts = list(known_facts.facts)
    chooser.shuffle(facts)
    asked = facts[:ASKED]
    known = known_among(runner, known_facts, asked)
    if len(known) < MINIMUM_KNOWN:
        raise NotCalibratedError(
            f"the model knows {len(known)} of the {len(asked)} facts it was asked; calibration "
            f"needs {MINIMUM_KNOWN}. Give a known-facts file with facts it does know",
            known=len(known),
            asked=len(asked),
            needed=MINIMUM_KNOWN,
        )
    return known


def choose_prefixes(texts: Sequence[str], chooser: random.Random) -> tuple[str, ...]:
    """The empty prefix and short sentences of ``texts``, in a seeded order."""
    sentences = [text.split(". ")[0].strip().rstrip(".") + "." for text in texts]
    short = sorted({s for s in sentences if 2 <= len(s.split()) <= PREFIX_WORDS})
    chosen = chooser.sample(short, min(PREFIXES - 1, len(short)))
    return ("", *chosen)


def guard_width(
    work: _Calibration, profile: Profile, factor: Float[Tensor, "d_in d_in"]
) -> tuple[float, float]:
    """(width, recognition): as wide as keeps most guards off ordinary keys, and what they know.

    Recognition is of its subject in all the relation's phrasings. These are a fraction of the
    ways to mention it, so a guard just wide enough for them misses it elsewhere (ADR 0024).
    """
    subjects = work.known[:GUARD_SUBJECTS]
    moment = work.by_layer[profile.layer]
    names = [Name(text=fact.subject) for fact in subjects]
    own, foreign = [], []
    for fact, found in zip(
        subjects, keys_of_names(work.runner, names, profile, factor), strict=True
    ):
        matchers = match_keys(found.keys, factor)[0].float()
        templates = work.known_facts.templates[fact.relation]
        mentions = [template.replace("{}", fact.subject) for template in templates]
        seen = keys_at_subject(work.runner, profile.module, mentions, fact.subject)
        own.append(match(seen.cpu(), matchers).max(dim=1).values)
        quiet = moment.without(work.texts, [fact.subject])
        foreign.append(match(moment.sample[quiet], matchers).max())
    threshold = float(torch.stack(foreign).quantile(QUIET))
    width = min(max(1 - threshold, WIDTHS[0]), WIDTHS[1])
    recognised = torch.cat(own) > 1 - width
    return width, float(recognised.float().mean())


def _sweep_layers(work: _Calibration, layers: Sequence[int], trials: Sequence[Trial]) -> Profile:
    """The layer whose edits work best, of those whose guards know their subjects."""
    guarded = []
    for layer in layers:
        factor = factor_second_moment(work.by_layer[layer].mean(), RIDGE)
        profile = _first_profile(work, layer)
        width, recognition = guard_width(work, profile, factor)
        guarded.append((recognition, replace(profile, guard_width=width), factor))
        work.stages.finish(f"layer {layer}: guard width {width:.2f}")
    enough = RECOGNITION_SHARE * max(recognition for recognition, _, _ in guarded)
    best: tuple[float, Profile] | None = None
    for recognition, profile, factor in guarded:
        row = {
            "layer": float(profile.layer),
            "guard_width": profile.guard_width,
            "recognition": recognition,
        }
        if recognition >= enough:
            outcome = _run(work, profile, factor, trials)
            row |= _evidence(outcome)
            # A guard that misses its subject is a paraphrase that fails outside the trials.
            score = outcome.score * recognition
            best = max(best or (0.0, profile), (score, profile), key=lambda pair: pair[0])
        else:
            work.stages.skip(len(trials))
        work.evidence.append(row)
    if best is None or best[0] == 0.0:
        raise NotCalibratedError("no layer of this model takes an edit; nothing was calibrated")
    return best[1]


def _sweep_steps(work: _Calibration, profile: Profile, trials: Sequence[Trial]) -> Profile:
    """The best step size at the widest clamp, then the tightest clamp that does as well."""
    factor = factor_second_moment(work.by_layer[profile.layer].mean(), RIDGE)

    def attempt(rate: float, clamp: float) -> tuple[tuple[float, float, float], Profile]:
        setting = replace(profile, learning_rate=rate, clamp=clamp)
        outcome = _run(work, setting, factor, trials)
        work.evidence.append({"learning_rate": rate, "clamp": clamp} | _evidence(outcome))
        setting = replace(setting, mean_value_norm=outcome.residual_norm)
        return (outcome.converged, outcome.score, -outcome.steps), setting

    best = max((attempt(rate, CLAMPS[-1]) for rate in LEARNING_RATES), key=lambda row: row[0])
    for clamp in reversed(CLAMPS[:-1]):
        tighter = attempt(best[1].learning_rate, clamp)
        if tighter[0][:2] < best[0][:2]:
            break
        best = tighter
    return best[1]


def _run(
    work: _Calibration,
    profile: Profile,
    factor: Float[Tensor, "d_in d_in"],
    trials: Sequence[Trial],
) -> Outcome:
    runner = work.runner
    converged, steps, norms = 0, 0, 0.0
    answers = []
    for trial in trials:
        patch = compute_patch(runner, trial.request, profile, factor, progress=_checking(work))
        bank = compose([patch], Composition.GUARDED, runner.device)
        answers.append(ask_trial(runner, trial, bank))
        converged += patch.manifest.optimisation.converged
        steps += patch.manifest.optimisation.steps
        norms += patch.manifest.optimisation.residual_norm
        work.stages.finish(f"layer {profile.layer}, step size {profile.learning_rate:g}")
    held = shares(answers)
    return Outcome(
        converged=converged / len(trials),
        efficacy=held.efficacy,
        paraphrase=held.paraphrase,
        neighbourhood=held.neighbourhood,
        steps=steps / len(trials),
        residual_norm=norms / len(trials),
    )


def _checking(work: _Calibration) -> Callable[[Progress], None]:
    """Passes an optimisation's progress on, so that a calibration can be cancelled within it."""

    def report(progress: Progress) -> None:
        stages = work.stages
        stages.progress(
            Progress(
                stage="calibrate",
                done=min(stages.done, stages.total),
                total=stages.total,
                note=progress.note,
            )
        )

    return report


def _evidence(outcome: Outcome) -> dict[str, float]:
    return {
        "converged": outcome.converged,
        "efficacy": outcome.efficacy,
        "paraphrase": outcome.paraphrase,
        "neighbourhood": outcome.neighbourhood,
        "steps": outcome.steps,
        "score": outcome.score,
    }


def _trials(work: _Calibration, count: int, chooser: random.Random) -> list[Trial]:
    trials = []
    for fact in chooser.sample(work.known, len(work.known)):
        trial = trial_of(work.known_facts, fact, work.known, chooser)
        if trial is not None:
            trials.append(trial)
        if len(trials) == count:
            break
    if not trials:
        raise NotCalibratedError(
            "no known fact can be edited to another object of its relation; give a known-facts "
            "file whose relations have several objects each"
        )
    return trials


def _first_profile(work: _Calibration, layer: int) -> Profile:
    """A profile at ``layer`` with the middle of every sweep."""
    runner, description = work.runner, work.runner.checkpoint.description
    moment = work.by_layer[layer]
    return Profile(
        model_digest=runner.checkpoint.digest,
        layer=layer,
        module=runner.checkpoint.projection_path(layer),
        d_in=description.d_in,
        d_out=description.d_model,
        prefixes=work.prefixes,
        learning_rate=LEARNING_RATES[1],
        clamp=CLAMPS[2],
        max_steps=60,
        kl_weight=0.0625,
        decay_weight=0.5,
        stop_probability=0.9,
        guard_width=WIDTHS[0],
        ridge=RIDGE,
        moment_corpus=moment.corpus,
        moment_tokens=moment.count,
        sequence_length=moments.SEQUENCE_LENGTH,
        mean_value_norm=0.0,
        seed=work.seed,
    )


def profile_at(checkpoint: Checkpoint, profile: Profile, layer: int) -> Profile:
    """``profile`` moved to ``layer``: itself at its own.

    Elsewhere with the guard width that calibration found there, and the widest clamp: the
    profile's was tightened for its own layer, and would speak against every other.
    """
    if layer == profile.layer:
        return profile
    widths = {row["layer"]: row["guard_width"] for row in profile.evidence if "layer" in row}
    return replace(
        profile,
        layer=layer,
        module=checkpoint.projection_path(layer),
        guard_width=widths.get(float(layer), profile.guard_width),
        clamp=max(profile.clamp, *CLAMPS),
    )
