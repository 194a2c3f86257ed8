"""Flatbuffers by schema, without files."""

import struct

import pytest

from llmconv.bmodel.flatbuffer import Decoder, Encoder, FlatbufferError, find
from llmconv.bmodel.schema import SCHEMA


def full(table: str = "Model", number: int = 1) -> dict:
    """A tree in which every field of every table is present."""
    values = {
        "str": f"text {number}",
        "u8": bytes([number, 2, 3]),
        "Binary": (number, 2**40),
        "RelEntry": (number, 2, 3),
    }
    values |= {"u32": 2**32 - number, "i32": -number, "u64": 2**64 - number, "f32": number / 4}
    tree = {}
    for name, kind in SCHEMA[table]:
        inner = kind.strip("[]")
        value = values[inner] if inner in values else full(inner, number + 1)
        tree[name] = value if kind[0] != "[" or inner == "u8" else [value, value]
    return tree


def encode(tree: dict) -> bytes:
    return Encoder().encode("Model", tree)


def least() -> dict:
    return {"type": "B", "version": "1", "time": "", "chip": "X", "net": [{"name": "n"}]}


def test_every_field_survives():
    assert Decoder(encode(full())).decode("Model") == full()


def test_empty_vectors_are_left_out_unless_they_must_be_there():
    assert Decoder(encode(least() | {"net": []})).decode("Model")["net"] == []
    assert Decoder(encode(least() | {"net": [{"name": "n", "parameter": []}]})).decode("Model")["net"] == [
        {"name": "n"}
    ]


def test_length_does_not_depend_on_numbers():
    tree = full()
    for _, holder, key in find("Binary", "Model", tree):
        holder[key] = (0, 0)
    assert len(encode(tree)) == len(encode(full()))


def test_find_names_what_it_finds():
    found = {where: holder[key] for where, holder, key in find("Binary", "Model", full())}
    assert found["Model.lib_backend"] == (1, 2**40)
    assert found["Model.net[1].parameter[0].sub_net[1].core_commands[0].hau_commands[1]"][1] == 2**40


@pytest.mark.parametrize("name", ["chip", "net"])
def test_missing_field(name: str):
    tree = least()
    del tree[name]
    with pytest.raises(FlatbufferError, match=f"Model lacks its {name}"):
        Decoder(encode(tree)).decode("Model")


def test_text_that_is_none():
    data = encode(least() | {"chip": "XYZ"}).replace(b"XYZ", b"\xff\xfe\xfd")
    with pytest.raises(FlatbufferError, match="Model.chip is no text"):
        Decoder(data).decode("Model")


def test_few_bytes_cannot_describe_endless_trees():
    """Vectors whose elements are all the same table: 3 levels of 1000 would be 10^9 tables."""
    shapes = [{"dim": [1]}] * 1000
    tensor = {"name": "t", "shape": shapes}
    tree = least() | {"net": [{"name": "n", "parameter": [{"input_tensor": [tensor], "output_tensor": []}]}]}
    data = bytearray(encode(tree))
    vector = data.find(struct.pack("<I", 1000))
    target = vector + 4 + struct.unpack_from("<I", data, vector + 4)[0]
    for number in range(1000):
        at = vector + 4 + 4 * number
        struct.pack_into("<I", data, at, target - at)
    assert Decoder(bytes(data)).decode("Model")["net"][0]["parameter"][0]["input_tensor"][0]["shape"] == shapes
    small = Decoder(bytes(data))
    small.budget = len(data)
    with pytest.raises(FlatbufferError, match="more data than the file holds"):
        small.decode("Model")
