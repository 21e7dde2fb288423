from errata_server.service.artifacts import Artifacts


def test_an_artifact_is_kept_as_long_as_it_fits(services):
    small, large = (services.ledger.put_artifact(bytes(size)) for size in (10, 90))
    third = services.ledger.put_artifact(b"x" * 20)
    artifacts = Artifacts(services.ledger, max_bytes=110)

    assert [len(artifacts.load(digest)) for digest in (small, large, small, third)] == [
        10,
        90,
        10,
        20,
    ]

    assert set(artifacts._payloads) == {small, third}
    assert len(artifacts.load(large)) == 90


def test_a_manifest_is_read_from_the_stored_patch(services):
    edit = services.proposed()

    assert services.serving.artifacts.manifest(edit.patch).subject == "Space Needle"
