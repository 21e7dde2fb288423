"""The role of every token of a prompt, on which averages over prompts are aligned."""

from collections.abc import Sequence

from errata_server.domain.traces import TokenRole


def token_roles(tokens: int, positions: Sequence[int]) -> list[TokenRole]:
    """A role a token, for the subject at ``positions``, its last mention counting.

    A one-token subject is its last token, and a prompt's last token is just that: the
    published roll-up counts such tokens twice. Tokens of earlier mentions are middle ones.
    """
    end = positions[-1] + 1
    first = end - 1
    while first - 1 in positions:
        first -= 1
    roles = [TokenRole.FURTHER] * tokens
    roles[: positions[0]] = [TokenRole.BEFORE] * positions[0]
    for position in positions:
        roles[position] = TokenRole.MIDDLE_SUBJECT
    roles[first] = TokenRole.FIRST_SUBJECT
    if end < tokens:
        roles[end] = TokenRole.FIRST_SUBSEQUENT
        roles[tokens - 1] = TokenRole.LAST
    roles[end - 1] = TokenRole.LAST_SUBJECT
    return roles
