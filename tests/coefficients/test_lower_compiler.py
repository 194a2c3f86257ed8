"""Byte for byte what the real compiler stores."""

import dataclasses

import numpy as np
import pytest
from checkpoints import make
from lower_samples import checkpoint_of, linears, ours, packed

from llmconv.blocks import heads
from llmconv.blocks.decoder import block
from llmconv.blocks.mixer import Step
from llmconv.checkpoint.config import Config
from llmconv.families import family_of
from llmconv.top.graph import Graph

pytestmark = pytest.mark.compiler

CHIPS = [("bm1684x", 1), ("bm1688", 1), ("bm1688", 2), ("cv186x", 1)]
MODES = ["BF16", "F16", "W4BF16", "W4F16", "W8BF16", "W8F16"]


def equal(compile_net, graph, checkpoint, arrays=None, **flags):
    data, table, flags = compile_net(graph, checkpoint, arrays, **flags)
    blob = ours(graph, checkpoint, flags, table)
    got = b"".join(blob.parts())
    if got == data:
        return
    wrong = (
        np.flatnonzero(np.frombuffer(got, np.uint8) != np.frombuffer(data, np.uint8)) if len(got) == len(data) else []
    )
    names = {p.name for p in blob.pieces for at in wrong[:1000] if p.offset <= at < p.offset + p.stored}
    pytest.fail(f"{len(got)} bytes for {len(data)}, {len(wrong)} differ, in {sorted(names)}")


# checkpoint type -> group size, symmetric; and N: a multiple of the lanes, or not, or below them; K: a multiple of the
# group, or not
GROUPS = {"BF16": (64, False), "F16": (128, True), "F32": (32, False)}
SIZES = ((256, 256), (512, 200), (256, 20), (320, 128), (200, 128))


@pytest.mark.parametrize(("chip", "cores"), CHIPS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", GROUPS)
def test_linear(compile_net, tmp_path, chip, cores, mode, dtype):
    g = linears(*SIZES)
    group, symmetric = GROUPS[dtype] if mode.startswith("W") else (0, False)
    equal(
        compile_net,
        g,
        checkpoint_of(g, tmp_path, dtype),
        chip=chip,
        num_core=cores,
        mode=mode,
        q_group_size=group,
        q_symmetric=symmetric,
    )


@pytest.mark.parametrize(("chip", "cores"), CHIPS)
@pytest.mark.parametrize("mode", ["W8BF16", "W8F16"])
def test_linear_per_channel(compile_net, tmp_path, chip, cores, mode):
    g = linears((512, 128), (384, 256))
    equal(compile_net, g, checkpoint_of(g, tmp_path, "BF16"), chip=chip, num_core=cores, mode=mode)


@pytest.mark.parametrize(("chip", "cores"), CHIPS)
@pytest.mark.parametrize("mode", ["W4BF16", "W8F16"])
@pytest.mark.parametrize(("k", "n", "group"), [(256, 512, 64), (384, 384, 0), (256, 200, 128)])
def test_linear_already_quantised(compile_net, tmp_path, chip, cores, mode, k, n, group):
    g, checkpoint, arrays = packed(k, n, int(mode[1]), group, tmp_path)
    equal(compile_net, g, checkpoint, arrays, chip=chip, num_core=cores, mode=mode, q_group_size=group)


@pytest.fixture(scope="module")
def specs(tmp_path_factory):
    """Sizes of tiny models, and of one (with biases) whose sizes are no multiples of the lanes."""
    found = {}
    for name in ("qwen2", "qwen3", "llama"):
        config = Config.read(make(tmp_path_factory.mktemp("models"), name))
        found[name] = family_of(config["model_type"]).spec(config)
    odd = dataclasses.replace(found["qwen2"], hidden=320, heads=5, kv_heads=5, intermediate=1000)
    return found | {"odd": odd}


STEPS = {
    "prefill": (0, Step(64, 128), {}),
    "dynamic": (0, Step(64, 128), {"dynamic": True}),
    "decode": (1, Step(1, 128, 128, decode=True), {"addr_mode": "io_alone"}),
}


@pytest.mark.parametrize(("chip", "cores"), CHIPS)
@pytest.mark.parametrize("model", ["qwen3", "odd"])
@pytest.mark.parametrize("mode", ["BF16", "W4BF16"])
def test_block(compile_net, tmp_path, specs, chip, cores, model, mode):
    for name, (layer, step, flags) in STEPS.items():
        g = block(f"block_{layer}", specs[model], layer, step)
        checkpoint = checkpoint_of(g, tmp_path / name, "BF16")
        equal(
            compile_net,
            g,
            checkpoint,
            chip=chip,
            num_core=cores,
            mode=mode,
            q_group_size=64 if mode[0] == "W" else 0,
            **flags,
        )


@pytest.mark.parametrize(("chip", "cores", "tile"), [("bm1684x", 1, 256), ("bm1688", 2, 128)])
@pytest.mark.parametrize("mode", ["F16", "W8F16"])
def test_block_with_adapters_and_a_constant_mask(compile_net, tmp_path, specs, chip, cores, tile, mode):
    for name, (_, step, flags) in STEPS.items():
        step = dataclasses.replace(step, mask_tile=tile if name != "prefill" else 0)
        g = block("block_0", specs["llama"], 0, step, 8)
        checkpoint = checkpoint_of(g, tmp_path / name, "F16")
        equal(
            compile_net,
            g,
            checkpoint,
            chip=chip,
            num_core=cores,
            mode=mode,
            q_group_size=64 if mode[0] == "W" else 0,
            **flags,
        )


@pytest.mark.parametrize(("chip", "cores"), CHIPS)
@pytest.mark.parametrize(("mode", "declared"), [("BF16", "f32"), ("BF16", "bf16"), ("F16", "f32")])
@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_tables(compile_net, tmp_path, specs, chip, cores, mode, declared, dtype):
    spec = specs["qwen2"]
    for g in (heads.embedding("embedding", spec, 16, declared), heads.lm_head(spec, declared)):
        equal(
            compile_net,
            g,
            checkpoint_of(g, tmp_path / g.name, dtype),
            chip=chip,
            num_core=cores,
            mode=mode,
            quant_output=g.name == "embedding",
        )


@pytest.mark.parametrize(("chip", "cores"), CHIPS)
@pytest.mark.parametrize("mode", ["BF16", "W4F16"])
def test_norm_weights_that_stay_float(compile_net, tmp_path, chip, cores, mode):
    g = Graph("net")
    w = g.weight("w", (1, 1, 256), ("add", ("tensor", "w"), 1.0))
    g.output(g.RMSNorm(g.input("x", (1, 8, 256)), w, eps=1e-6, weight_keep_f32=True, name="n"))
    equal(compile_net, g, checkpoint_of(g, tmp_path, "BF16"), chip=chip, num_core=cores, mode=mode)
