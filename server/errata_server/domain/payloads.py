"""Reading a patch's manifest out of its safetensors bytes, without touching a tensor.

Invariant: only the header is parsed, as JSON; no byte of the payload is ever executed.
"""

import json
import struct
from typing import Final

from errata_server.domain.errors import InvalidPatchError
from errata_server.domain.patches import PatchManifest

MANIFEST_KEY: Final = "manifest"
"""Where the safetensors metadata holds the manifest's canonical JSON."""

_LENGTH: Final = struct.Struct("<Q")


def read_manifest(payload: bytes) -> PatchManifest:
    """The manifest in ``payload``'s safetensors header.

    Raises:
        InvalidPatchError: the bytes are not safetensors, or carry no manifest of ours.
    """
    try:
        (length,) = _LENGTH.unpack_from(payload)
        header = json.loads(payload[_LENGTH.size : _LENGTH.size + length])
        return PatchManifest.from_body(header["__metadata__"][MANIFEST_KEY].encode())
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidPatchError(
            "the artifact is not a patch: its safetensors header holds no manifest; "
            "propose the edit again",
            problem=type(error).__name__,
        ) from error
