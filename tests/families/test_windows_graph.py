"""Sliding windows as graphs: what the nets of every kind hide, out of the plain causal mask, against the definition and
transformers' class."""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_families_graph import EXACT, far, planned, run

from llmconv.blocks.mixer import Given, Step
from llmconv.blocks.window import windowed
from llmconv.errors import InputError
from llmconv.runtime import launches as nets
from llmconv.runtime import state
from llmconv.top.graph import Graph
from llmconv.top.interpret import interpret
from llmconv.verify.answers import EXPECTED
from llmconv.verify.reference import Reference
from llmconv.verify.weights import Precision

WINDOW, SEQ = 16, 64
KINDS = {
    "static": {},
    "short prefill": {"max_input_length": 12},
    "dynamic": {"dynamic": 1},
    "history": {"use_block_with_kv": 1, "max_input_length": 24},
    "history, dynamic": {"use_block_with_kv": 1, "max_input_length": 24, "dynamic": 1},
    "shared prompt": {"share_prompt": 1, "max_input_length": 20, "max_prefill_kv_length": 40},
    "shared prompt, dynamic": {"share_prompt": 1, "max_input_length": 20, "max_prefill_kv_length": 40, "dynamic": 1},
    "stages": {"chunk_length": 8},
    "mask-free": {"use_history_kv": 1, "chunk_length": 24},
}


def launches(net, rng):
    """A prompt of one token more than the window and one of more than two windows, as long as the net takes them,
    behind histories of such lengths (none but for the nets that only continue), with rows of anything behind them."""
    shapes = {io.name: io.shape for io in net.inputs}
    length, capacity = nets.length(net), nets.capacity(net)
    for count in sorted({min(n, length) for n in (WINDOW + 1, 2 * WINDOW + 3)}):
        for past in sorted({min(n, capacity, SEQ - count) for n in (net.kind == "block_kv", WINDOW, 2 * WINDOW + 3)}):
            history = state.random(net, rng)
            hidden = rng.standard_normal((1, count, shapes["input_states"][2])).astype(np.float32)
            yield nets.step(net, hidden, count, past, history or None)


def wrong(made, reference, layer: int) -> dict[str, float]:
    """Relative L2 of the layer's nets, the worst of each."""
    found = {}
    for net in (net for net in made.nets if net.layer == layer):
        for launch in launches(net, np.random.default_rng(7)):
            outputs = run(made, net, launch.inputs)
            right = EXPECTED[net.kind](reference, launch)["output_states"]
            found[net.name] = max(found.get(net.name, 0), far(outputs["output_states"][:, : launch.count], right))
    return found


@pytest.fixture
def gemma(family_checkpoint):
    return lambda window=WINDOW: family_checkpoint("gemma3_text", sliding_window=window)


@pytest.mark.parametrize("kind", KINDS)
def test_windowed_layers_equal_the_class(kind, gemma):
    made = planned(gemma(), SEQ, **KINDS[kind])
    assert max(wrong(made, Reference(made, Precision()), 0).values()) < EXACT


@pytest.mark.parametrize("window", [WINDOW - 1, WINDOW + 1, pytest.param(SEQ, id="none")])
@pytest.mark.parametrize("kind", KINDS)
def test_another_window_is_noticed(kind, window, gemma):
    """Negative control: nets with a window that is off by one, or with none, are wrong; every net that reaches so
    far."""
    reference = Reference(planned(gemma(), SEQ, **KINDS[kind]), Precision())
    found = wrong(planned(gemma(window), SEQ, **KINDS[kind]), reference, 0)
    same = {name for name, error in found.items() if error < EXACT}
    assert same == {"short prefill": {"block_0"}, "stages": {"block_cache_0_3"}}.get(kind, set())


def visible(count: int, before: int, window: int) -> np.ndarray:
    """[count, before + count]: which of the keys that are there each new token sees, by the definition."""
    query, key = before + np.arange(count)[:, None], np.arange(before + count)
    return (key <= query) & (key > query - window)


def hides(found: np.ndarray, seen: np.ndarray) -> bool:
    return found.shape == seen.shape and np.array_equal(found == 0, seen) and bool((found[~seen] < -8000).all())


@pytest.mark.parametrize(
    "sizes", [(32, 0, 16), (32, 0, 31), (32, 64, 16), (32, 64, 40), (32, 64, 90), (48, 40, 80), (4, 3, 1)], ids=str
)
@pytest.mark.parametrize("kind", ["static", "dynamic", "mask-free"])
def test_prefill_hides_by_definition(kind, sizes):
    """Every length of history and prompt; of a static net with columns of no key between the two and behind."""
    length, past, window = sizes
    dynamic = kind != "static"
    g = Graph("net")
    x = g.input("input_states", (1, length, 8))
    mask = None if kind == "mask-free" else g.input("attention_mask", (1, 1, length, past + length))
    cache = g.input("history_k", (1, past, 2, 4)) if past else None
    g.output(windowed(g, Step(length, past + length, past, dynamic=dynamic), window, x, Given(x, mask, history=cache)))
    for before in range(1 if past and dynamic else 0, past + 1, 3):
        for count in (1, length // 2, length):
            rows, columns = (count, before) if dynamic else (length, past)
            given = {"input_states": np.full((1, rows, 8), 3e3), "history_k": np.full((1, columns, 2, 4), -7e2)}
            given["attention_mask"] = nets.mask(rows, columns, count, before, nets.HIDDEN)
            (found,) = interpret(g, given, {})
            seen = np.zeros((count, columns + rows), bool)
            seen[:, [*range(before), *range(columns, columns + count)]] = visible(count, before, window)
            assert hides(found[0, 0, :count], seen), (before, count)


@pytest.mark.parametrize("window", [1, 7, 8, 9, 31, 32])
@pytest.mark.parametrize("batch", [1, 2])
def test_decode_hides_by_definition(batch, window):
    """The new token behind every number of others, each sequence of a batch behind its own."""
    step = Step(1, 32, 32, decode=True, batch=batch)
    g = Graph("net")
    mask = g.input("attention_mask", (batch, 1, 1, step.keys))
    g.output(windowed(g, step, window, mask, Given(mask, mask)))
    for past in range(step.keys - 1):
        pasts = [past, step.keys - 2 - past][:batch]
        (found,) = interpret(
            g, {"attention_mask": np.concatenate([nets.mask(1, step.keys - 1, 1, p, nets.HIDDEN) for p in pasts])}, {}
        )
        for row, before in zip(found, pasts):
            seen = np.zeros((1, step.keys), bool)
            seen[:, [*range(before), step.keys - 1]] = visible(1, before, window)
            assert hides(row[0], seen), before


def test_windows_are_in_the_nets_that_can_reach_so_far(gemma):
    made = planned(gemma(), SEQ, max_input_length=12)
    assert "layers 0 attend to a window of 16 tokens: the window is in the nets" in made.notes
    assert {net.name for net in made.nets if "window" in net.mlir} == {"block_cache_0"}
    short = planned(gemma(), WINDOW)
    assert not any("window" in net.mlir for net in short.nets) and not any("window" in note for note in short.notes)


@pytest.mark.parametrize("kind", KINDS)
def test_layers_without_a_window_stay_as_they_are(kind, gemma):
    """The full layer beside a windowed one, and all layers of a model whose window no sequence exceeds: the text is
    that without a window."""
    ours, plain = planned(gemma(), SEQ, **KINDS[kind]), planned(gemma(SEQ), SEQ, **KINDS[kind])
    assert [net.mlir for net in ours.nets if net.layer != 0] == [net.mlir for net in plain.nets if net.layer != 0]
    assert not any("window" in net.mlir for net in plain.nets)
    # and what runtimes see of windowed layers does not change, nor do their coefficients
    assert [(net.inputs, net.outputs) for net in ours.nets] == [(net.inputs, net.outputs) for net in plain.nets]
    assert [net.weights for net in ours.nets] == [net.weights for net in plain.nets]


def test_a_window_that_is_null_is_none(family_checkpoint):
    texts = [
        [net.mlir for net in planned(family_checkpoint("mistral", sliding_window=window), SEQ).nets]
        for window in (SEQ, 4096)
    ]
    model = family_checkpoint("mistral", seed=1)
    config = json.loads((model / "config.json").read_text()) | {"sliding_window": None}
    (model / "config.json").write_text(json.dumps(config))
    assert texts == [[net.mlir for net in planned(model, SEQ).nets]] * 2


def test_tensor_parallel_is_refused_with_a_window(family_checkpoint):
    from checkpoints import SPLIT

    model = family_checkpoint("mistral", head_dim=64, sliding_window=8, **SPLIT)
    with pytest.raises(InputError, match="sliding window of 8.*seq_length 8 or less"):
        planned(model, 16, num_device=2, chip="bm1684x")
    assert planned(model, 8, num_device=2, chip="bm1684x").nets
    assert planned(model, 16, num_device=3, distribute_strategy="pp").nets


@pytest.mark.parametrize("kind", ["static", "history", "mask-free"])
def test_tokens_with_three_positions(kind, vision_checkpoint):
    """The window counts tokens: positions of an image, where several tokens have one, do not matter."""
    model = vision_checkpoint(
        "qwen2_vl", text={"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 0}
    )
    made = planned(model, SEQ, **KINDS[kind])
    reference, rng = Reference(made, Precision()), np.random.default_rng(0)
    for net in (net for net in made.nets if net.layer == 0):
        count, past = nets.length(net), min(37, nets.capacity(net))
        history = state.random(net, rng)
        places = np.stack([7 + np.arange(count) // 9, 3 + np.arange(count) % 9, 5 + np.arange(count) % 5])
        launch = nets.step(
            net,
            rng.standard_normal((1, count, made.spec.hidden)).astype(np.float32),
            count,
            past,
            history or None,
            places=places,
        )
        assert "window" in net.mlir
        right = EXPECTED[net.kind](reference, launch)["output_states"]
        assert far(run(made, net, launch.inputs)["output_states"][:, :count], right) < EXACT, net.name
