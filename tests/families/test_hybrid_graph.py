"""The nets of families whose layers keep states of a fixed size, as graphs, against transformers' own class in float32:
no compiler, no chip."""

from __future__ import annotations

import json

import numpy as np
import pytest
from family_checkpoints import QWEN3_5_TEXT
from test_families_graph import EXACT, far, planned, run

from llmconv.checkpoint import recipe
from llmconv.errors import InputError
from llmconv.plan.net import IO
from llmconv.runtime import launches as nets
from llmconv.runtime import state
from llmconv.top.interpret import interpret
from llmconv.verify.answers import EXPECTED
from llmconv.verify.reference import Reference
from llmconv.verify.weights import Precision

SEQ = 128
STRETCHED = 2.0**-11  # prefill stretches the logs of decays by at most that part of them
LENGTHS = (1, 2, 3, 4, 5, 63, 64, 65, 128)


def compared(made, reference, launch) -> dict[str, float]:
    """How far each output, and each state that a net writes over its input, is from the class's."""
    given = {name: values.copy() for name, values in launch.inputs.items()}
    found = run(made, launch.net, given)
    found |= {name: given[name] for name in state.written(launch.net)}
    found, right = nets.results(launch, found), EXPECTED[launch.net.kind](reference, launch)
    assert found.keys() == right.keys()
    return {name: far(found[name], right[name]) for name in right}


@pytest.fixture(scope="module")
def model(family_checkpoint):
    made = planned(family_checkpoint("qwen3_5"), SEQ)
    return made, Reference(made, Precision()), {net.name: net for net in made.nets}


def random(net, count, past=0, seed=0):
    """A launch with states that no conversation left; a layer that keeps no rows sees `past` tokens in them."""
    rng = np.random.default_rng(seed)
    hidden = rng.standard_normal((1, nets.length(net), 256)).astype(np.float32)
    return nets.step(net, hidden, count, past, state.random(net, rng) if past else None)


@pytest.mark.parametrize("count", LENGTHS)
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_prefill_equals_the_class(layer, count, model):
    made, reference, by_name = model
    found = compared(made, reference, random(by_name[f"block_{layer}"], count))
    assert max(found.values()) < (STRETCHED if layer < 2 else EXACT), found
    assert len(found) == 3


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_decode_equals_the_class(layer, model):
    made, reference, by_name = model
    for past in (1, 70, SEQ - 1):
        found = compared(made, reference, random(by_name[f"block_cache_{layer}"], 1, past))
        assert max(found.values()) < EXACT, found


@pytest.mark.parametrize("count", [1, 3, 5, 63, 64])
def test_prefill_behind_history_equals_the_class(count, family_checkpoint):
    made = planned(family_checkpoint("qwen3_5"), SEQ, use_history_kv=1, chunk_length=64)
    names = [net.name for net in made.nets if net.layer is not None and net.kind != "block_cache"]
    assert names == ["block_0", "block_1", "block_2", "block_kv_2"], "what keeps no rows has one net for both"
    reference = Reference(made, Precision())
    for net in made.nets:
        if net.name in ("block_0", "block_kv_2"):
            for past in (0, 40) if net.name == "block_0" else (40,):
                found = compared(made, reference, random(net, count, past))
                assert max(found.values()) < (STRETCHED if net.name == "block_0" else 2 * EXACT), (
                    net.name,
                    past,
                    found,
                )


def test_a_conversation_equals_the_whole_model(model):
    """Prompt and tokens through all nets, states carried on, against the whole class on all tokens at once."""
    import torch
    from transformers import AutoModelForCausalLM

    made, _, by_name = model
    ids = np.random.default_rng(1).integers(0, made.spec.vocab, 10).astype(np.int32)
    kept = [state.LayerState(kind.mixer.states(made.spec)) for kind in made.spec.kinds]
    hidden, past = [], 0
    for part in (ids[:3], ids[3:4], *np.split(ids[4:], 6)):
        embedding, kind = ("embedding_cache", "block_cache") if past else ("embedding", "block")
        x = run(made, by_name[embedding], nets.tokens(by_name[embedding], part).inputs)
        x = next(iter(x.values()))[:, : len(part)]
        for layer, own in enumerate(kept):
            net = by_name[f"{kind}_{layer}"]
            held = {s.name: np.zeros(s.shaped(1, SEQ if s.grows else 0), np.float32) for s in own.states}
            for name, values in own.at(past).items():
                held[name][:, : values.shape[1]] = values
            launch = nets.step(net, x, len(part), past, held)
            given = {name: values.copy() for name, values in launch.inputs.items()}
            found = run(made, net, given)
            found |= {name: given[name] for name in state.written(net)}
            new = state.made(net, found)
            rows = {s.name: new[s.name][:, : len(part)] for s in own.states if s.grows}
            own.take(new | rows, past)
            x = found["output_states"][:, : len(part)]
        hidden.append(x)
        past += len(part)
    with torch.no_grad():
        path = made.checkpoint.path
        whole = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()
        right = whole.model(torch.from_numpy(ids[None]).long()).last_hidden_state.numpy()
    # hidden states and states go through the half precision of the nets' inputs
    assert far(np.concatenate(hidden, 1), right) < 0.02


def test_wrong_maths_is_seen(model):
    """Decay left out, gate and query swapped, taps reversed, a state that stays: each is far from the class."""
    made, reference, by_name = model

    def spoilt(name, count, change, past=0):
        net = by_name[name]
        launch = random(net, count, past)
        weights = {w.name: np.array(recipe.evaluate(w.recipe, made.checkpoint)) for w in net.graph.weights.values()}
        inputs = {n: v.copy() for n, v in launch.inputs.items()}
        change(weights, inputs)
        found = dict(zip((io.name for io in net.outputs), interpret(net.graph, inputs, weights)))
        right = EXPECTED[net.kind](reference, launch)["output_states"]
        return far(found["output_states"][:, :count], right)

    def weight(end, new):
        def change(weights, inputs):
            (name,) = [n for n in weights if n.endswith(end)]
            weights[name] = new(weights[name])

        return change

    def stale(weights, inputs):
        inputs["recurrent_state"] *= 0

    def swapped(w):
        rows = w.T.reshape(made.spec.heads, 2, made.spec.head_dim, -1)
        return rows[:, ::-1].reshape(w.T.shape).T

    assert spoilt("block_0", 20, lambda w, i: None) < STRETCHED
    assert spoilt("block_0", 20, weight("A_log", lambda a: 0 * a)) > 1e-3
    assert spoilt("block_0", 20, weight("conv1d.weight", lambda w: w[..., ::-1])) > 1e-2
    assert spoilt("block_0", 20, weight("in_proj_a.bias", lambda b: 0 * b)) > 1e-3
    assert spoilt("block_2", 20, weight("q_proj.weight", swapped)) > 1e-2
    assert spoilt("block_cache_0", 1, stale, past=5) > 1e-2


def test_the_nets_tensors_are_the_runtimes(family_checkpoint):
    """Names, order, shapes and types as public runtimes find them; the recurrent state, whose bytes they only clear and
    copy, is float16."""
    made = planned(family_checkpoint("qwen3_5"), SEQ)
    assert [net.name for net in made.nets] == [
        "embedding",
        *(f"block_cache_{i}" for i in range(3)),
        "embedding_cache",
        "lm_head",
        *(f"block_{i}" for i in range(3)),
    ]
    by_name = {net.name: net for net in made.nets}
    conv, recurrent = (1, 1024, 4), (1, 4, 128, 128)
    states = IO("input_states", (1, SEQ, 256), "bf16"), IO("output_states", (1, SEQ, 256), "bf16")
    one = IO("input_states", (1, 1, 256), "bf16"), IO("output_states", (1, 1, 256), "bf16")
    assert by_name["block_0"].inputs == (states[0], IO("recurrent_states", recurrent, "f16"))
    assert by_name["block_0"].outputs == (states[1], IO("conv_states", conv, "bf16"))
    assert by_name["block_cache_1"].inputs == (
        one[0],
        IO("conv_state", conv, "bf16"),
        IO("recurrent_state", recurrent, "f16"),
    )
    concat = "model.language_model.layers.1.linear_attn.conv1d.concat"
    assert by_name["block_cache_1"].outputs == (one[1], IO(concat, conv, "bf16"))
    assert [io.name for io in by_name["block_2"].inputs][:2] == ["input_states", "position_ids"]
    assert by_name["block_2"].inputs[1].shape == (3, SEQ)
    flags = {name: net.flags for name, net in by_name.items()}
    assert all(flags[f"block_{i}"].dynamic and flags[f"block_{i}"].addr_mode == "basic" for i in range(3))
    assert all(flags[f"block_cache_{i}"].addr_mode == "io_alone" for i in range(3))
    assert [flags[f"block_cache_{i}"].same_addr for i in range(3)] == ["0:0,1:1", "0:0,1:1", ""]
    assert by_name["block_1"].pattern == by_name["block_0"]


def test_fields_of_the_config(family_checkpoint):
    def kinds(**changes):
        text = {k: v for k, v in (QWEN3_5_TEXT | changes).items() if v is not None}
        made = planned(family_checkpoint("qwen3_5", text_config=text), SEQ)
        return [kind.mixer.kind for kind in made.spec.kinds], made.notes

    found, notes = kinds(layer_types=None, full_attention_interval=2)
    assert found == ["delta_net", "attention", "delta_net"]
    assert any("dynamic is on" in note for note in notes)
    for wrong, text in (
        ({"layer_types": ["linear_attention", "sliding", "full_attention"]}, "layer_types .*'sliding'"),
        ({"layer_types": ["linear_attention"] * 2}, "layer_types .*2 items; the model has 3 layers"),
        ({"linear_num_value_heads": 3}, "linear_num_value_heads .*no multiple"),
        ({"linear_value_head_dim": 64}, "linear_value_head_dim"),
        ({"attn_output_gate": False}, "attn_output_gate"),
    ):
        path = family_checkpoint("qwen3_5")
        config = json.loads((path / "config.json").read_text())
        other = path.parent / f"wrong{abs(hash(text))}"
        other.mkdir(exist_ok=True)
        (other / "model.safetensors").write_bytes((path / "model.safetensors").read_bytes())
        (other / "config.json").write_text(json.dumps(config | {"text_config": QWEN3_5_TEXT | wrong}))
        with pytest.raises(InputError, match=text):
            planned(other, SEQ)


def test_cores_that_would_leave_a_head_out_are_refused(family_checkpoint):
    """The compiler gives every core as many key heads: of 3, two cores compute 2, and give NaN (seen on the simulator)."""
    sizes = QWEN3_5_TEXT | {"linear_num_key_heads": 3, "linear_num_value_heads": 6}
    model = family_checkpoint("qwen3_5", text_config=sizes)
    assert planned(model, SEQ, chip="bm1688", num_core=1)
    with pytest.raises(InputError, match="num_core 2 with linear_num_key_heads 3.*Use num_core 1"):
        planned(model, SEQ, chip="bm1688")


def test_what_cannot_be_split_is_named_alone(family_checkpoint):
    """dynamic, which the family's nets need; and not options that nobody asked for."""
    for devices, hint in (
        (2, "Use distribute_strategy pp and num_device 3 or more."),
        (4, "Use distribute_strategy pp."),
    ):
        with pytest.raises(InputError) as refused:
            planned(family_checkpoint("qwen3_5"), SEQ, num_device=devices)
        assert f"num_device {devices} with distribute_strategy tp and dynamic:" in str(refused.value)
        assert str(refused.value).endswith(hint)
