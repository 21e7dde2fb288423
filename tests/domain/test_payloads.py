import json
import struct

import pytest

from errata_server.domain.errors import InvalidPatchError
from errata_server.domain.operations import Progress
from errata_server.domain.payloads import read_manifest
from tests.support import edit_request, patch_of
from tests.support.services import scripted_engine


def ignore(progress: Progress) -> None:
    pass


def header(value: object) -> bytes:
    text = json.dumps(value).encode()
    return struct.pack("<Q", len(text)) + text


def test_the_manifest_is_read_without_the_tensors():
    patch = patch_of(scripted_engine(), edit_request())

    assert read_manifest(patch.payload) == patch.manifest


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"1234567",
        b"\xff" * 64,
        struct.pack("<Q", 1 << 62) + b"{}",
        header([]),
        header({"__metadata__": {}}),
        header({"__metadata__": {"manifest": 3}}),
        header({"__metadata__": {"manifest": "{}"}}),
        header({"__metadata__": {"manifest": "not json"}}),
    ],
)
def test_bytes_without_a_manifest_are_refused(payload):
    with pytest.raises(InvalidPatchError, match="no manifest"):
        read_manifest(payload)
