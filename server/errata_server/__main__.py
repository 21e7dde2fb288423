"""``errata-server``: serve, migrate, calibrate, moments, ledger, keygen: arguments and exit codes.

Exit codes: 0 done, 1 failed with one sentence on standard error, 2 wrong usage.
"""

import asyncio
import gc
from pathlib import Path
from typing import Annotated

import typer

from errata_server import app, ledger_verbs
from errata_server.ledger.migrate import migrate as migrate_ledger
from errata_server.signing import SigningKey
from errata_server.terminal import LedgerUrl, one_sentence, progress, read_settings
from errata_server.version import VERSION

cli = typer.Typer(
    name="errata-server",
    help="Serve a language model together with revertible edits from a ledger. "
    "Every option can also be given as ERRATA_OPTION in the environment.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
cli.add_typer(ledger_verbs.verbs)

Model = Annotated[
    str | None,
    typer.Option(help="A checkpoint's folder, a hub id, or 'bundled'.", show_default="bundled"),
]
ModelName = Annotated[
    str | None, typer.Option("--model-id", help="The model's name in the ledger.")
]
KnownFacts = Annotated[Path | None, typer.Option(help="JSON file of facts the model holds.")]
TextsFile = Annotated[
    Path | None, typer.Option("--texts", help="Ordinary texts: a line each, or JSON.")
]
Policy = Annotated[Path | None, typer.Option(help="JSON file of the checks' thresholds.")]
Cache = Annotated[Path | None, typer.Option(help="Folder for second moments.")]
SigningKeyFile = Annotated[
    Path | None, typer.Option("--signing-key", help="Private key that signs ledger checkpoints.")
]
TrustedKeysFile = Annotated[
    Path | None, typer.Option("--trusted-keys", help="Public keys of proposers, one a line.")
]
RequireSignatures = Annotated[
    bool | None,
    typer.Option("--require-signatures", help="Refuse proposals no trusted key has signed."),
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 ...")]
Dtype = Annotated[str | None, typer.Option(help="auto, float32, float16 or bfloat16.")]


@cli.command()
def serve(
    *,
    model: Model = None,
    model_id: ModelName = None,
    ledger: LedgerUrl = None,
    listen: Annotated[
        str | None,
        typer.Option(help="HOST:PORT; port 0 takes any.", show_default="127.0.0.1:50051"),
    ] = None,
    follow: Annotated[
        str | None,
        typer.Option(help="Follow this branch as a replica, which only reads.", metavar="BRANCH"),
    ] = None,
    advertise: Annotated[
        str | None,
        typer.Option(help="Where other servers send callers to this one.", metavar="HOST:PORT"),
    ] = None,
    lease_seconds: Annotated[
        float | None, typer.Option(help="How long others wait once this server has vanished.")
    ] = None,
    read_wait_seconds: Annotated[
        float | None, typer.Option(help="Most a read waits for its min_sequence.")
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option(help="Serve Prometheus metrics here; 0 takes any port.")
    ] = None,
    insecure: Annotated[
        bool | None,
        typer.Option(
            "--insecure", help="Listen beyond this machine, unencrypted and unauthenticated."
        ),
    ] = None,
    policy: Policy = None,
    known_facts: KnownFacts = None,
    texts: TextsFile = None,
    cache: Cache = None,
    device: Device = None,
    dtype: Dtype = None,
    max_message_bytes: Annotated[int | None, typer.Option(help="Largest request.")] = None,
    max_concurrent_rpcs: Annotated[int | None, typer.Option(help="Calls at a time.")] = None,
    drain_seconds: Annotated[
        float | None, typer.Option(help="Time for calls in flight after SIGTERM.")
    ] = None,
    trace_memory_mib: Annotated[
        int | None, typer.Option(help="Most memory a trace may take, in MiB.")
    ] = None,
    signing_key: SigningKeyFile = None,
    trusted_keys: TrustedKeysFile = None,
    require_signatures: RequireSignatures = None,
    ready_file: Annotated[
        Path | None, typer.Option(help="Write addresses and process id here once ready.")
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
) -> None:
    """Serve a model with the edits that its ledger holds, until SIGTERM."""
    settings = read_settings(**locals())
    with one_sentence():
        server = app.build(settings)
        _leave_out_of_collections()
        asyncio.run(server.serve_until_stopped(lambda ready: typer.echo(ready.to_json())))


def _leave_out_of_collections() -> None:
    """Keep the garbage collector off what is there by now.

    What imports and the model are made of, half a million objects, stays until the end; a full
    collection that looks at it keeps every call waiting for some tenths of a second.
    """
    gc.collect()
    gc.freeze()


@cli.command()
def migrate(*, ledger: LedgerUrl = None) -> None:
    """Bring a ledger's database to the schema this version knows."""
    settings = read_settings(ledger=ledger)
    with one_sentence():
        done = migrate_ledger(settings.ledger)
    typer.echo(f"{settings.shown_ledger}: {'migrated' if done else 'nothing to do'}")


@cli.command()
def calibrate(
    *,
    model: Model = None,
    model_id: ModelName = None,
    ledger: LedgerUrl = None,
    known_facts: KnownFacts = None,
    texts: TextsFile = None,
    policy: Policy = None,
    cache: Cache = None,
    device: Device = None,
    dtype: Dtype = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of prefixes and facts.")] = 0,
    save: Annotated[Path | None, typer.Option(help="Also write the profile here.")] = None,
) -> None:
    """Find layer, step size and guard width by editing facts the model knows."""
    given = locals()
    del given["seed"], given["save"]
    settings = read_settings(**given)
    with one_sentence(), progress() as report:
        profile = app.calibrate(settings, seed, report)
        if save is not None:
            save.write_bytes(profile.body)
    typer.echo(f"profile {profile.id}: layer {profile.layer}, guard {profile.guard_width:g}")


@cli.command()
def moments(
    *,
    texts: Annotated[Path, typer.Option(help="Ordinary texts: a line each, or JSON.")],
    model: Model = None,
    cache: Cache = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Accumulate the second moment of keys over texts; resumes where it was cut off."""
    settings = read_settings(**locals())
    with one_sentence(), progress() as report:
        tokens = app.collect_moments(settings, report)
    typer.echo(f"{tokens} tokens in {settings.cache}")


@cli.command()
def keygen(
    *,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where the private key goes.")],
    name: Annotated[str, typer.Option(help="Whose key it is, as signatures name it.")] = "errata",
) -> None:
    """Make an Ed25519 key: the private one into FILE, the public one to standard output."""
    with one_sentence():
        key = SigningKey.generate(name)
        key.write(file)
    typer.echo(str(key.public))


@cli.command()
def version() -> None:
    """Print the version."""
    typer.echo(VERSION)


def main() -> None:
    """Run the command line."""
    cli()


if __name__ == "__main__":
    main()
