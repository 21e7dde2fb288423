"""Results of operations as the ledger keeps them: canonical JSON that names its schema.

Invariants: decoding what was encoded gives an equal value; a payload of another schema is
never taken for one of this; no NaN is stored.
"""

from typing import Any, Final, TypeAlias, TypeVar

from pydantic import TypeAdapter

from errata_server.domain import canonical
from errata_server.domain.crawls import Crawl
from errata_server.domain.errors import InvalidInputError, PreconditionError
from errata_server.domain.health import LiveVerification
from errata_server.domain.locators import Location
from errata_server.domain.traces import AverageTrace, CausalTrace, Proxy

AnyResult: TypeAlias = CausalTrace | AverageTrace | Proxy | Location | LiveVerification | Crawl
Result = TypeVar("Result", CausalTrace, AverageTrace, Proxy, Location, LiveVerification, Crawl)

SCHEMAS: Final[dict[type[AnyResult], str]] = {
    CausalTrace: "errata.causal_trace/1",
    AverageTrace: "errata.average_trace/1",
    Proxy: "errata.proxy/1",
    Location: "errata.location/1",
    LiveVerification: "errata.live_verification/1",
    Crawl: "errata.crawl/1",
}
_ADAPTERS: Final[dict[type[AnyResult], TypeAdapter[Any]]] = {
    kind: TypeAdapter(kind) for kind in SCHEMAS
}


def encode(result: AnyResult) -> bytes:
    """The bytes to store.

    Raises:
        PreconditionError: a number of it is NaN or infinite.
    """
    kind = type(result)
    fields: dict[str, Any] = _ADAPTERS[kind].dump_python(result, mode="json")
    try:
        return canonical.encode({"schema": SCHEMAS[kind], **fields})
    except ValueError as error:
        raise PreconditionError(
            "the result holds a number that is not finite, so the model overflows on this "
            "input; serve it in float32, or corrupt with less noise",
            schema=SCHEMAS[kind],
        ) from error


def decode(kind: type[Result], payload: bytes) -> Result:
    """The result in ``payload``.

    Raises:
        InvalidInputError: it holds something else.
    """
    schema = SCHEMAS[kind]
    try:
        fields: object = canonical.decode(payload)
        if not isinstance(fields, dict) or fields.get("schema") != schema:
            raise _another(schema)
        result: Result = _ADAPTERS[kind].validate_python(fields)
    except (ValueError, RecursionError) as error:  # pydantic's errors are ValueErrors
        raise _another(schema) from error
    return result


def _another(schema: str) -> InvalidInputError:
    return InvalidInputError(f"the artifact is no {schema}", schema=schema)
