"""A batch in two streams: what it comes to is what it comes to in one."""

import pytest
import torch

import errata
from errata_server.domain.ids import EditId
from errata_server.engine.patch import decode
from errata_server.service import batches
from tests.support import tiny_models, torch_servers

PATIENCE = 120.0


@pytest.fixture
def proposals():
    cities = sorted(set(tiny_models.CITIES.values()))
    return [
        errata.EditProposal(
            subject=subject,
            facts=(
                errata.Fact(
                    template=tiny_models.TEMPLATES[0],
                    target=cities[(cities.index(city) + 1) % len(cities)],
                ),
            ),
        )
        for subject, city in tiny_models.CITIES.items()
    ]


def proposed_by(engine, folder, proposals):
    """(subject, what its report came to, decoys, patch) of each edit, in order."""
    folder.mkdir(exist_ok=True)
    known = tuple(tiny_models.CITIES.items())
    with (
        torch_servers.serving(folder, engine, known=known) as server,
        errata.Client(server.address, actor="ana") as client,
    ):
        plain = client.score("It rained all week", [" and"]).logits_digest
        started = client.propose_edits(proposals)
        during = [client.score("It rained all week", [" and"]) for _ in range(20)]
        found = []
        for one in started.result(PATIENCE).edits:
            edit = server.ledger.edit(EditId(one.edit.name.rpartition("/")[2]))
            payload = server.ledger.artifact(edit.patch)
            patch = decode(payload, model=engine.describe().digest)
            passed = server.ledger.latest_report(edit.id).passed
            found.append((edit.request.subject, passed, patch.manifest.decoys, patch))
    assert {score.logits_digest for score in during} == {plain}
    return found


def test_two_streams_come_to_what_one_comes_to(
    trained_checkpoint, tmp_path, proposals, monkeypatch
):
    monkeypatch.setattr(batches, "FEWEST", 2)
    found = {}
    for threads in (1, 2):
        folder = tmp_path / str(threads)
        engine = torch_servers.tiny_engine(trained_checkpoint, folder / "cache", threads=threads)
        assert engine._runner.lane.streams == threads
        found[threads] = proposed_by(engine, folder, proposals)
    torch.set_num_threads(1)

    assert len(found[1]) == len(proposals)
    for one, two in zip(found[1], found[2], strict=True):
        assert one[:3] == two[:3]
        assert torch.allclose(one[3].keys, two[3].keys, atol=1e-4)
        gap = float((one[3].residual - two[3].residual).norm())
        assert gap <= 1e-3 * float(one[3].residual.norm())
