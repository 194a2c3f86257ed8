"""GGUF files come to the nets of the checkpoints that they were made from."""

from __future__ import annotations

import json
from dataclasses import replace

import gguf
import numpy as np
import pytest
from fuzzing import cases
from gguf_files import permuted, write
from hypothesis import given
from hypothesis import strategies as st
from plans import planned
from quantised_graphs import exact, far

from llmconv.checkpoint import recipe
from llmconv.checkpoint.config import Config
from llmconv.checkpoint.files import Checkpoint
from llmconv.checkpoint.gguf.architectures import ARCHITECTURES
from llmconv.checkpoint.gguf.header import Tensor
from llmconv.checkpoint.gguf.values import Values
from llmconv.errors import InputError
from llmconv.numeric import from_bf16, to_bf16

NAMES = (
    "llama", "qwen2", "qwen2_tied", "qwen3", "qwen2_moe", "gemma3_text", "phi3", "phi3_longrope", "granite", "olmo2",
    "smollm3", "ernie4_5", "glm", "glm4", "glm4_plain",
)  # fmt: skip


def undone(kind: gguf.GGMLQuantizationType) -> bool:
    """Whether the gguf package that is installed knows the values of a type."""
    try:
        gguf.dequantize(np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), "u1"), kind)
    except NotImplementedError:
        return False
    return kind.name not in ("F32", "F16", "BF16")


UNDONE = [kind for kind in gguf.GGMLQuantizationType if undone(kind)]


@pytest.mark.parametrize("name", NAMES)
def test_nets_are_those_of_the_checkpoint(tmp_path, written, name):
    """The same tensors, to the bit, and the same programs."""
    model = written(name)
    made, wanted = planned(write(model, tmp_path / f"{name}.gguf", "BF16")), planned(model)
    assert made.checkpoint.tensors.keys() == wanted.checkpoint.tensors.keys()
    for tensor in wanted.checkpoint.tensors:
        # gemma's norms have had 1 added to them in float32
        ours, theirs = made.checkpoint.float32(tensor), wanted.checkpoint.float32(tensor)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-7 if name == "gemma3_text" else 0, err_msg=tensor)
    assert made.spec == wanted.spec
    assert [net.mlir for net in made.nets] == [net.mlir for net in wanted.nets]
    assert not list(made.checkpoint.path.glob("*.safetensors")), "nothing is unpacked"


@pytest.mark.parametrize(
    "name, kind",
    [("llama", "Q4_0"), ("qwen2", "Q8_0"), ("qwen3", "Q4_1"), ("qwen2_moe", "Q4_0"), ("gemma3_text", "Q5_0"),
     ("phi3", "Q8_0"), ("phi3_longrope", "Q5_1"), ("granite", "F16"), ("smollm3", "Q4_0"), ("ernie4_5", "Q8_0"),
     ("glm", "Q4_1"), ("glm4", "Q4_0"), ("glm4_plain", "Q8_0")],
)  # fmt: skip
def test_blocks_equal_the_class(tmp_path, written, name, kind):
    """Whose weights come from the gguf package alone."""
    exact(planned(write(written(name), tmp_path / "m.gguf", kind)))


@pytest.mark.parametrize("kind", ["BF16", "Q4_0", "Q5_0"])
def test_one_tensor_for_queries_keys_and_values(tmp_path, written, kind):
    """The same nets as from a file with a tensor for each, and the class's values; integers of its parts stay."""
    model = written("glm")
    one, three = (planned(write(model, tmp_path / f"{j}.gguf", kind, joined=j)) for j in (True, False))
    assert one.checkpoint.tensors.keys() == three.checkpoint.tensors.keys() and one.spec == three.spec
    for tensor in three.checkpoint.tensors:
        np.testing.assert_array_equal(one.checkpoint.raw(tensor), three.checkpoint.raw(tensor), err_msg=tensor)
    assert bool(one.spec.packed) == (kind == "Q4_0")
    exact(one)


def test_rows_that_heads_do_not_divide(tmp_path, written):
    file = write(written("glm"), tmp_path / "m.gguf", "F16", joined=True, chatglm__attention__head_count=5)
    with pytest.raises(
        InputError, match=r"blk.0.attn_qkv.(weight|bias) .* rows: they are those of 5 and twice 2 heads"
    ):
        planned(file)


@pytest.mark.parametrize(
    "name, mistake", [("llama", {"permuted": False}), ("qwen2", {"permuted": True}), ("gemma3_text", {"less": 0.0})]
)
def test_mistakes_are_found(tmp_path, written, name, mistake, monkeypatch):
    """Rows in another order, and norms with what llama.cpp adds: the class does not get its weights as the nets do."""
    known = ARCHITECTURES["gemma3" if name == "gemma3_text" else name]
    wrong = replace(known, names=replace(known.names, **mistake))
    monkeypatch.setitem(ARCHITECTURES, "gemma3" if name == "gemma3_text" else name, wrong)
    made = planned(write(written(name), tmp_path / "m.gguf", "Q8_0"))
    blocks = [net for net in made.nets if net.kind == "block_cache"]
    assert blocks and all(far(made, net) > 0.01 for net in blocks)


@pytest.mark.parametrize(
    "options", [{"quantize": "w4bf16", "q_group_size": 32}, {"quantize": "w8f16"}, {"quantize": "f16"}]
)
def test_other_bits_are_quantised_again(tmp_path, written, options):
    made = planned(write(written("qwen2"), tmp_path / "m.gguf", "Q5_0"), **options)
    assert made.job.quantize == options["quantize"] and not made.spec.stored
    exact(made, "block")


@pytest.mark.parametrize("kind", ["F32", "F16"])
def test_floats_are_those_of_the_checkpoint(tmp_path, written, kind):
    model = written("llama")
    made, theirs = planned(write(model, tmp_path / "m.gguf", kind)), Checkpoint.open(model)
    for tensor in theirs.tensors:
        wanted = theirs.float32(tensor)
        wanted = wanted.astype("f2").astype("f4") if kind == "F16" and wanted.ndim > 1 else wanted
        np.testing.assert_array_equal(made.checkpoint.float32(tensor), wanted, err_msg=tensor)
    assert made.config.dtype() == ("float16" if kind == "F16" else "bfloat16")
    dim = made.config["hidden_size"] // made.config["num_attention_heads"]
    assert made.config.rope(dim) == Config.read(model).rope(dim)


@pytest.mark.parametrize("kind, bits", [("Q4_0", 4), ("Q8_0", 8)])
def test_integers_stay(tmp_path, written, kind, bits):
    model = written("llama")
    made = planned(write(model, tmp_path / "m.gguf", kind))
    assert made.job.quantize == f"w{bits}bf16" and made.job.q_group_size == 32
    assert (
        f"the checkpoint is quantised with GGUF's {kind} ({bits} bits, groups of 32): its integers stay"
        in made.notes[0]
    )
    theirs = Checkpoint.open(model)
    for path, one in made.spec.stored.items():
        values, heads = theirs.float32(f"{path}.weight"), 0
        if path.endswith(("q_proj", "k_proj")):
            heads = made.config["num_attention_heads" if path.endswith("q_proj") else "num_key_value_heads"]
        rows = permuted(values, heads) if heads else values
        known = gguf.GGMLQuantizationType[kind]
        wanted = gguf.dequantize(gguf.quantize(rows, known), known)
        if heads:
            wanted = wanted.reshape(heads, -1, 2, wanted.shape[-1]).swapaxes(1, 2).reshape(wanted.shape)
        assert one.codes and one.group == 32
        np.testing.assert_array_equal(recipe.evaluate(one.values, made.checkpoint), wanted, err_msg=path)
    assert len(made.spec.stored) == 7 * made.config["num_hidden_layers"] + 1
    assert f"GGUF: {len(made.spec.stored)} tensors of {kind} with integers and scales as they are" in made.notes
    assert f"GGUF: 1 tensor of {kind}, dequantised to bf16" in made.notes, "the table of tokens"


def test_both_kinds_of_integers_stay(tmp_path, written):
    made = planned(write(written("qwen3"), tmp_path / "m.gguf", "Q4_0", but={"attn_v": "Q8_0", "output": "Q5_0"}))
    assert made.job.quantize == "w4bf16"
    bits = {path.rsplit(".", 1)[1]: one.bits for path, one in made.spec.stored.items()}
    assert bits["v_proj"] == 8 and bits["q_proj"] == 4 and "lm_head" not in bits
    exact(made)


def test_integers_of_a_few_layers_make_no_quantised_model(tmp_path, written):
    made = planned(write(written("qwen3"), tmp_path / "m.gguf", "Q4_1", but={"attn_v": "Q8_0"}))
    assert made.job.quantize == "bf16" and not made.spec.stored
    assert any("Q8_0, dequantised to bf16" in note for note in made.notes)


@pytest.mark.parametrize("kind", ["Q4_1", "Q5_0", "Q5_1"])
def test_others_are_dequantised(tmp_path, written, kind):
    model = written("qwen2")
    made = planned(write(model, tmp_path / "m.gguf", kind))
    assert made.job.quantize == "bf16" and any(f"{kind}, dequantised to bf16" in note for note in made.notes)
    known, theirs = gguf.GGMLQuantizationType[kind], Checkpoint.open(model)
    for name, info in theirs.tensors.items():
        if len(info.shape) == 2:
            wanted = gguf.dequantize(gguf.quantize(theirs.float32(name), known), known)
            np.testing.assert_array_equal(made.checkpoint.float32(name), from_bf16(to_bf16(wanted)), err_msg=name)


@cases(60)
@given(
    kind=st.sampled_from(UNDONE), seed=st.integers(0, 1 << 30), heads=st.sampled_from([0, 1, 2, 3]),
    part=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)  # fmt: skip
def test_any_part_is_that_of_the_whole(tmp_path_factory, kind, seed, heads, part):
    """Every type's values, read from any element to any other, are those that the gguf package makes of the whole."""
    rng, (size, nbytes) = np.random.default_rng(seed), gguf.GGML_QUANT_SIZES[kind]
    rows, blocks, first = 12, int(rng.integers(1, 4)), 3
    data = rng.integers(0, 256, (first + rows + 1, blocks * nbytes), "u1")
    file = tmp_path_factory.mktemp("values") / "data"
    file.write_bytes(b"head" + data.tobytes())
    tensor = Tensor("x", file, 4, kind.name, (len(data), blocks * size), (size, nbytes))
    with np.errstate(all="ignore"):
        whole = gguf.dequantize(data[first : first + rows], kind)
    if heads:
        whole = whole.reshape(heads, rows // heads // 2, 2, -1).swapaxes(1, 2)
    bits = to_bf16(whole.reshape(-1))
    start, end = sorted(int(share * bits.size) for share in part)
    found = Values(tensor, first, rows, heads=heads).read(start, end - start)
    np.testing.assert_array_equal(found, bits[start:end])


def test_tokens_and_template(tmp_path, written):
    folder = planned(write(written("qwen3"), tmp_path / "m.gguf", "F16")).checkpoint.path
    assert json.loads((folder / "generation_config.json").read_text()) == {"eos_token_id": 3}
    tokens = json.loads((folder / "tokenizer_config.json").read_text())
    assert tokens["eos_token"] == "t3" and tokens["chat_template"] == "{{ messages }}"


@pytest.mark.parametrize("parts", [2, 5])
def test_parts(tmp_path, written, parts):
    model = written("qwen2")
    made, whole = (planned(write(model, tmp_path / f"{n}.gguf", "Q8_0", n)) for n in (parts, 1))
    assert [shard.name for shard in made.checkpoint.shards][-1] == f"{parts}-{parts:05}-of-{parts:05}.gguf"
    assert made.folder.startswith(f"{parts}_w8bf16") and made.notes == whole.notes
    for name in whole.checkpoint.tensors:
        assert made.checkpoint.raw(name).tobytes() == whole.checkpoint.raw(name).tobytes(), name
