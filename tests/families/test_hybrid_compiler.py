"""What the compiler makes of layers that keep states of a fixed size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_families_graph import planned

from llmconv.bmodel.read import BModel
from llmconv.checkpoint import recipe
from llmconv.toolchain import jit
from llmconv.toolchain.fetch import obtain
from llmconv.toolchain.tpuc_opt import compile_mlir
from llmconv.user_cache import cache_dir

pytestmark = [pytest.mark.compiler]


def test_prefill_and_decode_have_one_set_of_coefficients(family_checkpoint, tmp_path):
    """Triangles and first zeros of prefill are in decode too, where nothing reads them, and the two shapes of the
    convolution's kernel are the same bytes: a .bmodel stores them once."""
    made, tools, found = planned(family_checkpoint("qwen3_5"), 128, chip="cv186x"), obtain(), {}
    kernels = jit.kernels(cache_dir(), tools.version, tools.digest)
    for net in made.nets:
        if net.name in ("block_0", "block_cache_0"):
            place = tmp_path / net.name
            place.mkdir()
            (place / "net.mlir").write_text(net.mlir)
            weights = {w.name: recipe.evaluate(w.recipe, made.checkpoint).reshape(w.shape) for w in net.weights}
            np.savez(place / "weights.npz", **weights)
            out = place / "net.bmodel"
            flags = replace(net.flags, num_core=1)
            compile_mlir(tools, place / "net.mlir", flags, out, place / "run", place / "log", kernels)
            found[net.name] = BModel.read(out).nets[0].stages[0]
    assert found["block_0"].coeff_sha256 == found["block_cache_0"].coeff_sha256
    assert [at.size for at in found["block_0"].locations] == [at.size for at in found["block_cache_0"].locations]
