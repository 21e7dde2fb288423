"""Keys: what the edited projection receives at a subject's last token.

The same key is used everywhere (r-ROME, arXiv:2403.07175): mixing an averaged key with the
unprefixed one is what makes the original ROME produce disabling edits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from errata_server.domain.facts import PLACEHOLDER
from errata_server.domain.profiles import Profile
from errata_server.domain.traces import TokenRole
from errata_server.engine.answers import in_batches
from errata_server.engine.runner import Runner
from errata_server.engine.solve import match, match_each
from errata_server.engine.tokens import Tokens, join

MINIMUM_AGREEMENT: Final = 0.6
"""rho_u below which the unprefixed key becomes a key of its own.

Published figures put the onset of disabling edits at 0.3; a guard wants more, since every
prompt that begins with the subject has exactly the unprefixed key.
"""

CLEARANCE: Final = 0.02
"""How far above the best match with an ordinary key a guard begins to fire."""

NARROWEST: Final = 0.2
"""A guard narrower than this knows its subject in few contexts; the checks then say so."""

WITHIN: Final = (
    "They went to {}",
    "It came from the {}",
    "He wrote that {}",
    "many in {}",
    "and {}",
)
"""Ways to come to a subject within a sentence."""

MENTIONS: Final = ('The "{}', "They saw ({}", "A/{}", "one -{}", "the '{}", "\n{}", *WITHIN)
"""Ways to come to a subject within a sentence and behind punctuation, where it is often split
into other tokens. Prefixes end where a sentence does."""

MAXIMUM_KEYS: Final = 4
"""Keys one edit may have: each is one more row for every served token."""


OF_SUBJECT: Final = frozenset({TokenRole.FIRST_SUBJECT, TokenRole.LAST_SUBJECT})
"""Roles of tokens that the bare subject has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Name:
    """A subject or an alias, and prompts in which it must be recognised too."""

    text: str
    prompts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NameKeys:
    """The keys by which a name is recognised."""

    keys: Float[Tensor, "key d_in"]
    agreement: float
    """rho_u: the unprefixed key's match with the averaged key."""


def own_width(matches: Float[Tensor, "row key"], guard_width: float) -> float:
    """``guard_width``, or less where a guard with these ``matches`` would fire on a row.

    Args:
        matches: Of ordinary keys with the guard's.
    """
    if not len(matches):
        return guard_width
    return min(guard_width, max(1 - float(matches.max()) - CLEARANCE, NARROWEST))


def keys_at_subject(
    runner: Runner,
    module: str,
    texts: Sequence[str],
    subject: str,
    *,
    role: TokenRole = TokenRole.LAST_SUBJECT,
) -> Float[Tensor, "text d_in"]:
    """The key at ``role``'s token of ``subject``'s last mention in each text, base model.

    Raises:
        SubjectNotFoundError: a text does not name the subject.
        PromptTooLongError: a text does not fit the context.
    """
    return keys_in(runner, module, [(text, subject) for text in texts], role=role)


def keys_in(
    runner: Runner,
    module: str,
    mentions: Sequence[tuple[str, str]],
    *,
    role: TokenRole = TokenRole.LAST_SUBJECT,
) -> Float[Tensor, "text d_in"]:
    """As `keys_at_subject`, of (text, subject) pairs whose subjects may differ.

    Raises:
        SubjectNotFoundError: a text does not name its subject.
        PromptTooLongError: a text does not fit the context.
    """
    ends = [runner.tokens.place(text, subject, role) for text, subject in mentions]
    rows = [runner.tokens.fit(text) for text, _ in mentions]
    order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
    found: list[Float[Tensor, " d_in"]] = [torch.empty(0)] * len(rows)
    for some in in_batches(order, lambda place: len(rows[place])):
        (inputs,) = runner.inputs(runner.tokens.pad([rows[place] for place in some]), [module])
        own = inputs[range(len(some)), [ends[place] for place in some]].float()
        for place, key in zip(some, own, strict=True):
            found[place] = key
    return torch.stack(found)


def context_texts(text: str, prefixes: Sequence[str], *, mentioned: bool) -> list[str]:
    """``text`` behind each of ``prefixes`` that is not empty, and in each of `MENTIONS`.

    Args:
        mentioned: Whether it is a subject, and can be mentioned.
    """
    texts = [join(prefix, text) for prefix in prefixes if prefix]
    if mentioned:
        texts += [mention.replace(PLACEHOLDER, text) for mention in MENTIONS]
    return texts or [text]


def require_mentions(tokens: Tokens, names: Sequence[str], prefixes: Sequence[str]) -> None:
    """Do nothing if the keys of each of ``names`` can be taken wherever `keys_of_names` does.

    Raises:
        SubjectNotFoundError: a name's tokens cannot be told apart from what is around it.
        PromptTooLongError: a name does not fit the context behind one of ``prefixes``.
    """
    for name in names:
        for text in (name, *context_texts(name, prefixes, mentioned=True)):
            tokens.fit(text)
            tokens.subject_end(text, name)


def keys_of_names(
    runner: Runner,
    names: Sequence[Name],
    profile: Profile,
    factor: Float[Tensor, "d_in d_in"],
    *,
    role: TokenRole = TokenRole.LAST_SUBJECT,
) -> list[NameKeys]:
    """Of each name the averaged key, and more of the same value where it falls short.

    The average is over every prefix and way to mention it, the bare name included. Where it
    would miss the bare name (often another tokenisation: no space before it), mixing the two
    serves neither, so the average of the others and the unprefixed key become two keys. The
    name's key in one of its prompts that still goes unrecognised becomes a key too,
    `MAXIMUM_KEYS` in all. A token behind the subject has its keys in the first of the prompts,
    there being none in the bare subject.

    Raises:
        SubjectNotFoundError: a prompt does not name its subject.
        PromptTooLongError: a name does not fit the context behind a prefix.
    """
    texts, others = [], []
    for name in names:
        bare = name.text if role in OF_SUBJECT else name.prompts[0]
        around = context_texts(bare, profile.prefixes, mentioned=bare == name.text)
        texts.append([*around, bare, *name.prompts])
        others.append(len(around))
    named = [(text, name.text) for name, own in zip(names, texts, strict=True) for text in own]
    if not named:
        return []
    found = keys_in(runner, profile.module, named, role=role).cpu().split([len(t) for t in texts])
    return [
        NameKeys(keys=averaged(rows, groups), agreement=agreement)
        for rows, (groups, agreement) in zip(
            found, group_mentions(found, others, factor), strict=True
        )
    ]


def group_mentions(
    names: Sequence[Float[Tensor, "_ d_in"]],
    others: Sequence[int],
    factor: Float[Tensor, "d_in d_in"],
) -> list[tuple[list[list[int]], float]]:
    """Of each name (groups, rho_u): which of its mentions share a key, their average.

    Args:
        names: For each its keys where others come before it, then of it alone, then in prompts;
            see `keys_of_names`.
        others: How many are of the first kind.
    """
    whole = [list(range(count + 1)) for count in others]
    averages = [averaged(rows, [group]) for rows, group in zip(names, whole, strict=True)]
    agreements = [
        float(match(rows[[count]].double(), own))
        for rows, count, (own, _) in zip(names, others, match_each(averages, factor), strict=True)
    ]
    groups = [
        [own] if agreement >= MINIMUM_AGREEMENT else [own[:-1], own[-1:]]
        for own, agreement in zip(whole, agreements, strict=True)
    ]
    left = [place for place, rows in enumerate(names) if len(rows) > others[place] + 1]
    while left := [place for place in left if len(groups[place]) < MAXIMUM_KEYS]:
        keys = [averaged(names[place], groups[place]) for place in left]
        unheard = []
        for place, (matchers, _) in zip(left, match_each(keys, factor), strict=True):
            asked = names[place][others[place] + 1 :].double()
            matches = match(asked, matchers).max(dim=1).values
            if float(matches.min()) < MINIMUM_AGREEMENT:
                groups[place].append([others[place] + 1 + int(matches.argmin())])
                unheard.append(place)
        left = unheard
    return list(zip(groups, agreements, strict=True))


def averaged(
    rows: Float[Tensor, "row width"], groups: Sequence[Sequence[int]]
) -> Float[Tensor, "key width"]:
    """The mean row of each group."""
    return torch.stack([rows[list(group)].mean(dim=0) for group in groups])
