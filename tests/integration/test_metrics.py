"""The metrics endpoint of a server in use, read as Prometheus reads it."""

from urllib.request import urlopen

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from errata.v1 import edits_pb2, inference_pb2, ledger_pb2
from errata_server.domain.checks import CheckKind
from tests.support.loopback import serving
from tests.support.wire import PARENT, Wire, failure

FORBIDDEN = ("Space Needle", "Paris", "Seattle", "models/", "e-", "op-", "sqlite")


@pytest.fixture
def server(tmp_path):
    with serving(tmp_path, metrics_port=0) as ready:
        yield ready


@pytest.fixture
def wire(server):
    with grpc.insecure_channel(server.address) as channel:
        yield Wire(channel)


def scrape(server):
    """Every sample, by name and labels."""
    with urlopen(server.metrics, timeout=20) as response:
        text = response.read().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def read(samples, name, **labels):
    return samples.get((name, tuple(sorted(labels.items()))), 0.0)


def rpc(service, method, kind="unary"):
    return {
        "grpc_type": kind,
        "grpc_service": f"errata.v1.{service}",
        "grpc_method": method,
    }


def test_calls_are_counted_with_the_code_they_ended_with(server, wire):
    labels = rpc("LedgerService", "GetHead")
    before = scrape(server)
    wire.ledger.GetHead(ledger_pb2.GetHeadRequest(parent=PARENT))
    failure(lambda: wire.ledger.GetHead(ledger_pb2.GetHeadRequest(parent="models/other")))
    after = scrape(server)

    def grown(name, **more):
        return read(after, name, **labels, **more) - read(before, name, **labels, **more)

    assert grown("grpc_server_started_total") == 2
    assert grown("grpc_server_handled_total", grpc_code="OK") == 1
    assert grown("grpc_server_handled_total", grpc_code="NOT_FOUND") == 1
    assert grown("grpc_server_handling_seconds_count") == 2
    assert grown("grpc_server_msg_received_total") == 2
    assert grown("grpc_server_msg_sent_total") == 1


def test_a_stream_counts_every_message_it_sends(server, wire):
    labels = rpc("InferenceService", "Generate", kind="server_stream")
    before = scrape(server)
    request = inference_pb2.GenerateRequest(model=PARENT, prompt="Space Needle is in the city of")
    chunks = list(wire.inference.Generate(request))
    after = scrape(server)

    def grown(name, **labels):
        return read(after, name, **labels) - read(before, name, **labels)

    assert grown("grpc_server_msg_sent_total", **labels) == len(chunks)
    assert grown("errata_generated_tokens_total") == chunks[-1].tokens
    assert grown("errata_generate_seconds_count") == 1
    assert grown("errata_time_to_first_token_seconds_count") == 1


def test_edits_move_the_gauges_and_fill_the_histograms(server, wire):
    before = scrape(server)
    edit = wire.proposed()
    wire.applied(edit)
    live = scrape(server)
    request = edits_pb2.RevertEditsRequest(parent=PARENT, names=[edit.name])
    wire.edits.RevertEdits(request)
    after = scrape(server)

    assert read(live, "errata_live_edits") == 1
    assert read(live, "errata_served_sequence") == read(live, "errata_head_sequence") == 1
    assert read(after, "errata_live_edits") == 0
    assert read(after, "errata_served_sequence") == 2
    for name in ("efficacy", "paraphrase", "neighbourhood_drop", "perplexity"):
        count = f"errata_edit_{name}_ratio_count"
        assert read(live, count) == read(before, count) + 1, name
    assert read(live, "errata_last_edit_efficacy_ratio") == 1
    assert read(live, "errata_last_edit_perplexity_ratio") == pytest.approx(1, abs=0.01)
    succeeded = {"kind": "propose", "outcome": "succeeded"}
    counted = read(after, "errata_operations_total", **succeeded)
    assert counted == read(before, "errata_operations_total", **succeeded) + 1
    assert read(after, "errata_operations_running", kind="propose") == 0
    reverts = read(after, "errata_reverts_total", kind="edits")
    assert reverts == read(before, "errata_reverts_total", kind="edits") + 1
    for stage in ("compose", "commit", "publish"):
        assert read(after, "errata_stage_seconds_count", stage=stage) >= 1, stage


def test_a_rejection_is_counted_by_the_check_that_failed(server, wire):
    before = scrape(server)
    server.engine.faults.add(CheckKind.EFFICACY)
    wire.proposed()
    after = scrape(server)

    name = "errata_rejections_total"
    assert read(after, name, check="efficacy") == read(before, name, check="efficacy") + 1


def test_the_build_and_the_architecture_are_told_and_no_name(server, wire):
    wire.applied(wire.proposed())
    samples = scrape(server)

    names = {name for name, _ in samples}
    assert {"errata_build_info", "errata_model_info", "process_resident_memory_bytes"} <= names
    model = next(dict(labels) for name, labels in samples if name == "errata_model_info")
    assert model == {"architecture": "scripted", "layers": "2", "dtype": "float32"}
    labels = [value for _, pairs in samples for _, value in pairs]
    assert not [text for text in labels if text.startswith(FORBIDDEN)]


def test_how_a_server_stands_to_its_ledger_is_told(server, wire):
    wire.applied(wire.proposed())
    samples = scrape(server)

    assert read(samples, "errata_ledger_up") == 1
    assert read(samples, "errata_ledger_lag_revisions") == 0
    assert read(samples, "errata_quarantined") == 0
    assert read(samples, "errata_lease_held") == 1
    assert 0 <= read(samples, "errata_ledger_staleness_seconds") < 60
