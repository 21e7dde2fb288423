from errata_server.domain import canonical
from errata_server.domain.patches import PatchManifest
from errata_server.domain.payloads import read_manifest
from tests.support import edit_request
from tests.support.services import scripted_engine


def test_a_manifest_survives_its_body():
    patch = scripted_engine().compute_patch(edit_request(), progress=lambda progress: None)

    assert PatchManifest.from_body(patch.manifest.body) == patch.manifest


def test_a_patch_is_named_by_its_bytes():
    patch = scripted_engine().compute_patch(edit_request(), progress=lambda progress: None)

    assert patch.digest == canonical.digest(patch.payload)
    assert read_manifest(patch.payload).body == patch.manifest.body
