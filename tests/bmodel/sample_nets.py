"""Small nets, written by hand as Top-dialect MLIR and compiled by the real compiler: for tests of bmodel and
simulator."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from llmconv.toolchain.find import Toolchain
from llmconv.toolchain.flags import CompileFlags
from llmconv.toolchain.tpuc_opt import compile_mlir

CHIPS = {"bm1684x": 1, "bm1688": 2, "cv186x": 1}  # and the cores that the samples are compiled for


@dataclass(frozen=True, eq=False)
class Sample:
    """A net: its MLIR module (without weights) and its weights, f32, by name. The same arguments make the same
    object."""

    name: str
    text: str
    weights: Mapping[str, np.ndarray]


def _tensor(*shape: int, dtype: str = "f32") -> str:
    return f"tensor<{'x'.join(map(str, shape))}x{dtype}>"


def _module(
    name: str, arguments: list[str], results: list[str], body: list[str], returned: str, locations: list[str]
) -> str:
    """A module around the ops of `body`; locations are what #loc1, #loc2 and so on stand for: a name, or fused[...] of
    earlier ones."""
    parameters = ", ".join(f"%arg{number}: {kind} loc(unknown)" for number, kind in enumerate(arguments))
    ops = "\n".join(f"    {op}" for op in ['%0 = "top.None"() : () -> none loc(#loc)', *body])
    places = [place if place.startswith("fused") else f'"{place}"' for place in locations]
    names = "\n".join(f"#loc{number} = loc({place})" for number, place in enumerate(places, 1))
    return f"""module @{name} attributes {{module.chip = "ALL", module.platform = "LLM", module.state = "TOP_F32", \
module.top_run_mode = "STATIC", module.weight_file = "{name}.npz"}} {{
  func.func @main({parameters}) -> ({", ".join(results)}) {{
{ops}
    return {returned} : {", ".join(results)} loc(#loc)
  }} loc(#loc)
}} loc(#loc)
#loc = loc(unknown)
{names}
"""


def _matmul(left: str, right: str, types: str, result: str, location: int, transposed: bool) -> str:
    return (
        f'%3 = "top.MatMul"({left}, {right}, %0) {{do_relu = false, dq_type = "NONE", hdim_is_batch = false, is_lora = false, '
        f"keep_dims = true, left_transpose = false, output_transpose = false, q_group_size = 0 : i64, relu_limit = -1.0 : f64, "
        f"right_transpose = {str(transposed).lower()}}} : ({types}, none) -> {result} loc(#loc{location})"
    )


@functools.cache
def embedding(name: str = "embedding", length: int = 16, vocab: int = 32, width: int = 64, seed: int = 0) -> Sample:
    """input_ids [1, length] i32 -> embedding [1, length, width]: the rows of a table [vocab, width]."""
    ids, table, result = _tensor(1, length), _tensor(vocab, width), _tensor(1, length, width)
    body = [
        f'%1 = "top.Input"(%arg0) {{do_preprocess = false}} : ({_tensor(1, length, dtype="si32")}) -> {ids} loc(#loc1)',
        f'%2 = "top.Weight"() : () -> {table} loc(#loc2)',
        '%3 = "top.Gather"(%2, %1) {axis = 0 : si32, is_lora = false, is_scalar = false, keepdims = true} : '
        f"({table}, {ids}) -> {result} loc(#loc3)",
    ]
    text = _module(name, [_tensor(1, length, dtype="si32")], [result], body, "%3", ["input_ids", "table", "embedding"])
    return Sample(name, text, {"table": np.random.default_rng(seed).standard_normal((vocab, width), np.float32)})


@functools.cache
def linear(
    name: str = "linear", rows: int = 16, k: int = 64, n: int = 64, seed: int = 0, identity: bool = False
) -> Sample:
    """x [1, rows, k] -> y [1, rows, n] = x @ w."""
    x, w, y = _tensor(1, rows, k), _tensor(k, n), _tensor(1, rows, n)
    body = [
        f'%1 = "top.Input"(%arg0) {{do_preprocess = false}} : ({x}) -> {x} loc(#loc1)',
        f'%2 = "top.Weight"() : () -> {w} loc(#loc2)',
        _matmul("%1", "%2", f"{x}, {w}", y, 3, transposed=False),
    ]
    text = _module(name, [x], [y], body, "%3", ["x", "w", "y"])
    weight = (
        np.eye(k, n, dtype=np.float32) if identity else np.random.default_rng(seed).standard_normal((k, n), np.float32)
    )
    return Sample(name, text, {"w": weight})


@functools.cache
def token(name: str = "lm_head", width: int = 64, vocab: int = 128, seed: int = 0) -> Sample:
    """hidden_states [1, width] -> token_id [1, 1] i32: the largest of table [vocab, width] @ hidden (a second subnet,
    on the CPU)."""
    hidden, table, column, logits = _tensor(1, width), _tensor(vocab, width), _tensor(vocab, 1), _tensor(1, vocab)
    body = [
        f'%1 = "top.Input"(%arg0) {{do_preprocess = false}} : ({hidden}) -> {hidden} loc(#loc1)',
        f'%2 = "top.Weight"() : () -> {table} loc(#loc2)',
        _matmul("%2", "%1", f"{table}, {hidden}", column, 3, transposed=True),
        f'%4 = "top.Reshape"(%3) {{flatten_start_dim = -1 : i64}} : ({column}) -> {logits} loc(#loc4)',
        '%values, %indices = "top.TopK"(%4) {K = 1 : i64, axis = 1 : i64, largest = true, replace_topk_indices = false, '
        f"sorted = true, use_hau = true}} : ({logits}) -> ({_tensor(1, 1)}, {_tensor(1, 1)}) loc(#loc7)",
    ]
    names = ["hidden_states", "table", "logits", "logits.reshape", "token_value", "token_id", "fused[#loc5, #loc6]"]
    text = _module(name, [hidden], [_tensor(1, 1)], body, "%indices", names)
    return Sample(name, text, {"table": np.random.default_rng(seed).standard_normal((vocab, width), np.float32)})


Compile = Callable[..., Path]


@pytest.fixture(scope="session")
def compiled(compiler: Toolchain, tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """compiled(sample, chip="bm1684x", mode="BF16", **more flags) -> the .bmodel; the same one for the same
    arguments."""
    made: dict[tuple, Path] = {}

    def build(sample: Sample, chip: str = "bm1684x", mode: str = "BF16", **more) -> Path:
        flags = CompileFlags(chip=chip, mode=mode, num_core=CHIPS[chip], **more)
        if (sample, flags) not in made:
            folder = tmp_path_factory.mktemp(sample.name)
            source, out = folder / f"{sample.name}.mlir", folder / f"{sample.name}.bmodel"
            source.write_text(sample.text)
            np.savez(folder / f"{sample.name}.npz", **sample.weights)
            compile_mlir(compiler, source, flags, out, folder / "scratch", folder / "log", folder / "ppl")
            made[sample, flags] = out
        return made[sample, flags]

    return build
