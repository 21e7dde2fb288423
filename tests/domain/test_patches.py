from errata_server.domain import canonical
from errata_server.domain.patches import PatchManifest
from errata_server.domain.payloads import read_manifest
from tests.support import edit_request, patch_of
from tests.support.services import scripted_engine


def test_a_manifest_survives_its_body():
    patch = patch_of(scripted_engine(), edit_request())

    assert PatchManifest.from_body(patch.manifest.body) == patch.manifest


def test_a_patch_is_named_by_its_bytes():
    patch = patch_of(scripted_engine(), edit_request())

    assert patch.digest == canonical.digest(patch.payload)
    assert read_manifest(patch.payload).body == patch.manifest.body
