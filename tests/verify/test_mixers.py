"""A mixer that is no attention goes through graph, plan and verification as data: no positions, no mask, one state that
every launch replaces, and one that the net updates in place. No compiler, no chip."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from speaking import converse
from verify_helpers import alone, plan_of

from llmconv.blocks.attention import ATTENTION
from llmconv.blocks.decoder import Decoder
from llmconv.blocks.layers import alike
from llmconv.blocks.linear import linear
from llmconv.blocks.mixer import Compiling, Mixer, Ports, State
from llmconv.blocks.spec import renamed
from llmconv.checkpoint import recipe
from llmconv.families.family import Family
from llmconv.plan import settle
from llmconv.plan.net import IO
from llmconv.runtime import state
from llmconv.runtime.half import half
from llmconv.runtime.launches import step
from llmconv.runtime.runtime import Runtime
from llmconv.runtime.state import LayerState
from llmconv.toolchain.flags import CompileFlags, passes
from llmconv.top.interpret import interpret
from llmconv.verify.generate import Turn
from llmconv.verify.reference import Reference
from llmconv.verify.session import Session

HIDDEN, SEQ = 128, 32
SMALL = {
    "hidden_size": HIDDEN,
    "intermediate_size": 256,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 256,
    "num_hidden_layers": 3,
}


@dataclass(frozen=True)
class Sums(Mixer):
    """out(y + recurrent + conv) with y = in(x). recurrent: the sum of all y so far, written over the input; conv: the
    sum of a launch's y and half of what it was, an output."""

    kind = "sums"
    last = "sums_out"

    def states(self, spec):
        return State("conv", (1, HIDDEN), "replace"), State("recurrent", (1, HIDDEN), "in_place", "f16")

    def ports(self, spec, layer, step):
        if step.phase == "decode":
            new = f"{spec.path('sums_in', layer)}.concat"
            own = (("conv", "conv_state"), ("recurrent", "recurrent_state"))
            return Ports(own, (("conv", new),), (("recurrent", "recurrent_state"),))
        own = (("recurrent", "recurrent_states"), *((("conv", "conv_states"),) if step.phase == "history" else ()))
        return Ports(own, (("conv", "conv_states"),), (("recurrent", "recurrent_states"),))

    def linears(self, spec):
        return {"sums_in": (spec.hidden, spec.hidden), "sums_out": (spec.hidden, spec.hidden)}

    def mix(self, g, spec, layer, step, x, given):
        assert given.positions is None and given.mask is None and given.history is None
        y = linear(g, spec, "sums_in", layer, x)
        total = g.Reduce(y, axes=(1,), keepdims=True, mode="ReduceSum", name="sums.total")
        g.Add(given.states["recurrent"], total, name="sums.recurrent")
        (_, name), conv = self.ports(spec, layer, step).outputs[0], total
        out = g.Add(y, given.states["recurrent"], name="sums.behind")
        if "conv" in given.states:
            out = g.Add(out, given.states["conv"], name="sums.both")
            conv = g.Add(total, g.MulConst(given.states["conv"], const_val=0.5, name="sums.half"), name=f"{name}.new")
        conv = g.MulConst(conv, const_val=1.0, name=name)
        return linear(g, spec, "sums_out", layer, out), {"conv": conv}

    def compiling(self, spec, step):
        return Compiling("0:0,1:1" if step.decode else "", (("sums.total", "F32"),))


def kinds(config, head_dim):
    first, second, last = alike(config, head_dim)
    return replace(first, mixer=Sums()), replace(second, mixer=Sums()), last


FAMILY = Family(
    model_types=("llama",),
    decoder=Decoder(names=renamed(sums_in="self_attn.q_proj", sums_out="self_attn.o_proj"), kinds=kinds),
    unused=(r"layers\.[01]\.self_attn\.[kv]_proj",),
    forces={"dynamic": True},
    name="sums",
)


class Maths(Reference):
    """Llama, with the layers of sums computed here."""

    def block(self, layer, hidden, positions, past=None, seen=None, experts=None):
        if self.plan.spec.kinds[layer].mixer == ATTENTION:
            return super().block(layer, hidden, positions, past, seen, experts)

        def weight(name):
            source = ("tensor", f"model.layers.{layer}.{name}.weight")
            return np.asarray(recipe.evaluate(source, self.plan.checkpoint), np.float32)

        def norm(x, name):
            return x / np.sqrt((x**2).mean(-1, keepdims=True) + self.plan.spec.eps) * weight(name)

        y = norm(hidden, "input_layernorm") @ weight("self_attn.q_proj").T
        first = {name: np.zeros((1, 1, HIDDEN), np.float32) for name in ("conv", "recurrent")}
        kept, total = first | dict(past or {}), y.sum(1, keepdims=True)
        x = hidden + (y + kept["recurrent"] + kept["conv"]) @ weight("self_attn.o_proj").T
        z = norm(x, "post_attention_layernorm")
        gate = z @ weight("mlp.gate_proj").T
        x = x + (gate / (1 + np.exp(-gate)) * (z @ weight("mlp.up_proj").T)) @ weight("mlp.down_proj").T
        return x, {"conv": total + kept["conv"] / 2, "recurrent": total + kept["recurrent"]}


class Chip:
    """Our interpreter, which writes to the input that a net of sums updates in place."""

    def __init__(self, plan, spoil=lambda name, found: found):
        self.nets, self.spoil, self.runs = {net.name: net for net in plan.nets}, spoil, []
        self.weights = {
            net.name: {w.name: recipe.evaluate(w.recipe, plan.checkpoint) for w in net.weights} for net in plan.nets
        }

    def run(self, name, inputs, read=()):
        net = self.nets[name]
        self.runs.append(name)
        graph, outputs = net.graph, net.graph.outputs
        graph.outputs = (*outputs, *(op.results[0] for op in graph.ops if op.results[0].name == "sums.recurrent"))
        found = dict(zip((*(io.name for io in net.outputs), *read), interpret(graph, inputs, self.weights[name])))
        graph.outputs = outputs
        kinds = {io.name: io.dtype for io in (*net.inputs, *net.outputs)}
        found = {n: x.astype(np.int32) if kinds[n] == "i32" else half(x, kinds[n]) for n, x in found.items()}
        return self.spoil(name, found)


@pytest.fixture
def planned(checkpoint, monkeypatch):
    """planned(option=...) -> the plan of a model of two layers of sums and one of attention."""
    monkeypatch.setattr(settle, "family_of", lambda _: FAMILY)
    monkeypatch.setattr("llmconv.verify.session.Reference", Maths)
    return lambda **options: plan_of(checkpoint("llama", **SMALL), seq=SEQ, **options)


def ios(plan, name) -> tuple[tuple[IO, ...], tuple[IO, ...]]:
    net = next(net for net in plan.nets if net.name == name)
    return net.inputs, net.outputs


def test_inputs_and_outputs_are_the_mixers(planned):
    plan = planned()
    hidden = IO("input_states", (1, SEQ, HIDDEN), "bf16"), IO("output_states", (1, SEQ, HIDDEN), "bf16")
    one = IO("input_states", (1, 1, HIDDEN), "bf16"), IO("output_states", (1, 1, HIDDEN), "bf16")

    def kept(name, dtype="bf16"):
        return IO(name, (1, 1, HIDDEN), dtype)

    assert ios(plan, "block_1") == ((hidden[0], kept("recurrent_states", "f16")), (hidden[1], kept("conv_states")))
    assert ios(plan, "block_cache_1") == (
        (one[0], kept("conv_state"), kept("recurrent_state", "f16")),
        (one[1], kept("model.layers.1.self_attn.q_proj.concat")),
    )
    names = [io.name for io in ios(plan, "block_cache_2")[0]]
    assert names == ["input_states", "position_ids", "attention_mask", "history_k", "history_v"]
    history = planned(use_history_kv=1)
    assert [io.name for io in ios(history, "block_0")[0]] == ["input_states", "recurrent_states", "conv_states"]
    kinds = {net.kind for net in history.nets if net.layer == 0}
    assert kinds == {"block", "block_cache"}, "a layer without rows has one prefill net, with history and without"
    assert {net.kind for net in history.nets if net.layer == 2} == {"block", "block_kv", "block_cache"}
    stages = {net.layer for net in history.nets if net.stage_of}
    assert stages == {2}, "decode has stages by the number of rows, and sums have none"


def test_flags_are_the_mixers_and_the_familys(planned):
    plan = planned()
    flags = {net.name: net.flags for net in plan.nets}
    assert flags["block_0"].dynamic and flags["block_2"].dynamic and plan.job.dynamic
    assert "dynamic is on: the nets of sums need it" in plan.notes
    assert "dynamic is on: the nets of sums need it" not in planned(dynamic=1).notes
    assert flags["block_cache_0"].same_addr == "0:0,1:1" and not flags["block_0"].same_addr
    assert flags["block_0"].qtable == "sums.total F32\n" and not flags["block_2"].precision
    coded = {net.name: net.flags for net in planned(quantize="w4bf16").nets}
    # the compiler takes no table in a mode that quantises: all blocks are coded by us, and lowered in half precision
    assert coded["block_0"].precision and coded["block_0"].mode == "W4BF16"
    assert {coded[f"block_{i}"].lowered for i in range(3)} == {"BF16"} and coded["lm_head"].lowered == "BF16"
    assert not any("W4" in one or "q_group_size=64" in one for one in passes(coded["block_2"], "m"))
    nets = {net.name: net for net in plan.nets}
    assert nets["block_1"].pattern == nets["block_0"] and nets["block_cache_1"].pattern == nets["block_cache_0"]
    assert plan.spec.grouped().keys() >= {"sums_in", "sums_out", "q", "k", "v", "o", "gate", "up", "down"}


def test_flags_of_operations_and_addresses_reach_the_compiler():
    plain = CompileFlags("bm1688", "BF16")
    flags = replace(plain, same_addr="0:0,1:1", precision=(("a", "F16"), ("b", "F32")))
    found = [option for option in passes(flags, "n.bmodel") if option not in passes(plain, "n.bmodel")]
    assert [option.partition(" ")[0] for option in found] == [
        "--convert-top-to-tpu=qtable=qtable",
        "--address-assign=same_addr=0:0,1:1",
    ]
    both = replace(flags, address_assign="save_io_alone_config=a.json")
    assert "--address-assign=save_io_alone_config=a.json same_addr=0:0,1:1" in passes(both, "n.bmodel")
    assert CompileFlags(**flags.to_dict() | {"precision": [["a", "F16"], ["b", "F32"]]}) == flags
    assert flags.to_dict().keys() - plain.to_dict().keys() == {"same_addr", "precision"}, "old keys stay as they were"


def test_states_of_a_layer():
    states = (State("rows", (2,), "append"), State("conv", (3,), "replace"), State("sum", (3,), "in_place"))
    rng = np.random.default_rng(0)
    kept, own = LayerState.used(states, 4, rng), LayerState(states)
    assert kept.values["rows"].all() and not kept.values["conv"].any() and not kept.values["sum"].any()
    stale = kept.values["rows"].copy()
    new = {"rows": np.ones((1, 3, 2)), "conv": np.full((1, 3), 5.0), "sum": np.full((1, 3), 6.0)}
    for one in (kept, own):
        one.take(new, 0)
        one.mark(3)
        one.take(new | {"rows": np.full((1, 2, 2), 2.0), "sum": np.full((1, 3), 7.0)}, 3)
    assert kept.values["rows"][0, :, 0].tolist() == [1, 1, 1, 2], "no room for a fifth row"
    assert own.at(5)["rows"][0, :, 0].tolist() == [1, 1, 1, 2, 2]
    for one in (kept, own):
        one.forget(3)
        assert one.at(3)["rows"][0, :, 0].tolist() == [1, 1, 1] and one.at(3)["sum"].tolist() == [[6, 6, 6]]
        with pytest.raises(ValueError):
            one.forget(2)
    assert kept.values["rows"][0, 3, 0] == 2 != stale[0, 3, 0], "what a runtime does not clear stays"
    own.forget(0)
    assert not own.at(0)["conv"].any() and own.at(0)["rows"].shape == (1, 0, 2)


@pytest.mark.parametrize("name", ["block_0", "block_cache_0", "block_1"])
def test_a_launch_is_judged_with_its_states(name, planned):
    plan = planned()
    net = next(net for net in plan.nets if net.name == name)
    session = Session(plan, Chip(plan))
    alone(session, net, np.random.default_rng(1), thorough=True)
    conv, recurrent = (state.told(net)[what] for what in ("conv", "recurrent"))
    assert {c.output for c in session.compared} == {"output_states", conv, recurrent}
    assert all(c.ok for c in session.compared)
    for output in (conv, recurrent):

        def spoil(_, found, output=output):
            return found | {output: found[output] * 1.1}

        session = Session(plan, Chip(plan, spoil))
        alone(session, net, np.random.default_rng(1), thorough=True)
        assert {c.output for c in session.compared if not c.ok} == {output}


@pytest.mark.parametrize("options", [{}, {"use_history_kv": 1, "chunk_length": 8}], ids=str)
def test_a_conversation_keeps_the_states(options, planned):
    """Prompt (in chunks, where prefill reads on), tokens, back to the prompt's end, and on from there."""
    plan = planned(**options)
    runtime, rng = Runtime.of(plan), np.random.default_rng(2)
    assert runtime.capacity == SEQ and runtime.chunk(0) == (8 if options else SEQ)
    assert runtime.chunk(5) == (8 if options else 0)
    session = Session(plan, Chip(plan))
    said = [Turn(rng.integers(0, 256, 11), 3)]
    if options:
        said.append(Turn(rng.integers(0, 256, 4), 3, back=11))
    found = converse(session, runtime, said)
    assert all(c.ok for c in session.compared) and all(token.ok for token in found.tokens)
    assert len(found.tokens) == 3 * len(said)
    assert session.simulator.runs.count("block_cache_0") == 2 * len(said)


def test_states_that_are_lost_are_seen(planned, monkeypatch):
    """A runtime that does not carry a state on: the chain goes wrong, though every launch is right."""
    plan = planned()
    take = LayerState.take

    def lose(self, new, past):
        take(self, new if self.room is None else {n: v for n, v in new.items() if n != "recurrent"}, past)

    monkeypatch.setattr(LayerState, "take", lose)
    session = Session(plan, Chip(plan))
    converse(session, Runtime.of(plan), [Turn(np.arange(1, 12), 3)])
    assert {c.net for c in session.compared if not c.ok} == {"all blocks"}


def test_launches_hand_over_what_the_net_takes(planned):
    nets = {net.name: net for net in planned().nets}
    kept = {"conv": np.full((1, 1, HIDDEN), 1 / 3), "recurrent": np.full((1, 1, HIDDEN), 1 / 3)}
    decode = step(nets["block_cache_0"], np.ones((1, 1, HIDDEN)), 1, 7, kept).inputs
    assert list(decode) == ["input_states", "conv_state", "recurrent_state"]
    assert decode["conv_state"][0, 0, 0] == np.float32(0.333984375), "what bf16 holds of a third"
    assert decode["recurrent_state"][0, 0, 0] == np.float32(np.float16(1 / 3))
    assert list(step(nets["block_0"], np.ones((1, 5, HIDDEN)), 5).inputs) == ["input_states", "recurrent_states"]
