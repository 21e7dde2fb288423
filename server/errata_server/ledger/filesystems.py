"""Where a SQLite file lies: on a disk of this machine, or on a network.

Invariant: what cannot be found out is taken for a disk of this machine; this only warns.
"""

import re
from pathlib import Path
from typing import Final

MOUNTS: Final = Path("/proc/self/mounts")
NETWORK: Final = frozenset(
    {
        "9p", "afs", "beegfs", "ceph", "cifs", "fuse.glusterfs", "fuse.sshfs", "gfs2", "lustre",
        "nfs", "nfs4", "ocfs2", "smb3", "smbfs", "virtiofs",
    }
)  # fmt: skip
"""Kinds of filesystems whose locks or shared memory other machines are to see, and may not."""

_OCTAL: Final = re.compile(r"\\([0-7]{3})")


def network_filesystem(file: Path, mounts: Path = MOUNTS) -> str | None:
    """The kind of network filesystem that ``file`` is on; None on a disk of this machine."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    above = {file.resolve(), *file.resolve().parents}
    kind, deepest = "", -1
    for _, place, found, *_ in (line.split(" ") for line in lines):
        mounted = Path(_OCTAL.sub(lambda code: chr(int(code[1], 8)), place))
        # Of two at one place the later one hides the earlier.
        if mounted in above and len(mounted.parts) >= deepest:
            kind, deepest = found, len(mounted.parts)
    return kind if kind in NETWORK else None
