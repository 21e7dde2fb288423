"""Copied code stays rare: at most 2 % of the lines are in a window that occurs twice."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from tests.contract.sources import FOLDERS, name, python_files

WINDOW = 10
LARGEST_SHARE = 0.02

Line = tuple[str, int]


def significant_lines(source: str) -> list[tuple[int, str]]:
    """Numbered lines without indentation; blank lines and closing brackets say nothing."""
    lines = ((number, line.strip()) for number, line in enumerate(source.splitlines(), start=1))
    return [(number, line) for number, line in lines if line.strip(")]},:")]


def copied_lines(sources: Mapping[str, Sequence[tuple[int, str]]]) -> set[Line]:
    """Every line in a window of `WINDOW` significant lines that occurs more than once."""
    occurrences: defaultdict[tuple[str, ...], list[list[Line]]] = defaultdict(list)
    for file, lines in sources.items():
        for start in range(len(lines) - WINDOW + 1):
            window = lines[start : start + WINDOW]
            text = tuple(line for _, line in window)
            occurrences[text].append([(file, number) for number, _ in window])
    repeated = (places for places in occurrences.values() if len(places) > 1)
    return {line for places in repeated for place in places for line in place}


def test_at_most_two_percent_of_the_lines_are_copies():
    sources = {
        name(path): significant_lines(path.read_text(encoding="utf-8"))
        for path in python_files(*FOLDERS)
    }
    copied = copied_lines(sources)

    per_file = Counter(file for file, _ in copied)
    assert len(copied) <= LARGEST_SHARE * sum(map(len, sources.values())), per_file


def test_a_copied_function_would_be_noticed():
    body = "\n".join(f"    step_{number}()" for number in range(WINDOW))
    sources = {
        "one.py": significant_lines(f"def one():\n{body}\n"),
        "two.py": significant_lines(f"def two():\n\n{body}\n    done()\n"),
    }

    assert len(copied_lines(sources)) == 2 * WINDOW
