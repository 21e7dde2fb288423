"""Files of tensors: whole, whoever writes them at once, and nothing beside them."""

import pytest
import torch
from safetensors.torch import load_file

from errata_server.engine import tensor_files
from errata_server.engine.tensor_files import save_whole

ONE, TWO = {"keys": torch.ones(2, 3)}, {"keys": torch.zeros(4, 3)}


def test_two_writers_of_one_file_leave_one_of_theirs(tmp_path, monkeypatch):
    path, save = tmp_path / "new" / "keys.safetensors", tensor_files.save_file

    def while_another_writes(tensors, temporary, metadata):
        save(tensors, temporary, metadata=metadata)
        monkeypatch.setattr(tensor_files, "save_file", save)
        save_whole(TWO, path, {})

    monkeypatch.setattr(tensor_files, "save_file", while_another_writes)
    save_whole(ONE, path, {})

    assert torch.equal(load_file(path)["keys"], ONE["keys"])
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "keys.safetensors"
    save_whole(ONE, path, {})

    def half(_tensors, temporary, metadata):
        temporary.write_bytes(str(metadata).encode())
        raise OSError("disk full")

    monkeypatch.setattr(tensor_files, "save_file", half)
    with pytest.raises(OSError, match="disk full"):
        save_whole(TWO, path, {})

    assert torch.equal(load_file(path)["keys"], ONE["keys"])
    assert list(tmp_path.iterdir()) == [path]
