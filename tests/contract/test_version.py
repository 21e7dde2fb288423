"""One version everywhere, and a changelog that knows it."""

import re
import tomllib

import errata
from errata_server.version import VERSION
from tests.contract.sources import ROOT

HEADING = re.compile(r"^## \[(?P<version>[^\]]+)\](?: - \d{4}-\d{2}-\d{2})?$", re.MULTILINE)


def declared_version() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    version: str = project["version"]
    return version


def test_client_and_server_bear_the_declared_version():
    assert errata.__version__ == declared_version()
    assert declared_version() == VERSION


def test_the_newest_release_in_the_changelog_is_the_declared_version():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = [heading["version"] for heading in HEADING.finditer(changelog)]

    released = [version for version in versions if version != "Unreleased"]
    assert released[0] == declared_version()
