"""The client's version, as installed."""

from importlib.metadata import PackageNotFoundError, version
from typing import Final


def _installed() -> str:
    try:
        return version("errata")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "0+source"


__version__: Final = _installed()
