"""The keyword arguments that several calls share; one typed dictionary a family.

Both clients take them with ``Unpack``, so that a wrong name or type fails type checking in
either, and each is described in one place. Nothing checks them while a program runs, so the calls
do, with `errata._arguments.checked`.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypedDict

from errata._proxies import Proxy
from errata._trace_types import TraceKind, TraceMetric
from errata._types import CheckPrompt


class MutationOptions(TypedDict, total=False):
    """Who asks, and under which id."""

    actor: str
    """In place of the client's own actor."""

    request_id: str
    """Makes the call idempotent; made up where not given, and kept over retries."""


class SignedOptions(MutationOptions, total=False):
    """What may go with a request that a key may sign."""

    proposer_key: str | Path
    """File of the private key it is signed with; else ``ERRATA_PROPOSER_KEY``, else unsigned."""


class ProposeOptions(SignedOptions, total=False):
    """What may go with a proposal."""

    paraphrases: Iterable[CheckPrompt]
    """Other phrasings that must give the target; else the server finds some."""

    neighbours: Iterable[CheckPrompt]
    """Prompts on other subjects that must not change; else the server finds some."""

    suite: Iterable[CheckPrompt]
    """Regression prompts that must stay right, kept with the edit."""

    aliases: Iterable[str]
    """Other names of the subject that the edit is to know as well; at most 8."""

    reason: str
    ticket: str


class BatchOptions(SignedOptions, total=False):
    """What may go with a batch of proposals."""

    batch: str
    """What the edits are stored under; those of the same batch are not computed again."""

    together: bool
    """Check every edit as if the rest of the batch were live too."""

    reason: str
    ticket: str


class VerifyOptions(MutationOptions, total=False):
    """What may go with checking an edit again."""

    suite: Iterable[CheckPrompt]
    """Regression prompts beside the edit's own and the stored suites."""


class LiveOptions(MutationOptions, total=False):
    """What may go with verifying live edits again."""

    sample: int
    """Edits drawn from those without a conflict; as the server's policy says if not given."""

    seed: int
    """Of the draw."""


class SuiteOptions(MutationOptions, total=False):
    """What may go with storing a suite."""

    reason: str


class BranchOptions(MutationOptions, total=False):
    """What may go with a new branch."""

    start: str
    """The revision it starts from: id, prefix, sequence on main, branch, ``branch@sequence`` or
    ``base``; main's head where not given."""

    reason: str
    ticket: str
    validate_only: bool
    """Go through everything but the commit."""


class ProtectOptions(MutationOptions, total=False):
    """What may go with protecting a branch, or with no longer doing so."""

    ticket: str
    expected_revision: str
    """Fail with `StaleRevisionError` where the branch's head is another."""

    validate_only: bool
    """Go through everything but the commit."""


class PromoteOptions(ProtectOptions, total=False):
    """What may go with promoting a branch."""

    reason: str


class ChangeOptions(MutationOptions, total=False):
    """What may go with a change of what a branch serves."""

    branch: str
    """``main`` where not given."""

    reason: str
    ticket: str
    expected_revision: str
    """Fail with `StaleRevisionError` where the branch's head is another."""

    validate_only: bool
    """Go through everything but the commit."""


class ApplyOptions(ChangeOptions, total=False):
    """What may go with applying edits."""

    override_reason: str
    """Apply although checks failed, for this reason; recorded in the revision."""


class RevertOptions(ChangeOptions, total=False):
    """What may go with reverting edits."""

    to_revision: str
    """Return to what was applied at this revision; give no edits then."""


class ReadOptions(TypedDict, total=False):
    """Which weights are to answer."""

    revision: str
    """A revision, sequence or branch, or ``base``; the head of the server's branch if not given."""

    min_sequence: int
    """Answer from this sequence of the branch or a later one; a server that is behind waits."""


class GenerateOptions(ReadOptions, total=False):
    """How to continue a prompt; greedy unless ``temperature`` is above 0."""

    max_new_tokens: int
    temperature: float
    top_k: int
    """0 keeps every token."""

    seed: int
    stop: Iterable[str]


class MeasuringOptions(MutationOptions, total=False):
    """What may go with a measurement that is kept."""

    revision: str
    """A revision, sequence or branch, or ``base``; the head of main where not given."""


class CrawlOptions(MeasuringOptions, total=False):
    """What may go with a crawl."""

    against: str
    """The revision to compare with; ``base`` if not given."""

    depth: int
    """1 asks about the subject, 2 also about what it is related to; 1 if not given."""

    paraphrases: int
    """Wordings of each question, up to 5; 3 if not given."""

    max_prompts: int
    """Most prompts asked at each revision; 400 if not given."""


class CorruptionOptions(MeasuringOptions, total=False):
    """What may go with any causal trace."""

    kinds: Iterable[TraceKind | str]
    """Hidden states, MLP and attention outputs where not given."""

    metric: TraceMetric | str
    """The answer's probability where not given."""

    scale: float
    """Noise as a multiple of the standard deviation of subjects' embeddings; 3 if not given."""

    samples: int
    """Draws of noise; 10 if not given."""

    seed: int
    """Of the noise; 1 if not given."""

    replacements: Iterable[str]
    """Subjects put in the subject's place, a sample each, instead of noise."""

    window: int
    """Layers restored together for MLP and attention outputs; 10 if not given."""

    memory_mib: int
    """Most memory the cells in flight may take; less means more walks through the layers."""


class TraceOptions(CorruptionOptions, total=False):
    """What may go with the trace of one prompt."""

    answer: str
    """What the score is of; the model's own next word where not given."""

    foil: str
    """For the logit difference; the corrupted run's favourite where not given."""

    proxy: Proxy | str
    """Trace what this classifier says, in place of an answer."""


class TraceFactsOptions(CorruptionOptions, total=False):
    """What may go with the average trace of many facts."""

    limit: int
    """So many of the server's known facts, where no facts are given; 100 if not given."""


class ProxyOptions(MeasuringOptions, total=False):
    """What may go with fitting a classifier."""

    suffix: str
    """Put behind every text; ``I am feeling`` if not given."""

    words: Iterable[str]
    """Words whose probabilities are the features; ``good`` and ``bad`` if not given."""

    hidden_state: bool
    """Read the whole last hidden state in place of words."""

    positive_label: str
    """The label the classifier gives the probability of."""

    seed: int
    """Of what is held out."""


class LocateOptions(MeasuringOptions, total=False):
    """What may go with asking a locator."""

    answer: str
    """The model's own next word where not given."""

    options: Mapping[str, float]
    """Numbers the locator can be told, by name: see `Client.locators`."""

    seed: int
    texts: Iterable[str]
    """Ordinary texts for locators that learn from some; the server's own where not given."""
