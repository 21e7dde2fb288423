"""What every benchmark prints: a table for people, or one JSON document for programs."""

import json
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A benchmark's name, settings and figures."""

    benchmark: str
    settings: Mapping[str, object]
    figures: Mapping[str, float | int]
    details: Mapping[str, object] = field(default_factory=dict)

    @property
    def content(self) -> dict[str, object]:
        """The document as JSON values."""
        return {
            "benchmark": self.benchmark,
            "settings": dict(self.settings),
            "machine": {"python": platform.python_version(), "cpu": platform.machine()},
            "figures": dict(self.figures),
            "details": dict(self.details),
        }

    def show(self, *, as_json: bool) -> None:
        """Write the document to stdout."""
        if as_json:
            sys.stdout.write(json.dumps(self.content, indent=1) + "\n")
            return
        table = Table(title=f"{self.benchmark} ({_settings(self.settings)})")
        table.add_column("figure")
        table.add_column("value", justify="right")
        for name, value in self.figures.items():
            table.add_row(name, f"{value:.5g}" if isinstance(value, float) else str(value))
        Console().print(table)


def _settings(settings: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())
