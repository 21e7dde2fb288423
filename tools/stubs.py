"""Generate the gRPC stubs from the protos, check that they are current, and lint the protos.

Google's protos are not vendored: they come from the installed googleapis-common-protos and are
laid out under ``build/googleapis``, where protoc and buf find them without a network. The stubs
are committed, so that neither users nor the wheel need a compiler.
"""

import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import files
from pathlib import Path

import grpc_tools
import typer
from grpc_tools import protoc

ROOT = Path(__file__).parents[1]
PROTOS = ROOT / "proto"
GOOGLE_PROTOS = ROOT / "build" / "googleapis"
STUBS = ROOT / "client" / "errata" / "v1"
GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")
SHIPPED_AS = {"google/longrunning/operations_proto.proto": "google/longrunning/operations.proto"}
"""The distribution renames this one; the protos import it by its published name."""

commands = typer.Typer(help=__doc__.splitlines()[0], no_args_is_help=True, add_completion=False)


def lay_out_google_protos() -> None:
    """Copy Google's protos from the installed distribution to where compilers look."""
    shutil.rmtree(GOOGLE_PROTOS, ignore_errors=True)
    for file in files("googleapis-common-protos") or ():
        if file.suffix != ".proto":
            continue
        target = GOOGLE_PROTOS / SHIPPED_AS.get(file.as_posix(), file.as_posix())
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file.locate(), target)


def generate(destination: Path) -> None:
    """Write modules and type stubs of every proto below ``destination``.

    Raises:
        typer.Exit: protoc refused a proto; it has said why.
    """
    lay_out_google_protos()
    scripts = Path(sys.executable).parent
    status = protoc.main(
        [
            "protoc",
            f"--plugin=protoc-gen-mypy={scripts / 'protoc-gen-mypy'}",
            f"--plugin=protoc-gen-mypy_grpc={scripts / 'protoc-gen-mypy_grpc'}",
            f"--proto_path={PROTOS}",
            f"--proto_path={GOOGLE_PROTOS}",
            f"--proto_path={Path(grpc_tools.__file__).parent / '_proto'}",
            f"--python_out={destination}",
            f"--grpc_python_out={destination}",
            f"--mypy_out=quiet:{destination}",
            f"--mypy_grpc_out=quiet:{destination}",
            *sorted(str(proto) for proto in PROTOS.rglob("*.proto")),
        ]
    )
    if status != 0:
        raise typer.Exit(status)
    _drop_empty_services(destination)


def _drop_empty_services(destination: Path) -> None:
    """Remove the gRPC modules of protos that define no service."""
    for proto in PROTOS.rglob("*.proto"):
        if "\nservice " in proto.read_text(encoding="utf-8"):
            continue
        module = destination / proto.relative_to(PROTOS).with_name(f"{proto.stem}_pb2_grpc.py")
        module.unlink(missing_ok=True)
        module.with_suffix(".pyi").unlink(missing_ok=True)


def differing_stubs() -> list[str]:
    """Names of committed stubs that generating again would add, change or remove."""
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        fresh = _contents(Path(scratch) / "errata" / "v1")
    committed = _contents(STUBS)
    names = fresh.keys() | committed.keys()
    return sorted(name for name in names if fresh.get(name) != committed.get(name))


def _contents(folder: Path) -> dict[str, bytes]:
    paths = {path for pattern in GENERATED for path in folder.glob(pattern)}
    return {path.name: path.read_bytes() for path in paths}


@commands.command()
def write() -> None:
    """Generate the stubs into client/errata/v1."""
    for name in _contents(STUBS):
        (STUBS / name).unlink()
    generate(STUBS.parents[1])


@commands.command()
def check() -> None:
    """Fail where the committed stubs are not what the protos give."""
    differing = differing_stubs()
    if differing:
        typer.echo(f"stale stubs, run `make proto`: {', '.join(differing)}", err=True)
        raise typer.Exit(1)


@commands.command()
def lint() -> None:
    """Hold the protos to buf's STANDARD rules and to its formatting."""
    lay_out_google_protos()
    buf = Path(sys.executable).with_name("buf")
    for arguments in (("lint",), ("format", "--diff", "--exit-code", str(PROTOS))):
        finished = subprocess.run([buf, *arguments], cwd=ROOT, check=False)
        if finished.returncode != 0:
            raise typer.Exit(finished.returncode)


if __name__ == "__main__":
    commands()
