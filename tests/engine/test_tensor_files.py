"""Files of tensors: whole, whoever writes them at once, and nothing beside them."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from errata_server.engine.tensor_files import save_whole

SAVE_FILE = "errata_server.engine.tensor_files.save_file"
ONE, TWO = {"keys": torch.ones(2, 3)}, {"keys": torch.zeros(4, 3)}


def test_two_writers_of_one_file_leave_one_of_theirs(tmp_path, monkeypatch):
    path = tmp_path / "new" / "keys.safetensors"

    def while_another_writes(tensors, temporary, metadata):
        save_file(tensors, temporary, metadata=metadata)
        monkeypatch.setattr(SAVE_FILE, save_file)
        save_whole(TWO, path, {})

    monkeypatch.setattr(SAVE_FILE, while_another_writes)
    save_whole(ONE, path, {})

    assert torch.equal(load_file(path)["keys"], ONE["keys"])
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "keys.safetensors"
    save_whole(ONE, path, {})

    def half(_tensors, temporary, metadata):
        temporary.write_bytes(str(metadata).encode())
        raise OSError("disk full")

    monkeypatch.setattr(SAVE_FILE, half)
    with pytest.raises(OSError, match="disk full"):
        save_whole(TWO, path, {})

    assert torch.equal(load_file(path)["keys"], ONE["keys"])
    assert list(tmp_path.iterdir()) == [path]
