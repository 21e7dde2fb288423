"""Keys: what the edited projection receives at a subject's last token.

The same key is used everywhere (r-ROME, arXiv:2403.07175): mixing an averaged key with the
unprefixed one is what makes the original ROME produce disabling edits.
"""

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from errata_server.domain.facts import PLACEHOLDER
from errata_server.domain.profiles import Profile
from errata_server.domain.traces import TokenRole
from errata_server.engine.runner import Runner
from errata_server.engine.solve import match, match_keys
from errata_server.engine.tokens import join

MINIMUM_AGREEMENT: Final = 0.6
"""rho_u below which the unprefixed key becomes a key of its own.

Published figures put the onset of disabling edits at 0.3; a guard wants more, since every
prompt that begins with the subject has exactly the unprefixed key.
"""

CLEARANCE: Final = 0.02
"""How far above the best match with an ordinary key a guard begins to fire."""

NARROWEST: Final = 0.2
"""A guard narrower than this knows its subject in few contexts; the checks then say so."""

MENTIONS: Final = (
    'The "{}',
    "They saw ({}",
    "A/{}",
    "one -{}",
    "the '{}",
    "\n{}",
    "They went to {}",
    "It came from the {}",
    "He wrote that {}",
    "many in {}",
    "and {}",
)
"""Ways to come to a subject within a sentence and behind punctuation, where it is often split
into other tokens. Prefixes end where a sentence does."""

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
    texts = [join(prefix, bare) for prefix in prefixes if prefix]
    texts += [mention.replace(PLACEHOLDER, bare) for mention in MENTIONS if bare == subject]
    texts = texts or [bare]
    keys = keys_at_subject(runner, module, [bare, *texts], subject, role=role)
    return keys[1:], keys[0]


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
    others, bare = others.cpu(), bare.cpu()
    averaged = torch.cat([others, bare[None]]).mean(dim=0)
    matchers, _ = match_keys(averaged[None], factor)
    agreement = float(match(bare[None].double(), matchers))
    covered = agreement >= MINIMUM_AGREEMENT
    keys = averaged[None] if covered else torch.stack([others.mean(dim=0), bare])
    if prompts:
        asked = keys_at_subject(runner, profile.module, prompts, subject, role=role).cpu()
        keys = _widened(keys, asked, factor)
    return keys, agreement


def _widened(
    keys: Float[Tensor, "key d_in"],
    asked: Float[Tensor, "prompt d_in"],
    factor: Float[Tensor, "d_in d_in"],
) -> Float[Tensor, "row d_in"]:
    """``keys`` and, worst first, those of ``asked`` that they do not recognise."""
    while len(keys) < MAXIMUM_KEYS:
        matches = match(asked.double(), match_keys(keys, factor)[0]).max(dim=1).values
        if float(matches.min()) >= MINIMUM_AGREEMENT:
            break
        keys = torch.cat([keys, asked[int(matches.argmin())][None]])
    return keys
