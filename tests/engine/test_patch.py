"""A patch's bytes: exact both ways, and refused with a word when they are anything else."""

import json
import math
import struct
from dataclasses import asdict, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from errata_server.domain import canonical
from errata_server.domain.errors import InvalidPatchError, ModelMismatchError
from errata_server.domain.ids import Digest, ProfileId
from errata_server.domain.patches import PatchManifest
from errata_server.domain.payloads import MANIFEST_KEY
from errata_server.engine.patch import PatchTensors, decode, encode
from tests.support.tiny_models import RECORD

MODEL = Digest("a" * 64)
NAN, INFINITY = float("nan"), float("inf")


def tensors(
    keys: int = 2, d_in: int = 5, d_out: int = 3, decoys: tuple[str, ...] = ()
) -> PatchTensors:
    generator = torch.Generator().manual_seed(keys)
    return PatchTensors(
        manifest=PatchManifest(
            model_digest=MODEL,
            profile=ProfileId("b" * 64),
            module="transformer.h.1.mlp.c_proj",
            layer=1,
            d_in=d_in,
            d_out=d_out,
            subject="Café Gijón",
            keys=keys,
            leverages=tuple(1.5 + i for i in range(keys)),
            guard_width=0.3,
            optimisation=RECORD,
            decoys=decoys,
        ),
        keys=torch.randn(keys, d_in, generator=generator),
        matchers=torch.randn(keys, d_in, generator=generator),
        residual=torch.randn(d_out, generator=generator),
        decoys=torch.randn(len(decoys), d_in, generator=generator),
    )


VALID = encode(tensors()).payload


def named() -> dict[str, torch.Tensor]:
    patch = tensors()
    return {"keys": patch.keys, "matchers": patch.matchers, "residual": patch.residual}


def payload(changes: dict[str, torch.Tensor | None], **manifest: object) -> bytes:
    """A payload with some tensors or manifest fields changed; None leaves a tensor out."""
    kept = {k: v for k, v in (named() | changes).items() if v is not None}
    body = json.dumps(asdict(tensors().manifest) | manifest)
    return save(kept, metadata={MANIFEST_KEY: body})


def header_of(data: bytes) -> tuple[dict[str, object], bytes]:
    (length,) = struct.unpack_from("<Q", data)
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def with_header(header: bytes, rest: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + rest


def test_a_patch_comes_back_bit_for_bit():
    patch = tensors()

    again = decode(encode(patch).payload, model=MODEL)

    assert again.manifest == patch.manifest
    for name in ("keys", "matchers", "residual"):
        assert torch.equal(getattr(again, name), getattr(patch, name))
    assert encode(again).payload == VALID


def test_decoys_come_back_with_their_subjects():
    patch = tensors(decoys=("Prado", "Prado", "Louvre"))

    again = decode(encode(patch).payload, model=MODEL)

    assert again.manifest == patch.manifest
    assert torch.equal(again.decoys, patch.decoys)


def test_a_patch_without_decoys_has_the_bytes_it_had_before_there_were_any():
    header, _ = header_of(VALID)

    assert "decoys" not in header
    assert b"decoys" not in tensors().manifest.body
    assert decode(VALID, model=MODEL).decoys.shape == (0, 5)


def test_awkward_numbers_survive_the_trip():
    patch = tensors(keys=1, d_in=5)
    numbers = torch.tensor([[-0.0, 1e-45, 3.4e38, 1 / 3, -1e-30]])

    again = decode(encode(replace(patch, keys=numbers)).payload, model=MODEL)

    assert torch.equal(again.keys.view(torch.int32), numbers.view(torch.int32))


def test_the_digest_is_of_the_bytes_and_the_same_every_time():
    first, second = encode(tensors()), encode(tensors())

    assert first.digest == second.digest == canonical.digest(first.payload)


def test_tensors_of_other_kinds_are_stored_as_float32():
    patch = tensors()
    wide = replace(patch, keys=patch.keys.double(), matchers=patch.matchers.T.contiguous().T)

    assert encode(wide).payload == VALID


@pytest.mark.parametrize("name", ["keys", "matchers", "residual"])
@pytest.mark.parametrize("value", [NAN, INFINITY, -INFINITY])
def test_a_number_that_is_not_finite_is_refused(name, value):
    spoilt = named()[name].clone()
    spoilt.view(-1)[-1] = value

    with pytest.raises(InvalidPatchError, match="NaN or infinity"):
        decode(payload({name: spoilt}), model=MODEL)


@pytest.mark.parametrize(
    "changes",
    [
        {"keys": torch.zeros(2, 4)},
        {"keys": torch.zeros(1, 5)},
        {"matchers": torch.zeros(5, 2)},
        {"residual": torch.zeros(1, 3)},
        {"residual": torch.zeros(0)},
        {"keys": torch.zeros(2, 5, dtype=torch.float64)},
        {"keys": torch.zeros(2, 5, dtype=torch.bfloat16)},
        {"residual": torch.zeros(3, dtype=torch.int32)},
        {"residual": torch.zeros(3, dtype=torch.complex64)},
        {"residual": None},
        {"matchers": None},
        {"extra": torch.zeros(1)},
        {"keys": None, "key": torch.zeros(2, 5)},
        {"decoys": torch.zeros(1, 5)},
    ],
    ids=str,
)
def test_other_tensors_shapes_and_kinds_than_the_manifest_names_are_refused(changes):
    with pytest.raises(InvalidPatchError):
        decode(payload(changes), model=MODEL)


@pytest.mark.parametrize(
    "manifest",
    [
        {"keys": 3},
        {"keys": 2.0},
        {"keys": "2"},
        {"keys": True},
        {"d_in": None},
        {"d_in": -5},
        {"layer": "1"},
        {"leverages": [1.5]},
        {"leverages": [1.5, 0.0]},
        {"leverages": [1.5, -1.0]},
        {"leverages": [1.5, NAN]},
        {"leverages": [1.5, "1"]},
        {"leverages": 7},
        {"guard_width": NAN},
        {"guard_width": INFINITY},
        {"guard_width": 0.0},
        {"guard_width": "wide"},
        {"guard_width": True},
        {"model_digest": 5},
        {"module": ["transformer"]},
        {"subject": None},
        {"optimisation": None},
        {"optimisation": {"steps": 1}},
        {"surprise": 1},
        {"decoys": ["Prado"]},
        {"decoys": 1},
        {"decoys": [None]},
    ],
    ids=str,
)
def test_a_manifest_that_makes_no_sense_is_refused(manifest):
    with pytest.raises(InvalidPatchError):
        decode(payload({}, **manifest), model=MODEL)


def test_a_patch_for_another_checkpoint_is_refused_by_name():
    with pytest.raises(ModelMismatchError) as refusal:
        decode(VALID, model=Digest("c" * 64))

    assert refusal.value.metadata == {"patch_model": MODEL, "model": "c" * 64}


@pytest.mark.parametrize("length", [2**60, 2**63, 2**64 - 1, len(VALID), len(VALID) - 7])
def test_a_header_that_claims_more_than_there_is_is_refused(length):
    with pytest.raises(InvalidPatchError):
        decode(struct.pack("<Q", length) + VALID[8:], model=MODEL)


def test_a_payload_without_manifest_is_refused():
    with pytest.raises(InvalidPatchError, match="no manifest"):
        decode(save(named()), model=MODEL)


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 9, 100, len(VALID) - 60, len(VALID) - 1])
def test_a_payload_cut_short_is_refused(keep):
    with pytest.raises(InvalidPatchError):
        decode(VALID[:keep], model=MODEL)


def test_bytes_behind_the_last_tensor_are_refused():
    with pytest.raises(InvalidPatchError):
        decode(VALID + b"\0\0\0\0", model=MODEL)


def test_a_deeply_nested_header_is_refused():
    with pytest.raises(InvalidPatchError):
        decode(with_header(b"[" * 200_000), model=MODEL)


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        ("U16", [6]),
        ("U32", [3]),
        ("F8_E4M3", [12]),
        ("F8_E8M0", [12]),  # safetensors reads these two, its torch side does not know them
        ("F4", [24]),
        ("ABC", [3]),
        ("", [3]),
        (3, [3]),
        (None, [3]),
    ],
)
def test_a_kind_of_number_we_do_not_read_is_refused(dtype, shape):
    header, rest = header_of(VALID)
    tensor = header["residual"]
    assert isinstance(tensor, dict)
    tensor |= {"dtype": dtype, "shape": shape}

    with pytest.raises(InvalidPatchError):
        decode(with_header(json.dumps(header).encode(), rest), model=MODEL)


@pytest.mark.parametrize("offsets", [[0, 2**63], [-1, 4], [4, 0], [0], "all", None])
def test_offsets_that_point_nowhere_are_refused(offsets):
    header, rest = header_of(VALID)
    header["residual"] = {"dtype": "F32", "shape": [3], "data_offsets": offsets}

    with pytest.raises(InvalidPatchError):
        decode(with_header(json.dumps(header).encode(), rest), model=MODEL)


@given(st.binary(max_size=400))
def test_random_bytes_are_refused_and_nothing_else(data):
    with pytest.raises(InvalidPatchError):
        decode(data, model=MODEL)


@given(st.binary(max_size=200))
def test_a_random_header_is_refused_and_nothing_else(header):
    with pytest.raises(InvalidPatchError):
        decode(with_header(header, VALID[-100:]), model=MODEL)


@given(
    st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), min_size=1, max_size=4)
)
def test_a_mutated_payload_is_refused_or_still_a_finite_patch(mutations):
    data = bytearray(VALID)
    for place, value in mutations:
        data[place] = value

    try:
        patch = decode(bytes(data), model=MODEL)
    except (InvalidPatchError, ModelMismatchError):
        return

    shapes = (tuple(patch.keys.shape), tuple(patch.matchers.shape), tuple(patch.residual.shape))
    assert shapes == ((2, 5), (2, 5), (3,))
    for tensor in (patch.keys, patch.matchers, patch.residual):
        assert torch.isfinite(tensor).all()
    assert 0 < patch.manifest.guard_width < math.inf


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@settings(max_examples=60)
@given(st.sampled_from(sorted(asdict(tensors().manifest))), JSON)
def test_any_json_in_a_manifests_field_is_refused_or_harmless(field, value):
    try:
        patch = decode(payload({}, **{field: value}), model=MODEL)
    except (InvalidPatchError, ModelMismatchError):
        return

    assert patch.manifest.keys == len(patch.keys) == len(patch.manifest.leverages)
    assert isinstance(patch.manifest.subject, str)
