"""What is installed for a test run is pinned to the version that was tested."""

import re
import tomllib

from tests.contract.sources import ROOT


def canonical(requirement: str) -> str:
    """The distribution's name as the package index spells it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", requirement)[0]).lower()


def test_every_dependency_has_a_pin():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    wanted = {canonical(line) for group in (project["dependencies"], *extras) for line in group}

    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {canonical(line) for line in lines if "==" in line}
    assert wanted <= pinned
