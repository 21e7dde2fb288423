"""Reads that must see a certain sequence, on a server that may be behind.

Invariant: a read waits as long as its caller and the operator allow and no longer, on a thread
that is there for waiting.
"""

from functools import partial
from typing import Final

from errata_server.domain.errors import UnavailableError
from errata_server.rpc import calls
from errata_server.rpc.services import Context, Services

LARGEST_MARGIN: Final = 1.0
MARGIN_SHARE: Final = 0.2
"""Seconds, and share of what is left, kept before the caller's deadline: the refusal is to arrive
and say how far this server is."""


async def await_sequence(services: Services, context: Context, sequence: int) -> None:
    """Return once ``sequence`` of the served branch is served here, or it takes too long.

    Which of the two it was, `Serving.at` tells.
    """
    try:
        served = services.serving.head().revision.sequence
    except UnavailableError:  # nothing is served yet; whoever reads next says so
        return
    if served >= sequence:
        return
    remaining = context.time_remaining()
    patience = services.read_wait_seconds
    if remaining is not None:
        margin = min(LARGEST_MARGIN, MARGIN_SHARE * remaining)
        patience = max(0.0, min(patience, remaining - margin))
    wait = partial(services.serving.await_sequence, sequence, patience)
    await calls.call(services.pools.waits, wait)
