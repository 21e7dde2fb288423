"""Numbers as numpy arrays, and in .npz files; the one module that uses numpy.

Invariant: numpy is imported when it is needed and not before; no file is ever unpickled.
"""

import io
import zipfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from errata._errors import InvalidInputError, MissingExtraError

if TYPE_CHECKING:
    import numpy as np

    Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_DOCUMENT: Final = "document"


def require() -> None:
    """Do nothing where numpy is installed.

    Raises:
        MissingExtraError: it is not.
    """
    try:
        import numpy  # noqa: F401, PLC0415 - loaded when an array is asked for
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "arrays need numpy, which is not installed; run pip install 'errata[plot]'",
            {"module": "numpy", "extra": "plot"},
        ) from error


def arrays(values: Mapping[str, Any]) -> "dict[str, Array]":
    """Nested sequences as arrays; a missing value is NaN."""
    require()
    import numpy as np  # noqa: PLC0415 - as above

    found = {name: np.asarray(value) for name, value in values.items()}
    return {
        name: array.astype(np.float64) if array.dtype == np.object_ else array
        for name, array in found.items()
    }


def archive(values: "Mapping[str, Array]", document: str) -> bytes:
    """The bytes of an .npz file: the arrays, and beside them the document they are of."""
    import numpy as np  # noqa: PLC0415 - as above

    content = io.BytesIO()
    # The stubs take every keyword for allow_pickle; nothing here is an object to pickle.
    np.savez_compressed(content, **{**values, _DOCUMENT: np.asarray(document)})  # type: ignore[arg-type]
    return content.getvalue()


def document(content: bytes) -> str:
    """The document in an .npz file.

    Raises:
        InvalidInputError: it is no such file, or was not written by errata.
    """
    require()
    import numpy as np  # noqa: PLC0415 - as above

    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archived:
            return str(archived[_DOCUMENT][()])
    except (ValueError, KeyError, OSError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise InvalidInputError(
            "this is no .npz file with a result of errata's in it", {"problem": str(error)}
        ) from error
