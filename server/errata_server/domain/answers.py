"""When an answer counts as right: the one predicate behind every check.

Invariant: pure and case-sensitive; only white space before the answer is ignored.
"""

import unicodedata
from typing import Final

SPACELESS_SCRIPTS: Final = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")
"""Scripts written without spaces: there, a letter may follow a whole answer."""


def begins_with(answer: str, expected: str) -> bool:
    """Whether ``answer`` starts with ``expected`` as whole words.

    ``"Parisian"`` does not begin with ``"Paris"``; ``"Paris, of course"`` does.
    """
    text = unicodedata.normalize("NFC", answer).lstrip()
    wanted = unicodedata.normalize("NFC", expected).strip()
    if not wanted or not text.startswith(wanted):
        return False
    following = text[len(wanted) : len(wanted) + 1]
    if not following or not (_is_word(wanted[-1]) and _is_word(following)):
        return True
    return unicodedata.name(following, "").startswith(SPACELESS_SCRIPTS)


def _is_word(character: str) -> bool:
    return character.isalnum() or unicodedata.combining(character) != 0
