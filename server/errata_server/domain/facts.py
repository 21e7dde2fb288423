"""Facts and requests to edit them.

Invariants: a template has exactly one ``{}``; a prompt names its subject exactly once; an
edit has one subject and at least one fact, and no prompt twice.
"""

import unicodedata
from dataclasses import dataclass
from typing import Any, Final, Self

from errata_server.domain.errors import InvalidFactError, SubjectNotFoundError

PLACEHOLDER: Final = "{}"
MAX_TEXT: Final = 2_000
"""Characters allowed in a subject, a template or a target."""

ARTICLES: Final = ("the ", "a ", "an ")
MAX_ALIASES: Final = 8
"""Other names one edit may have: each brings keys of its own, which every served token pays for."""

MAX_FACTS: Final = 32
"""Facts allowed in one edit; they share one value, so more would only fight."""


def clean_text(text: str, field: str) -> str:
    """``text`` in NFC, without surrounding white space.

    Raises:
        InvalidFactError: it is empty, too long, or holds a control, private-use,
            unassigned or surrogate character.
    """
    if not isinstance(text, str):
        raise InvalidFactError(f"{field} must be text", field=field)
    cleaned = unicodedata.normalize("NFC", text).strip()
    if not cleaned:
        raise InvalidFactError(f"{field} is empty; give some text", field=field)
    if len(cleaned) > MAX_TEXT:
        raise InvalidFactError(
            f"{field} has {len(cleaned)} characters; at most {MAX_TEXT} are allowed",
            field=field,
            limit=MAX_TEXT,
        )
    for character in cleaned:
        if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Cn"}:
            raise InvalidFactError(
                f"{field} holds the character U+{ord(character):04X}, which is invisible, "
                "a control or not text; remove it",
                field=field,
                character=f"U+{ord(character):04X}",
            )
    return cleaned


def plain_name(subject: str) -> str:
    """``subject`` as it is compared with other names: without article and capitals."""
    name = " ".join(subject.casefold().split())
    return next((name[len(a) :] for a in ARTICLES if name.startswith(a)), name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One thing to make true: ``template`` filled with the subject continues as ``target``."""

    template: str
    """A sentence start with one ``{}`` where the subject goes."""

    target: str
    """What the model should say next, without leading space."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "template", clean_text(self.template, "template"))
        object.__setattr__(self, "target", clean_text(self.target, "target"))
        if self.template.count(PLACEHOLDER) != 1:
            raise SubjectNotFoundError(
                f"the template {self.template!r} must contain {{}} exactly once, "
                "where the subject goes",
                field="template",
                template=self.template,
            )

    def prompt(self, subject: str) -> str:
        """The template filled with ``subject``."""
        return self.template.replace(PLACEHOLDER, subject)

    @classmethod
    def parse(cls, *, subject: str, prompt: str, target: str) -> Self:
        """A fact from a prompt that is a template or that spells the subject out.

        Raises:
            SubjectNotFoundError: the prompt names the subject not at all or more than once.
        """
        subject = clean_text(subject, "subject")
        prompt = clean_text(prompt, "prompt")
        if PLACEHOLDER in prompt:
            template = prompt
            found = prompt.count(PLACEHOLDER) + prompt.count(subject)
        else:
            template = prompt.replace(subject, PLACEHOLDER)
            found = prompt.count(subject)
        if found != 1:
            raise SubjectNotFoundError(
                f"the prompt {prompt!r} names the subject {subject!r} {found} times; "
                "name it exactly once, or write {} in its place",
                field="prompt",
                prompt=prompt,
                subject=subject,
                found=found,
            )
        return cls(template=template, target=target)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckPrompt:
    """A prompt and what a right answer starts with."""

    prompt: str
    expected: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt", clean_text(self.prompt, "prompt"))
        object.__setattr__(self, "expected", clean_text(self.expected, "expected"))


@dataclass(frozen=True, slots=True, kw_only=True)
class EditRequest:
    """What a caller wants the model to believe about one subject."""

    subject: str
    facts: tuple[Fact, ...]
    paraphrases: tuple[CheckPrompt, ...] = ()
    """Other phrasings that must give the target; found from known facts where empty."""

    neighbours: tuple[CheckPrompt, ...] = ()
    """Prompts on other subjects that must not change; found from known facts where empty."""

    reason: str = ""
    ticket: str = ""
    suite: tuple[CheckPrompt, ...] = ()
    """Regression prompts that must stay right, beside those of stored suites."""

    aliases: tuple[str, ...] = ()
    """Other names of the subject that the edit is to know: nicknames, other spellings."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "subject", clean_text(self.subject, "subject"))
        if PLACEHOLDER in self.subject:
            raise InvalidFactError("the subject must not contain {}", field="subject")
        object.__setattr__(self, "aliases", _clean_aliases(self.subject, self.aliases))
        if not 1 <= len(self.facts) <= MAX_FACTS:
            raise InvalidFactError(
                f"an edit needs 1 to {MAX_FACTS} facts, not {len(self.facts)}",
                field="facts",
                facts=len(self.facts),
            )
        for prompt in self.prompts:
            if prompt.count(self.subject) != 1:
                raise SubjectNotFoundError(
                    f"the prompt {prompt!r} names the subject {self.subject!r} "
                    f"{prompt.count(self.subject)} times; name it exactly once",
                    field="template",
                    prompt=prompt,
                    subject=self.subject,
                )
        if len(set(self.prompts)) != len(self.facts):
            raise InvalidFactError("two facts of this edit have the same prompt", field="facts")

    @property
    def names(self) -> tuple[str, ...]:
        """All names the edit knows: its subject and its aliases."""
        return (self.subject, *self.aliases)

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompt of every fact."""
        return tuple(fact.prompt(self.subject) for fact in self.facts)

    def to_json(self) -> dict[str, Any]:
        """The request as JSON-ready values; inverse of `from_json`.

        Without a suite or aliases there are no fields for them: edits made before there were any
        keep their digests.
        """
        later: dict[str, Any] = {}
        if self.suite:
            later["suite"] = [_prompt_json(p) for p in self.suite]
        if self.aliases:
            later["aliases"] = list(self.aliases)
        return later | {
            "subject": self.subject,
            "facts": [{"template": f.template, "target": f.target} for f in self.facts],
            "paraphrases": [_prompt_json(p) for p in self.paraphrases],
            "neighbours": [_prompt_json(p) for p in self.neighbours],
            "reason": self.reason,
            "ticket": self.ticket,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Inverse of `to_json`."""
        return cls(
            subject=value["subject"],
            facts=tuple(Fact(**fact) for fact in value["facts"]),
            paraphrases=tuple(CheckPrompt(**p) for p in value["paraphrases"]),
            neighbours=tuple(CheckPrompt(**p) for p in value["neighbours"]),
            reason=value["reason"],
            ticket=value["ticket"],
            suite=tuple(CheckPrompt(**p) for p in value.get("suite", ())),
            aliases=tuple(value.get("aliases", ())),
        )


def _clean_aliases(subject: str, aliases: tuple[str, ...]) -> tuple[str, ...]:
    cleaned = tuple(clean_text(alias, f"aliases[{i}]") for i, alias in enumerate(aliases))
    if len(cleaned) > MAX_ALIASES:
        raise InvalidFactError(
            f"an edit may have {MAX_ALIASES} aliases, not {len(cleaned)}",
            field="aliases",
            limit=MAX_ALIASES,
        )
    for place, alias in enumerate(cleaned):
        if PLACEHOLDER in alias or alias in {subject, *cleaned[:place]}:
            raise InvalidFactError(
                f"the alias {alias!r} is the subject or another alias, or contains {{}}; give "
                "each other name once",
                field=f"aliases[{place}]",
                alias=alias,
            )
    return cleaned


def _prompt_json(prompt: CheckPrompt) -> dict[str, str]:
    return {"prompt": prompt.prompt, "expected": prompt.expected}
