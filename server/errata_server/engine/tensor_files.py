"""Files of tensors that are there whole or not at all, whoever else writes them."""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def save_whole(tensors: dict[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Put ``tensors`` at ``path``: a kill, or another writer, leaves one whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        save_file(tensors, temporary, metadata=dict(metadata))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
