import pytest

from errata_server.domain.errors import NotFoundError
from errata_server.domain.ids import Digest
from errata_server.service.artifacts import Artifacts
from tests.support.statements import counted_statements


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


def test_what_is_preloaded_is_fetched_together_and_not_again(services):
    digests = [services.ledger.put_artifact(bytes([number])) for number in range(5)]
    artifacts = Artifacts(services.ledger)
    artifacts.load(digests[0])

    with counted_statements() as made:
        artifacts.preload(digests)
        loaded = [artifacts.load(digest) for digest in digests]

    assert loaded == [bytes([number]) for number in range(5)]
    assert len([statement for statement in made if "artifacts" in statement]) == 1


def test_what_is_missing_is_left_for_whoever_needs_it(services):
    artifacts = Artifacts(services.ledger)

    artifacts.preload([Digest("0" * 64)])

    with pytest.raises(NotFoundError):
        artifacts.load(Digest("0" * 64))
