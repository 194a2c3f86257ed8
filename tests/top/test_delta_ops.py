"""The operations of gated delta-net layers mean what transformers' and torch's own functions compute."""

from __future__ import annotations

import numpy as np
import pytest

from llmconv.checkpoint import recipe
from llmconv.top.graph import Graph
from llmconv.top.interpret import interpret

KEY_HEADS, HEADS, WIDTH = 2, 6, 16


def far(found, right) -> float:
    """Relative L2 distance."""
    return float(np.linalg.norm(found - np.asarray(right)) / np.linalg.norm(right))


def given(length: int, seed: int = 0, spread: float = 0.5) -> dict[str, np.ndarray]:
    """Operands of the rule, in its order. spread: of the decays' logarithms; with 2 a token may leave almost all of the
    state or nothing."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.standard_normal((1, *shape)).astype(np.float32)

    return {
        "q": normal(length, KEY_HEADS, WIDTH),
        "k": normal(length, KEY_HEADS, WIDTH),
        "v": normal(length, HEADS, WIDTH),
        "g": -np.exp(spread * normal(length, HEADS)),
        "beta": rng.uniform(0, 1, (1, length, HEADS)).astype(np.float32),
        "state": normal(HEADS, WIDTH, WIDTH),
    }


def ours(kind: str, values: dict[str, np.ndarray], **attrs) -> tuple[np.ndarray, np.ndarray]:
    """Result and new state of our operation."""
    graph, held = Graph("net"), {name: x.copy() for name, x in values.items()}
    operands = [graph.input(name, x.shape) for name, x in held.items()]
    if kind == "ChunkGatedDeltaRule":
        for name in ("upper", "above", "lower", "on"):
            operands.append(graph.weight(name, (64, 64), ("triangle", 64, name, 1.0)))
    sizes = {"num_k_heads": KEY_HEADS, "num_v_heads": HEADS, "d": WIDTH, "scale": WIDTH**-0.5} | attrs
    out = graph.op(kind, *operands, **sizes, name="rule")
    assert out.shape == values["v"].shape
    weights = {w.name: recipe.evaluate(w.recipe, None) for w in graph.weights.values()}
    return interpret(graph.output(out), held, weights)[0], held["state"]


def theirs(function: str, values: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The same by transformers, whose callers repeat the heads of queries and keys."""
    import torch
    from transformers.models.qwen3_5 import modeling_qwen3_5

    q, k, v, g, beta, state = (torch.from_numpy(x.copy()) for x in values.values())
    q, k = (x.repeat_interleave(HEADS // KEY_HEADS, 2) for x in (q, k))
    rule = getattr(modeling_qwen3_5, function)
    out, new = rule(q, k, v, g=g, beta=beta, initial_state=state, output_final_state=True, use_qk_l2norm_in_kernel=True)
    return out.numpy(), new.numpy()


@pytest.mark.parametrize("length", [1, 3, 63, 64, 65, 128])
def test_the_chunked_rule(length):
    values = given(length)
    for found, right in zip(ours("ChunkGatedDeltaRule", values), theirs("torch_chunk_gated_delta_rule", values)):
        assert far(found, right) < 1e-5


def test_the_rule_with_extreme_decays():
    """Against the one that goes token by token: the chunked one sums logarithms, which float32 rounds."""
    values = given(65, spread=2.0)
    for found, right in zip(ours("ChunkGatedDeltaRule", values), theirs("torch_recurrent_gated_delta_rule", values)):
        assert far(found, right) < 1e-5


def test_the_recurrent_rule_goes_on_where_the_chunked_one_stops():
    prompt, token = given(65), given(1, seed=1)
    _, state = ours("ChunkGatedDeltaRule", prompt)
    _, right = theirs("torch_chunk_gated_delta_rule", prompt)
    found = ours("RecurrentGatedDeltaRule", token | {"state": state})
    wanted = theirs("torch_recurrent_gated_delta_rule", token | {"state": right})
    assert all(far(*pair) < 1e-5 for pair in zip(found, wanted))


@pytest.mark.parametrize(
    "spoil", [{"use_qk_l2norm": False}, {"scale": 1.0}, {"g": 0.0}, {"beta": 1.0}, {"state": 0.0}], ids=str
)
def test_no_part_of_the_rule_is_idle(spoil):
    values = given(65)
    right = theirs("torch_chunk_gated_delta_rule", values)[0]
    attrs = {name: value for name, value in spoil.items() if name not in values}
    changed = {name: np.full_like(x, spoil[name]) if name in spoil else x for name, x in values.items()}
    assert far(ours("ChunkGatedDeltaRule", changed, **attrs)[0], right) > 0.1


@pytest.mark.parametrize("group", [1, 2, 6])
def test_convolution(group):
    import torch

    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((2, 6, 5, 9), np.float32), rng.standard_normal((12, 6 // group, 2, 3), np.float32)
    pads, strides = (1, 2, 0, 3), (1, 2)
    graph = Graph("net")
    shape = {"kernel_shape": w.shape[2:], "strides": strides, "pads": pads, "group": group}
    out = graph.Conv(
        graph.input("x", x.shape), graph.weight("w", w.shape, ("tensor", "w")), graph.none, **shape, name="y"
    )
    (found,) = interpret(graph.output(out), {"x": x}, {"w": w})
    padded = torch.nn.functional.pad(torch.from_numpy(x), (pads[1], pads[3], pads[0], pads[2]))
    right = torch.nn.functional.conv2d(padded, torch.from_numpy(w), stride=strides, groups=group).numpy()
    assert out.shape == found.shape == right.shape and far(found, right) < 1e-6
    with pytest.raises(ValueError, match="Conv of"):
        graph.Conv(
            graph.input("z", (1, 5, 5, 9)), graph.weight("w", w.shape, ("tensor", "w")), graph.none, **shape, name="z"
        )


def test_softplus_is_right_far_from_zero():
    x = np.array([[-100.0, -20.0, 0.0, 20.0, 100.0]], np.float32)
    graph = Graph("net")
    (found,) = interpret(graph.output(graph.Softplus(graph.input("x", x.shape), name="y")), {"x": x}, {})
    np.testing.assert_allclose(found, [[np.exp(-100.0), np.exp(-20.0), np.log(2), 20, 100]], rtol=1e-6, atol=1e-40)


def test_a_state_of_columns_moves_on():
    graph = Graph("net")
    x, new = graph.input("x", (1, 2, 4)), graph.input("new", (1, 2, 1))
    moved = graph.ConcatSlice(x, new, axis=2, name="moved")
    last = graph.Slice(x, *(graph.none,) * 3, offset=(0, 0, -3), steps=(1, 1, 1), ends=(1, 2, 4), name="last")
    assert moved.shape == (1, 2, 4) and last.shape == (1, 2, 3)
    values = {"x": np.arange(8.0).reshape(1, 2, 4), "new": np.array([[[8.0], [9.0]]])}
    found = interpret(graph.output(moved, last), values, {})
    assert found[0].tolist() == [[[1, 2, 3, 8], [5, 6, 7, 9]]] and found[1].tolist() == [[[1, 2, 3], [5, 6, 7]]]


def test_recipes_of_a_layer():
    class Tensors:
        values = {"A_log": np.log(np.array([2.0, 16.0], np.float32)), "conv": np.arange(24, dtype=np.float32)}

        def float32(self, name, part=slice(None)):
            return self.values[name][part]

        def info(self, name):
            return self.values[name]

    held = Tensors()
    assert recipe.evaluate(("decay", ("tensor", "A_log")), held).tolist() == pytest.approx([-2, -16])
    assert recipe.shape(("decay", ("tensor", "A_log")), held) == (2,)
    shaped = ("reshape", ("tensor", "conv"), (6, 1, 1, 4))
    assert recipe.evaluate(shaped, held).shape == recipe.shape(shaped, held) == (6, 1, 1, 4)
    assert recipe.shape(("reshape", ("tensor", "conv"), (5, 4)), held) == (24,), (
        "its own shape shows that it does not fit"
    )
    assert recipe.evaluate(("triangle", 2, "upper", 1.0), held).tolist() == [[1, 1], [0, 1]]
    assert recipe.evaluate(("triangle", 2, "above", 0.5), held).tolist() == [[0, 0.5], [0, 0]]
    assert recipe.evaluate(("triangle", 2, "lower", 1.0), held).tolist() == [[1, 0], [1, 1]]
    assert recipe.evaluate(("triangle", 2, "on", 1.0), held).tolist() == [[1, 0], [0, 1]]
    assert recipe.shape(("triangle", 2, "on", 1.0), held) == (2, 2)
