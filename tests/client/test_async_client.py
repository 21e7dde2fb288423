"""The asynchronous client against a whole server: the same results as the synchronous one."""

import asyncio

import pytest

import errata

PROMPT = "Space Needle is in the city of"


@pytest.fixture
async def aclient(server):
    async with errata.AsyncClient(server.address, actor="ana") as connected:
        yield connected


async def proposed(aclient, moved):
    operation = await aclient.propose("Space Needle", moved, reason="it was moved")
    return await operation.result(timeout=20)


async def test_both_clients_read_the_same(aclient, client, moved):
    edit = (await proposed(aclient, moved)).edit
    await aclient.apply(edit)

    assert await aclient.model() == client.model()
    assert await aclient.head() == client.head()
    assert [r async for r in aclient.revisions(page_size=1)] == list(client.revisions())
    assert [e async for e in aclient.edits()] == list(client.edits())
    assert [b async for b in aclient.branches()] == list(client.branches())
    assert await aclient.score(PROMPT, [" Paris"]) == client.score(PROMPT, [" Paris"])
    assert await aclient.diff("0", "1") == client.diff("0", "1")
    assert await aclient.audit() == client.audit()
    assert await aclient.report(edit.report) == client.report(edit.report)
    assert await aclient.revision("1") == client.revision("1")


async def test_an_edit_goes_live_and_back(aclient, moved):
    edit = (await proposed(aclient, moved)).edit

    await aclient.approve(edit, "fine")
    await aclient.apply(edit)
    live = await (await aclient.generate(PROMPT)).read()
    await aclient.revert(edit)
    back = await (await aclient.generate(PROMPT)).read()

    assert (live.split()[0], back.split()[0]) == ("Paris", "Seattle")
    assert (await aclient.edit(edit)).state is errata.EditState.REVERTED


async def test_text_comes_in_pieces_from_one_revision(aclient):
    generation = await aclient.generate(PROMPT, max_new_tokens=2)

    assert generation.served.sequence == 0
    assert [piece async for piece in generation] == [" Seattle", " and"]
    assert generation.finish_reason == "length"


async def test_a_generation_may_be_stopped_early(aclient):
    generation = await aclient.generate(PROMPT)

    await generation.close()

    assert generation.text == ""


async def test_progress_is_told_until_the_operation_ends(server, aclient, moved):
    server.engine.step_seconds = 0.05
    operation = await aclient.propose("Space Needle", moved)

    stages = [progress.stage async for progress in operation]

    assert operation.done
    assert "checks" in stages


async def test_an_operation_can_be_cancelled(server, aclient, moved):
    server.engine.resume.clear()
    operation = await aclient.verify((await _stored(server, aclient, moved)).id)

    await operation.cancel()

    with pytest.raises(errata.CancelledError):
        await operation.result(timeout=20)


async def _stored(server, aclient, moved):
    server.engine.resume.set()
    edit = (await proposed(aclient, moved)).edit
    server.engine.resume.clear()
    return edit


async def test_waiting_too_long_leaves_the_operation_running(server, aclient, moved):
    server.engine.resume.clear()
    operation = await aclient.propose("Space Needle", moved)

    with pytest.raises(errata.DeadlineError):
        await operation.result(timeout=0.1)

    server.engine.resume.set()
    again = await aclient.operation(operation.name)
    assert (await again.result(timeout=20)).report.passed
    assert [one.name async for one in aclient.operations()] == [operation.name]


async def test_revisions_are_watched_as_they_are_committed(aclient, moved):
    edit = (await proposed(aclient, moved)).edit

    async def first_two():
        watch = aclient.watch(0)
        seen = [await anext(watch), await anext(watch)]
        await watch.aclose()
        return seen

    watching = asyncio.create_task(first_two())
    await aclient.apply(edit)

    seen = await asyncio.wait_for(watching, 20)
    assert [revision.sequence for revision in seen] == [0, 1]


async def test_many_calls_may_be_under_way_at_once(aclient):
    found = await asyncio.gather(*(aclient.score(PROMPT, [" Seattle"]) for _ in range(20)))

    assert len({score.logits_digest for score in found}) == 1


async def test_errors_are_the_same_classes(aclient):
    with pytest.raises(errata.EditNotFoundError):
        await aclient.apply("e-none")
    with pytest.raises(errata.SubjectNotFoundError):
        await aclient.validate("Louvre", errata.Fact(template="It is in", target="Rome"))
    with pytest.raises(errata.PromptTooLongError):
        await aclient.generate("word " * 100)


async def test_nobody_answering_says_what_to_do():
    async with errata.AsyncClient("127.0.0.1:1", model="m") as aclient:
        with pytest.raises(errata.UnavailableError, match="errata-server serve"):
            await aclient.head()


async def test_calibration_and_moments_are_operations(aclient):
    calibrating = await aclient.calibrate(seed=5)
    assert (await calibrating.result(timeout=20)).seed == 5
    collecting = await aclient.collect_moments(["one two"])
    assert await collecting.result(timeout=20) == 2
    assert [model.id async for model in aclient.models()] == ["scripted"]
