"""What the engine is asked to measure of an edit, and what it found.

A plan holds prompts; the measurements hold what the model said to each before and after.
`errata_server.domain.checks` turns measurements into verdicts.
"""

from dataclasses import dataclass, field

from errata_server.domain.facts import CheckPrompt
from errata_server.domain.ids import EditId
from errata_server.domain.suites import SuiteReference


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveFact:
    """A fact of an edit that is already live, to be re-checked."""

    edit: EditId
    prompt: CheckPrompt


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationPlan:
    """Every prompt a report will be made from."""

    efficacy: tuple[CheckPrompt, ...]
    """The edit's own prompts, bare and in other contexts, with the target."""

    paraphrases: tuple[CheckPrompt, ...]
    neighbours: tuple[CheckPrompt, ...]
    """Prompts on other subjects with their true answers."""

    prefixed_neighbours: tuple[CheckPrompt, ...]
    """CounterFact+: the edit sentence, then a neighbour's prompt."""

    same_subject: tuple[CheckPrompt, ...]
    """Other facts of the edited subject, with their true answers."""

    fluency: tuple[str, ...]
    """Prompts on the subject for free continuations, whose n-gram entropy is compared."""

    drift_texts: tuple[str, ...]
    """Fixed ordinary texts for perplexity."""

    live_facts: tuple[LiveFact, ...] = ()
    suite: tuple[CheckPrompt, ...] = ()
    """The owner's regression prompts: the request's, then those of stored suites."""

    suites: tuple[SuiteReference, ...] = ()
    """The stored suites among them."""

    sources: dict[str, str] = field(default_factory=dict)
    """Where each group of prompts came from: ``request``, ``known facts``, ``templates``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the model said to one prompt before and after, by greedy free generation."""

    prompt: str
    expected: str
    before: str
    after: str
    held_before: bool
    """Whether the answer before began with the expected words."""

    held_after: bool
    edit: str = ""
    """The live edit this prompt belongs to, where it belongs to one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchInspection:
    """What is seen of a patch without running it in the model's answers."""

    finite: bool
    own_matches: tuple[tuple[str, float], ...]
    """The subject in unseen contexts, and the patch's match at its last token there."""

    corpus_firings: int
    """How many of the stored sample of ordinary keys the guard would fire on."""

    corpus_keys: int
    neighbour_matches: tuple[tuple[str, float], ...]
    """Neighbour prompts, and the best match over their tokens."""

    conflicts: tuple[tuple[EditId, float], ...]
    """Live edits, and this patch's whitened cosine with their keys; largest first."""

    fires_on_live: tuple[EditId, ...]
    """Live edits whose own key this patch's guard would fire on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurements:
    """What the model said, before and after, for every prompt of a plan."""

    efficacy: tuple[Answer, ...]
    paraphrases: tuple[Answer, ...]
    neighbours: tuple[Answer, ...]
    prefixed_neighbours: tuple[Answer, ...]
    same_subject: tuple[Answer, ...]
    live_facts: tuple[Answer, ...]
    neighbour_divergence: float
    """Mean KL(before || after) of the next word at the neighbours' prompts, in nats."""

    entropy_before: float
    entropy_after: float
    """Mean weighted bi- and tri-gram entropy of free continuations, in bits."""

    perplexity_base: float
    """Of the drift texts, on the untouched base model."""

    perplexity_before: float
    perplexity_after: float
    suite: tuple[Answer, ...] = ()
