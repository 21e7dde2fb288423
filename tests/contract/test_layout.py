"""The house rules on files and functions that no linter knows."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.contract.sources import ROOT, name, python_files

LONGEST_FILE = 500
LONGEST_FUNCTION = 60
FORBIDDEN_NAMES = {"base", "common", "helper", "helpers", "manager", "misc", "util", "utils"}
PACKAGED = ("server", "client")
STRAYS = ("*.md", "*.rst", "*.ipynb", "test_*", "*_test.py", "conftest.py")
MODEL_CARD = ROOT / "server/errata_server/demo/model/README.md"

Function = ast.FunctionDef | ast.AsyncFunctionDef


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(path: Path) -> Iterator[Function]:
    for node in ast.walk(parsed(path)):
        if isinstance(node, Function):
            yield node


def names_used(path: Path) -> set[str]:
    """Every name and attribute in the code of ``path``."""
    nodes = list(ast.walk(parsed(path)))
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    return names | {node.attr for node in nodes if isinstance(node, ast.Attribute)}


def length(function: Function) -> int:
    """Lines from the signature to the end, the docstring left out."""
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    if ast.get_docstring(function) is None:
        return lines
    docstring = function.body[0]
    return lines - ((docstring.end_lineno or docstring.lineno) - docstring.lineno + 1)


def test_no_file_is_longer_than_500_lines():
    lengths = {name(path): len(path.read_text().splitlines()) for path in python_files()}

    assert {file: lines for file, lines in lengths.items() if lines > LONGEST_FILE} == {}


def test_no_function_is_longer_than_60_lines():
    lengths = {
        f"{name(path)}:{function.name}": length(function)
        for path in python_files()
        for function in functions(path)
    }

    assert {place: lines for place, lines in lengths.items() if lines > LONGEST_FUNCTION} == {}


def test_no_module_has_a_name_that_says_nothing():
    words = {
        name(path): {*path.stem.strip("_").split("_"), path.parent.name} for path in python_files()
    }

    assert [file for file, said in words.items() if said & FORBIDDEN_NAMES] == []


def test_every_module_but_tests_says_what_lives_in_it():
    modules = python_files("server", "client", "migrations", "benchmarks", "tools")
    silent = [name(path) for path in modules if not ast.get_docstring(parsed(path))]

    assert silent == []


def test_packages_hold_no_tests_and_no_stray_documents():
    strays = {
        path for folder in PACKAGED for pattern in STRAYS for path in (ROOT / folder).rglob(pattern)
    }

    assert strays <= {MODEL_CARD}


def test_only_one_server_module_names_grpc_status_codes():
    naming = [
        name(path)
        for path in python_files("server")
        if {"StatusCode", "code_pb2"} & names_used(path)
    ]

    assert naming == ["server/errata_server/rpc/status.py"]


def test_every_file_called_a_test_holds_tests():
    empty = [
        name(path)
        for path in (ROOT / "tests").rglob("test_*.py")
        if not any(function.name.startswith("test_") for function in functions(path))
    ]

    assert empty == []


def test_the_length_of_a_function_leaves_out_its_docstring(tmp_path):
    module = tmp_path / "module.py"
    module.write_text('def one():\n    """First.\n\n    Second.\n    """\n    return 1\n')

    assert [length(function) for function in functions(module)] == [2]
