"""Suites: regression prompts that every proposal is run with."""

from dataclasses import dataclass
from datetime import datetime

from errata._types import CheckPrompt, short


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """One version of a suite; it never changes."""

    name: str
    """``models/*/suites/NAME@VERSION``."""

    version: int
    digest: str
    """SHA-256 of the stored prompts."""

    prompts: tuple[CheckPrompt, ...]
    """Empty in lists."""

    prompt_count: int
    """0 where the suite is retired: nothing of it is run any more."""

    actor: str
    reason: str
    created_at: datetime | None

    @property
    def id(self) -> str:
        """``NAME@VERSION``."""
        return short(self.name)
