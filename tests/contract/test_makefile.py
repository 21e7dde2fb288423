"""The Makefile documents itself, and documents name only targets it has."""

import re
import subprocess

import pytest

from tests.contract.sources import ROOT

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PHONY = set(re.findall(r"^\.PHONY: (\S+)$", MAKEFILE, re.MULTILINE))
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
DOCUMENTS = sorted(path for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")))


def test_help_lists_every_target():
    finished = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    )

    listed = set(re.findall(r"^  make ([a-z-]+) +\S", finished.stdout, re.MULTILINE))
    assert listed == TARGETS == PHONY


def test_help_is_what_plain_make_shows():
    plain, asked = (
        subprocess.run(["make", *target], cwd=ROOT, capture_output=True, text=True, check=True)
        for target in ((), ("help",))
    )

    assert plain.stdout == asked.stdout


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_only_targets_that_exist(document):
    named = set(re.findall(r"`make ([a-z-]+)", document.read_text(encoding="utf-8")))

    assert named <= TARGETS
