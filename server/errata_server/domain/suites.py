"""Suites: regression prompts of the model's owner, run with every proposal.

Invariants: a version of a suite never changes; versions of a name are numbered from 1 without
gaps; a suite without prompts is retired, and nothing of it is run.
"""

import re
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final, Self

from errata_server.domain import canonical
from errata_server.domain.errors import InvalidInputError
from errata_server.domain.facts import CheckPrompt
from errata_server.domain.ids import Digest, ModelId, RequestId, SuiteName

MOST_PROMPTS: Final = 1_000
"""Prompts one suite may have; each is asked twice with every proposal."""

SCHEMA: Final = "errata.suite/1"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def suite_name(text: str) -> SuiteName:
    """``text`` as the name of a suite.

    Raises:
        InvalidInputError: it is none.
    """
    if not _NAME.fullmatch(text):
        raise InvalidInputError(
            f"{text[:80]!r} cannot name a suite; use up to 64 letters, digits, '.', '_' and '-', "
            "beginning with a letter or digit",
            field="suite",
        )
    return SuiteName(text)


def require_suite_size(prompts: tuple[CheckPrompt, ...]) -> None:
    """Do nothing if a suite may have so many prompts, each once.

    Raises:
        InvalidInputError: there are too many, or one stands twice.
    """
    if len(prompts) > MOST_PROMPTS:
        raise InvalidInputError(
            f"the suite has {len(prompts)} prompts; at most {MOST_PROMPTS} are allowed",
            field="suite",
            limit=MOST_PROMPTS,
        )
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.prompt in seen:
            raise InvalidInputError(
                f"the suite asks {prompt.prompt!r} twice; ask it once", field="suite"
            )
        seen.add(prompt.prompt)


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteReference:
    """A version of a stored suite, as a report names it."""

    name: SuiteName
    version: int
    digest: Digest
    """SHA-256 of the stored prompts."""

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteVersion:
    """A row of the ledger: who stored which prompts under which name."""

    model: ModelId
    name: SuiteName
    version: int
    artifact: Digest
    """SHA-256 of the prompts' payload."""

    prompts: int
    actor: str
    reason: str
    request_id: RequestId
    created_at: datetime

    @property
    def reference(self) -> SuiteReference:
        """How a report names it."""
        return SuiteReference(name=self.name, version=self.version, digest=self.artifact)

    @property
    def body(self) -> bytes:
        """Canonical JSON of every field; what is hashed is what is stored."""
        return canonical.encode(asdict(self) | {"created_at": self.created_at.isoformat()})

    @classmethod
    def from_body(cls, body: bytes) -> Self:
        """Inverse of `body`."""
        fields: dict[str, Any] = canonical.decode(body)
        fields["created_at"] = datetime.fromisoformat(fields["created_at"])
        return cls(**fields)


def encode_prompts(prompts: tuple[CheckPrompt, ...]) -> bytes:
    """The payload of the artifact that holds ``prompts``."""
    return canonical.encode({"schema": SCHEMA, "prompts": [asdict(prompt) for prompt in prompts]})


def decode_prompts(payload: bytes) -> tuple[CheckPrompt, ...]:
    """Inverse of `encode_prompts`.

    Raises:
        InvalidInputError: the payload is something else.
    """
    try:
        fields: object = canonical.decode(payload)
        if isinstance(fields, dict) and fields.get("schema") == SCHEMA:
            return tuple(CheckPrompt(**prompt) for prompt in fields["prompts"])
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise _another() from error
    raise _another()


def _another() -> InvalidInputError:
    return InvalidInputError(f"the artifact is no {SCHEMA}", schema=SCHEMA)
