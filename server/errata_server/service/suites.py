"""Suites: storing regression prompts, and finding those a proposal must be run with.

Invariant: what is run with every proposal is the latest version of each stored suite.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from errata_server.domain.facts import CheckPrompt
from errata_server.domain.ids import Digest, ModelId, SuiteName
from errata_server.domain.suites import (
    SuiteReference,
    SuiteVersion,
    decode_prompts,
    require_suite_size,
)
from errata_server.ledger.ledger import Ledger
from errata_server.ledger.suites import NewSuite
from errata_server.service.calls import Call, page_limit
from errata_server.service.ports import Engine
from errata_server.service.views import Page, SuiteView


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Suites:
    """The regression prompts of one model's owner."""

    engine: Engine
    ledger: Ledger
    model: ModelId
    now: Callable[[], datetime]

    def add(self, name: SuiteName, prompts: tuple[CheckPrompt, ...], call: Call) -> SuiteView:
        """Store ``prompts`` as the next version of a suite; none retires it.

        Raises:
            InvalidInputError: there are too many, or one stands twice.
            PromptTooLongError: a prompt does not fit the model's context.
            RequestIdReusedError: the request id was used for something else.
            SuiteNotFoundError: a suite that is to be retired does not exist.
        """
        require_suite_size(prompts)
        self.engine.require_room(prompts)
        if not prompts:
            self.ledger.suite(self.model, name)
        version = self.ledger.add_suite(
            NewSuite(
                model=self.model,
                name=name,
                prompts=prompts,
                actor=call.actor,
                reason=call.reason,
                request_id=call.request_id,
                created_at=self.now(),
            )
        )
        return SuiteView(version=version, prompts=prompts)

    def get(self, name: SuiteName, version: int | None = None) -> SuiteView:
        """A version with its prompts, the latest where none is named.

        Raises:
            SuiteNotFoundError: there is none.
        """
        found = self.ledger.suite(self.model, name, version)
        return SuiteView(version=found, prompts=self._prompts(found.artifact))

    def list(
        self, name: SuiteName | None = None, *, page_size: int = 0, page_token: str = ""
    ) -> Page[SuiteVersion]:
        """The latest version of every suite by name, or all versions of one, newest first.

        Raises:
            InvalidInputError: the page size is negative.
        """
        limit = page_limit(page_size)
        found = (
            self.ledger.suites(self.model)
            if name is None
            else self.ledger.suite_versions(self.model, name)
        )
        places = [str(version.reference) for version in found]
        start = places.index(page_token) + 1 if page_token in places else 0
        shown = found[start : start + limit]
        more = len(found) > start + limit
        return Page(items=tuple(shown), next_token=str(shown[-1].reference) if more else "")

    def current(self) -> tuple[tuple[SuiteReference, tuple[CheckPrompt, ...]], ...]:
        """What every proposal is run with: the latest versions that have prompts."""
        return tuple(
            (version.reference, self._prompts(version.artifact))
            for version in self.ledger.suites(self.model)
            if version.prompts
        )

    def _prompts(self, artifact: Digest) -> tuple[CheckPrompt, ...]:
        return decode_prompts(self.ledger.artifact(artifact))
