"""What is given to a call, held against what it takes; pure.

Types are checked where a program is written, not while it runs, so the calls do it: what is
misspelt or of another kind must neither be passed over nor end in an error about errata's inside.
"""

from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from functools import wraps
from typing import Any, Final, ParamSpec, SupportsFloat, SupportsIndex, TypeVar, get_args
from typing import get_type_hints as type_hints

from errata._errors import InvalidInputError

P = ParamSpec("P")
T = TypeVar("T")
Member = TypeVar("Member", bound=StrEnum)

_KINDS: Final[Mapping[Any, tuple[type, str]]] = {
    str: (str, "a text"),
    int: (SupportsIndex, "a whole number"),
    float: (SupportsFloat, "a number"),
}
"""What a request takes where a parameter has one of these types, and what that is called."""


def checked(call: Callable[P, T]) -> Callable[P, T]:
    """``call``, refusing options that its ``Unpack`` does not have, and texts that are none.

    Raises:
        InvalidInputError: when called with such a thing.
    """
    hints = dict(call.__annotations__)
    positional = [name for name in hints if name not in {"options", "return"}]
    (family,) = get_args(hints.pop("options", None)) or (None,)
    known = type_hints(family) if family else {}

    @wraps(call)
    def careful(*args: P.args, **options: P.kwargs) -> T:
        unknown = sorted(options.keys() - known - hints.keys())
        if unknown:
            raise InvalidInputError(
                f"{call.__name__} has no option {unknown[0]!r}; it has {', '.join(sorted(known))}",
                {"field": unknown[0]},
            )
        given = dict(zip(positional, args, strict=False)) | options
        for name, value in given.items():
            require_kind(name, value, known.get(name, hints.get(name)))
        return call(*args, **options)

    return careful


def require_kind(name: str, value: object, kind: Any) -> None:  # noqa: ANN401 - any annotation
    """Do nothing if a parameter of the type ``kind`` may be given ``value``.

    Raises:
        InvalidInputError: it is of another type.
    """
    accepted, words = _KINDS.get(kind, (object, ""))
    if value is None or isinstance(value, accepted):  # a request takes None for what is not given
        return
    such = f" such as {str(value)!r}" if kind is str and isinstance(value, int | float) else ""
    raise InvalidInputError(f"{name} must be {words}{such}, not {value!r}", {"field": name})


def listed(given: Iterable[T], name: str) -> tuple[T, ...]:
    """What is in ``given``, the argument ``name``.

    Raises:
        InvalidInputError: it is no list, nor anything else to be gone through.
    """
    if not isinstance(given, Iterable):
        raise InvalidInputError(f"{name} must be a list, not {given!r}", {"field": name})
    return tuple(given)


def members(given: Iterable[T], kind: type[T], name: str) -> tuple[T, ...]:
    """What is in ``given``, the argument ``name``: each a ``kind``.

    Raises:
        InvalidInputError: it is no list of that.
    """
    found = listed(given, name)
    wanted = "a text" if kind is str else f"an errata.{kind.__name__}"
    for one in found:
        if not isinstance(one, kind):
            raise InvalidInputError(
                f"each of {name} must be {wanted}, not {one!r}", {"field": name}
            )
    return found


def text_list(given: str | Iterable[str], name: str) -> tuple[str, ...]:
    """The texts of ``given``, the argument ``name``; one text is not taken for its letters.

    Raises:
        InvalidInputError: it is neither a text nor a list of some.
    """
    return (given,) if isinstance(given, str) else members(given, str, name)


def member(kind: type[Member], value: object, name: str) -> Member:
    """The member of ``kind`` that ``value``, the argument ``name``, is or names.

    Raises:
        InvalidInputError: there is no such member, or it is ``unspecified``.
    """
    names = [str(one) for one in kind if one != "unspecified"]
    if value not in names:
        raise InvalidInputError(
            f"{value!r} is none of {name}: {', '.join(names)}",
            {"field": name, "value": str(value)},
        )
    return kind(value)
