"""Keys: what the edited projection receives at a subject's last token.

The same key is used everywhere (r-ROME, arXiv:2403.07175): mixing an averaged key with the
unprefixed one is what makes the original ROME produce disabling edits.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from errata_server.domain.facts import PLACEHOLDER
from errata_server.domain.profiles import Profile
from errata_server.domain.traces import TokenRole
from errata_server.engine.runner import Runner
from errata_server.engine.solve import match, match_keys
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

TOGETHER: Final = 8
"""Subjects whose keys are taken in one forward pass, each in every context."""

MAXIMUM_KEYS: Final = 4
"""Keys one edit may have: each is one more row for every served token."""


OF_SUBJECT: Final = frozenset({TokenRole.FIRST_SUBJECT, TokenRole.LAST_SUBJECT})
"""Roles of tokens that the bare subject has."""


def own_width(
    matchers: Float[Tensor, "key d_in"],
    ordinary: Float[Tensor, "row d_in"],
    guard_width: float,
) -> float:
    """``guard_width``, or less where a guard of ``matchers`` would fire on an ``ordinary`` key."""
    if not len(ordinary):
        return guard_width
    nearest = float(match(ordinary, matchers.to(ordinary.dtype)).max())
    return min(guard_width, max(1 - nearest - CLEARANCE, NARROWEST))


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
    batch = runner.tokens.pad([runner.tokens.fit(text) for text, _ in mentions])
    (inputs,) = runner.inputs(batch, [module])
    rows = torch.arange(len(mentions), device=inputs.device)
    return inputs[rows, torch.tensor(ends, device=inputs.device)].float()


def context_keys(
    runner: Runner,
    module: str,
    subject: str,
    prefixes: Sequence[str],
    *,
    role: TokenRole = TokenRole.LAST_SUBJECT,
    bare: str = "",
) -> tuple[Float[Tensor, "context d_in"], Float[Tensor, " d_in"]]:
    """The keys behind each of ``prefixes`` that is not empty and in each of `MENTIONS`, and bare.

    Args:
        bare: The text without a prefix; the subject where empty. A longer one is not mentioned.
    """
    bare = bare or subject
    texts = context_texts(bare, prefixes, mentioned=bare == subject)
    keys = keys_at_subject(runner, module, [bare, *texts], subject, role=role)
    return keys[1:], keys[0]


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
    """Do nothing if the keys of each of ``names`` can be taken wherever `subject_keys` does.

    Raises:
        SubjectNotFoundError: a name's tokens cannot be told apart from what is around it.
        PromptTooLongError: a name does not fit the context behind one of ``prefixes``.
    """
    for name in names:
        for text in (name, *context_texts(name, prefixes, mentioned=True)):
            tokens.fit(text)
            tokens.subject_end(text, name)


def subject_keys(
    runner: Runner,
    subject: str,
    profile: Profile,
    factor: Float[Tensor, "d_in d_in"],
    *,
    prompts: Sequence[str] = (),
    role: TokenRole = TokenRole.LAST_SUBJECT,
) -> tuple[Float[Tensor, "key d_in"], float]:
    """(keys, rho_u): the averaged key, and more of the same value where it falls short.

    The average is over every prefix and way to mention it, the bare subject included. Where it
    would miss the bare subject (often another tokenisation: no space before it), mixing the two
    serves neither, so the average of the others and the unprefixed key become two keys. The
    subject's key in one of ``prompts`` that still goes unrecognised becomes a key too,
    `MAXIMUM_KEYS` in all. A token behind the subject has its keys in the first of ``prompts``,
    there being none in the bare subject.
    """
    text = subject if role in OF_SUBJECT else prompts[0]
    others, bare = context_keys(
        runner, profile.module, subject, profile.prefixes, role=role, bare=text
    )
    found = torch.cat([others, bare[None]]).cpu()
    if prompts:
        asked = keys_at_subject(runner, profile.module, prompts, subject, role=role).cpu()
        found = torch.cat([found, asked])
    groups, agreement = group_mentions(found, len(others), factor)
    return averaged(found, groups), agreement


def keys_of_subjects(
    runner: Runner,
    subjects: Sequence[str],
    profile: Profile,
    factor: Float[Tensor, "d_in d_in"],
) -> Iterator[Float[Tensor, "key d_in"]]:
    """The keys `subject_keys` gives each of ``subjects``, some of them in one pass.

    Raises:
        PromptTooLongError: a subject does not fit the context.
    """
    for start in range(0, len(subjects), TOGETHER):
        some = subjects[start : start + TOGETHER]
        texts = [
            [*context_texts(subject, profile.prefixes, mentioned=True), subject] for subject in some
        ]
        mentions = [
            (text, subject) for subject, own in zip(some, texts, strict=True) for text in own
        ]
        found = keys_in(runner, profile.module, mentions).cpu()
        for rows in found.split([len(own) for own in texts]):
            groups, _ = group_mentions(rows, len(rows) - 1, factor)
            yield averaged(rows, groups)


def group_mentions(
    mentions: Float[Tensor, "mention d_in"], others: int, factor: Float[Tensor, "d_in d_in"]
) -> tuple[list[list[int]], float]:
    """(groups, rho_u): which mentions of one subject share a key, their average.

    Args:
        mentions: Keys of ``others``, then of the bare subject, then in prompts; see
            `subject_keys`.
    """
    all_of_them = list(range(others + 1))
    matchers, _ = match_keys(averaged(mentions, [all_of_them]), factor)
    agreement = float(match(mentions[[others]].double(), matchers))
    covered = agreement >= MINIMUM_AGREEMENT
    groups = [all_of_them] if covered else [all_of_them[:-1], [others]]
    asked = mentions[others + 1 :].double()
    while len(asked) and len(groups) < MAXIMUM_KEYS:
        matchers, _ = match_keys(averaged(mentions, groups), factor)
        matches = match(asked, matchers).max(dim=1).values
        if float(matches.min()) >= MINIMUM_AGREEMENT:
            break
        groups.append([others + 1 + int(matches.argmin())])
    return groups, agreement


def averaged(
    rows: Float[Tensor, "row width"], groups: Sequence[Sequence[int]]
) -> Float[Tensor, "key width"]:
    """The mean row of each group."""
    return torch.stack([rows[list(group)].mean(dim=0) for group in groups])
