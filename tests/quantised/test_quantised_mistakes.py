"""What the comparison of quantised nets with the class is worth: mistakes in the unpacking show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from plans import planned
from quantised_checkpoints import How
from quantised_graphs import LAYER, exact, far

from llmconv.checkpoint import recipe
from llmconv.checkpoint.quantised import base as shared
from llmconv.checkpoint.quantised import gptq

# ---------------------------------------------------------------------- what these tests are worth: mistakes show


def wrong(monkeypatch, model: Path, target: object, name: str, value: object) -> None:
    """With one mistake in the unpacking every block is far off, by more than twenty times what verification
    tolerates."""
    exact(planned(model), "block_cache")
    with monkeypatch.context() as patch:
        patch.setattr(target, name, value)
        made = planned(model)
        assert far(made, made.nets[-1]) > 0.2


def test_a_wrong_zero_point_convention_fails(quantised, monkeypatch, tmp_path):
    wrong(monkeypatch, quantised("gptq", How(4, 64), options=LAYER), gptq, "ONES", {4: 0, 8: 0})
    later = quantised("gptq", How(4, 64), "qwen3", options=LAYER, checkpoint_format="gptq_v2")
    exact(planned(later), "block_cache")
    right = gptq.quantisation
    with monkeypatch.context() as patch:
        patch.setattr(gptq, "quantisation", lambda *given, less: right(*given, less=True))
        made = planned(later)
        assert far(made, made.nets[-1]) > 0.2


def test_a_wrong_order_of_nibbles_fails(quantised, monkeypatch):
    from llmconv.checkpoint import packing

    wrong(monkeypatch, quantised("awq", How(4, 64), options=LAYER), packing, "AWQ", (0, 1, 2, 3, 4, 5, 6, 7))
    model = quantised("compressed", How(4, 64), options=LAYER)
    swapped = lambda checkpoint, inner, bits: (lambda p: p << 4 | p >> 4)(recipe.evaluate(inner, checkpoint))  # noqa: E731
    monkeypatch.setitem(recipe.EVALUATE, "pack", swapped)
    monkeypatch.setitem(
        recipe.EVALUATE,
        "bytes",
        lambda checkpoint, inner: (lambda p: p << 4 | p >> 4)(
            np.ascontiguousarray(recipe.evaluate(inner, checkpoint)).view(np.uint8)
        ),
    )
    made = planned(model)
    assert far(made, made.nets[-1]) > 0.2


def test_a_transposed_matrix_fails(quantised, monkeypatch):
    """Of a square layer the shapes do not tell."""
    model = quantised("gptq", How(8, 0), options={**LAYER, "num_key_value_heads": 4, "intermediate_size": 256})
    exact(planned(model), "block_cache")
    right = gptq.linear

    def turned(*given):
        layer = right(*given)
        return shared.Packed(**{**vars(layer), "codes": ("transpose", layer.codes)})

    monkeypatch.setattr(gptq, "linear", turned)
    made = planned(model)
    assert far(made, made.nets[-1]) > 0.2


def test_an_order_that_is_left_out_fails(quantised, monkeypatch):
    wrong(
        monkeypatch,
        quantised("gptq", How(4, 64, False, 9), options=LAYER),
        gptq,
        "order",
        lambda *_: shared.Order(None),
    )
