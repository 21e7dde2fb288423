"""What a command works with: a client, and the screen."""

from collections.abc import Iterable
from typing import TypeVar

import errata
from errata.cli._screen import Screen

T = TypeVar("T")


class Session:
    """One command's connection and output."""

    def __init__(self, client: errata.Client, screen: Screen) -> None:
        self.client = client
        self.screen = screen

    def finish(self, operation: errata.Operation[T]) -> T:
        """Follow an operation to its end; interrupted, cancel it.

        Raises:
            ErrataError: why it failed.
        """
        try:
            self.screen.follow(operation)
        except KeyboardInterrupt:
            operation.cancel()
            self.screen.note(f"{operation.name} is being cancelled")
            raise
        return operation.result()

    def warn(self, warnings: Iterable[str]) -> None:
        """Say on stderr what a JSON document has in it anyway."""
        if not self.screen.is_json:
            for warning in warnings:
                self.screen.note(f"warning: {warning}")
