"""Run a graph in NumPy f32: the meaning of our own nets, without compiler or chip."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from llmconv.top.graph import Graph
from llmconv.top.ops import OPS


def interpret(graph: Graph, inputs: Mapping[str, np.ndarray], weights: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The graph's outputs, in order. `inputs` and `weights` are keyed by name; weights are float32 (or uint8 when
    packed).
    """
    values: dict[int, Any] = {}
    for op in graph.ops:
        if op.kind == "None":
            values[op.results[0].id] = None
        elif op.kind == "Input":
            values[op.results[0].id] = np.asarray(inputs[op.results[0].name])
        elif op.kind == "Weight":
            value = op.results[0]
            values[value.id] = np.asarray(weights[value.name]).reshape(value.shape)
        else:
            out = OPS[op.kind].run(np, op.attrs, *(values[v.id] for v in op.operands))
            for value, array in zip(op.results, out if len(op.results) > 1 else (out,), strict=True):
                values[value.id] = np.asarray(array)
    return [values[v.id] for v in graph.outputs]
