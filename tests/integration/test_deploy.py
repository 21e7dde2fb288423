"""What deploy/ says is true of a running server, as far as it shows without a container engine."""

import json
import re
import shutil
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

import errata
from errata_server.config import Settings
from errata_server.domain.checks import CheckKind
from tests.contract import pages
from tests.contract.sources import ROOT
from tests.support.loopback import Loopback, serving

DEPLOY = ROOT / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yml"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "errata.json"

METRIC = re.compile(r"\b(?:errata|grpc_server|process|python)_\w+")
SELECTOR = re.compile(r"(?P<metric>\b(?:errata|grpc_server)_\w+)\{(?P<matchers>[^}]*)\}")
GROUPED = re.compile(r"by \(([^)]*)\)")
NO_METRICS = re.compile(r"\{[^}]*\}|by \([^)]*\)")
"""Where an expression names labels."""

FROM_SCRAPE = {"job", "instance", "le"}
"""Labels that Prometheus adds, and the one of histograms."""

PINNED = re.compile(r"[\w./-]+:v?\d+(\.\d+)+[\w.-]*(@sha256:[0-9a-f]{64})?")

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Loopback]:
    """A server that has done a little of everything."""
    folder = tmp_path_factory.mktemp("deploy")
    with serving(folder, metrics_port=0) as running, errata.Client(running.address) as client:
        _use(client, running)
        yield running


def _use(client: errata.Client, running: Loopback) -> None:
    fact = errata.Fact(template="{} is in the city of", target="Paris")
    proposal = client.propose("Space Needle", fact).result()
    client.apply(proposal.edit)
    assert client.verify_live().result().passed
    client.generate("Space Needle is in the city of").read()
    client.revert(proposal.edit)
    running.engine.faults.add(CheckKind.PARAPHRASE)
    rejected = client.propose("Louvre", errata.Fact(template="{} stands in", target="Rome"))
    assert not rejected.result().report.passed


def scrape(server: Loopback) -> str:
    with urllib.request.urlopen(server.metrics, timeout=10) as response:
        text: str = response.read().decode()
    return text


@pytest.fixture(scope="module")
def exported(server) -> dict[str, set[str]]:
    """Every series a scrape may hold, with its labels where it held one."""
    names: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(scrape(server)):
        for suffix in _suffixes(family.type):
            names.setdefault(f"{family.name}{suffix}", set())
        for sample in family.samples:
            names.setdefault(sample.name, set()).update(sample.labels)
    return names


def _suffixes(kind: str) -> tuple[str, ...]:
    return {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",)}.get(kind, ("",))


def rules() -> list[dict[str, Any]]:
    groups = read_yaml("prometheus/rules.yml")["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    value: dict[str, Any] = json.loads(DASHBOARD.read_text("utf-8"))
    return value


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def expressions() -> list[str]:
    """Every PromQL expression that is shipped."""
    shown = [target["expr"] for panel in panels() for target in panel["targets"]]
    return [rule["expr"] for rule in rules()] + shown


def read_yaml(path: str) -> dict[str, Any]:
    value: dict[str, Any] = yaml.safe_load((DEPLOY / path).read_text("utf-8"))
    return value


def compose() -> dict[str, Any]:
    return read_yaml("compose.yaml")


def services() -> dict[str, dict[str, Any]]:
    return dict(compose()["services"])


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions with their arguments, continued lines joined."""
    text = (DEPLOY / "Dockerfile").read_text("utf-8")
    joined = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
    lines = (line.partition(" ") for line in joined.splitlines() if line)
    return [(word, rest) for word, _, rest in lines]


def last_stage() -> list[tuple[str, str]]:
    """The instructions of the image that is kept."""
    begins = [index for index, (word, _) in enumerate(instructions()) if word == "FROM"]
    return instructions()[begins[-1] :]


# Metrics ----------------------------------------------------------------------------------


@pytest.mark.parametrize("expression", expressions())
def test_every_metric_in_rules_and_dashboard_is_exported(expression, exported):
    named = METRIC.findall(NO_METRICS.sub("", expression))

    assert named or expression.startswith("up{")
    assert set(named) <= set(exported)


@pytest.mark.parametrize("expression", expressions())
def test_every_label_in_rules_and_dashboard_is_exported(expression, exported):
    metrics = METRIC.findall(NO_METRICS.sub("", expression))
    known = FROM_SCRAPE.union(*(exported[metric] for metric in metrics))

    for selector in SELECTOR.finditer(expression):
        matched = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector["matchers"]))
        assert matched <= FROM_SCRAPE | exported[selector["metric"]]
    for grouped in GROUPED.findall(expression):
        assert {label.strip() for label in grouped.split(",")} <= known


def test_the_labels_in_the_operations_guide_are_exported(exported):
    for name, kind, labels, _ in pages.table(pages.text("docs/guides/operations.md"), "metric"):
        series = pages.code(name) + ("_count" if kind == "histogram" else "")
        assert exported[series] == set(re.findall(r"`(\w+)`", labels)), name


def test_no_label_holds_an_id_or_what_a_caller_wrote(server):
    text = scrape(server)

    assert "Space Needle" not in text
    assert not re.search(r"\be-[0-9a-f]{12}\b|\b[0-9a-f]{64}\b", text)


# Prometheus -------------------------------------------------------------------------------


def test_every_alert_says_how_bad_it_is_and_what_to_do():
    anchors = pages.anchors(pages.text(DEPLOY / "runbook.md"))

    assert len({rule["alert"] for rule in rules()}) == len(rules())
    for rule in rules():
        assert rule["labels"]["severity"] in {"page", "warn", "info"}
        assert rule["annotations"]["summary"]
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert page == "runbook.md"
        assert anchor == rule["alert"].lower()
        assert anchor in anchors


def test_prometheus_scrapes_the_port_the_server_is_given():
    (job,) = read_yaml("prometheus.yml")["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    service, _, port = target.partition(":")

    command = services()[service]["command"]
    assert command[command.index("--metrics-port") + 1] == port
    assert set(re.findall(r'job="\w+"', " ".join(expressions()))) == {f'job="{job["job_name"]}"'}


@needs_promtool
@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", RULES),
        ("check", "config", "--syntax-only", DEPLOY / "prometheus.yml"),
        ("test", "rules", Path(__file__).with_name("alerts.yml")),
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_promtool_accepts_the_files_and_the_alerts_fire_as_they_should(arguments):
    command = ["promtool", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_promtool_accepts_a_scrape(server):
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        input=scrape(server),
        capture_output=True,
        text=True,
        check=False,
    )

    # 3 is a remark on style, such as on the names that the Python client chose.
    assert done.returncode in {0, 3}, done.stdout + done.stderr
    assert "errata_" not in done.stdout + done.stderr


# Grafana ----------------------------------------------------------------------------------


def test_the_dashboard_has_its_rows_and_every_panel_has_a_query():
    rows = [panel["title"] for panel in dashboard()["panels"] if panel["type"] == "row"]

    assert rows == ["Traffic", "Edits", "Quality", "Ledger"]
    for panel in panels():
        assert panel["title"]
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        references = [target["refId"] for target in panel["targets"]]
        assert references
        assert len(set(references)) == len(references)


def test_the_panels_have_ids_of_their_own_and_do_not_overlap():
    everything = dashboard()["panels"]
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in everything)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]

    assert len({panel["id"] for panel in everything}) == len(everything)
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_the_dashboard_asks_the_source_that_is_provisioned():
    (source,) = read_yaml("grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    variables = {variable["name"]: variable for variable in dashboard()["templating"]["list"]}

    assert variables["datasource"]["query"] == source["type"] == "prometheus"
    assert {panel["datasource"]["uid"] for panel in panels()} == {"${datasource}"}
    assert source["url"] == "http://prometheus:9090"
    assert set(services()["prometheus"]["networks"]) & set(services()["grafana"]["networks"])


def test_the_dashboards_folder_is_mounted_where_grafana_looks():
    (provider,) = read_yaml("grafana/provisioning/dashboards/errata.yaml")["providers"]
    mounts = {
        inside: outside
        for outside, inside, *_ in (v.split(":") for v in services()["grafana"]["volumes"])
    }

    assert (DEPLOY / mounts[provider["options"]["path"]] / DASHBOARD.name).samefile(DASHBOARD)


# Containers -------------------------------------------------------------------------------


def test_every_image_is_pinned_to_a_release():
    for name, service in services().items():
        assert PINNED.fullmatch(service["image"]), name
    bases = {rest.removesuffix(" AS build") for word, rest in instructions() if word == "FROM"}
    assert bases == {"python:${PYTHON}-slim"}
    assert ("ARG", "PYTHON=3.11") in instructions()


def test_the_image_is_tagged_with_the_declared_version():
    declared = re.search(r'^version = "(.+)"$', pages.text("pyproject.toml"), re.MULTILINE)

    assert declared is not None
    built = {service["image"] for service in services().values() if "build" in service}
    assert built == {f"errata:{declared[1]}"}


def test_the_image_runs_as_a_user_that_is_not_root():
    words = [word for word, _ in last_stage()]
    users = [rest for word, rest in last_stage() if word == "USER"]

    assert all(int(part) > 0 for part in users[-1].split(":"))
    assert words.index("USER") < words.index("ENTRYPOINT")


def test_everything_the_image_copies_is_there_and_let_through():
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    copied = {
        source
        for word, rest in instructions()
        if word == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    }

    assert copied == {line[1:] for line in ignored if line.startswith("!")}
    assert all((ROOT / source).exists() for source in copied)


def test_only_compose_listens_beyond_loopback_and_it_publishes_on_loopback():
    (command,) = [rest for word, rest in instructions() if word == "CMD"]

    assert json.loads(command) == ["serve", "--listen", "127.0.0.1:50051"]
    assert "--insecure" in services()["errata"]["command"]
    for name, service in services().items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name


def test_every_network_volume_and_service_named_in_compose_is_there():
    for service in services().values():
        assert set(service["networks"]) <= set(compose()["networks"])
        assert set(service.get("depends_on", [])) <= set(services())
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert source in compose()["volumes"] or (DEPLOY / source).exists()


def test_every_setting_the_containers_are_given_exists():
    in_image = {
        name
        for word, rest in instructions()
        if word == "ENV"
        for name in re.findall(r"\b(ERRATA_\w+)=", rest)
    }
    in_compose = set(services()["errata"]["environment"])

    assert in_image
    given = {name.removeprefix("ERRATA_").lower() for name in in_image | in_compose}
    assert given <= set(Settings.model_fields)


def test_the_containers_grace_is_longer_than_the_servers():
    grace = services()["errata"]["stop_grace_period"]

    assert float(grace.removesuffix("s")) > Settings.model_fields["drain_seconds"].default


def test_the_health_probe_tells_a_server_from_none(server):
    def probe(address: str) -> int:
        command = [sys.executable, str(DEPLOY / "health_probe.py"), address]
        return subprocess.run(command, check=False, capture_output=True).returncode

    assert probe(server.address) == 0
    assert probe("127.0.0.1:1") == 1


# Runbook ----------------------------------------------------------------------------------


def test_the_runbooks_audit_without_a_server_names_the_row_that_was_changed(server, tmp_path):
    (check,) = re.findall(
        r"errata-server (ledger check) --ledger", pages.text(DEPLOY / "runbook.md")
    )[:1]
    copy = tmp_path / "errata.db"
    _back_up(Path(server.ledger.removeprefix("sqlite:///")), copy)
    command = [
        sys.executable,
        "-m",
        "errata_server",
        *check.split(),
        "--ledger",
        f"sqlite:///{copy}",
    ]

    clean = subprocess.run(command, check=False, capture_output=True, text=True)
    _damage(copy)
    damaged = subprocess.run(command, check=False, capture_output=True, text=True)

    assert (clean.returncode, damaged.returncode) == (0, 1), clean.stderr
    assert "artifacts[" in damaged.stdout


def _back_up(source: Path, destination: Path) -> None:
    """As the operations guide says."""
    guide = pages.text("docs/guides/operations.md")
    (statement,) = re.findall(r'`sqlite3 errata.db "(.+)"`', guide)
    connection = sqlite3.connect(source)
    connection.execute(statement.replace("errata-backup.db", str(destination)))
    connection.close()


def _damage(ledger: Path) -> None:
    """What a failing disk, or somebody with access to the file, might do."""
    connection = sqlite3.connect(ledger)
    with connection:
        for (name,) in connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        ).fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute("UPDATE artifacts SET payload = zeroblob(8)")
    connection.close()
