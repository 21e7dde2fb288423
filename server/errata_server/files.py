"""The files an operator gives or errata brings: policy, known facts, texts, profile.

Invariant: a file that cannot be used is named in the error, with what is wrong in it.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from errata_server.domain.errors import InvalidInputError
from errata_server.domain.known_facts import KnownFacts
from errata_server.domain.policies import Policy
from errata_server.domain.profiles import Profile

T = TypeVar("T")
BUNDLED: Final = Path(__file__).parent / "demo"
BUNDLED_MODEL: Final = BUNDLED / "model"
DRIFT_TEXTS: Final = 50
"""Texts whose perplexity every verification measures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """Ordinary texts: some for perplexity, others for the second moment."""

    drift: tuple[str, ...]
    corpus: tuple[str, ...]


def read_policy(path: Path | None) -> Policy:
    """The thresholds in ``path``; the defaults without one.

    Raises:
        InvalidInputError: the file is missing, is no JSON object or holds a bad value.
    """
    return Policy() if path is None else _made(path, Policy.from_json)


def read_known_facts(path: Path | None) -> KnownFacts:
    """The known facts in ``path``; the bundled ones without one.

    Raises:
        InvalidInputError: the file is missing or malformed.
    """
    return _made(path or BUNDLED / "known_facts.json", KnownFacts.from_json)


def read_texts(path: Path | None) -> Texts:
    """The texts in ``path``, a line each or a JSON file like the bundled one.

    Raises:
        InvalidInputError: the file is missing, malformed or without text.
    """
    path = path or BUNDLED / "prose.json"
    if path.suffix == ".json":
        return _made(path, _texts_from_json)
    lines = tuple(line for line in _content(path).splitlines() if line.strip())
    if not lines:
        raise InvalidInputError(f"{path} holds no text", field="texts")
    return Texts(drift=lines[:DRIFT_TEXTS], corpus=lines)


def read_bundled_profile() -> Profile | None:
    """The bundled model's profile, if errata was built with one."""
    path = BUNDLED / "profile.json"
    return _made(path, Profile.from_json) if path.exists() else None


def _texts_from_json(value: dict[str, Any]) -> Texts:
    drift, corpus = (tuple(value[name]) for name in ("perplexity", "corpus"))
    if not drift or not corpus or not all(isinstance(text, str) for text in (*drift, *corpus)):
        raise ValueError("perplexity and corpus must be lists of texts")
    return Texts(drift=drift[:DRIFT_TEXTS], corpus=corpus)


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"cannot read {path}: {error}", field="file", path=path) from error


def _made(path: Path, make: Callable[[dict[str, Any]], T]) -> T:
    try:
        return make(_object(_content(path)))
    except InvalidInputError as error:
        raise InvalidInputError(f"{path}: {error}", **error.metadata) from error
    except json.JSONDecodeError as error:
        raise _malformed(path, f"it is not JSON ({error})") from error
    except KeyError as error:
        raise _malformed(path, f"{error} is missing") from error
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise _malformed(path, str(error)) from error


def _object(content: str) -> dict[str, Any]:
    value = json.loads(content)
    if not isinstance(value, dict):
        raise TypeError('it must hold a JSON object, {"name": value}')
    return value


def _malformed(path: Path, problem: str) -> InvalidInputError:
    return InvalidInputError(f"{path} is malformed: {problem}", field="file", path=path)
