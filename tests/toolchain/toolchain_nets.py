"""Small nets in the Top dialect for tests of the compiler: an embedding, a linear layer and an attention."""

from __future__ import annotations

from pathlib import Path

_HEAD = (
    'module @{name} attributes {{module.chip = "ALL", module.platform = "LLM", module.state = "TOP_F32", '
    'module.top_run_mode = "STATIC", module.weight_file = "{weights}"}} {{\n'
)


def _module(name: str, weights: str, body: str, locations: list[str]) -> str:
    tail = "".join(f'#loc{i} = loc("{text}")\n' for i, text in enumerate(locations, 1))
    return _HEAD.format(name=name, weights=weights) + body + "  } loc(#loc)\n} loc(#loc)\n#loc = loc(unknown)\n" + tail


def embedding(folder: Path, vocabulary: int = 256, hidden: int = 128, length: int = 32) -> Path:
    """Ids [1,length] -> rows [1,length,hidden] of emb.weight."""
    import numpy as np

    folder.mkdir(parents=True, exist_ok=True)
    np.savez(
        folder / "embedding.npz",
        **{"emb.weight": np.random.default_rng(0).standard_normal((vocabulary, hidden), dtype=np.float32)},
    )
    table, ids, rows = (
        f"tensor<{vocabulary}x{hidden}xf32>",
        f"tensor<1x{length}xf32>",
        f"tensor<1x{length}x{hidden}xf32>",
    )
    body = f"""  func.func @main(%arg0: tensor<1x{length}xsi32> loc(unknown)) -> ({rows}) {{
    %0 = "top.None"() : () -> none loc(#loc)
    %1 = "top.Input"(%arg0) {{do_preprocess = false}} : (tensor<1x{length}xsi32>) -> {ids} loc(#loc1)
    %2 = "top.Weight"() : () -> {table} loc(#loc2)
    %3 = "top.Gather"(%2, %1) {{axis = 0 : si32, is_lora = false, is_scalar = false, keepdims = true}} : ({table}, {ids}) -> {rows} loc(#loc3)
    return %3 : {rows} loc(#loc)
"""
    path = folder / "embedding.mlir"
    path.write_text(_module("embedding", "embedding.npz", body, ["input_ids", "emb.weight", "embedding"]))
    return path


def linear(folder: Path, inner: int = 128, outer: int = 64, length: int = 32) -> Path:
    """[1,length,inner] -> [1,length,outer]."""
    import numpy as np

    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "linear.npz", w=np.random.default_rng(1).standard_normal((inner, outer), dtype=np.float32))
    x, w, y = f"tensor<1x{length}x{inner}xf32>", f"tensor<{inner}x{outer}xf32>", f"tensor<1x{length}x{outer}xf32>"
    flags = (
        'do_relu = false, dq_type = "NONE", hdim_is_batch = false, is_lora = false, keep_dims = true, left_transpose = false, '
        "output_transpose = false, q_group_size = 0 : i64, relu_limit = -1.0 : f64, right_transpose = false"
    )
    body = f"""  func.func @main(%arg0: {x} loc(unknown)) -> ({y}) {{
    %0 = "top.None"() : () -> none loc(#loc)
    %1 = "top.Input"(%arg0) {{do_preprocess = false}} : ({x}) -> {x} loc(#loc1)
    %2 = "top.Weight"() : () -> {w} loc(#loc2)
    %3 = "top.MatMul"(%1, %2, %0) {{{flags}}} : ({x}, {w}, none) -> {y} loc(#loc3)
    return %3 : {y} loc(#loc)
"""
    path = folder / "linear.mlir"
    path.write_text(_module("linear", "linear.npz", body, ["x", "w", "y"]))
    return path


def attention(folder: Path, length: int = 32, heads: int = 4, kv_heads: int = 2, dim: int = 64) -> Path:
    """Grouped-query attention without weights: the net that needs the kernel JIT."""
    folder.mkdir(parents=True, exist_ok=True)
    q, kv = f"tensor<1x{length}x{heads}x{dim}xf32>", f"tensor<1x{length}x{kv_heads}x{dim}xf32>"
    mask, out = f"tensor<1x1x{length}x{length}xf32>", f"tensor<1x{length}x{heads * dim}xf32>"
    types = (q, kv, kv, mask)
    inputs = "".join(
        f'    %{i + 1} = "top.Input"(%arg{i}) {{do_preprocess = false}} : ({t}) -> {t} loc(#loc{i + 1})\n'
        for i, t in enumerate(types)
    )
    flags = (
        f"batch = 1 : i64, dim = {dim} : i64, keep_dims = false, kv_head = {kv_heads} : i64, mask_size = 0 : si32, "
        f"mk = {length} : i64, mq = {length} : i64, q_head = {heads} : i64, scale = {dim**-0.5!r} : f64"
    )
    body = (
        f"  func.func @main({', '.join(f'%arg{i}: {t} loc(unknown)' for i, t in enumerate(types))}) -> ({out}) {{\n"
        '    %0 = "top.None"() : () -> none loc(#loc)\n'
        + inputs
        + f'    %5 = "top.FAttention"(%1, %2, %3, %4, %0) {{{flags}}} : ({", ".join(types)}, none) -> {out} loc(#loc5)\n'
        f"    return %5 : {out} loc(#loc)\n"
    )
    path = folder / "attention.mlir"
    path.write_text(_module("attention", "None", body, ["q", "k", "v", "mask", "o"]))
    return path


def without_time(bmodel: Path) -> bytes:
    """A .bmodel's bytes without its time of day, the one field in which two compiles of one net differ."""
    import re

    stamp = re.compile(rb"(Mon|Tue|Wed|Thu|Fri|Sat|Sun) \w{3} [ \d]\d \d\d:\d\d:\d\d \d{4}\n")
    data = bmodel.read_bytes()
    assert len(stamp.findall(data)) == 1
    return stamp.sub(b"", data)
