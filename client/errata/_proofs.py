"""Whether Merkle proofs prove what they are said to (RFC 9162, 2.1.3 and 2.1.4); pure.

Invariants: a proof is taken to its last hash or refused; nothing that is too long, too short or
out of place passes. Proofs are made elsewhere, by the server.
"""

import hashlib
from collections.abc import Sequence

HASH_BYTES = 32


def leaf_hash(entry: bytes) -> bytes:
    """The hash of an entry as the tree has it."""
    return hashlib.sha256(b"\x00" + entry).digest()


def _node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def root_of(leaves: Sequence[bytes]) -> bytes:
    """The root over the hashes of all entries."""
    if not leaves:
        return hashlib.sha256().digest()
    row = list(leaves)
    while len(row) > 1:
        pairs = [_node_hash(*row[at : at + 2]) for at in range(0, len(row) - 1, 2)]
        row = pairs + row[2 * len(pairs) :]
    return row[0]


def includes(leaf: bytes, *, index: int, size: int, hashes: Sequence[bytes], root: bytes) -> bool:
    """Whether ``hashes`` prove ``leaf`` to be entry ``index`` of the log with this root."""
    if not 0 <= index < size or not _are_hashes(hashes):
        return False
    sides = _sides(index, size - 1, len(hashes))
    found = leaf
    for left, other in zip(sides or (), hashes, strict=False):
        found = _node_hash(other, found) if left else _node_hash(found, other)
    return sides is not None and found == root


def extends(
    first: int, second: int, *, hashes: Sequence[bytes], first_root: bytes, second_root: bytes
) -> bool:
    """Whether ``hashes`` prove the log of ``second`` entries to begin with that of ``first``."""
    if not 0 <= first <= second or not _are_hashes(hashes):
        return False
    if first in {0, second}:
        return not hashes and first_root == (second_root if first else root_of(()))
    whole = first & (first - 1) == 0  # then the first root is itself a node of the second tree
    path = [first_root, *hashes] if whole else list(hashes)
    if not path:
        return False
    place, last = first - 1, second - 1
    while place % 2:
        place, last = place >> 1, last >> 1
    sides = _sides(place, last, len(path) - 1)
    before = after = path[0]
    for left, other in zip(sides or (), path[1:], strict=False):
        before = _node_hash(other, before) if left else before
        after = _node_hash(other, after) if left else _node_hash(after, other)
    return sides is not None and before == first_root and after == second_root


def _sides(place: int, last: int, count: int) -> list[bool] | None:
    """Whether each sibling on the way up stands on the left; None if they are not ``count``."""
    sides = []
    for _ in range(count):
        if last == 0:
            return None
        left = bool(place % 2) or place == last
        sides.append(left)
        while left and place and not place % 2:  # a node without a sibling is its own parent
            place, last = place >> 1, last >> 1
        place, last = place >> 1, last >> 1
    return sides if last == 0 else None


def _are_hashes(hashes: Sequence[bytes]) -> bool:
    return all(len(one) == HASH_BYTES for one in hashes)
