"""Which model a client talks to; pure."""

from collections.abc import Iterable

from errata import _types as types
from errata._arguments import require_kind
from errata._errors import InvalidInputError, ModelNotFoundError


def model_name(model: str | None) -> str:
    """The full name of a model given by id or full name; empty where none is given.

    Raises:
        InvalidInputError: it is no text.
    """
    require_kind("model", model, str)
    if not model:
        return ""
    return model if model.startswith("models/") else f"models/{model}"


def only_model(models: Iterable[types.Model]) -> str:
    """The full name of the one model there is.

    Raises:
        ModelNotFoundError: there is none.
        InvalidInputError: there are several.
    """
    names = [model.name for model in models]
    if not names:
        raise ModelNotFoundError("the server serves no model yet; try again once it is ready")
    if len(names) > 1:
        raise InvalidInputError(
            f"the server has several models, {', '.join(names)}; name one with model=...",
            {"field": "model", "models": ",".join(names)},
        )
    return names[0]
