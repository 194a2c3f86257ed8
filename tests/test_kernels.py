"""Nets with the same attention are not compiled beside each other before its kernels are there."""

from __future__ import annotations

import pytest
from plans import planned

from llmconv import tasks
from llmconv.engine.graph import load


@pytest.mark.parametrize("stamp", [True, False], ids=["programs", "no_stamp"])
def test_the_first_compile_makes_the_kernels(stamp, checkpoint):
    made = planned(checkpoint("qwen2", num_hidden_layers=3), no_stamp=not stamp)
    compiled = {name: origin.kernels for name, origin in made.origins.items() if origin.template is None}
    firsts = {"block_cache": "block_cache_0", "block": "block_0"}
    wanted = {name: firsts.get(name.rpartition("_")[0]) for name in compiled}
    assert compiled == wanted and len([first for first in compiled.values() if first]) == (4 if stamp else 6)
    nodes, kind = load(tasks.graph(made), ["convert"]).nodes, "program" if stamp else "compile"
    for name, first in compiled.items():
        waits = f"{kind}:{first}" in nodes[f"{kind}:{name}"].deps if f"{kind}:{name}" in nodes else False
        assert waits == (first is not None and first != name), name


def test_nets_without_attention_and_stamped_ones_wait_for_no_kernels(checkpoint):
    made = planned(checkpoint("qwen2", num_hidden_layers=3))
    assert made.origins["embedding"].kernels is None and made.origins["lm_head"].kernels is None
    assert made.origins["block_1"].template and made.origins["block_1"].kernels is None
