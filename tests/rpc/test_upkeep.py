"""Health, verifications of live edits, and crawls over the wire."""

import pytest
from google.longrunning import operations_pb2

from errata.v1 import crawls_pb2, edits_pb2, models_pb2, types_pb2
from errata_server.domain.checks import CheckKind
from tests.support.wire import PARENT, failure


def health(wire):
    request = models_pb2.GetModelHealthRequest(name=PARENT)
    return wire.models.GetModelHealth(request).health


def test_health_tells_of_each_layer_with_live_edits(wire):
    before = health(wire)
    served = wire.applied(wire.proposed(), wire.proposed("Louvre", "Oslo")).served
    after = health(wire)

    assert (before.live_edits, len(before.layers)) == (0, 0)
    assert before.verdict == types_pb2.VERDICT_PASSED
    assert after.served == served
    (layer,) = after.layers
    assert (layer.layer, layer.live_edits, layer.width) == (1, 2, 8)
    assert layer.disturbance == pytest.approx(0.002)
    assert not layer.HasField("budget")
    assert (after.warn_drift, after.maximum_drift) == (0.02, 0.05)


def test_health_warns_before_the_model_is_hurt(server, wire):
    server.engine.faults.add(CheckKind.PERPLEXITY)
    edit = wire.proposed()
    wire.edits.ApplyEdits(
        edits_pb2.ApplyEditsRequest(
            parent=PARENT, names=[edit.name], override_reason="to see it drift"
        )
    )

    found = health(wire)

    assert found.verdict == types_pb2.VERDICT_WARNED
    assert found.perplexity / found.perplexity_base == pytest.approx(1.025)
    assert "retrain soon" in found.warnings[0]


def test_live_edits_are_verified_and_failures_are_named(server, wire):
    wire.applied(wire.proposed("Smith Tower", "Oslo"))
    server.engine.faults.add(CheckKind.LIVE_EDITS)
    broken = wire.proposed("Louvre", "Rome")
    wire.edits.ApplyEdits(
        edits_pb2.ApplyEditsRequest(parent=PARENT, names=[broken.name], override_reason="a test")
    )

    request = edits_pb2.VerifyLiveEditsRequest(parent=PARENT, sample=5, seed=3)
    response = edits_pb2.VerifyLiveEditsResponse()
    wire.ended(wire.edits.VerifyLiveEdits(request)).response.Unpack(response)

    found = response.verification
    assert not found.passed
    assert (found.live_edits, found.in_conflict, found.drawn, found.seed) == (2, 0, 2, 3)
    assert [(checked.edit == broken.name, checked.held) for checked in found.edits] == [
        (True, False),
        (False, True),
    ]
    assert found.edits[0].answers[0].expected == "Rome"
    assert found.health.live_edits == 2


def test_applying_several_edits_starts_a_verification(wire):
    edits = [wire.proposed(), wire.proposed("Louvre", "Oslo")]

    one = wire.applied(edits[0])
    wire.edits.RevertEdits(edits_pb2.RevertEditsRequest(parent=PARENT, names=[edits[0].name]))
    several = wire.applied(*edits)

    assert one.live_verification == ""
    request = operations_pb2.GetOperationRequest(name=several.live_verification)
    ended = wire.ended(wire.operations.GetOperation(request))
    assert ended.response.Is(edits_pb2.VerifyLiveEditsResponse.DESCRIPTOR)


def test_a_crawl_shows_what_changed_between_two_revisions(wire):
    edit = wire.proposed()
    wire.applied(edit)

    request = crawls_pb2.CrawlSubjectRequest(parent=PARENT, subject="Space Needle")
    response = crawls_pb2.CrawlSubjectResponse()
    wire.ended(wire.crawls.CrawlSubject(request)).response.Unpack(response)

    crawl = response.crawl
    assert (crawl.before.sequence, crawl.after.sequence) == (0, 1)
    city, maker = crawl.relations
    assert (city.before.object, city.after.object) == ("Seattle", "Paris")
    assert (city.change, city.edit) == (crawls_pb2.CRAWL_CHANGE_OTHER, edit.name)
    assert maker.change == crawls_pb2.CRAWL_CHANGE_SAME
    assert (crawl.depth, crawl.paraphrases, crawl.prompts) == (1, 3, 12)


@pytest.mark.parametrize(
    ("fields", "reason", "field"),
    [
        ({"subject": ""}, "INVALID_FACT", "subject"),
        ({"subject": "Louvre", "depth": 3}, "INVALID_INPUT", "depth"),
        ({"subject": "Louvre", "paraphrases": 0}, "INVALID_INPUT", "paraphrases"),
        ({"subject": "Louvre", "max_prompts": 10_000}, "INVALID_INPUT", "max_prompts"),
        ({"subject": "Louvre", "revision": "99"}, "REVISION_NOT_FOUND", ""),
        ({"subject": "Louvre", "against": "a/b"}, "INVALID_INPUT", "against"),
    ],
)
def test_a_crawl_that_cannot_be_made_is_refused_at_once(wire, fields, reason, field):
    request = crawls_pb2.CrawlSubjectRequest(parent=PARENT, **fields)

    refused = failure(lambda: wire.crawls.CrawlSubject(request))

    assert refused.reason == reason
    assert refused.metadata.get("field", "") == field


def test_a_sample_out_of_range_is_refused(wire):
    request = edits_pb2.VerifyLiveEditsRequest(parent=PARENT, sample=-1)

    assert failure(lambda: wire.edits.VerifyLiveEdits(request)).metadata["field"] == "sample"
