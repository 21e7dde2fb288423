"""The protocol as it is generated: every service of every file."""

from collections.abc import Iterator

from google.protobuf.descriptor import ServiceDescriptor

from errata.v1 import (
    crawls_pb2,
    edits_pb2,
    inference_pb2,
    ledger_pb2,
    models_pb2,
    suites_pb2,
    traces_pb2,
)

FILES = (edits_pb2, ledger_pb2, inference_pb2, models_pb2, suites_pb2, crawls_pb2, traces_pb2)


def services() -> Iterator[ServiceDescriptor]:
    """Every service, with its methods."""
    for file in FILES:
        yield from file.DESCRIPTOR.services_by_name.values()
