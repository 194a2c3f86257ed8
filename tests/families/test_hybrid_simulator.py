"""Nets of layers that keep states of a fixed size on the chip simulator, against transformers' own class."""

from __future__ import annotations

import numpy as np
import pytest
import qwen3_5_family
from test_families_graph import far, planned

from llmconv import toolchain
from llmconv.checkpoint import recipe
from llmconv.plan import settle
from llmconv.simulator.client import Simulator
from llmconv.verify import launches as nets
from llmconv.verify import state
from llmconv.verify.reference import Reference
from llmconv.verify.weights import Precision

pytestmark = [pytest.mark.compiler, pytest.mark.simulator]
CHIP = "cv186x"
LIMIT = 0.0125  # relative L2; what bf16 costs torch in this layer is 0.0084


@pytest.fixture(scope="module")
def compiled(family_checkpoint, tmp_path_factory):
    """A function that gives a net and its .bmodel by name, the class with weights as the chip has them, and the tools."""
    tools, place = toolchain.obtain(), tmp_path_factory.mktemp("hybrid")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settle, "family_of", lambda _: qwen3_5_family.family)
        made = planned(family_checkpoint("qwen3_5"), 128, chip=CHIP)
    kernels = toolchain.kernels(toolchain.cache_dir(), tools.version, tools.digest)
    by_name = {net.name: net for net in made.nets}

    def compiled(name):
        net, folder = by_name[name], place / name
        folder.mkdir(exist_ok=True)
        if not (out := folder / "net.bmodel").exists():
            (folder / "net.mlir").write_text(net.mlir)
            weights = {w.name: recipe.evaluate(w.recipe, made.checkpoint).reshape(w.shape) for w in net.weights}
            np.savez(folder / "weights.npz", **weights)
            toolchain.compile_mlir(tools, folder / "net.mlir", net.flags, out, folder / "run", folder / "log", kernels)
        return net, out

    return compiled, Reference(made, Precision.of(made)), tools


def launched(simulator, launch):
    """The outputs, and the states that the net has written over its inputs."""
    (name,) = simulator.nets
    return simulator.run(name, launch.inputs, state.written(launch.net))


def errors(reference, launch, found):
    right = nets.EXPECTED[launch.net.kind](reference, launch)
    found = nets.results(launch, found)
    return {name: far(found[name], right[name]) for name in right}


def test_prompts_and_tokens_behind_them(compiled):
    """Prompts shorter than the convolution and around the rule's chunks; decode goes on from the states that each
    leaves, and updates them where they are. A state that was lost is seen."""
    make, reference, tools = compiled
    rng, left = np.random.default_rng(0), {}
    net, file = make("block_0")
    with Simulator(file, CHIP, tools.root) as simulator:
        for count in (1, 2, 3, 4, 5, 63, 64, 65, 127, 128):
            launch = nets.step(net, rng.standard_normal((1, count, 256)).astype(np.float32), count)
            found = launched(simulator, launch)
            assert max(errors(reference, launch, found).values()) < LIMIT, count
            left[count] = state.made(net, found)
    net, file = make("block_cache_0")
    with Simulator(file, CHIP, tools.root) as simulator:
        for count in (1, 3, 65):
            kept = left[count]
            for past in (count, count + 1):
                hidden = rng.standard_normal((1, 1, 256)).astype(np.float32)
                launch = nets.step(net, hidden, 1, past, kept)
                found = launched(simulator, launch)
                assert max(errors(reference, launch, found).values()) < LIMIT, (count, past)
                kept = state.made(net, found)
            for lost in ("conv", "recurrent"):
                stale = nets.step(net, hidden, 1, past, kept | {lost: 0 * kept[lost]})
                right = nets.step(net, hidden, 1, past, kept)
                assert max(errors(reference, right, launched(simulator, stale)).values()) > 2 * LIMIT, lost
