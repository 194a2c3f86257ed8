"""The nets of families with short convolutions, as graphs, against transformers' own class in float32: no compiler, no
chip."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from family_checkpoints import LFM2_TEXT
from test_families_graph import EXACT, far, launches, planned, run
from test_hybrid_graph import compared, random

from llmconv.checkpoint import recipe
from llmconv.checkpoint.config import Config
from llmconv.errors import InputError
from llmconv.families import family_of
from llmconv.plan.net import IO
from llmconv.runtime import launches as nets
from llmconv.runtime import state
from llmconv.top.interpret import interpret
from llmconv.verify import answers
from llmconv.verify.adapters import Adapter
from llmconv.verify.reference import Reference
from llmconv.verify.weights import Precision

SEQ = 128
LENGTHS = (1, 2, 3, 4, 5, 63, 64, 128)
CONV, ATTENDING = (0, 1, 3), 2


@pytest.fixture(scope="module", params=[0, 1], ids=["static", "dynamic"])
def model(request, family_checkpoint):
    made = planned(family_checkpoint("lfm2"), SEQ, dynamic=request.param)
    return made, Reference(made, Precision()), {net.name: net for net in made.nets}


@pytest.mark.parametrize("count", LENGTHS)
def test_prefill_equals_the_class(count, model):
    """Hidden states and the state behind the prompt, which is shorter than the convolution too; in a net of a fixed
    length random rows follow the prompt."""
    made, reference, by_name = model
    for layer in range(4):
        found = compared(made, reference, random(by_name[f"block_{layer}"], count))
        assert max(found.values()) < EXACT, (layer, found)
        assert len(found) == (3 if layer == ATTENDING else 2)


def test_decode_equals_the_class(model):
    made, reference, by_name = model
    for layer in range(4):
        for past in (1, 2, 70, SEQ - 1):
            found = compared(made, reference, random(by_name[f"block_cache_{layer}"], 1, past))
            assert max(found.values()) < EXACT, (layer, found)


@pytest.mark.parametrize(
    "options",
    [
        {"use_history_kv": 1, "chunk_length": 16},
        {"use_block_with_kv": 1, "max_prefill_kv_length": 16},
        {"use_block_with_kv": 1, "dynamic": 1},
        {"share_prompt": 1, "max_input_length": 12},
        {"batch": 3},
        {"lora_max_rank": 4},
    ],
    ids=lambda o: " ".join(o),
)
def test_options_go_with_the_maths(options, family_checkpoint):
    made = planned(family_checkpoint("lfm2"), 32, **options)
    adapter = Adapter.random(made, np.random.default_rng(0)) if made.job.lora_max_rank else None
    reference = Reference(made, Precision(), adapter=adapter)
    # rows that a batch writes into its history are the simulator's to show
    layers = (0,) if made.job.batch > 1 else (0, ATTENDING)
    for net in (net for net in made.nets if net.layer in layers):
        several = net.inputs[0].shape[0]
        if several > 1:
            rng = np.random.default_rng(1)
            hidden = rng.standard_normal(net.inputs[0].shape).astype(np.float32)
            every = [nets.steps(net, hidden, [5, 1, 20][:several], state.random(net, rng))]
        elif net.kind != "block_cache" and net.ports.inputs:
            # a dynamic launch has no empty history
            pasts = (9,) if net.history and net.flags.dynamic else (0, 9)
            every = [random(net, count, past) for count in (1, 2, nets.length(net)) for past in pasts]
        else:
            every = launches(made, net)
        for launch in every:
            found, right = (
                nets.results(launch, run(made, net, launch.inputs, adapter)),
                answers.expected(reference, launch),
            )
            assert found.keys() == right.keys()
            for output, values in right.items():
                assert far(found[output][:, : values.shape[1]], values) < EXACT, (net.name, output, launch.label)


def test_a_conversation_equals_the_whole_model(model):
    """Prompt and tokens through all nets, states carried on, against the whole class on all tokens at once."""
    import torch
    from transformers import AutoModelForCausalLM

    made, _, by_name = model
    ids = np.random.default_rng(1).integers(0, made.spec.vocab, 9).astype(np.int32)
    kept = [state.LayerState(kind.mixer.states(made.spec), SEQ) for kind in made.spec.kinds]
    hidden, past = [], 0
    for part in (ids[:2], *np.split(ids[2:], 7)):
        embedding, kind = ("embedding_cache", "block_cache") if past else ("embedding", "block")
        x = next(iter(run(made, by_name[embedding], nets.tokens(by_name[embedding], part).inputs).values()))
        for layer, own in enumerate(kept):
            net = by_name[f"{kind}_{layer}"]
            found = run(made, net, nets.step(net, x, len(part), past, own.values).inputs)
            own.take(state.made(net, found), past)
            x = found["output_states"]
        hidden.append(x[:, : len(part)])
        past += len(part)
    with torch.no_grad():
        path = made.checkpoint.path
        whole = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()
        right = whole.model(torch.from_numpy(ids[None]).long()).last_hidden_state.numpy()
    # hidden states and states go through the half precision of the nets' inputs
    assert far(np.concatenate(hidden, 1), right) < 0.02


def test_wrong_maths_is_seen(model):
    """Taps reversed, the gates swapped, a norm of queries left out, a stale state, an end that is one token off: each is
    far from the class."""
    made, reference, by_name = model

    def spoilt(name, count, change, past=0):
        launch = random(by_name[name], count, past)
        net, inputs = launch.net, {n: v.copy() for n, v in launch.inputs.items()}
        weights = {w.name: np.array(recipe.evaluate(w.recipe, made.checkpoint)) for w in net.graph.weights.values()}
        change(weights, inputs)
        found = dict(zip((io.name for io in net.outputs), interpret(net.graph, inputs, weights)))
        found, right = nets.results(launch, found), answers.expected(reference, launch)
        return max(far(found[output], right[output]) for output in right)

    def weight(end, new):
        def change(weights, _):
            (name,) = [n for n in weights if n.endswith(end)]
            weights[name] = new(weights[name])

        return change

    def swapped(weights, _):
        b, c = (next(n for n in weights if n.endswith(f"in_proj_conv_{part}.weight")) for part in "bc")
        weights[b], weights[c] = weights[c], weights[b]

    def stale(_, inputs):
        inputs["conv_state"] = np.roll(inputs["conv_state"], 1, -1)

    assert spoilt("block_0", 20, lambda *_: None) < EXACT
    for name, count, past in (("block_0", 20, 0), ("block_0", 2, 0), ("block_cache_0", 1, 5)):
        assert spoilt(name, count, weight("conv.conv.weight", lambda w: w[..., ::-1]), past) > 1e-2
        assert spoilt(name, count, swapped, past) > 1e-2
    assert spoilt("block_2", 20, weight("q_layernorm.weight", lambda w: w * 0 + 1)) > 1e-3
    assert spoilt("block_cache_0", 1, stale, past=5) > 1e-2
    if not made.job.dynamic:
        late = lambda _, inputs: inputs.update(state_index=inputs["state_index"] + 1)  # noqa: E731
        assert spoilt("block_0", 20, late) > 0.1


def test_the_nets_tensors(model):
    """Names, order, shapes and types as docs/nets.md has them."""
    made, _, by_name = model
    conv, static = (1, 256, 3), not made.job.dynamic
    given, told = IO("input_states", (1, SEQ, 256), "bf16"), IO("state_index", (3,), "i32")
    assert by_name["block_0"].inputs == ((given, told) if static else (given,))
    assert by_name["block_0"].outputs == (
        IO("output_states", (1, SEQ, 256), "bf16"),
        IO("conv_states", conv, "bf16"),
    )
    one = IO("input_states", (1, 1, 256), "bf16"), IO("output_states", (1, 1, 256), "bf16")
    assert by_name["block_cache_1"].inputs == (one[0], IO("conv_state", conv, "bf16"))
    assert by_name["block_cache_1"].outputs == (one[1], IO("conv_state_new", conv, "bf16"))
    assert [io.name for io in by_name["block_2"].inputs] == ["input_states", "position_ids", "attention_mask"]
    flags = {name: net.flags for name, net in by_name.items()}
    assert [flags[f"block_cache_{i}"].same_addr for i in range(4)] == ["0:0,1:1", "0:0,1:1", "", "0:0,1:1"]
    assert {flags[f"block_{i}"].dynamic for i in range(4)} == {bool(made.job.dynamic)}
    assert by_name["block_1"].pattern == by_name["block_0"]
    launch = nets.step(by_name["block_0"], np.zeros((1, SEQ, 256)), 5)
    assert not static or launch.inputs["state_index"].tolist() == [5, 6, 7]


def test_history_gives_the_state_to_prefill(family_checkpoint):
    made = planned(family_checkpoint("lfm2"), SEQ, use_history_kv=1, chunk_length=64)
    names = [net.name for net in made.nets if net.layer is not None and net.kind != "block_cache"]
    assert names == ["block_0", "block_1", "block_2", "block_kv_2", "block_3"]
    net = next(net for net in made.nets if net.name == "block_0")
    assert [io.name for io in (*net.inputs, *net.outputs)] == [
        "input_states",
        "conv_states",
        "output_states",
        "conv_states_new",
    ]


FORMS = {
    "layer_types": {"full_attn_idxs": [0], "layer_types": ["conv", "conv", "full_attention", "conv"]},
    "full_attn_idxs": {"full_attention_layers": [0]},
    "full_attention_layers": {"full_attn_idxs": None, "full_attention_layers": [2]},
}


@pytest.mark.parametrize("form", FORMS)
def test_which_layers_attend(form, family_checkpoint, tmp_path):
    """In each form of config.json; the reference goes with it."""
    made = planned(_with(family_checkpoint("lfm2"), tmp_path, **FORMS[form]), SEQ)
    assert [kind.mixer.kind for kind in made.spec.kinds] == ["short_conv"] * 2 + ["attention", "short_conv"]
    net = next(net for net in made.nets if net.name == "block_3")
    found = compared(made, Reference(made, Precision()), random(net, 7))
    assert max(found.values()) < EXACT


@pytest.mark.parametrize(
    "given, width",
    [
        ({"block_ff_dim": 6656}, 4608),  # LFM2-350M
        ({"block_ff_dim": 10240}, 6912),  # 700M
        ({"intermediate_size": 12288}, 8192),  # 1.2B
        ({"intermediate_size": 1, "block_ff_dim": 12288}, 8192),
        ({"intermediate_size": 10752, "block_auto_adjust_ff_dim": False}, 10752),  # 2.6B
        ({"intermediate_size": 1000, "block_ffn_dim_multiplier": 1.3, "block_multiple_of": 64}, 896),
    ],
)
def test_the_width_of_an_mlp_is_the_classes(given, width):
    from transformers import Lfm2Config
    from transformers.models.lfm2.modeling_lfm2 import Lfm2MLP

    config = {"model_type": "lfm2", "hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1} | given
    spec = family_of("lfm2").spec(Config(config, Path("config.json")))
    assert spec.intermediate == Lfm2MLP(Lfm2Config(**config)).w1.out_features == width


def test_fields_that_are_left_out_are_the_classes():
    from transformers import Lfm2Config

    spec, right = family_of("lfm2").spec(Config({"model_type": "lfm2"}, Path("config.json"))), Lfm2Config()
    assert (spec.hidden, spec.layers, spec.heads, spec.kv_heads, spec.vocab) == (
        right.hidden_size,
        right.num_hidden_layers,
        right.num_attention_heads,
        right.num_key_value_heads,
        right.vocab_size,
    )
    assert (spec.eps, spec.tied, spec.max_position) == (
        right.norm_eps,
        right.tie_word_embeddings,
        right.max_position_embeddings,
    )
    assert spec.kinds[0].rope["rope_theta"] == dict(right.rope_parameters or {})["rope_theta"]
    assert {kind.mixer.kind for kind in spec.kinds} == {"attention"} and set(right.layer_types or ()) == {
        "full_attention"
    }


def test_biases_and_a_head_of_its_own(family_checkpoint):
    """conv_bias gives both linears and the convolution a bias; without tie_embedding the head is a tensor."""
    made = planned(family_checkpoint("lfm2", conv_bias=True, tie_embedding=None, tie_word_embeddings=False), SEQ)
    reference, by_name = Reference(made, Precision()), {net.name: net for net in made.nets}
    assert not made.spec.tied
    for name, count, past in (("block_0", 7, 0), ("block_cache_0", 1, 5)):
        assert max(compared(made, reference, random(by_name[name], count, past)).values()) < EXACT
    with pytest.raises(InputError, match=r"conv\.bias.* would not be used"):
        planned(_with(made.checkpoint.path, made.checkpoint.path.parent / "other", conv_bias=False), SEQ)


@pytest.mark.parametrize(
    "wrong, text",
    [
        ({"layer_types": ["conv", "conv", "sliding_attention", "conv"]}, "layer_types .*'sliding_attention'"),
        ({"full_attn_idxs": [4]}, "full_attn_idxs .*has layer 4; the model has 4 layers"),
        ({"full_attn_idxs": []}, "no layer of attention"),
        ({"conv_L_cache": 0}, "conv_L_cache"),
        ({"block_use_swiglu": False}, "block_use_swiglu"),
        ({"block_ff_dim": 2000}, r"feed_forward.w\d.weight .*has shape"),
    ],
)
def test_what_cannot_be_a_model_is_refused(wrong, text, family_checkpoint, tmp_path):
    with pytest.raises(InputError, match=text):
        planned(_with(family_checkpoint("lfm2"), tmp_path, **wrong), SEQ)


def test_layers_are_not_split_over_devices(family_checkpoint):
    with pytest.raises(InputError, match="num_device 2 with distribute_strategy tp.*Use distribute_strategy pp"):
        planned(family_checkpoint("lfm2"), SEQ, num_device=2)
    assert planned(family_checkpoint("lfm2"), SEQ, num_device=4, distribute_strategy="pp")


def _with(model, place, **fields):
    """A copy of the model's directory with other fields in its config.json (None takes one away)."""
    shutil.copytree(model, place, dirs_exist_ok=True)
    config = json.loads((model / "config.json").read_text()) | fields
    (place / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    return place


def test_the_checkpoint_is_as_published():
    assert LFM2_TEXT["block_ff_dim"] * 2 // 3 < 512, "the rule of the MLP's width is tried"
