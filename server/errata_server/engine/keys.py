"""Keys: what the edited projection receives at a subject's last token.

The same key is used everywhere (r-ROME, arXiv:2403.07175): mixing an averaged key with the
unprefixed one is what makes the original ROME produce disabling edits.
"""

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from errata_server.domain.traces import TokenRole
from errata_server.engine.runner import Runner
from errata_server.engine.tokens import join

MINIMUM_AGREEMENT: Final = 0.7
"""rho_u below which the unprefixed key becomes a key of its own.

Published figures put the onset of disabling edits at 0.3; a guard wants more, since every
prompt that begins with the subject has exactly the unprefixed key.
"""


MAXIMUM_KEYS: Final = 4
"""Keys one edit may have: each is one more row for every served token."""


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
    ends = [runner.tokens.place(text, subject, role) for text in texts]
    batch = runner.tokens.pad([runner.tokens.fit(text) for text in texts])
    (inputs,) = runner.inputs(batch, [module])
    rows = torch.arange(len(texts), device=inputs.device)
    return inputs[rows, torch.tensor(ends, device=inputs.device)].float()


def prefixed_keys(
    runner: Runner,
    module: str,
    subject: str,
    prefixes: Sequence[str],
    *,
    role: TokenRole = TokenRole.LAST_SUBJECT,
    bare: str = "",
) -> tuple[Float[Tensor, "prefix d_in"], Float[Tensor, " d_in"]]:
    """The keys behind each of ``prefixes`` that is not empty, and the unprefixed key.

    Where every prefix is empty, the unprefixed key stands for them.

    Args:
        bare: The text without a prefix; the subject where empty.
    """
    bare = bare or subject
    texts = [join(prefix, bare) for prefix in prefixes if prefix] or [bare]
    keys = keys_at_subject(runner, module, [bare, *texts], subject, role=role)
    return keys[1:], keys[0]
