"""Files that are damaged, or that say what llmconv does not know, end in one sentence; nothing is written then."""

from __future__ import annotations

import shutil
import struct
import sys
from pathlib import Path

import pytest
from fuzzing import cases
from gguf_files import write
from hypothesis import given
from hypothesis import strategies as st
from plans import planned, refused

from llmconv.cli.main import main
from llmconv.errors import InputError
from llmconv.extras import GGUF


def _head(tensors: int = 0, entries: int = 0, magic: bytes = b"GGUF", version: int = 3, rest: bytes = b"") -> bytes:
    return magic + struct.pack("<IQQ", version, tensors, entries) + rest


def _entry(key: bytes, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(key)) + key + struct.pack("<I", kind) + value


def _listed(name: bytes, kind: int, side: int = 32, at: int = 0) -> bytes:
    return struct.pack("<Q", len(name)) + name + struct.pack("<IQIQ", 1, side, kind, at)


ARCH = _entry(b"general.architecture", 8, struct.pack("<Q", 5) + b"llama")
HOSTILE = {
    "empty": (b"", "header claims"),
    "magic": (_head(magic=b"GGML"), "begin with GGUF"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "version": (_head(version=9), "version 9"),
    "tensors": (_head(tensors=1 << 60), "tensors"),
    "entries": (_head(entries=1 << 60), "entries"),
    "key": (_head(entries=1, rest=struct.pack("<Q", 1 << 62)), "name of"),
    "array": (_head(entries=1, rest=_entry(b"a", 9, struct.pack("<IQ", 8, 1 << 50))), "values"),
    "numbers": (_head(entries=1, rest=_entry(b"a", 9, struct.pack("<IQ", 4, 1 << 61))), "values"),
    "nested": (_head(entries=1, rest=_entry(b"a", 9, struct.pack("<IQIQ", 9, 1, 9, 1))), "unknown type"),
    "kind": (_head(entries=1, rest=_entry(b"a", 77, b"")), "unknown type 77"),
    "twice": (_head(entries=2, rest=2 * _entry(b"a", 0, b"\x01")), "a twice"),
    "alignment": (_head(entries=1, rest=_entry(b"general.alignment", 4, struct.pack("<I", 3))), "alignment is 3"),
    "slash": (_head(tensors=1, rest=_listed(b"../x", 0)), "of the name"),
    "tensor kind": (_head(tensors=1, rest=_listed(b"x", 999)), "unknown type 999"),
    "size": (_head(tensors=1, rest=_listed(b"x", 0, 1 << 39)), "truncated"),
    "side": (_head(tensors=1, rest=_listed(b"x", 2, 33)), "cannot have the shape"),
    "place": (_head(tensors=1, rest=_listed(b"x", 0, 1, at=7) + bytes(200)), "no multiple of 32"),
    "overlap": (_head(tensors=2, rest=_listed(b"x", 0) + _listed(b"y", 0) + bytes(400)), "overlap"),
    "one name": (_head(tensors=2, rest=_listed(b"x", 0) + _listed(b"x", 0, at=128) + bytes(400)), "two tensors"),
    "a vocabulary": (_head(entries=1, rest=ARCH), "has no tensors"),
    "architecture": (_head(tensors=1, rest=_listed(b"x", 0) + bytes(400)), "architecture None"),
    "a type without values": (_head(1, 1, rest=ARCH + _listed(b"output_norm.weight", 24) + bytes(400)), "type I8"),
    "another tensor": (_head(1, 1, rest=ARCH + _listed(b"mm.0.weight", 0) + bytes(400)), "does not know it"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_end_in_a_sentence(tmp_path, case):
    content, why = HOSTILE[case]
    file = tmp_path / "m.gguf"
    file.write_bytes(content)
    assert why in refused(file)
    assert not (tmp_path / "cache" / "gguf").exists()


def test_what_is_no_file(tmp_path):
    assert "it is not there" in refused(tmp_path / "m.gguf")
    assert "it is not there" in refused("models/nope.gguf", out=tmp_path), "and no model of the hub"
    (tmp_path / "d.gguf").mkdir()
    assert "no config.json" in refused(tmp_path / "d.gguf")


def test_a_directory_of_others_names_no_file(tmp_path, written):
    """gguf.json counts in llmconv's own cache alone: a model directory has no say in what is read outside it."""
    file = write(written("qwen2"), tmp_path / "m.gguf", "F16")
    theirs = shutil.copytree(planned(file).checkpoint.path, tmp_path / "theirs")
    assert (theirs / "gguf.json").is_file() and "holds no *.safetensors file" in refused(theirs)


def test_truncated_anywhere(tmp_path, written):
    file = write(written("qwen3"), tmp_path / "m.gguf", "F16")
    whole = file.read_bytes()
    for size in (*range(0, 400, 7), len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        refused(file)


def test_exit_code(tmp_path, capsys):
    file = tmp_path / "m.gguf"
    file.write_bytes(b"GGUF")
    assert main(["convert", "-m", str(file), "-s", "64", "-o", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith(f"ERROR: {file} is not a whole GGUF file")


# key of the metadata -> its value, and words of the sentence
KEYS = {
    "general.architecture": ("glm4moe", "is of the architecture glm4moe: llmconv reads GGUF files of llama, qwen2,"),
    "qwen2.attention.head_count": (None, "lacks the key qwen2.attention.head_count"),
    "qwen2.embedding_length": (0, "qwen2.embedding_length in {file} is 0"),
    "qwen2.block_count": ("two", "qwen2.block_count in {file} is two"),
    "qwen2.attention.sliding_window": (7, "has qwen2.attention.sliding_window 7"),
    "qwen2.attention.clamp_kqv": (2.0, "has qwen2.attention.clamp_kqv 2.0"),
    "qwen2.expert_count": (4, "has qwen2.expert_count 4"),
    "qwen2.rope.dimension_count": (8, "rope.dimension_count in {file} is 8"),
    "qwen2.attention.value_length": (8, "attention.value_length in {file} is 8"),
    "qwen2.rope.scaling.type": ("su", "rope.scaling.type su"),
    "qwen2.attention.layer_norm_rms_epsilon": ("x", "rms_norm_eps in"),
    "qwen2.attention.head_count_kv": (3, "num_key_value_heads"),
}


@pytest.mark.parametrize("key", KEYS)
def test_what_the_metadata_may_not_say(tmp_path, written, key):
    value, words = KEYS[key]
    file = write(written("qwen2"), tmp_path / "m.gguf", "F16", **{key: value})
    assert words.format(file=file) in refused(file)


def test_an_olmo_3_is_no_olmo_2(tmp_path, written):
    """llama.cpp has both under one name; the one with windows is another model."""
    file = write(written("olmo2"), tmp_path / "m.gguf", "F16", **{"olmo2.attention.sliding_window": 4096})
    assert "olmo2.attention.sliding_window 4096" in refused(file)


def test_the_language_model_of_one_that_sees_is_no_glm_4(tmp_path, written):
    """llama.cpp has GLM-4.1V's under the same name, with other rows of q and k, and three positions for every token."""
    file = write(written("glm4"), tmp_path / "m.gguf", "F16", **{"glm4.rope.dimension_sections": [8, 12, 12, 0]})
    assert "has glm4.rope.dimension_sections [8, 12, 12, 0]: llmconv does not know it" in refused(file)


def test_a_llama_with_other_frequencies(tmp_path, written):
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    model = written("llama", rope_scaling=scaling | {"original_max_position_embeddings": 4096})
    assert "not that of a published Llama 3" in refused(write(model, tmp_path / "m.gguf", "F16"))


def test_parts_that_do_not_belong_together(tmp_path, written):
    first = write(written("qwen2"), tmp_path / "m.gguf", "F16", 3)
    second, third = (tmp_path / f"m-0000{n}-of-00003.gguf" for n in (2, 3))
    assert "is not the first part" in refused(second)
    kept = third.read_bytes()
    third.unlink()
    assert f"{third} is not there" in refused(first)
    third.write_bytes(second.read_bytes())
    assert "part 1 of 3, counted from 0" in refused(first)
    third.write_bytes(kept)
    assert planned(first).nets


def test_without_the_package(tmp_path, written, monkeypatch):
    file = write(written("qwen2"), tmp_path / "m.gguf", "F16")
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert refused(file) == f"{file.name} is a GGUF file: gguf is not installed. Run `{GGUF.command}`."


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> bytes:
    """A small file whose header is a large part of it."""
    from checkpoints import make

    place = tmp_path_factory.mktemp("sound")
    model = make(place, "qwen2", vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=1,
                 num_attention_heads=2, num_key_value_heads=1)  # fmt: skip
    return write(model, place / "m.gguf", "Q8_0").read_bytes()


@cases(150)
@given(data=st.data())
def test_damage_anywhere_in_the_header(tmp_path_factory, sound, data):
    """A plan, or one sentence."""
    file, content = tmp_path_factory.mktemp("damage") / "m.gguf", bytearray(sound)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(4, 6000))
        new = data.draw(st.binary(min_size=1, max_size=9))
        content[at : at + len(new)] = new
    file.write_bytes(content)
    _read(file)


@cases(40)
@given(keep=st.integers(0, 60_000), behind=st.binary(max_size=40))
def test_cut_and_padded(tmp_path_factory, sound, keep, behind):
    file = tmp_path_factory.mktemp("cut") / "m.gguf"
    file.write_bytes(sound[:keep] + behind)
    _read(file)


def _read(file: Path) -> None:
    try:
        made = planned(file)
        for net in made.nets:
            for name in net.tensors:
                made.checkpoint.raw(name)
    except InputError as error:
        assert str(error).isprintable() and error.what
