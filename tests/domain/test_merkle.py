"""The tree against RFC 9162's definitions and the vectors of certificate transparency."""

import hashlib
from functools import cache

import pytest

from errata_server.domain.merkle import EMPTY_ROOT, MerkleTree, leaf_hash

INPUTS = (
    "",
    "00",
    "10",
    "2021",
    "3031",
    "40414243",
    "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
)
ROOTS = (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)
"""Roots of the trees of the first 1 to 8 inputs, as certificate transparency publishes them."""

MOST = 64


def tree_of(leaves):
    tree = MerkleTree()
    for leaf in leaves:
        tree.append(leaf)
    return tree


def half(count):
    """The largest power of two below ``count``."""
    power = 1
    while power * 2 < count:
        power *= 2
    return power


@cache
def naive_root(start, end):
    """Of the leaves from ``start`` to ``end``."""
    if end - start == 0:
        return hashlib.sha256(b"").digest()
    if end - start == 1:
        return LEAVES[start]
    k = start + half(end - start)
    return hashlib.sha256(b"\x01" + naive_root(start, k) + naive_root(k, end)).digest()


def naive_inclusion(index, start, end):
    if end - start == 1:
        return []
    k = start + half(end - start)
    if index < k:
        return [*naive_inclusion(index, start, k), naive_root(k, end)]
    return [*naive_inclusion(index, k, end), naive_root(start, k)]


def naive_consistency(first, start, end, *, whole=True):
    if first == end:
        return [] if whole else [naive_root(start, end)]
    k = start + half(end - start)
    if first <= k:
        return [*naive_consistency(first, start, k, whole=whole), naive_root(k, end)]
    return [*naive_consistency(first, k, end, whole=False), naive_root(start, k)]


LEAVES = [leaf_hash(b"entry %d" % number) for number in range(MOST)]


def test_roots_are_those_of_certificate_transparency():
    tree = MerkleTree()
    assert tree.root(0) == EMPTY_ROOT
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

    for size, (text, root) in enumerate(zip(INPUTS, ROOTS, strict=True), start=1):
        tree.append(leaf_hash(bytes.fromhex(text)))
        assert tree.root(size).hex() == root

    assert [tree.root(size).hex() for size in range(1, 9)] == list(ROOTS)


def test_every_root_is_that_of_the_recursion():
    tree = tree_of(LEAVES)

    for size in range(MOST + 1):
        assert tree.root(size) == naive_root(0, size)


def test_every_inclusion_proof_is_that_of_the_recursion():
    tree = tree_of(LEAVES)

    for size in range(1, MOST + 1):
        for index in range(size):
            assert tree.inclusion(index, size) == naive_inclusion(index, 0, size)


def test_every_consistency_proof_is_that_of_the_recursion():
    tree = tree_of(LEAVES)

    for second in range(1, MOST + 1):
        assert tree.consistency(0, second) == []
        for first in range(1, second + 1):
            assert tree.consistency(first, second) == naive_consistency(first, 0, second)


def test_proofs_of_sizes_the_tree_never_had_are_refused():
    tree = tree_of(LEAVES[:5])

    for ask in (
        lambda: tree.root(6),
        lambda: tree.root(-1),
        lambda: tree.inclusion(5, 5),
        lambda: tree.inclusion(0, 6),
        lambda: tree.consistency(3, 2),
        lambda: tree.consistency(3, 6),
    ):
        with pytest.raises(ValueError, match="the tree has 5 leaves"):
            ask()
