"""Tracing and locating through both clients, against a whole server."""

import pytest

import errata

PROMPT, SUBJECT = "Space Needle is in the city of", "Space Needle"
TEXTS = [
    errata.LabelledText(text=f"It was a {label} day, number {number}.", label=label)
    for number in range(6)
    for label in ("good", "bad")
]


@pytest.fixture
async def aclient(server):
    async with errata.AsyncClient(server.address, actor="ana") as connected:
        yield connected


def test_a_trace_says_what_it_is_of_and_what_it_was_taken_on(client):
    operation = client.trace(PROMPT, SUBJECT)
    trace = operation.result(20)

    assert operation.kind == "trace"
    assert (trace.prompt, trace.subject, trace.answer) == (PROMPT, SUBJECT, "Seattle")
    assert [str(kind) for kind in trace.kinds] == ["hidden", "mlp", "attn"]
    assert [token.text for token in trace.tokens if token.corrupted]
    assert trace.provenance.revision == client.head().revision.id
    assert (trace.provenance.sequence, trace.provenance.branch) == (0, "main")
    assert len(trace.digest) == 64
    assert len(trace.corrupted_samples) == 10


def test_a_trace_can_be_picked_up_again_by_its_operation(client):
    operation = client.trace(PROMPT, SUBJECT, kinds=["hidden"])
    trace = operation.result(20)

    assert client.operation(operation.name).result(20) == trace


def test_the_same_request_id_gives_the_same_trace(client):
    first = client.trace(PROMPT, SUBJECT, request_id="r-1")
    second = client.trace(PROMPT, SUBJECT, request_id="r-1")

    assert first.name == second.name
    with pytest.raises(errata.RequestIdReusedError):
        client.trace(PROMPT, SUBJECT, kinds=["mlp"], request_id="r-1")


def test_an_edit_shows_in_the_difference_of_two_traces(client, moved):
    client.apply(client.propose(SUBJECT, moved).result(20).edit)

    after = client.trace(PROMPT, SUBJECT).result(20)
    before = client.trace(PROMPT, SUBJECT, revision="base").result(20)

    difference = after.minus(before)
    assert (difference.trace.answer, difference.against.answer) == ("Paris", "Seattle")
    assert (after.provenance.sequence, before.provenance.sequence) == (1, 0)


def test_what_the_subject_is_put_in_place_of_is_kept(client):
    trace = client.trace(PROMPT, SUBJECT, replacements=["Big Ben", "Smith Tower"]).result(20)

    assert trace.corruption.replacements == ("Big Ben", "Smith Tower")
    assert len(trace.corrupted_samples) == 2


def test_a_subject_that_is_not_there_is_an_error(client):
    with pytest.raises(errata.SubjectNotFoundError):
        client.trace(PROMPT, "Eiffel Tower").result(20)


def test_a_trace_of_another_answer_comes_with_a_warning(client):
    assert client.trace(PROMPT, SUBJECT, answer="Rome").result(20).warnings


def test_facts_are_averaged_the_known_ones_or_given(client):
    known = client.trace_facts(limit=3).result(20)
    given = client.trace_facts([errata.TracedFact(prompt=PROMPT, subject=SUBJECT)]).result(20)

    assert (known.facts, given.facts) == (3, 1)
    assert known.peak("mlp")[0].role is errata.TokenRole.LAST_SUBJECT


def test_a_proxy_is_fitted_and_traced(client):
    proxy = client.fit_proxy(TEXTS, positive_label="good").result(20)

    trace = client.trace("It was a good day", "", proxy=proxy).result(20)

    assert (proxy.negative_label, proxy.positive_label) == ("bad", "good")
    assert proxy.train_texts + proxy.test_texts == len(TEXTS)
    assert trace.metric is errata.TraceMetric.PROXY
    assert trace.proxy_labels == ("bad", "good")
    assert client.trace("It was a good day", "", proxy=proxy.id).result(20).grids == trace.grids
    assert "proxy p(\u201cgood\u201d)" in trace.picture().panels[0].chart.unit
    assert "label \u201cgood\u201d" in trace.summary


def test_a_proxy_that_is_not_there_is_an_error(client):
    with pytest.raises(errata.ProxyNotFoundError):
        client.trace(PROMPT, SUBJECT, proxy="0" * 64)


def test_every_locator_says_what_it_cannot_show_and_can_be_asked(client):
    found = list(client.locators())

    assert found
    for locator in found:
        assert locator.cannot_show
        location = client.locate(locator.name, PROMPT, SUBJECT).result(20)
        assert location.locator == locator
        assert location.charts
        assert set(location.options) == {option.name for option in locator.options}


def test_a_locator_is_told_its_options(client):
    locator = next(locator for locator in client.locators() if locator.options)
    option = locator.options[0]

    told = client.locate(locator.name, PROMPT, SUBJECT, options={option.name: option.maximum})

    assert told.result(20).options[option.name] == option.maximum
    with pytest.raises(errata.InvalidInputError, match=option.name):
        client.locate(locator.name, PROMPT, SUBJECT, options={option.name: 1e9}).result(20)


def test_a_locator_that_is_not_there_is_an_error(client):
    with pytest.raises(errata.LocatorNotFoundError):
        client.locate("tea leaves", PROMPT, SUBJECT).result(20)


async def test_both_clients_read_the_same(aclient, client):
    locators = [locator async for locator in aclient.locators()]
    trace = await (await aclient.trace(PROMPT, SUBJECT)).result(20)
    average = await (await aclient.trace_facts(limit=2)).result(20)
    proxy = await (await aclient.fit_proxy(TEXTS)).result(20)
    location = await (await aclient.locate(locators[0].name, PROMPT, SUBJECT)).result(20)

    assert locators == list(client.locators())
    assert trace == client.trace(PROMPT, SUBJECT).result(20)
    assert average == client.trace_facts(limit=2).result(20)
    assert proxy == client.fit_proxy(TEXTS).result(20)
    assert location == client.locate(locators[0].name, PROMPT, SUBJECT).result(20)
