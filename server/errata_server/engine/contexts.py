"""Contexts of an edit: every prompt its value is found on, as tokens.

Invariants: the rows that must say a target come first, facts times prefixes, then the prompts
whose answer must stay the base model's; nothing here runs the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from errata_server.domain.facts import PLACEHOLDER, EditRequest
from errata_server.domain.profiles import Profile
from errata_server.domain.traces import TokenRole
from errata_server.engine.keys import WITHIN
from errata_server.engine.reach import Row
from errata_server.engine.tokens import Tokens, join

ESSENCE: Final = "{} is a"
"""Prompt whose answer must not change: what kind of thing the subject is."""

PREFIXED: Final = 2
"""Prefixes behind which the name, and what may follow it, is held."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contexts:
    """One edit's rows."""

    rows: tuple[Row, ...]
    targets: tuple[tuple[int, ...], ...]
    """Target ids of the first rows, given to the model except for the last; the others are held."""

    named: int = 0
    """The last rows, which end in the subject's name."""

    @property
    def tail(self) -> int:
        """Positions that a residual reaches in all rows together."""
        return sum(len(row.ids) - row.place for row in self.rows)


def contexts_of(
    tokens: Tokens,
    request: EditRequest,
    profile: Profile,
    *,
    role: TokenRole = TokenRole.LAST_SUBJECT,
    held: Sequence[str] = (),
) -> Contexts:
    """Tokenise every context of ``request``.

    Args:
        role: The token that gets the residual.
        held: Prompts about the subject whose answers are to stay, beside `ESSENCE`.

    Raises:
        SubjectNotFoundError: a prompt of ``held`` does not name the subject.
        PromptTooLongError: a prompt with its prefix and target does not fit the context.
        InvalidFactError: a target has no tokens.
    """
    rows, targets = [], []
    for fact in request.facts:
        target = tuple(tokens.target(fact.target))
        for prefix in profile.prefixes:
            text = join(prefix, fact.prompt(request.subject))
            ids = (*tokens.fit(text, room=len(target)), *target[:-1])
            place = len(ids) - len(target) + 1 + tokens.place(text, request.subject, role)
            rows.append(Row(ids=ids, place=place, reads=len(target)))
            targets.append(target)
    named = named_texts(request, profile) if role is TokenRole.LAST_SUBJECT else []
    for text in (ESSENCE.format(request.subject), *held, *named):
        ids = tuple(tokens.fit(text))
        place = len(ids) + tokens.place(text, request.subject, role)
        rows.append(Row(ids=ids, place=place, reads=1))
    return Contexts(rows=tuple(rows), targets=tuple(targets), named=len(named))


def named_texts(request: EditRequest, profile: Profile) -> list[str]:
    """Texts that end in the subject's name; none if a target is to follow right behind it."""
    if any(fact.template.endswith(PLACEHOLDER) for fact in request.facts):
        return []
    subject = request.subject
    prefixes = [prefix for prefix in profile.prefixes if prefix][:PREFIXED]
    return [
        subject,
        *(join(prefix, subject) for prefix in prefixes),
        *(text.replace(PLACEHOLDER, subject) for text in WITHIN),
    ]
