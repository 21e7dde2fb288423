"""Frozen dataclasses as schema-versioned JSON documents, and back; pure.

Invariants: ``read(kind, write(value, schema), schema) == value``; a document is JSON without
NaN; one that is no such document is an `InvalidInputError` that names the place in it. Fields
this client does not know, from a newer one, are passed over.
"""

import dataclasses
import json
from collections.abc import Mapping
from enum import Enum
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from errata._errors import InvalidInputError

T = TypeVar("T")
_Place = str


def write(value: Any, schema: str) -> dict[str, Any]:  # noqa: ANN401 - any dataclass
    """``value`` as a document: its fields beside the name of its schema."""
    fields: dict[str, Any] = json.loads(to_json(dataclasses.asdict(value)))
    return {"schema": schema, **fields}


def to_json(document: Mapping[str, Any], indent: int | None = None) -> str:
    """The text of a document."""
    return json.dumps(document, indent=indent, ensure_ascii=False, allow_nan=False)


def parse(text: str | bytes) -> dict[str, Any]:
    """Inverse of `to_json`.

    Raises:
        InvalidInputError: the text is no JSON object.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"this is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvalidInputError("this JSON is no object; give a document that errata wrote")
    return document


def read(kind: type[T], document: Mapping[str, Any], schema: str) -> T:
    """Inverse of `write`.

    Raises:
        InvalidInputError: the document is of another schema, or malformed.
    """
    found = document.get("schema")
    if found != schema:
        raise InvalidInputError(
            f"this document has the schema {found!r}, not {schema!r}; read it with what wrote it",
            {"schema": str(found), "expected": schema},
        )
    made: T = _dataclass(kind, document, "document")
    return made


def _read(kind: Any, value: Any, place: _Place) -> Any:  # noqa: ANN401 - as its kind says
    origin = get_origin(kind)
    if origin is tuple:
        return _items(get_args(kind)[0], value, place)
    if origin is UnionType:
        return None if value is None else _read(get_args(kind)[0], value, place)
    if origin is not None:
        return _mapping(get_args(kind)[1], value, place)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, place)
    if issubclass(kind, Enum):
        return _member(kind, value, place)
    return _scalar(kind, value, place)


def _dataclass(kind: Any, value: Any, place: _Place) -> Any:  # noqa: ANN401 - any dataclass
    if not isinstance(value, Mapping):
        raise _malformed(place, "an object", value)
    hints = get_type_hints(kind)
    given = {}
    for field in dataclasses.fields(kind):
        if field.name in value:
            given[field.name] = _read(hints[field.name], value[field.name], f"{place}.{field.name}")
        elif field.default is dataclasses.MISSING:
            raise InvalidInputError(f"{place} has no {field.name!r}", {"field": field.name})
    return kind(**given)


def _items(kind: Any, value: Any, place: _Place) -> tuple[Any, ...]:  # noqa: ANN401 - likewise
    if not isinstance(value, list | tuple):
        raise _malformed(place, "a list", value)
    return tuple(_read(kind, item, f"{place}[{index}]") for index, item in enumerate(value))


def _mapping(kind: Any, value: Any, place: _Place) -> dict[str, Any]:  # noqa: ANN401 - likewise
    if not isinstance(value, Mapping):
        raise _malformed(place, "an object", value)
    return {str(name): _read(kind, item, f"{place}.{name}") for name, item in value.items()}


def _member(kind: type[Enum], value: object, place: _Place) -> Enum:
    try:
        return kind(value)
    except ValueError:
        raise _malformed(place, f"one of {', '.join(map(str, kind))}", value) from None


def _scalar(kind: type, value: object, place: _Place) -> object:
    if kind is float and type(value) in {int, float}:
        return float(value)  # type: ignore[arg-type]
    if type(value) is not kind:
        raise _malformed(
            place, {int: "a whole number", str: "text"}.get(kind, kind.__name__), value
        )
    return value


def _malformed(place: _Place, expected: str, value: object) -> InvalidInputError:
    return InvalidInputError(
        f"{place} must be {expected}, not {type(value).__name__} {str(value)[:40]!r}",
        {"field": place},
    )
