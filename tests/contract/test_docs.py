"""The pages say what the code does: commands parse, tables agree, links and names resolve."""

import ast
import importlib.util
import inspect
import json
import re
from dataclasses import asdict, fields

import pytest
import typer
from google.rpc import code_pb2
from prometheus_client import Metric
from structlog.testing import capture_logs
from typer.core import TyperGroup
from typer.exceptions import TyperException
from typer.testing import CliRunner

import errata
from benchmarks.reliability.__main__ import Suite
from errata._errors import BY_REASON
from errata.cli.__main__ import app as client_app
from errata_server import telemetry
from errata_server.__main__ import cli as server_app
from errata_server.config import Settings
from errata_server.domain.checks import CheckKind
from errata_server.domain.evaluation import MINIMUM_LIVE_EDITS
from errata_server.domain.known_facts import KnownFacts
from errata_server.domain.policies import Policy
from errata_server.ledger.urls import TUNING, Tuning
from errata_server.rpc.status import STATUS_OF
from tests.contract import pages
from tests.contract.sources import python_files
from tests.support import protocol
from tests.support.loopback import serving


def verbs(app: typer.Typer):
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    return group.commands


VERBS = {"errata": verbs(client_app), "errata-server": verbs(server_app)}
EVERY_PAGE = pytest.mark.parametrize("path", pages.PAGES, ids=lambda path: path.name)
GLOSSARY = pages.text("docs/glossary.md")
ARCHITECTURE = pages.text("docs/architecture.md")
OPERATIONS = pages.text("docs/guides/operations.md")
API = pages.text("docs/guides/api.md")
MODELS = pages.text("docs/guides/models.md")


def options(command: str, verb: str) -> set[str]:
    return {name for option in VERBS[command][verb].params for name in option.opts}


def verb_of(command: str, words: list[str]):
    """The verb that ``words`` begin with, a verb of a group where they name one, and the rest."""
    first, *rest = words
    assert first in VERBS[command], f"{command} has no verb {first}"
    verb = VERBS[command][first]
    while isinstance(verb, TyperGroup) and rest:
        name, *rest = rest
        assert name in verb.commands, f"{command} {first} has no verb {name}"
        verb = verb.commands[name]
    return verb, rest


# Commands ---------------------------------------------------------------------------------


@EVERY_PAGE
def test_every_command_line_parses(path):
    for command, *arguments in pages.command_lines(pages.text(path)):
        verb, rest = verb_of(command, arguments)
        try:
            verb.make_context(verb.name, rest)
        except TyperException as error:
            pytest.fail(f"{command} {' '.join(arguments)}: {error.format_message()}")


@EVERY_PAGE
def test_every_command_in_running_text_exists(path):
    for command, *words in pages.inline_commands(pages.text(path)):
        verb, rest = verb_of(command, words)
        given = {word.partition("=")[0] for word in rest if word.startswith("-")}
        assert given <= {name for option in verb.params for name in option.opts}, words


def test_the_readme_shows_the_whole_way_of_an_edit():
    shown = [line[1] for line in pages.command_lines(pages.text("README.md"))]

    assert shown[0] == "serve"
    assert [verb for verb in shown if verb not in {"serve", "status", "generate"}] == [
        "propose",
        "apply",
        "revert",
        "log",
        "audit",
        "trace",
    ]


# Python -----------------------------------------------------------------------------------


@EVERY_PAGE
def test_every_name_of_ours_in_a_python_block_exists(path):
    for block in pages.blocks(pages.text(path), "python"):
        for node in ast.walk(ast.parse(block)):
            if not (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)):
                continue
            if node.value.id == "errata":
                assert node.attr in errata.__all__
            elif node.value.id == "client":
                assert callable(dict(inspect.getmembers(errata.Client))[node.attr])


@pytest.mark.parametrize("path", ["README.md", "docs/guides/auditing.md", "docs/guides/tracing.md"])
def test_the_python_examples_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where they write
    (example,) = pages.blocks(pages.text(path), "python")

    with serving(tmp_path) as server:
        monkeypatch.setenv("ERRATA_ADDRESS", server.address)
        exec(example, {})


def test_the_readmes_commands_do_what_it_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    commands = [line[1:] for line in pages.command_lines(pages.text("README.md"))]
    run = CliRunner()
    edit, said = "", []

    with capture_logs(), serving(tmp_path) as server:  # the log would mix with the output
        monkeypatch.setenv("ERRATA_ADDRESS", server.address)
        for verb, *rest in (words for words in commands if words[0] != "serve"):
            given = [edit if word == "EDIT" else word for word in rest]
            done = run.invoke(client_app, [verb, *given, "--output", "json"])
            assert done.exit_code == 0, done.output
            answer = json.loads(done.stdout)
            edit = answer["edit"]["id"] if verb == "propose" else edit
            said += [answer["text"].split()[0]] if verb == "generate" else []

    assert said == ["Paris", "Rome", "Paris"]


# Links and versions -----------------------------------------------------------------------


@EVERY_PAGE
def test_every_link_leads_somewhere(path):
    for link in pages.links(pages.text(path)):
        target, _, anchor = link.partition("#")
        place = (path.parent / target).resolve() if target else path
        assert place.exists(), link
        if anchor:
            assert anchor in pages.anchors(pages.text(place)), link


def test_the_changelog_begins_with_what_is_unreleased():
    headings = re.findall(r"^## (.+)$", pages.text("CHANGELOG.md"), re.MULTILINE)

    assert headings[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", h) for h in headings[1:])


# Glossary ---------------------------------------------------------------------------------


def test_glossary_terms_are_unique_and_in_order():
    terms = [pages.code(row[0]) for row in pages.table(GLOSSARY, "term")]

    assert terms == sorted(set(terms), key=str.casefold)


def test_the_glossary_has_every_kind_of_check_in_the_order_of_a_report():
    kinds = [pages.code(row[0]) for row in pages.table(GLOSSARY, "kind")]

    assert kinds == [kind.value for kind in CheckKind]


def test_the_glossary_gives_the_default_thresholds():
    policy = Policy()
    expected = {
        CheckKind.CLAMP: policy.maximum_clamp_fraction,
        CheckKind.RECOGNITION: policy.minimum_recognition,
        CheckKind.SELECTIVITY: policy.maximum_corpus_firing_rate,
        CheckKind.CONFLICTS: policy.warn_conflict,
        CheckKind.EFFICACY: policy.minimum_efficacy,
        CheckKind.PARAPHRASE: policy.minimum_paraphrase,
        CheckKind.NEIGHBOURHOOD: policy.maximum_neighbourhood_drop,
        CheckKind.PREFIXED_NEIGHBOURHOOD: policy.maximum_prefixed_neighbourhood_drop,
        CheckKind.SAME_SUBJECT: policy.maximum_same_subject_drop,
        CheckKind.NEIGHBOUR_DIVERGENCE: policy.maximum_neighbour_divergence,
        CheckKind.PERPLEXITY: policy.maximum_perplexity_rise,
        CheckKind.CUMULATIVE_PERPLEXITY: policy.warn_cumulative_perplexity_rise,
        CheckKind.FLUENCY: policy.minimum_entropy_ratio,
        CheckKind.LIVE_EDITS: MINIMUM_LIVE_EDITS,
        CheckKind.SUITE: policy.maximum_suite_drop,
    }
    written = {
        CheckKind(pages.code(row[0])): row[2]
        for row in pages.table(GLOSSARY, "kind")
        if row[2] != "yes"
    }

    assert {kind: _number(cell) for kind, cell in written.items()} == pytest.approx(expected)
    assert f"warned up to {policy.maximum_cumulative_perplexity_rise:g}" in GLOSSARY


def _number(cell: str) -> float:
    over, _, under = cell.rpartition(" ")[2].partition("/")
    return float(over) / float(under or 1)


def test_every_axis_of_a_shape_is_in_the_glossary():
    listed = {pages.code(row[0]) for row in pages.table(GLOSSARY, "axis")}
    used = {
        axis
        for path in python_files("server")
        for shape in re.findall(r'\b[A-Z]\w+\[Tensor, "([^"]+)"\]', path.read_text("utf-8"))
        for axis in shape.split()
        if not axis.isdigit()
    }

    assert used - {"..."} <= listed


# Architecture -----------------------------------------------------------------------------


def test_every_module_the_architecture_names_exists():
    named = re.findall(r"`(errata(?:_server)?(?:\.\w+)+)", ARCHITECTURE)

    assert len(named) > 10
    for name in named:
        parts = [part for part in name.split(".") if part[0].islower()]
        modules = [".".join(parts[:count]) for count in (len(parts), len(parts) - 1)]
        assert any(_is_module(module) for module in modules), name


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def test_every_invariant_names_tests_that_exist():
    rows = pages.table(ARCHITECTURE, "")

    assert [row[0] for row in rows] == [str(number) for number in range(1, 11)]
    for number, _, guards in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", guards)
        assert named, f"invariant {number} names no test"
        for path, name in named:
            defined = rf"^\s*(async )?(def|class) {name}\b"
            assert re.search(defined, pages.text(path), re.MULTILINE), f"{path} has no {name}"


# API --------------------------------------------------------------------------------------


def test_the_error_table_is_the_servers():
    documented = {
        pages.code(reason): pages.code(code) for reason, code, _ in pages.table(API, "reason")
    }
    sent = {error.reason: code_pb2.Code.Name(code) for error, code in STATUS_OF.items()}

    assert documented == sent | {"INTERNAL": "INTERNAL"}


def test_the_errors_that_only_a_client_raises_are_documented_beside_it():
    documented = {
        pages.code(reason): pages.code(name)
        for reason, name, _ in pages.table(API, "reason, of a client")
    }
    raised = [one for one in vars(errata).values() if inspect.isclass(one)]
    own = {
        error.reason: f"errata.{error.__name__}"
        for error in raised
        if issubclass(error, errata.ErrataError) and error.reason not in BY_REASON
    }

    assert documented == own


def test_every_service_is_documented_with_its_methods():
    documented = {
        pages.code(service): set(re.findall(r"`(\w+)`", methods))
        for service, methods in pages.table(API, "service")
    }

    for service in protocol.services():
        assert documented[service.full_name] == {method.name for method in service.methods}


# Operations -------------------------------------------------------------------------------


def test_the_settings_table_is_the_servers():
    documented = {
        pages.code(row[0]): pages.code(row[1]) for row in pages.table(OPERATIONS, "setting")
    }
    fields = Settings.model_fields

    assert list(documented) == [f"ERRATA_{name.upper()}" for name in fields]
    for name, field in fields.items():
        if isinstance(field.default, bool | int | float):
            assert json.loads(documented[f"ERRATA_{name.upper()}"]) == field.default
        elif isinstance(field.default, str) and field.default:
            assert documented[f"ERRATA_{name.upper()}"] == field.default


def test_every_setting_is_an_option_of_serve():
    serve = options("errata-server", "serve")

    assert {f"--{name.replace('_', '-')}" for name in Settings.model_fields} <= serve


def test_the_table_of_the_url_s_parameters_is_the_servers():
    documented = {
        pages.code(row[0]): [pages.code(cell) for cell in row[1:3]]
        for row in pages.table(OPERATIONS, "parameter")
    }
    kinds = [TUNING[kind] for kind in ("sqlite", "postgresql")]

    assert list(documented) == [field.name for field in fields(Tuning)]
    for name, cells in documented.items():
        defaults = [asdict(tuning)[name] for tuning in kinds]
        told = [float(cell) if cell else None for cell in cells]
        assert told in (defaults, [None, defaults[1]]), name


def test_the_metrics_table_is_the_servers():
    documented = {pages.code(row[0]): row[1] for row in pages.table(OPERATIONS, "metric")}
    exported = {
        name: kind for name, kind in _families() if not name.startswith(("process", "python"))
    }

    assert documented == exported


def _families():
    for family in telemetry.REGISTRY.collect():
        assert isinstance(family, Metric)
        match family.type:
            case "counter":
                yield f"{family.name}_total", "counter"
            case "info":
                yield f"{family.name}_info", "gauge"
            case kind:
                yield family.name, kind


# Models -----------------------------------------------------------------------------------


def test_the_table_of_families_is_the_engines():
    from errata_server.engine.architecture import ARCHITECTURES

    documented = {
        pages.code(family): pages.code(path) for family, path in pages.table(MODELS, "`model_type`")
    }

    assert documented == {row.family: row.projection for row in ARCHITECTURES.values()}


def test_the_example_of_known_facts_is_well_formed():
    (example,) = pages.blocks(MODELS, "json")

    assert KnownFacts.from_json(json.loads(example)).facts


# Benchmarks -------------------------------------------------------------------------------


def test_every_benchmark_that_is_documented_exists_with_its_options_and_figures():
    sections = pages.text("docs/benchmarks.md").split("\n## ")[1:]

    assert sections
    for section in sections:
        commands = pages.blocks(section, "")
        assert commands, section.splitlines()[0]
        for command in commands:
            module, *words = command.split()[2:]
            source = pages.text(f"{module.replace('.', '/')}.py")
            for option in (word for word in words if word.startswith("--")):
                parameter = option.removeprefix("--").replace("-", "_")
                found = re.search(rf'"{option}"|\b{parameter}: ', source)
                assert found, f"{module} has no {option}"
        for figure in pages.table(section, "figure"):
            assert f'"{pages.code(figure[0])}"' in source, figure[0]


def test_every_suite_of_reliability_is_documented_with_its_figures():
    sections = pages.text("docs/reliability.md").split("\n## ")[1:]
    documented = []

    for section in sections:
        (command,) = pages.blocks(section, "")
        (suite,) = re.findall(r"^python -m benchmarks.reliability --suite (\w+) ", command)
        source = pages.text(f"benchmarks/reliability/{suite}.py")
        documented.append(suite)
        for figure in pages.table(section, "figure"):
            assert f'"{pages.code(figure[0])}"' in source, figure[0]

    assert sorted(documented) == sorted(Suite)
