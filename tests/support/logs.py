"""The process's log as a test reads it."""

import io
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from errata_server import telemetry

Lines = Callable[[], list[dict[str, Any]]]


@contextmanager
def kept_logging() -> Iterator[None]:
    """Leave logging as it was before, whatever is configured inside."""
    root, alembic = logging.getLogger(), logging.getLogger("alembic")
    handlers, levels = root.handlers[:], (root.level, alembic.level)
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(levels[0])
        alembic.setLevel(levels[1])


@contextmanager
def captured_log() -> Iterator[Lines]:
    """What is logged inside, as the server writes it."""
    stream = io.StringIO()
    with kept_logging():
        telemetry.configure_logging(stream)
        yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
