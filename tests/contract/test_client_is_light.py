"""The client installs and runs where there is no torch, no database and no server package."""

import subprocess
import sys

from tests.contract.sources import ROOT

HEAVY = (
    "alembic", "errata_server", "huggingface_hub", "numpy", "prometheus_client", "pydantic",
    "safetensors", "sqlalchemy", "structlog", "torch", "transformers",
)  # fmt: skip
REFUSE = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise ModuleNotFoundError(f"the client must not import {{name}}", name=name)
sys.meta_path.insert(0, Refuse())
sys.path.insert(0, {str(ROOT / "client")!r})
"""
IMPORT_EVERYTHING = """
import importlib, pkgutil
import errata
for module in pkgutil.walk_packages(errata.__path__, "errata."):
    importlib.import_module(module.name)
    print(module.name)
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", REFUSE + code]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_every_module_of_the_client_imports_without_the_server_side():
    finished = run(IMPORT_EVERYTHING)

    assert finished.returncode == 0, finished.stderr
    assert {"errata.cli.__main__", "errata.v1.edits_pb2_grpc"} <= set(finished.stdout.split())


def test_an_import_of_the_server_side_would_be_noticed():
    finished = run("import torch")

    assert "the client must not import torch" in finished.stderr


def test_the_command_line_answers_help_without_the_server_side():
    finished = run("sys.argv = ['errata', '--help']\nfrom errata.cli.__main__ import main\nmain()")

    assert finished.returncode == 0, finished.stderr
    assert "propose" in finished.stdout
