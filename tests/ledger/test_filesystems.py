"""A SQLite ledger on a network is noticed by what is mounted above it."""

import pytest

from errata_server.ledger.filesystems import network_filesystem

MOUNTS = """\
/dev/vda / ext4 rw,relatime 0 0
server:/home /srv nfs4 rw 0 0
tmpfs /srv/fast tmpfs rw 0 0
//server/share /mnt/two\\040words cifs rw 0 0
/dev/vdb /mnt/later ext4 rw 0 0
peer:/x /mnt/later fuse.sshfs rw 0 0
"""


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("/var/errata.db", None),
        ("/srv/errata.db", "nfs4"),
        ("/srv/deep/down/errata.db", "nfs4"),
        ("/srv/fast/errata.db", None),
        ("/srvelse/errata.db", None),
        ("/mnt/two words/errata.db", "cifs"),
        ("/mnt/later/errata.db", "fuse.sshfs"),
    ],
)
def test_the_deepest_mount_above_a_file_says_where_it_is(tmp_path, file, kind):
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS)

    assert network_filesystem(tmp_path.__class__(file), mounts) == kind


def test_a_machine_that_does_not_tell_is_not_warned(tmp_path):
    assert network_filesystem(tmp_path / "errata.db", tmp_path / "missing") is None


def test_a_folder_of_this_machine_is_no_network(tmp_path):
    assert network_filesystem(tmp_path / "errata.db") is None
