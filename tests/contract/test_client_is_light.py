"""The client installs and runs where there is no torch, no database and no server package."""

import subprocess
import sys

from tests.contract.sources import ROOT

HEAVY = (
    "alembic", "cryptography", "errata_server", "huggingface_hub", "matplotlib", "numpy", "pandas",
    "prometheus_client", "pydantic", "safetensors", "scipy", "sklearn", "sqlalchemy",
    "statsmodels", "structlog", "torch", "transformers",
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

ASK_FOR_EXTRAS = f"""
sys.path.insert(0, {str(ROOT / "tests/support")!r})
import errata
from errata._exhibits import check_destination
from exhibits import causal_trace
trace = causal_trace(words=("<script>", " is"), subject=(0, 1))
for ask in (trace.plot, trace.to_numpy, lambda: check_destination("trace.png")):
    try:
        ask()
    except errata.MissingExtraError as error:
        print(error)
print(trace._repr_html_())
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


def test_pictures_and_arrays_say_what_to_install_and_html_does_without():
    finished = run(ASK_FOR_EXTRAS)

    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("pip install 'errata[plot]'") == 3
    assert "<table>" in finished.stdout
    assert "&lt;script&gt;" in finished.stdout
    assert "<script>" not in finished.stdout
