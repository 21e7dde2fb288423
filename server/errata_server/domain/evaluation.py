"""From what was measured of an edit to verdicts: pure, and the same on every machine.

Invariants: every `CheckKind` is answered exactly once and in order; a check with nothing to
measure is SKIPPED and says why; a number that is not finite fails; an answer that did not
hold before the edit is never counted as broken by it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from errata_server.domain.checks import Check, CheckKind, Verdict
from errata_server.domain.measurements import Answer, Measurements, PatchInspection
from errata_server.domain.patches import Composition, PatchManifest
from errata_server.domain.policies import Policy

MINIMUM_LIVE_EDITS: Final = 0.95
"""Share of the re-checked facts of live edits that must still hold."""

NOT_MEASURED: Final = "the patch is not finite, so the model was not asked anything with it"
_NAMED: Final = 5


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that one evaluation looks at."""

    manifest: PatchManifest
    inspection: PatchInspection
    sources: Mapping[str, str]
    policy: Policy

    def source(self, group: str) -> str:
        """Where a group of prompts came from, as the plan says."""
        return self.sources.get(group, "no source was named")

    def recognises(self, match: float) -> bool:
        """Whether the guard fires at this match."""
        return match > 1 - self.manifest.guard_width


def evaluate(
    manifest: PatchManifest,
    inspection: PatchInspection,
    measurements: Measurements | None,
    plan_sources: Mapping[str, str],
    policy: Policy,
) -> tuple[Check, ...]:
    """Every check of a report, in the order of `CheckKind`.

    Args:
        manifest: How the patch was found.
        inspection: What its keys and guard look like.
        measurements: What the model said; ``None`` where the patch was not fit to be run.
        plan_sources: Where each group of prompts came from; repeated in the explanations.
        policy: The thresholds.
    """
    evidence = Evidence(manifest, inspection, plan_sources, policy)
    found = [check(evidence) for check in _OF_PATCH]
    for kind, check in _OF_MODEL:
        if measurements is None:
            found.append(_skipped(kind, NOT_MEASURED))
        else:
            found.append(check(evidence, measurements))
    return tuple(found)


def _finite(evidence: Evidence) -> Check:
    finite = evidence.inspection.finite
    text = "all numbers of the patch are finite"
    if not finite:
        text = (
            "the patch holds numbers that are not finite; propose the edit again, and "
            "calibrate the model again if it happens twice"
        )
    return _at_least(CheckKind.FINITE, float(finite), 1.0, text)


def _converged(evidence: Evidence) -> Check:
    record = evidence.manifest.optimisation
    text = (
        f"after {record.steps} steps and {record.restarts} restarts the target had a "
        f"probability of at least {record.target_probability:.3f} in every context"
    )
    if not record.converged:
        text += (
            ", which is short of what the profile asks; word the prompt so that it leads "
            "straight to the target, or shorten the target, and propose again"
        )
    return _at_least(CheckKind.CONVERGED, float(record.converged), 1.0, text)


def _clamp(evidence: Evidence) -> Check:
    record, limit = evidence.manifest.optimisation, evidence.policy.maximum_clamp_fraction
    text = (
        f"the value's norm is {record.residual_norm:.3g}, {_percent(record.clamp_fraction)} "
        "of the largest allowed"
    )
    above = Verdict.WARNED if record.converged else Verdict.FAILED
    if not record.clamp_fraction <= limit:
        text += "; it was held back by the clamp: a target nearer to the old answer needs less"
    return _at_most(CheckKind.CLAMP, record.clamp_fraction, limit, text, otherwise=above)


def _recognition(evidence: Evidence) -> Check:
    matches = evidence.inspection.own_matches
    if evidence.policy.composition is Composition.LINEAR:
        return _skipped(CheckKind.RECOGNITION, "the linear composition has no guard")
    if not matches:
        return _skipped(CheckKind.RECOGNITION, "there was no unseen context to try it in")
    seen = [context for context, match in matches if evidence.recognises(match)]
    text = f"the guard recognised its subject in {len(seen)} of {len(matches)} unseen contexts"
    share, least = len(seen) / len(matches), evidence.policy.minimum_recognition
    if share < least:
        text += "; name the subject in full, or widen the guard by calibrating again"
    return _at_least(CheckKind.RECOGNITION, share, least, text)


def _selectivity(evidence: Evidence) -> Check:
    seen, limit = evidence.inspection, evidence.policy.maximum_corpus_firing_rate
    if evidence.policy.composition is Composition.LINEAR:
        return _skipped(CheckKind.SELECTIVITY, "the linear composition has no guard")
    if not seen.corpus_keys:
        return _skipped(CheckKind.SELECTIVITY, "no sample of ordinary keys is stored")
    rate = seen.corpus_firings / seen.corpus_keys
    text = f"the guard fires on {seen.corpus_firings} of {seen.corpus_keys} ordinary keys"
    if kept_off := list(dict.fromkeys(evidence.manifest.decoys)):
        text += f", and decoys keep it off {len(kept_off)} known subjects: {_names(kept_off)}"
    near = [prompt for prompt, match in seen.neighbour_matches if evidence.recognises(match)]
    if near:
        text += f" and on {len(near)} of the neighbours' prompts: {_names(near)}"
    if rate > limit:
        text += "; the subject is too ordinary a word: name it more fully"
    check = _at_most(CheckKind.SELECTIVITY, rate, limit, text)
    return _with_warning(check) if near else check


def _conflicts(evidence: Evidence) -> Check:
    seen, limit = evidence.inspection, evidence.policy.warn_conflict
    supersedes = evidence.sources.get("supersedes", "")
    closing = f"; supersedes {supersedes}, an edit of the same subject" if supersedes else ""
    if near_in_batch := evidence.sources.get("batch", ""):
        closing += f"; proposed with it and near: {near_in_batch}"
    if not seen.conflicts:
        return _skipped(CheckKind.CONFLICTS, f"no other edit is live{closing}")
    near = [str(edit) for edit, conflict in seen.conflicts if conflict > limit]
    largest = max(conflict for _, conflict in seen.conflicts)
    text = f"compared with {len(seen.conflicts)} live edits"
    if near:
        text += f"; {len(near)} of them lie close and were re-checked: {_names(near)}"
    if seen.fires_on_live:
        text += f"; the guard would fire on {_names([str(edit) for edit in seen.fires_on_live])}"
    check = _at_most(CheckKind.CONFLICTS, largest, limit, text + closing, otherwise=Verdict.WARNED)
    return _with_warning(check) if seen.fires_on_live else check


def _efficacy(evidence: Evidence, measured: Measurements) -> Check:
    return _held_after(
        CheckKind.EFFICACY,
        measured.efficacy,
        evidence.policy.minimum_efficacy,
        what=f"of the edit's own prompts ({evidence.source('efficacy')})",
        remedy="word the prompt so that it leads straight to the target and propose again",
    )


def _paraphrase(evidence: Evidence, measured: Measurements) -> Check:
    if not measured.paraphrases:
        return _skipped(CheckKind.PARAPHRASE, evidence.source("paraphrases"))
    return _held_after(
        CheckKind.PARAPHRASE,
        measured.paraphrases,
        evidence.policy.minimum_paraphrase,
        what=f"of the paraphrases ({evidence.source('paraphrases')})",
        remedy="read the ones that failed: give paraphrases of your own if they ask for "
        "something else, or state the fact in several wordings in one edit",
    )


def _neighbourhood(evidence: Evidence, measured: Measurements) -> Check:
    return _drop(
        CheckKind.NEIGHBOURHOOD,
        measured.neighbours,
        evidence.policy.maximum_neighbourhood_drop,
        source=evidence.source("neighbours"),
        remedy="the edit leaks onto other subjects: name the subject more fully",
    )


def _prefixed_neighbourhood(evidence: Evidence, measured: Measurements) -> Check:
    return _drop(
        CheckKind.PREFIXED_NEIGHBOURHOOD,
        measured.prefixed_neighbours,
        evidence.policy.maximum_prefixed_neighbourhood_drop,
        source=evidence.source("prefixed_neighbours"),
        remedy="the edit spills over to other subjects named after it: name the subject "
        "more fully, or choose a target that is less of an attractor",
    )


def _same_subject(evidence: Evidence, measured: Measurements) -> Check:
    return _drop(
        CheckKind.SAME_SUBJECT,
        measured.same_subject,
        evidence.policy.maximum_same_subject_drop,
        source=evidence.source("same_subject"),
        remedy="state the facts that must stay beside the new one in the same edit",
    )


def _divergence(evidence: Evidence, measured: Measurements) -> Check:
    if not measured.neighbours:
        return _skipped(CheckKind.NEIGHBOUR_DIVERGENCE, evidence.source("neighbours"))
    value, limit = (
        measured.neighbour_divergence,
        evidence.policy.maximum_neighbour_divergence,
    )
    text = (
        f"next-word distributions at {len(measured.neighbours)} neighbours' prompts moved by "
        f"{value:.4g} nat on average"
    )
    if not value <= limit:
        text += "; the edit leaks onto other subjects: name the subject more fully"
    return _at_most(CheckKind.NEIGHBOUR_DIVERGENCE, value, limit, text)


def _perplexity(evidence: Evidence, measured: Measurements) -> Check:
    if not measured.perplexity_base > 0:
        return _skipped(CheckKind.PERPLEXITY, evidence.source("drift_texts"))
    rise = _ratio(measured.perplexity_after, measured.perplexity_before) - 1
    limit = evidence.policy.maximum_perplexity_rise
    text = (
        f"perplexity of fixed texts went from {measured.perplexity_before:.4g} to "
        f"{measured.perplexity_after:.4g} with this edit, {_percent(rise)} up"
    )
    if not rise <= limit:
        text += "; the edit acts on ordinary text: name the subject more fully"
    return _at_most(CheckKind.PERPLEXITY, rise, limit, text)


def _cumulative_perplexity(evidence: Evidence, measured: Measurements) -> Check:
    if not measured.perplexity_base > 0:
        return _skipped(CheckKind.CUMULATIVE_PERPLEXITY, evidence.source("drift_texts"))
    rise = _ratio(measured.perplexity_after, measured.perplexity_base) - 1
    policy = evidence.policy
    text = (
        f"perplexity of fixed texts is {measured.perplexity_after:.4g} with all live edits "
        f"and {measured.perplexity_base:.4g} on the base model, {_percent(rise)} up"
    )
    if not rise <= policy.warn_cumulative_perplexity_rise:
        text += "; retrain soon: train the edits in, or revert those no longer needed"
    check = _at_most(
        CheckKind.CUMULATIVE_PERPLEXITY, rise, policy.maximum_cumulative_perplexity_rise, text
    )
    return check if rise <= policy.warn_cumulative_perplexity_rise else _with_warning(check)


def _fluency(evidence: Evidence, measured: Measurements) -> Check:
    if not measured.entropy_before > 0:
        return _skipped(CheckKind.FLUENCY, evidence.source("fluency"))
    ratio = measured.entropy_after / measured.entropy_before
    least = evidence.policy.minimum_entropy_ratio
    text = (
        f"n-gram entropy of free continuations went from {measured.entropy_before:.3g} to "
        f"{measured.entropy_after:.3g} bits"
    )
    if not ratio >= least:
        text += "; the model repeats itself about this subject: propose a gentler wording"
    return _at_least(CheckKind.FLUENCY, ratio, least, text)


def _live_edits(evidence: Evidence, measured: Measurements) -> Check:
    held = [answer for answer in measured.live_facts if answer.held_before]
    if not held:
        why = "none of the facts re-checked held before" if measured.live_facts else ""
        return _skipped(CheckKind.LIVE_EDITS, why or evidence.source("live_facts"))
    broken = [answer for answer in held if not answer.held_after]
    text = (
        f"{len(held) - len(broken)} of {len(held)} facts of live edits still hold "
        f"({evidence.source('live_facts')})"
    )
    if broken:
        names = _names(list(dict.fromkeys(answer.edit for answer in broken)))
        text += f"; broken: {names}: revert those, or verify them again and propose anew"
    share = (len(held) - len(broken)) / len(held)
    check = _at_least(
        CheckKind.LIVE_EDITS, share, MINIMUM_LIVE_EDITS, text, answers=measured.live_facts
    )
    return _with_warning(check) if broken else check


def _suite(evidence: Evidence, measured: Measurements) -> Check:
    return _drop(
        CheckKind.SUITE,
        measured.suite,
        evidence.policy.maximum_suite_drop,
        source=evidence.source("suite"),
        remedy="the edit breaks what you asked to keep: name the subject more fully, or store "
        "a new version of the suite if its answers are no longer the right ones",
    )


_OF_PATCH: Final[tuple[Callable[[Evidence], Check], ...]] = (
    _finite,
    _converged,
    _clamp,
    _recognition,
    _selectivity,
    _conflicts,
)

_OF_MODEL: Final[tuple[tuple[CheckKind, Callable[[Evidence, Measurements], Check]], ...]] = (
    (CheckKind.EFFICACY, _efficacy),
    (CheckKind.PARAPHRASE, _paraphrase),
    (CheckKind.NEIGHBOURHOOD, _neighbourhood),
    (CheckKind.PREFIXED_NEIGHBOURHOOD, _prefixed_neighbourhood),
    (CheckKind.SAME_SUBJECT, _same_subject),
    (CheckKind.NEIGHBOUR_DIVERGENCE, _divergence),
    (CheckKind.PERPLEXITY, _perplexity),
    (CheckKind.CUMULATIVE_PERPLEXITY, _cumulative_perplexity),
    (CheckKind.FLUENCY, _fluency),
    (CheckKind.LIVE_EDITS, _live_edits),
    (CheckKind.SUITE, _suite),
)


def _held_after(
    kind: CheckKind, answers: tuple[Answer, ...], least: float, *, what: str, remedy: str
) -> Check:
    """The share of ``answers`` that hold after the edit."""
    if not answers:
        return _skipped(kind, "there was no prompt to ask")
    held = sum(answer.held_after for answer in answers)
    text = f"{held} of {len(answers)} {what} are answered with the target"
    if held / len(answers) < least:
        text += f"; {remedy}"
    return _at_least(kind, held / len(answers), least, text, answers=answers)


def _drop(
    kind: CheckKind, answers: tuple[Answer, ...], limit: float, *, source: str, remedy: str
) -> Check:
    """The share of ``answers`` lost: right before, wrong after; gains do not make up for it."""
    if not answers:
        return _skipped(kind, source)
    right = [answer for answer in answers if answer.held_before]
    if not right:
        skipped = f"the model answers none of the {len(answers)} prompts right before ({source})"
        return _skipped(kind, skipped, answers=answers)
    lost = [answer for answer in right if not answer.held_after]
    text = (
        f"{len(right)} of {len(answers)} prompts ({source}) were right before; "
        f"{len(lost)} of those are wrong after"
    )
    if len(lost) / len(answers) > limit:
        text += f": {_names([answer.prompt for answer in lost])}; {remedy}"
    return _at_most(kind, len(lost) / len(answers), limit, text, answers=answers)


def _at_least(
    kind: CheckKind,
    measured: float,
    threshold: float,
    explanation: str,
    *,
    answers: tuple[Answer, ...] = (),
) -> Check:
    good = math.isfinite(measured) and measured >= threshold
    return Check(
        kind=kind,
        verdict=Verdict.PASSED if good else Verdict.FAILED,
        measured=measured if math.isfinite(measured) else None,
        threshold=threshold,
        comparison=">=",
        explanation=_sentence(explanation),
        answers=answers,
    )


def _at_most(
    kind: CheckKind,
    measured: float,
    threshold: float,
    explanation: str,
    *,
    answers: tuple[Answer, ...] = (),
    otherwise: Verdict = Verdict.FAILED,
) -> Check:
    finite = math.isfinite(measured)
    if not finite:
        otherwise = Verdict.FAILED
    return Check(
        kind=kind,
        verdict=Verdict.PASSED if finite and measured <= threshold else otherwise,
        measured=measured if finite else None,
        threshold=threshold,
        comparison="<=",
        explanation=_sentence(explanation),
        answers=answers,
    )


def _skipped(kind: CheckKind, why: str, *, answers: tuple[Answer, ...] = ()) -> Check:
    return Check(
        kind=kind,
        verdict=Verdict.SKIPPED,
        measured=None,
        threshold=None,
        comparison="",
        explanation=_sentence(f"not checked: {why}"),
        answers=answers,
    )


def _with_warning(check: Check) -> Check:
    """``check``, warned about where it would have passed."""
    if check.verdict is not Verdict.PASSED:
        return check
    return Check(
        kind=check.kind,
        verdict=Verdict.WARNED,
        measured=check.measured,
        threshold=check.threshold,
        comparison=check.comparison,
        explanation=check.explanation,
        answers=check.answers,
    )


def _ratio(after: float, before: float) -> float:
    """``after / before``, and NaN, which no threshold lets pass, where there is none."""
    return after / before if before > 0 else math.nan


def _names(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(names[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."
