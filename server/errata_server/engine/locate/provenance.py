"""What a measurement was taken on."""

import time

import torch

from errata_server.domain.ids import Digest
from errata_server.domain.traces import Provenance
from errata_server.engine.runner import Runner


def provenance(runner: Runner, weights: Digest, began: float) -> Provenance:
    """Where and on what something was measured.

    Args:
        weights: Digest of the weights that answered.
        began: `time.perf_counter` when the measurement began.
    """
    description = runner.checkpoint.description
    return Provenance(
        model_digest=description.digest,
        weights_digest=weights,
        dtype=description.dtype,
        device=description.device,
        torch=torch.__version__,
        seconds=time.perf_counter() - began,
    )
