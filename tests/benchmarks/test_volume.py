"""The suite `volume` tells linear growth from worse, on ledgers a server can serve."""

import pytest

from benchmarks.reliability.databases import Kind, opened, stores
from benchmarks.reliability.volume import growths, least, library
from errata_server.service.serving import Serving


def measured(cost):
    return {size: {"audit": cost(size), "replay": 2 * cost(size)} for size in (100, 300, 1000)}


def test_what_grows_in_proportion_grows_by_one():
    found = growths(measured(lambda size: size * 1e-3))

    assert found == pytest.approx({"audit": 1.0, "replay": 1.0})


def test_what_grows_with_the_square_is_found_out():
    found = growths(measured(lambda size: size * size * 1e-5))

    assert found == pytest.approx({"audit": 10.0, "replay": 10.0})


def test_what_does_not_grow_is_well_below():
    assert growths(measured(lambda size: 0.2))["audit"] == pytest.approx(0.1)


def test_how_long_imports_take_is_no_growth():
    starts = {100: {"start": 10.0}, 1000: {"start": 1000.0}}

    assert growths(starts) == {}


def test_a_pass_while_the_machine_is_busy_does_not_count():
    assert least([{"audit": 9.0, "show": 1.0}, {"audit": 2.0, "show": 5.0}]) == {
        "audit": 2.0,
        "show": 1.0,
    }


@pytest.mark.slow
def test_a_synthetic_ledger_is_clean_and_is_served():
    with stores([Kind.SQLITE]) as (store,), store.ledger() as url, library(url, 1) as books:
        books.grow(20)
        with opened(url) as ledger:
            model = books.chronicle.model
            assert ledger.audit(model).clean
            assert len(ledger.edit_ids(model, limit=100)) == 20
            pinned = Serving(books.engine, ledger, model).start()

    assert pinned.applied.active_count == 6
