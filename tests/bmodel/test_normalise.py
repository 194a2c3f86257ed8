"""The same net gives the same bytes, whatever was in memory when it was compiled."""

from __future__ import annotations

import pytest
from plans import planned

from llmconv.bmodel.normalise import EPOCH, normalise
from llmconv.bmodel.read import BModel
from llmconv.checkpoint import npz
from llmconv.toolchain import jit
from llmconv.toolchain.tpuc_opt import compile_mlir
from llmconv.user_cache import cache_dir


@pytest.mark.compiler
@pytest.mark.parametrize("model, chip", [("qwen2_vl", "bm1684x"), ("qwen2_5_vl", "bm1688")])
def test_what_memory_held_is_cleared(model, chip, compiler, llmconv_env, vision_checkpoint, tmp_path, monkeypatch):
    """A dynamic net of many groups of operations, compiled while fresh memory is filled with this number and with
    that."""
    made = planned(vision_checkpoint(model), chip=chip, max_pixels="112,224", dynamic=1)
    net = next(n for n in made.nets if n.name == "vit")
    mlir, files = tmp_path / "vit.mlir", []
    mlir.write_text(net.mlir)
    npz.write(tmp_path / "weights.npz", net.weights, made.checkpoint)
    kernels = jit.kernels(cache_dir(), compiler.version, compiler.digest)
    for pattern in (1, 200, 3, 150):  # four: a byte that is random is the same twice now and then
        monkeypatch.setenv("MALLOC_PERTURB_", str(pattern))  # of glibc
        files.append(tmp_path / f"{pattern}.bmodel")
        compile_mlir(compiler, mlir, net.flags, files[-1], tmp_path / f"run{pattern}", tmp_path / "log", kernels)
    raw = [file.read_bytes() for file in files]
    for file in files:
        normalise(file)
    model, cleared = BModel.read(files[0]), {file.read_bytes() for file in files}
    start, size = model.tree["net"][0]["parameter"][0]["binary_ir"]
    program = range(model.base + start, model.base + start + size)
    differ = {at for at in program if len({one[at] for one in raw}) > 1}
    assert differ and len(cleared) == 1 and model.tree["time"] == EPOCH.decode()
    (same,) = cleared
    assert differ == {at for at in program if any(one[at] != same[at] for one in raw)}, "nothing else is touched"
