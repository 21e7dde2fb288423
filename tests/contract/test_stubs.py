"""The committed gRPC stubs are what the protos give."""

import shutil

from tools import stubs


def test_generating_the_stubs_again_changes_nothing():
    assert stubs.differing_stubs() == []


def test_a_changed_proto_makes_its_stubs_stale(tmp_path, monkeypatch):
    protos = shutil.copytree(stubs.PROTOS, tmp_path / "proto")
    edits = protos / "errata/v1/edits.proto"
    edits.write_text(edits.read_text() + "\nmessage Planted {\n  string name = 1;\n}\n")
    monkeypatch.setattr(stubs, "PROTOS", protos)

    assert stubs.differing_stubs() == ["edits_pb2.py", "edits_pb2.pyi"]
