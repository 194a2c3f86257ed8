"""Models with as many heads of keys as of queries, quantised, on two cores: the compiler cuts one of q, k and v in two,
and gives the memory of halves that are an output away too early (llmconv.blocks.attention)."""

from __future__ import annotations

import pytest
from plans import planned
from verify_helpers import verify

from llmconv.blocks import attention
from llmconv.compile.compiler import Compiler
from llmconv.compile.records import Workplace
from llmconv.errors import ToolError

SEQ, HEADS = 64, {"num_key_value_heads": 4}
# with a window, with norms of q and k and none before them, and with neither
NAMES = ("phi3", "mistral", "olmo2", "ernie4_5")
SCHEMES = {
    "": {},
    "any length": {"dynamic": 1},
    "mask-free": {"use_history_kv": 1, "chunk_length": 24},
    "history": {"use_block_with_kv": 1, "max_input_length": 32},
    "shared prompt": {"share_prompt": 1, "max_input_length": 24, "max_prefill_kv_length": 40},
    "two sequences": {"batch": 2},
    "adapters": {"lora_max_rank": 8},
}
slow = pytest.mark.slow


@pytest.mark.compiler
@pytest.mark.simulator
@pytest.mark.parametrize("name", ["olmo2", *(pytest.param(name, marks=slow) for name in NAMES if name != "olmo2")])
@pytest.mark.parametrize("quantize", ["w8bf16", pytest.param("w4bf16", marks=slow), pytest.param("w4f16", marks=slow)])
@pytest.mark.parametrize("scheme", ["", *(pytest.param(one, marks=slow) for one in SCHEMES if one)])
def test_decode_is_right(name, quantize, scheme, family_checkpoint, convert):
    model = family_checkpoint(name, **HEADS)
    out = convert(model, seq=SEQ, chip="bm1688", quantize=quantize, **SCHEMES[scheme])
    assert (
        verify(out, full=True, tokens=8) if scheme else verify(out, nets=["block_0", "block_cache_0", "block_cache_1"])
    )


@pytest.mark.parametrize(
    "copied, heads, options",
    [
        (True, 4, {"quantize": "w8bf16"}),
        (True, 4, {"quantize": "w4f16", "use_history_kv": 1}),
        (False, 2, {"quantize": "w8bf16"}),
        (False, 4, {"quantize": "bf16"}),
        (False, 4, {"quantize": "w8bf16", "num_core": 1}),
        (False, 4, {"quantize": "w8bf16", "batch": 2}),
        (False, 4, {"quantize": "w8bf16", "chip": "bm1684x"}),
    ],
)
def test_nothing_is_copied_but_there(copied, heads, options, family_checkpoint):
    """Everywhere else the nets are the vendor's."""
    plan = planned(family_checkpoint("olmo2", num_key_value_heads=heads), SEQ, **{"chip": "bm1688"} | options)
    for net in plan.nets:
        kinds = [op.kind for op in net.graph.ops if any(value.name == "v_cache" for value in op.results)]
        assert kinds == (["MulConst"] if copied and net.kind == "block_cache" else ["Reshape"]) or not kinds
    assert any(net.kind == "block_cache" for net in plan.nets)


@pytest.mark.compiler
def test_the_compiler_is_caught(family_checkpoint, monkeypatch, tmp_path):
    """OLMo 2 with as many heads of keys as of queries, without what attention does about it."""
    monkeypatch.setattr(attention, "_apart", lambda *_: False)
    made = planned(family_checkpoint("olmo2", num_key_value_heads=4), quantize="w8bf16", chip="bm1688")
    found = next(one for one in made.nets if one.name == "block_cache_0")
    compiler = Compiler(found.flags, made.checkpoint, Workplace(tmp_path / "place", tmp_path / "log"))
    with pytest.raises(ToolError, match=r"writes .*q_norm over what .*v_proj still reads.*Use --num_core 1"):
        compiler.run("block_cache_0", found.mlir, found.weights)
