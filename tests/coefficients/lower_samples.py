"""What the tests of lower share: checkpoints made of arrays, small nets, and what the real compiler makes of them."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np

from llmconv.bmodel.read import BModel
from llmconv.checkpoint import npz
from llmconv.checkpoint.files import Checkpoint
from llmconv.checkpoint.recipe import names
from llmconv.coefficients.blob import Blob, coefficients
from llmconv.coefficients.roles import roles
from llmconv.plan.exported import Exported
from llmconv.toolchain.flags import CompileFlags
from llmconv.top.graph import Graph, Weight
from llmconv.top.text import render

NUMPY = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32, "U8": np.uint8}


def bf16(values: np.ndarray) -> np.ndarray:
    """Nearest even, as bits."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def save(path: Path, tensors: dict[str, tuple[str, np.ndarray]]) -> Checkpoint:
    """A checkpoint of (safetensors dtype, array) tensors."""
    path.mkdir(parents=True, exist_ok=True)
    header, offset = {}, 0
    for name, (dtype, array) in tensors.items():
        assert array.dtype == NUMPY[dtype]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header).encode()
    with open(path / "model.safetensors", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for _, array in tensors.values():
            f.write(array.tobytes())
    return Checkpoint.open(path)


def draw(shape: tuple[int, ...], dtype: str, seed: int) -> np.ndarray:
    """Weights with the cases that rounding and quantisation stumble over: zeros, ties, one sign, tiny, huge, constant
    rows."""
    x = (np.random.default_rng(seed).standard_normal(shape) * 0.05).astype(np.float32)
    rows = x if len(shape) > 1 and shape[0] > 12 else None
    if rows is not None:
        rows[3], rows[5], rows[6], rows[10] = 0, abs(rows[5]), -abs(rows[6]) - 1, 3.5
        rows[4] *= 1e-5
        rows[7] = np.round(rows[7] * 100) / 2
        rows[8] *= 1e3
        rows[9, :64] = 0
    elif x.size > 8:
        x.reshape(-1)[3:7] = 0, -0.0, 1e-6, 6e4
        if dtype != "F16":
            x.reshape(-1)[5:8] = 1e-39, 7e4, 3.4e38
    return bf16(x) if dtype == "BF16" else x.astype(NUMPY[dtype])


def checkpoint_of(graph: Graph, path: Path, dtype: str) -> Checkpoint:
    """A checkpoint with every tensor that the graph's weights are made of."""
    tensors = {}
    for seed, weight in enumerate(graph.weights.values()):
        for name in names(weight.recipe):
            shape = weight.shape
            if weight.recipe[0] == "transpose":
                shape = shape[::-1]
            elif len(shape) == 3:  # biases and norms are declared with leading ones
                shape = shape[-1:]
            tensors[name] = (dtype, draw(shape, dtype, seed))
    return save(path, tensors)


def linears(*sizes: tuple[int, int], bias: bool = True) -> Graph:
    """x_i [1, 8, K] -> x_i W_i + b_i for every (K, N)."""
    g = Graph("net")
    found = []
    for i, (k, n) in enumerate(sizes):
        name = f"m.{i}.p"
        x = g.input(f"x{i}", (1, 8, k))
        b = g.weight(f"{name}.bias", (1, 1, n), ("tensor", f"{name}.bias")) if bias else g.none
        w = g.weight(f"{name}.weight", (k, n), ("transpose", ("tensor", f"{name}.weight")))
        found.append(g.MatMul(x, w, b, name=name))
    return g.output(*found)


def packed(k: int, n: int, bits: int, group: int, path: Path) -> tuple[Graph, Checkpoint, dict[str, np.ndarray]]:
    """The same with weights that the checkpoint has quantised already: net, checkpoint and the arrays for the
    compiler."""
    rng, groups = np.random.default_rng(k + n), k // group if group else 1
    arrays = {
        "m.0.p.qweight": rng.integers(0, 256, (n, k * bits // 8), dtype=np.uint8),
        "m.0.p.scales": (rng.standard_normal((n, groups)) * 0.01).astype(np.float32),
        "m.0.p.qzeros": rng.integers(0, 1 << bits, (n, groups), dtype=np.uint8),
        "m.0.p.bias": rng.standard_normal(n).astype(np.float32),
    }
    arrays["m.0.p.scales"][:3, 0] = 1e-39, 0, 1e-7
    g = Graph("net", platform="LLM_QUANTIZED")
    x = g.input("x", (1, 8, k))
    types = (("qweight", "ui8"), ("scales", "f32"), ("qzeros", "ui8"))
    q, s, z = (g.weight(f"m.0.p.{t}", arrays[f"m.0.p.{t}"].shape, ("tensor", f"m.0.p.{t}"), d) for t, d in types)
    b = g.weight("m.0.p.bias", (1, 1, n), ("tensor", "m.0.p.bias"))
    g.output(g.A16MatMul(x, q, s, z, b, weight_bits=bits, q_group_size=group, name="m.0.p"))
    return g, save(path, {n: ("U8" if a.dtype == np.uint8 else "F32", a) for n, a in arrays.items()}), arrays


def travelled(graph: Graph) -> Exported:
    """What export tells of a graph; through JSON, as it travels."""
    exported = Exported(tuple(graph.weights.values()), tuple(roles(graph)))
    return Exported.from_json(json.loads(json.dumps(exported.to_json())))


def listed(graph: Graph) -> tuple[Weight, ...]:
    """The graph's weights as export lists them."""
    return travelled(graph).weights


def ours(graph: Graph, checkpoint: Checkpoint, flags: dict, locations=None) -> Blob:
    exported = travelled(graph)
    return coefficients(exported.weights, exported.roles, checkpoint, CompileFlags(**flags), locations)


class Compiler:
    """The real compiler: nets in, coefficients and their table out."""

    def __init__(self, tools, scratch: Path, jit: Path):
        self.tools, self.scratch, self.jit = tools, scratch, jit
        self.count = 0

    def __call__(
        self, graph: Graph, checkpoint: Checkpoint, arrays: dict | None = None, **flags
    ) -> tuple[bytes, list[tuple[str, int, int]], dict]:
        """(coefficients, table, flags as a dict) of the net; `arrays` instead of the checkpoint's weights where
        given."""
        from llmconv.toolchain.flags import CompileFlags
        from llmconv.toolchain.tpuc_opt import compile_mlir

        self.count += 1
        place = self.scratch / str(self.count)
        place.mkdir()
        (place / "net.mlir").write_text(render(graph, "weights.npz"))
        if arrays is None:
            npz.write(place / "weights.npz", listed(graph), checkpoint)
        else:
            np.savez(place / "weights.npz", **arrays)
        settings = replace(CompileFlags(chip="bm1684x", mode="BF16"), **flags)
        compile_mlir(
            self.tools, place / "net.mlir", settings, place / "net.bmodel", place / "run", place / "log", self.jit
        )
        bmodel = BModel.read(place / "net.bmodel")
        stage = bmodel.nets[0].stages[0]
        table = [(entry.name, entry.offset, entry.size) for entry in stage.locations]
        return bytes(bmodel.content(stage.coeff)), table, settings.to_dict()
