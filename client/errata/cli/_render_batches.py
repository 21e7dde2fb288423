"""What came of a batch, for people."""

from rich.console import RenderableType

import errata
from errata.cli import _next_steps as next_steps
from errata.cli._render import table


def batch(found: errata.ProposedBatch) -> list[RenderableType]:
    """Edits, failures, near subjects, and what to do next."""
    shown: list[RenderableType] = []
    if found.edits:
        rows = [
            (
                one.edit.id,
                one.edit.subject,
                "passed" if one.passed else f"failed: {', '.join(one.failed_checks)}",
            )
            for one in found.edits
        ]
        shown.append(table(("edit", "subject", "checks"), rows))
    if found.failures:
        failures = [
            (", ".join(str(place + 1) for place in one.places), one.reason, one.message)
            for one in found.failures
        ]
        shown.append(table(("record", "reason", "message"), failures))
    shown += [_pair(pair) for pair in found.near]
    passed = sum(one.passed for one in found.edits)
    shown.append(
        f"{passed} of {len(found.edits)} edits passed their checks; "
        f"{sum(len(one.places) for one in found.failures)} records came to nothing."
    )
    return shown + next_steps.after_batch(found.edits)


def _pair(pair: errata.NearSubjects) -> str:
    text = f"near: {pair.first} and {pair.second} ({pair.conflict:.2f})"
    if pair.first_fires:
        text += f"; the edit of {pair.first} would fire on {pair.second}"
    if pair.second_fires:
        text += f"; the edit of {pair.second} would fire on {pair.first}"
    return text
