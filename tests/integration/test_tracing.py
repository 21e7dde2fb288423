"""Tracing through a whole server with the real engine: SDK, ledger, revisions, every locator."""

from collections.abc import Iterator

import numpy as np
import pytest

import errata
from tests.integration.conftest import Proposed
from tests.support import tiny_models, torch_servers

PROMPT = "Eiffel Tower is in the city of"
SUBJECT = "Eiffel Tower"
FEELINGS = [
    errata.LabelledText(text=f"{opening} {event}.", label=label)
    for opening in ("Today", "At work", "Last night", "On Monday")
    for label, events in {
        "good": ("the museum was open", "we went home", "she spoke of Paris", "it was in Rome"),
        "bad": ("it rained all week", "nobody had heard", "the gate was shut", "he asked too much"),
    }.items()
    for event in events
]


@pytest.fixture(scope="module")
def server(
    proposed: Proposed, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[torch_servers.TorchServer]:
    folder = proposed.copy(tmp_path_factory.mktemp("tracing"))
    known = tuple(tiny_models.CITIES.items())
    with torch_servers.serving(folder, proposed.engine(folder), known=known) as running:
        yield running


@pytest.fixture(scope="module")
def client(server) -> Iterator[errata.Client]:
    with errata.Client(server.address, actor="ana") as client:
        yield client


def test_a_trace_is_of_the_revision_it_names_and_shows_what_an_edit_moved(client, proposed):
    options = {"answer": "Rome", "window": 1, "samples": 4}
    before = client.trace(PROMPT, SUBJECT, **options).result(120)
    head = client.apply(proposed.edits["Eiffel Tower/Rome"]).revision
    after = client.trace(PROMPT, SUBJECT, **options).result(120)
    base = client.trace(PROMPT, SUBJECT, revision="base", **options).result(120)
    moved = after.minus(before)

    assert before.clean < 0.5 < after.clean
    assert head.name.endswith(f"/{after.provenance.revision}")
    assert base.grids == before.grids
    # The edit's value enters at the subject's last token, by the edited layer's MLP.
    last = max(index for index, token in enumerate(after.tokens) if token.corrupted)
    effects = np.array(moved.effects("mlp"))
    assert divmod(int(effects.argmax()), after.layers) == (last, 0)
    client.revert(proposed.edits["Eiffel Tower/Rome"])


def test_a_trace_is_kept_in_the_ledger_under_its_digest(client, server):
    operation = client.trace(PROMPT, SUBJECT, samples=2, window=1)
    trace = operation.result(120)

    assert client.operation(operation.name).result(10) == trace
    assert server.ledger.artifact(trace.digest).startswith(b'{"')
    assert client.audit().findings == ()


def test_averages_are_over_the_known_facts(client):
    average = client.trace_facts(limit=6, samples=2, window=1, kinds=["hidden"]).result(120)

    assert average.facts + len(average.dropped) == 6
    assert average.facts > 0
    assert {curve.kind for curve in average.curves} == {errata.TraceKind.HIDDEN}


@pytest.mark.parametrize("hidden_state", [False, True])
def test_a_fitted_proxy_is_traced_in_place_of_an_answer(client, hidden_state):
    options = {"hidden_state": True} if hidden_state else {"words": ["Rome", "Paris"]}
    proxy = client.fit_proxy(FEELINGS, positive_label="good", suffix="in", **options).result(120)
    trace = client.trace(FEELINGS[0].text, "", proxy=proxy.name, samples=3, window=1).result(120)

    assert proxy.train_texts + proxy.test_texts == len(FEELINGS)
    assert (trace.metric, trace.proxy_labels) == (errata.TraceMetric.PROXY, ("bad", "good"))
    assert 0 <= trace.corrupted <= 1


@pytest.mark.parametrize(
    ("locator", "options"),
    [
        ("attributes", {}),
        ("attribution", {"samples": 2, "window": 1}),
        ("editing_sweep", {"facts": 0}),
        ("granger", {"positions": 64}),
        ("knockout", {"window": 1}),
        ("knowledge_neurons", {"steps": 4, "neurons": 2}),
        ("logit_lens", {}),
        ("tuned_lens", {"steps": 2}),
    ],
)
def test_every_locator_answers_with_charts_and_what_they_cannot_show(client, locator, options):
    row = {one.name: one for one in client.locators()}[locator]
    found = client.locate(locator, PROMPT, SUBJECT, options=options).result(300)

    assert found.locator == row
    assert row.cannot_show
    assert found.charts
    for chart in found.charts:
        assert len(chart.values) == len(chart.rows)
        assert {len(values) for values in chart.values} == {len(chart.columns)}
        assert any(value is not None for values in chart.values for value in values)


def test_the_table_of_this_test_is_the_table_of_locators(client):
    mark = next(
        mark
        for mark in test_every_locator_answers_with_charts_and_what_they_cannot_show.pytestmark
        if mark.name == "parametrize"
    )

    assert {name for name, _ in mark.args[1]} == {one.name for one in client.locators()}


def test_serving_goes_on_while_a_trace_runs_and_cancelling_ends_it(client):
    operation = client.trace(
        " ".join([PROMPT, "and"] * 8), SUBJECT, samples=200, window=1, memory_mib=8
    )
    assert client.generate(PROMPT, max_new_tokens=3).read()
    assert not operation.refresh()
    operation.cancel()
    with pytest.raises(errata.CancelledError):
        operation.result(60)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"subject": "Atlantis"}, errata.SubjectNotFoundError),
        ({"prompt": f"{SUBJECT} " * 60}, errata.PromptTooLongError),
        ({"scale": 0.0}, errata.InvalidInputError),
        ({"scale": float("nan")}, errata.InvalidInputError),
        ({"samples": 0}, errata.InvalidInputError),
        ({"kinds": ["sideways"]}, errata.InvalidInputError),
        ({"replacements": ["Trevi Fountain in Rome"]}, errata.InvalidInputError),
        ({"revision": "nowhere"}, errata.RevisionNotFoundError),
        ({"memory_mib": 10**6}, errata.InvalidInputError),
        ({"proxy": "0" * 64}, errata.NotFoundError),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_cannot_be_traced_is_a_typed_error(client, options, error):
    prompt, subject = options.pop("prompt", PROMPT), options.pop("subject", SUBJECT)

    with pytest.raises(error):
        client.trace(prompt, subject, **options).result(60)
