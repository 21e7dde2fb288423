"""What the client checks agrees with what the server's tree makes, and nothing else passes."""

import pytest

from errata import _proofs
from errata_server.domain.merkle import MerkleTree, leaf_hash

MOST = 64
LEAVES = [leaf_hash(b"entry %d" % number) for number in range(256)]
OTHER = leaf_hash(b"something else")


@pytest.fixture(scope="module")
def tree():
    made = MerkleTree()
    for leaf in LEAVES:
        made.append(leaf)
    return made


def included(tree, index, size, hashes=None, *, leaf=None, **changed):
    given = {
        "index": index,
        "size": size,
        "hashes": tree.inclusion(index, size) if hashes is None else hashes,
        "root": tree.root(size),
    } | changed
    return _proofs.includes(leaf or LEAVES[index], **given)


def extended(tree, first, second, hashes=None, **changed):
    given = {
        "hashes": tree.consistency(first, second) if hashes is None else hashes,
        "first_root": tree.root(first),
        "second_root": tree.root(second),
    } | changed
    return _proofs.extends(first, second, **given)


def flipped(hashes):
    """The proof with one bit of one byte changed, for every byte."""
    for place, one in enumerate(hashes):
        for byte in range(len(one)):
            wrong = bytearray(one)
            wrong[byte] ^= 1
            yield [*hashes[:place], bytes(wrong), *hashes[place + 1 :]]


def misshapen(hashes):
    yield [*hashes, OTHER]
    yield [OTHER, *hashes]
    for place in range(len(hashes)):
        yield [*hashes[:place], *hashes[place + 1 :]]
        yield [*hashes[:place], hashes[place][:-1], *hashes[place + 1 :]]
    if len(hashes) > 1:
        yield hashes[::-1]


def test_every_root_is_computed_alike(tree):
    for size in range(MOST + 1):
        assert _proofs.root_of(LEAVES[:size]) == tree.root(size)


def test_every_inclusion_proof_is_accepted_and_proves_that_entry_alone(tree):
    for size in range(1, MOST + 1):
        for index in range(size):
            proof = tree.inclusion(index, size)
            assert included(tree, index, size, proof)
            for other in {0, index ^ 1, size - 1} - {index, size}:
                assert not included(tree, other, size, proof)


def test_every_consistency_proof_is_accepted(tree):
    for second in range(MOST + 1):
        for first in range(second + 1):
            assert extended(tree, first, second), (first, second)


@pytest.mark.slow
def test_proofs_of_larger_trees_are_accepted(tree):
    for size in range(MOST + 1, len(LEAVES) + 1):
        assert all(included(tree, index, size) for index in range(size))
        assert all(extended(tree, first, size) for first in range(size + 1))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 8, 13, 31])
def test_a_changed_inclusion_proof_is_refused(tree, size):
    for index in range(size):
        proof = tree.inclusion(index, size)
        for wrong in (*flipped(proof), *misshapen(proof)):
            assert wrong == proof or not included(tree, index, size, wrong)
        assert not included(tree, index, size, leaf=OTHER)
        assert not included(tree, index, size, root=OTHER)
        given = {"hashes": proof, "root": tree.root(size)}
        assert not _proofs.includes(LEAVES[index], index=size, size=size, **given)
        assert not _proofs.includes(LEAVES[index], index=-1, size=size, **given)
        if size.bit_length() != (size - 1).bit_length():
            assert not _proofs.includes(LEAVES[index], index=index, size=2 * size, **given)


@pytest.mark.parametrize("second", [2, 3, 5, 7, 8, 13, 31])
def test_a_changed_consistency_proof_is_refused(tree, second):
    for first in range(1, second):
        proof = tree.consistency(first, second)
        for wrong in (*flipped(proof), *misshapen(proof)):
            assert wrong == proof or not extended(tree, first, second, wrong)
        assert not extended(tree, first, second, first_root=OTHER)
        assert not extended(tree, first, second, second_root=OTHER)
        assert not extended(tree, second, first, proof)


def test_nothing_proves_a_log_of_one_size_to_have_two_roots(tree):
    assert not extended(tree, 5, 5, first_root=OTHER)
    assert not extended(tree, 5, 5, [OTHER])
    assert not extended(tree, 0, 5, first_root=OTHER)
    assert not extended(tree, 0, 5, [OTHER])
    assert not extended(tree, 3, 5, [])
