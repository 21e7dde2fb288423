"""The files the contract tests hold to the house rules."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("server", "client", "tests", "tools", "migrations", "benchmarks")


def python_files(*folders: str) -> list[Path]:
    """Hand-written modules below ``folders``, all of them where none is named."""
    found = [path for folder in folders or FOLDERS for path in (ROOT / folder).rglob("*.py")]
    return sorted(path for path in found if not path.stem.endswith(("_pb2", "_pb2_grpc")))


def name(path: Path) -> str:
    """How a failing test names ``path``."""
    return path.relative_to(ROOT).as_posix()
