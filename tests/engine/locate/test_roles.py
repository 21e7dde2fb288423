"""Every token has one role."""

import pytest

from errata_server.domain.traces import TokenRole
from errata_server.engine.locate.roles import token_roles

LETTERS = {
    "b": TokenRole.BEFORE,
    "F": TokenRole.FIRST_SUBJECT,
    "M": TokenRole.MIDDLE_SUBJECT,
    "L": TokenRole.LAST_SUBJECT,
    "s": TokenRole.FIRST_SUBSEQUENT,
    "u": TokenRole.FURTHER,
    "l": TokenRole.LAST,
}


@pytest.mark.parametrize(
    ("tokens", "positions", "roles"),
    [
        (8, [1, 2, 3], "bFMLsuul"),
        (4, [0, 1], "FLsl"),
        (3, [0], "Lsl"),
        (2, [0], "Ll"),
        (1, [0], "L"),
        (3, [1, 2], "bFL"),
        (8, [0, 1, 4, 5], "MMuuFLsl"),
    ],
    ids=["usual", "two", "one", "then the last", "alone", "at the end", "two mentions"],
)
def test_roles_follow_the_last_mention(tokens, positions, roles):
    assert token_roles(tokens, positions) == [LETTERS[letter] for letter in roles]
