"""Promises that did not hold, in words, so that a count can be followed to its cause."""

from collections.abc import Iterable

from benchmarks.reliability.options import log


def noted(breaches: list[str], promise: str, found: Iterable[object]) -> int:
    """How many things broke ``promise``; what they were goes to ``breaches`` and the log."""
    words = [f"{promise}: {one}" for one in found]
    for word in words:
        log.print(word, markup=False)
    breaches += words
    return len(words)
