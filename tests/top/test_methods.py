"""A graph's methods are the table's operations, and their stub tells checkers so."""

from __future__ import annotations

import ast

import pytest

from llmconv.top.graph import Graph
from llmconv.top.ops import OPS
from llmconv.top.stub import FILE, stub


def test_the_stub_is_up_to_date():
    assert FILE.read_text(encoding="utf-8") == stub(), "say: python -m llmconv.top.stub"


def test_the_stub_has_one_method_for_every_operation():
    (made,) = [node for node in ast.parse(stub()).body if isinstance(node, ast.ClassDef)]
    methods = {node.name: node.args for node in made.body if isinstance(node, ast.FunctionDef)}
    assert list(methods) == list(OPS)
    for kind, args in methods.items():
        needed = {arg.arg for arg, default in zip(args.kwonlyargs, args.kw_defaults) if default is None}
        assert needed == {"name"} | OPS[kind].required
        assert {arg.arg for arg in args.kwonlyargs} == {"name"} | OPS[kind].attrs.keys()


def test_methods_are_operations():
    graph = Graph("net")
    x = graph.input("x", (1, 4))
    assert graph.MulConst(x, const_val=2.0, name="twice") == graph.ops[-1].results[0]
    assert graph.ops[-1].attrs == {"const_val": 2.0, "do_relu": False, "relu_limit": -1.0}
    assert "MatMul" in dir(graph) and not hasattr(graph, "Deconv")
    with pytest.raises(TypeError, match="MulConst needs .*const_val"):
        graph.MulConst(x, name="twice")
    with pytest.raises(TypeError, match="MulConst has no attribute .*factor"):
        graph.MulConst(x, factor=2.0, const_val=1.0, name="twice")
