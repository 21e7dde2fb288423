"""Suites, health and crawls through both clients."""

import pytest

import errata

LOUVRE = errata.CheckPrompt(prompt="Louvre stands in", expected="Paris")
NEEDLE = errata.CheckPrompt(prompt="Space Needle stands in", expected="Seattle")


def test_a_suite_that_is_stored_judges_proposals(client, moved):
    suite = client.add_suite("capitals", [NEEDLE, LOUVRE], reason="ours to keep")

    report = client.propose("Space Needle", moved).result().report

    assert (suite.id, suite.prompts, suite.reason) == (
        "capitals@1",
        (NEEDLE, LOUVRE),
        "ours to keep",
    )
    assert report.suites == ("capitals@1",)
    assert [check.kind for check in report.failures] == ["suite"]
    assert client.suite("capitals") == client.suite("capitals@1") == suite
    assert [listed.id for listed in client.suites()] == ["capitals@1"]
    client.add_suite("capitals", [])
    assert [listed.prompt_count for listed in client.suites("capitals")] == [0, 2]
    assert client.propose("Space Needle", moved).result().report.suites == ()


def test_prompts_may_come_with_a_proposal_or_a_verification(client, moved):
    proposal = client.propose("Space Needle", moved, suite=[LOUVRE]).result()
    verified = client.verify(proposal.edit, suite=[NEEDLE]).result()

    assert proposal.edit.suite == (LOUVRE,)
    assert proposal.report.passed
    assert len(verified.report.of_kind("suite").answers) == 2
    assert not verified.report.passed


def test_a_missing_suite_is_an_error_of_its_own(client):
    with pytest.raises(errata.SuiteNotFoundError):
        client.suite("capitals")


def test_applying_several_edits_gives_a_verification_to_follow(client, moved):
    edits = [client.propose(name, moved).result().edit for name in ("Big Ben", "Tower Bridge")]

    change = client.apply(edits)
    found = client.operation(change.live_verification).result()

    assert isinstance(found, errata.LiveVerification)
    assert found.passed
    assert found.failures == ()
    assert {checked.edit for checked in found.edits} == {edit.id for edit in edits}
    assert found.edits[0].answers[0].after == "Paris"
    assert client.verify_live(sample=1, seed=2).result().drawn == 1
    assert client.apply(client.propose("Prado", moved).result().edit).live_verification == ""


def test_health_is_a_verdict_with_figures(client, moved):
    client.apply(client.propose("Space Needle", moved).result().edit)

    health = client.health()

    assert health.verdict is errata.Verdict.PASSED
    assert health.drift == 0.0
    (layer,) = health.layers
    assert (layer.live_edits, layer.budget, layer.firing_share) == (1, None, 0.0)


def test_a_crawl_tells_side_effects_from_what_was_meant(client, server, moved):
    server.engine.base["Space Needle was made by"] = "Seattle"
    server.engine.base["Space Needle is a product of"] = "Seattle"
    edit = client.propose("Space Needle", moved).result().edit
    client.apply(edit)

    crawl = client.crawl("Space Needle", revision="1", against="base", depth=1).result()

    city, maker = crawl.relations
    assert (city.change, city.edit, city.is_side_effect) == ("other", edit.id, False)
    assert crawl.side_effects == (maker,)
    assert (maker.before.object, maker.after.object) == ("Seattle", "Paris")


async def test_the_asynchronous_client_does_the_same(server, moved):
    async with errata.AsyncClient(server.address, actor="ana") as client:
        suite = await client.add_suite("capitals", [LOUVRE])
        edit = (await (await client.propose("Space Needle", moved)).result()).edit
        await client.apply(edit)

        assert await client.suite("capitals") == suite
        assert [listed.id async for listed in client.suites()] == ["capitals@1"]
        assert (await client.health()).live_edits == 1
        assert (await (await client.verify_live()).result()).passed
        assert (await (await client.crawl("Space Needle")).result()).side_effects == ()
