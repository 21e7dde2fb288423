"""Enums on the wire: each value of the domain has its own, and none is left out."""

import pytest

from errata.v1 import crawls_pb2, traces_pb2, types_pb2
from errata_server.domain.checks import Verdict
from errata_server.domain.crawls import CrawlChange
from errata_server.domain.edits import EditState
from errata_server.domain.locators import ChartForm
from errata_server.domain.patches import Composition
from errata_server.domain.revisions import RevisionKind
from errata_server.domain.traces import Metric, TokenRole, TraceKind
from errata_server.rpc.convert import crawls, edits, locators, reports, revisions, traces


@pytest.mark.parametrize(
    ("table", "domain", "wire", "prefix"),
    [
        (edits.STATES, EditState, types_pb2.EditState, "EDIT_STATE_"),
        (reports.VERDICTS, Verdict, types_pb2.Verdict, "VERDICT_"),
        (revisions.KINDS, RevisionKind, types_pb2.RevisionKind, "REVISION_KIND_"),
        (revisions.COMPOSITIONS, Composition, types_pb2.Composition, "COMPOSITION_"),
        (traces.KINDS, TraceKind, traces_pb2.TraceKind, "TRACE_KIND_"),
        (traces.METRICS, Metric, traces_pb2.TraceMetric, "TRACE_METRIC_"),
        (traces.ROLES, TokenRole, traces_pb2.TokenRole, "TOKEN_ROLE_"),
        (crawls.CHANGES, CrawlChange, crawls_pb2.CrawlChange, "CRAWL_CHANGE_"),
        (locators.FORMS, ChartForm, traces_pb2.ChartForm, "CHART_FORM_"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_every_value_has_the_number_of_its_own_name(table, domain, wire, prefix):
    assert set(table) == set(domain)
    assert {wire.Name(number) for number in table.values()} == {
        prefix + value.name for value in domain
    }
    assert all(wire.Name(number) == prefix + value.name for value, number in table.items())
    assert len(wire.values()) == len(domain) + 1
