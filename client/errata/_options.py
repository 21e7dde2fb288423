"""The keyword arguments that several calls share; one typed dictionary a family.

Both clients take them with ``Unpack``, so that a wrong name or type fails type checking in
either, and each is described in one place.
"""

from collections.abc import Iterable
from typing import TypedDict

from errata._types import CheckPrompt


class MutationOptions(TypedDict, total=False):
    """Who asks, and under which id."""

    actor: str
    """In place of the client's own actor."""

    request_id: str
    """Makes the call idempotent; made up where not given, and kept over retries."""


class ProposeOptions(MutationOptions, total=False):
    """What may go with a proposal."""

    paraphrases: Iterable[CheckPrompt]
    """Other phrasings that must give the target; else the server finds some."""

    neighbours: Iterable[CheckPrompt]
    """Prompts on other subjects that must not change; else the server finds some."""

    reason: str
    ticket: str


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
    """A revision, sequence or branch, or ``base``; the head of main where not given."""

    min_sequence: int
    """Answer from this sequence on main or a later one: read your own writes."""


class GenerateOptions(ReadOptions, total=False):
    """How to continue a prompt; greedy unless ``temperature`` is above 0."""

    max_new_tokens: int
    temperature: float
    top_k: int
    """0 keeps every token."""

    seed: int
    stop: Iterable[str]
