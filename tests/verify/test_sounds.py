"""Prompts with sound against a chip made of the NumPy interpreter: that they are what transformers generates, and that
nets with faults of the usual kinds are seen."""

from __future__ import annotations

from dataclasses import replace

import audio_checkpoints
import numpy as np
import pytest
from audio_checkpoints import TOKEN
from test_generate import right
from test_nets_of_options import Interpreted
from verify_helpers import conversation, look_alone, plan_of

from llmconv.blocks.audio import graph as graphs
from llmconv.blocks.audio.tower import noise
from llmconv.blocks.vision.layers import layer_norm, linear
from llmconv.checkpoint import recipe
from llmconv.runtime import launches
from llmconv.top.interpret import interpret
from llmconv.verify.generate import CHAIN
from llmconv.verify.ledger import TOGETHER
from llmconv.verify.session import Session

TOKENS = 3


def chosen(model, ids: np.ndarray, frames: np.ndarray, tokens: list[int]) -> list[int]:
    """What transformers' whole model would choose behind a prompt, and behind that and each of `tokens` but the last."""
    import torch

    count = frames.shape[1]
    padded = torch.from_numpy(np.pad(frames, ((0, 0), (0, -count % 100))))[None]
    there = (torch.arange(padded.shape[-1]) < count).long()[None]
    read = torch.tensor([[*ids.tolist(), *tokens[:-1]]])
    with torch.inference_mode():
        made = audio_checkpoints.loaded("qwen3_asr", model)
        logits = made(read, input_features=padded, input_features_mask=there).logits[0]
    return logits[len(ids) - 1 :].argmax(-1).tolist()


@pytest.mark.parametrize("options", [{}, {"max_input_length": 52, "use_block_with_kv": 1}], ids=str)
def test_a_prompt_with_sound_is_what_transformers_generates(options, audio_checkpoint):
    """With the net that hears all together: the reference's tokens are those of the whole model."""
    model = audio_checkpoint("qwen3_asr")
    plan = plan_of(model, seq=104, exact_audio=1, **options)
    chip = Interpreted(plan)
    session, (turn, *_), found = conversation(plan, chip, TOKENS)
    assert right(session, found) and chip.runs[0] == "audio"
    (shown,) = turn.shown
    tokens = [t.found for t in found.tokens][: turn.tokens]
    assert [t.expected for t in found.tokens][: turn.tokens] == chosen(model, turn.ids, shown.items.frames, tokens)
    assert np.count_nonzero(turn.ids == TOKEN) == shown.fitted.tower.count(shown.fitted.spec, shown.items)


def test_launches_apart_and_together(audio_checkpoint):
    """Each part is right by itself; what that loses is measured, and judges nothing."""
    plan = plan_of(audio_checkpoint("qwen3_asr"), seq=104)
    chip = Interpreted(plan)
    session, _, found = conversation(plan, chip, TOKENS)
    assert right(session, found) and chip.runs[:4] == ["audio"] * 3 + ["embedding"], "a launch for each second"
    look_alone(session, plan.nets[0], np.random.default_rng(0), 1)
    (apart,) = (c for c in session.compared if c.against == TOGETHER)
    assert apart.ok and apart.net == "audio" and 0.03 < apart.difference.relative_l2 < 1
    exact = plan_of(audio_checkpoint("qwen3_asr"), seq=104, exact_audio=1)
    session = Session(exact, Interpreted(exact))
    look_alone(session, exact.nets[0], np.random.default_rng(0), 1)
    assert all(c.ok and c.against != TOGETHER for c in session.compared)


def test_seconds_in_another_order_are_seen(audio_checkpoint, monkeypatch):
    plan = plan_of(audio_checkpoint("qwen3_asr"), seq=104)
    kind = type(plan.towers[0].tower)
    each = kind.each
    monkeypatch.setattr(kind, "each", lambda self, items: reversed(list(each(self, items))))
    session, _, _found = conversation(plan, Interpreted(plan), TOKENS)
    # the reference reads parts by `Sounds.each`, which stays as it is
    assert {c.net for c in session.compared if not c.ok} == {CHAIN}


def _pooled_behind_the_norm(g, spec, x):
    """The last norm of all hidden states, then their means."""
    x = g.Reshape(x, to=(spec.rows, spec.width), shape=(-1, spec.width), name="flat")
    x = layer_norm(g, spec.path("last_norm"), x, spec.eps)
    x = g.Reshape(x, to=(spec.tokens, 2, spec.width), shape=(-1, 2, spec.width), name="pairs")
    x = g.Reduce(x, axes=(1,), keepdims=False, mode="ReduceMean", name="mean")
    return linear(g, spec.path("project0"), x, spec.out)


def _strides_swapped(conv):
    return lambda g, spec, role, x, out, sides, stride: conv(g, spec, role, x, out, sides, 3 - stride)


def _wrong(what: str, spec, monkeypatch) -> tuple:
    """(the sizes of a net that is wrong, weights that it has otherwise)"""
    rng = np.random.default_rng(5)
    if what == "strides swapped":
        monkeypatch.setattr(graphs, "_conv", _strides_swapped(graphs._conv))
    elif what == "pooled behind the norm":
        monkeypatch.setattr(graphs, "_pooled", lambda g, spec, x: x)
        monkeypatch.setattr(graphs, "_project", _pooled_behind_the_norm)
    elif what == "no sinusoids":
        return spec, {"positions.weight": np.zeros((spec.states(spec.chunk), spec.width), np.float32)}
    elif what == "keys with a bias":
        bias = {f"{spec.path('k', layer)}.bias": rng.standard_normal(spec.width) for layer in range(spec.depth)}
        return replace(spec, bare=frozenset()), bias
    elif what == "no activation":
        monkeypatch.setattr(graphs, "activate", lambda g, kind, x, path: x)
    return spec, {}


@pytest.mark.parametrize(
    "name, what",
    [
        ("qwen3_asr", "right"),
        ("qwen3_asr", "no sinusoids"),
        ("qwen3_asr", "no activation"),
        ("qwen2_5_omni", "right"),
        ("qwen2_5_omni", "strides swapped"),
        ("qwen2_5_omni", "no sinusoids"),
        ("qwen2_5_omni", "pooled behind the norm"),
        ("qwen2_5_omni", "keys with a bias"),
    ],
)
def test_nets_with_faults_are_seen(name, what, audio_checkpoint, monkeypatch):
    """A bias of keys is no fault that shows: it adds the same to all scores of a query, and softmax takes it away."""
    plan = plan_of(audio_checkpoint(name))
    net = plan.nets[0]
    assert net.tower
    tower, spec = net.tower
    items = noise(spec, (spec.frames,), np.random.default_rng(2))
    changed, other = _wrong(what, spec, monkeypatch)
    graph = graphs.graph("audio", changed)
    weights = {
        name: other[name] if name in other else recipe.evaluate(weight.recipe, plan.checkpoint)
        for name, weight in graph.weights.items()
    }

    class Faulty:
        def run(self, *_):
            return {net.outputs[0].name: interpret(graph, tower.prepare(spec, items, False), weights)[0]}

    session = Session(plan, Faulty())
    session.launch(launches.tower(net, items))
    assert right(session) is (what in ("right", "keys with a bias"))
