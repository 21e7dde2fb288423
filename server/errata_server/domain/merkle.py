"""The Merkle tree over a log's entries: roots, inclusion and consistency proofs (RFC 9162).

Invariants: leaves and inner nodes are hashed under different prefixes, so that neither can pass
for the other; a tree only grows; the root of any size it has had and every proof between such
sizes take the logarithm of the size. Proofs are checked by whoever they are for: the client.
"""

import hashlib
from typing import Final

EMPTY_ROOT: Final = hashlib.sha256().digest()
"""The root of a log without entries."""

_LEAF: Final = b"\x00"
_NODE: Final = b"\x01"


def leaf_hash(entry: bytes) -> bytes:
    """The hash of an entry, as the tree's lowest row has it."""
    return hashlib.sha256(_LEAF + entry).digest()


def _node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(_NODE + left + right).digest()


class MerkleTree:
    """A tree to which leaves are appended."""

    def __init__(self) -> None:
        self._rows: list[list[bytes]] = [[]]
        """Row ``k`` has the roots of all complete subtrees of ``2 ** k`` leaves, in order."""

    @property
    def size(self) -> int:
        """How many leaves there are."""
        return len(self._rows[0])

    def leaf(self, index: int) -> bytes:
        """The hash of one leaf."""
        return self._rows[0][index]

    def append(self, leaf: bytes) -> None:
        """Add the hash of an entry at the end."""
        row, node = 0, leaf
        while True:
            if row == len(self._rows):
                self._rows.append([])
            self._rows[row].append(node)
            if len(self._rows[row]) % 2:
                return
            left, right = self._rows[row][-2:]
            row, node = row + 1, _node_hash(left, right)

    def root(self, size: int) -> bytes:
        """The root when the tree had ``size`` leaves.

        Raises:
            ValueError: it never had so many.
        """
        self._require(0 <= size <= self.size)
        return self._root(0, size) if size else EMPTY_ROOT

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """What leads from leaf ``index`` to the root of ``size`` leaves, lowest first.

        Raises:
            ValueError: the tree never had such a leaf or so many.
        """
        self._require(0 <= index < size <= self.size)
        start, end, path = 0, size, []
        while end - start > 1:
            middle = start + _largest_half(end - start)
            if index < middle:
                path.append(self._root(middle, end))
                end = middle
            else:
                path.append(self._root(start, middle))
                start = middle
        return path[::-1]

    def consistency(self, first: int, second: int) -> list[bytes]:
        """What shows that ``second`` leaves begin with ``first`` leaves, lowest first.

        Raises:
            ValueError: the tree never had so many, or ``first`` is the larger.
        """
        self._require(0 <= first <= second <= self.size)
        if first in {0, second}:
            return []
        start, end, path = 0, second, []
        while end != first:
            middle = start + _largest_half(end - start)
            if first <= middle:
                path.append(self._root(middle, end))
                end = middle
            else:
                path.append(self._root(start, middle))
                start = middle
        if start:  # else the verifier has this root already: it is the first size's own
            path.append(self._root(start, end))
        return path[::-1]

    def _require(self, fits: bool) -> None:  # noqa: FBT001 - the condition itself
        if not fits:
            raise ValueError(f"the tree has {self.size} leaves")

    def _root(self, start: int, end: int) -> bytes:
        """The root of the leaves from ``start`` to ``end``, which halving has led to."""
        width = end - start
        row = width.bit_length() - 1
        if width == 1 << row:
            return self._rows[row][start >> row]
        middle = start + _largest_half(width)
        return _node_hash(self._root(start, middle), self._root(middle, end))


def _largest_half(width: int) -> int:
    """The largest power of two below ``width``."""
    return 1 << ((width - 1).bit_length() - 1)
