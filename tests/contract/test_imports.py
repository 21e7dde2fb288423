"""Imports point at the domain; pyproject.toml names the rules, import-linter checks them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.contract.sources import ROOT


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=root,
        env=os.environ | {"PYTHONPATH": f"{root / 'server'}{os.pathsep}{root / 'client'}"},
        capture_output=True,
        text=True,
        check=False,
    )


def copy_of_the_sources(destination: Path) -> Path:
    for folder in ("server", "client"):
        shutil.copytree(
            ROOT / folder, destination / folder, ignore=shutil.ignore_patterns("demo", "*.pyc")
        )
    shutil.copy(ROOT / "pyproject.toml", destination)
    return destination


def test_every_import_keeps_to_the_contracts():
    finished = lint_imports(ROOT)

    assert finished.returncode == 0, finished.stdout


def test_forbidden_imports_would_be_noticed(tmp_path):
    root = copy_of_the_sources(tmp_path)
    server = root / "server/errata_server"
    (server / "domain/planted.py").write_text("import torch\nfrom google.rpc import code_pb2\n")
    (server / "service/planted.py").write_text("from errata.v1 import edits_pb2\n")
    (root / "client/errata/planted.py").write_text("import errata_server.domain.facts\n")

    finished = lint_imports(root)

    assert finished.returncode == 1
    for contract in ("The domain is plain Python", "messages end in rpc", "no torch and no data"):
        assert contract in finished.stdout.partition("Broken contracts")[2]
