"""Every family's nets, as graphs, against transformers' own class in float32: no compiler, no chip."""

from __future__ import annotations

import json
from copy import deepcopy

import numpy as np
import pytest
from family_checkpoints import CONFIGS, GEMMA3_TEXT
from plans import planned

from llmconv.checkpoint import recipe
from llmconv.errors import InputError
from llmconv.plan.plan import Plan
from llmconv.runtime import launches as nets
from llmconv.runtime import state
from llmconv.top.interpret import interpret
from llmconv.verify.adapters import Adapter
from llmconv.verify.answers import EXPECTED
from llmconv.verify.reference import Reference
from llmconv.verify.weights import Precision

# what goes with fixed lengths and without writing to an input, which is the simulator's to show
OPTIONS = [{"lora_max_rank": 4, "max_input_length": 32}, {"share_prompt": 1, "chunk_length": 16}]
EXACT = 5e-6  # relative L2 of two float32 computations


def far(found: np.ndarray, right: np.ndarray) -> float:
    """Relative L2 distance."""
    return float(np.linalg.norm(found - right) / np.linalg.norm(right))


def run(made: Plan, net, inputs, adapter: Adapter | None = None) -> dict[str, np.ndarray]:
    """The net's outputs by name, from our interpreter."""
    weights = {w.name: recipe.evaluate(w.recipe, made.checkpoint) for w in net.graph.weights.values()}
    weights |= {name: values for name, values in adapter.weights.items() if name in weights} if adapter else {}
    return dict(zip((io.name for io in net.outputs), interpret(net.graph, inputs, weights)))


def launches(made: Plan, net):
    """Launches of a block: a padded prompt; for decode with little and much history, rows beyond it random."""
    rng = np.random.default_rng(net.layer)
    shapes = {io.name: io.shape for io in net.inputs}
    length, capacity = nets.length(net), nets.capacity(net)
    for past in sorted({capacity // 4, capacity - length, 0}) if capacity else [0]:
        history = state.random(net, rng)
        yield nets.step(
            net, rng.standard_normal(shapes["input_states"]).astype(np.float32), max(1, length * 3 // 4), past, history
        )


@pytest.mark.parametrize("seq", [64, 96])
@pytest.mark.parametrize("name", CONFIGS)
def test_blocks_equal_the_class(name, seq, family_checkpoint):
    made = planned(family_checkpoint(name), seq)
    reference = Reference(made, Precision())
    blocks = [net for net in made.nets if net.layer is not None]
    assert len(blocks) == 4
    for net in blocks:
        for launch in launches(made, net):
            found = run(made, net, launch.inputs)
            for output, right in EXPECTED[net.kind](reference, launch).items():
                assert far(found[output][:, : launch.count], right) < EXACT, (net.name, output, launch.label)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: " ".join(o))
def test_blocks_with_options_equal_the_class(name, options, family_checkpoint):
    """What an option adds to the blocks, history, adapters or a batch, goes with every family's maths."""
    made = planned(family_checkpoint(name), **options)
    adapter = Adapter.random(made, np.random.default_rng(0)) if made.job.lora_max_rank else None
    reference = Reference(made, Precision(), adapter=adapter)
    for net in (net for net in made.nets if net.layer is not None):
        for launch in launches(made, net):
            found = nets.results(launch, run(made, net, launch.inputs, adapter))
            for output, right in EXPECTED[net.kind](reference, launch).items():
                assert far(found[output][:, : right.shape[1]], right) < EXACT, (net.name, output, launch.label)


@pytest.mark.parametrize("name", CONFIGS)
def test_embedding_and_head_equal_the_class(name, family_checkpoint):
    made = planned(family_checkpoint(name), do_sample=1)
    reference, by_name = Reference(made, Precision()), {net.name: net for net in made.nets}
    rng = np.random.default_rng(0)
    ids = rng.integers(0, made.spec.vocab, (1, 64)).astype(np.int32)
    (found,) = run(made, by_name["embedding"], {"input_ids": ids}).values()
    assert far(found, reference.embed(ids)) < EXACT
    hidden = rng.standard_normal((1, made.spec.hidden)).astype(np.float32)
    (found,) = run(made, by_name["lm_head"], {"hidden_states": hidden}).values()
    assert far(found, reference.logits(hidden)) < EXACT


@pytest.mark.parametrize(
    "name",
    [
        "granite",
        "phi3",
        "mistral",
        "glm",
        "glm4",
        "gemma3_text",
        "olmo2",
        "smollm3",
        "ernie4_5",
        "seed_oss",
        "qwen2_moe",
        "qwen2_sliding",
    ],
)
def test_chain_equals_the_whole_model(name, family_checkpoint):
    """All nets one after another give the logits of transformers' whole forward, also beyond a sliding window."""
    import torch
    from transformers import AutoModelForCausalLM

    model = family_checkpoint(name)
    made = planned(model, do_sample=1)
    by_name = {net.name: net for net in made.nets}
    ids = np.random.default_rng(1).integers(0, made.spec.vocab, 64).astype(np.int32)
    (hidden,) = run(made, by_name["embedding"], {"input_ids": ids[None]}).values()
    for layer in range(made.spec.layers):
        net = by_name[f"block_{layer}"]
        hidden = run(made, net, nets.step(net, hidden, len(ids)).inputs)["output_states"]
    (found,) = run(made, by_name["lm_head"], {"hidden_states": hidden[:, -1]}).values()
    with torch.no_grad():
        whole = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="eager").eval()
        right = whole(torch.from_numpy(ids[None]).long()).logits[:, -1].numpy()
    # the hidden states go through the bf16 of the nets' inputs
    assert far(found, right) < 0.02


def test_every_tensor_is_needed_and_used(family_checkpoint):
    for name, tensor in (
        ("phi3", "model.layers.1.self_attn.qkv_proj.weight"),
        ("chatglm", "transformer.encoder.layers.0.self_attention.query_key_value.bias"),
        ("gemma3", "language_model.model.layers.1.pre_feedforward_layernorm.weight"),
        ("olmo2", "model.layers.0.self_attn.k_norm.weight"),
        ("glm4", "model.layers.1.post_mlp_layernorm.weight"),
        ("qwen2_moe", "model.layers.0.mlp.experts.5.up_proj.weight"),
    ):
        with pytest.raises(InputError, match=tensor.replace(".", r"\.")):
            planned(family_checkpoint(name, drop=f"^{tensor}$"))
    with pytest.raises(InputError, match=r"query_key_value\.bias.* would not be used"):
        planned(family_checkpoint("chatglm", add_qkv_bias=False))
    with pytest.raises(InputError, match=r"qkv_proj\.weight .*has shape"):
        planned(_with(family_checkpoint("phi3"), num_key_value_heads=2))


def test_maths_that_is_missing_is_refused(family_checkpoint):
    with pytest.raises(InputError, match="text_config.attn_logit_softcapping in .* is 50.0"):
        planned(_with(family_checkpoint("gemma3"), text_config=GEMMA3_TEXT | {"attn_logit_softcapping": 50.0}))
    with pytest.raises(InputError, match="rmsnorm in .* is False"):
        planned(_with(family_checkpoint("chatglm"), rmsnorm=False))


def _with(model, **fields):
    """A copy of the model's directory with other fields in its config.json."""
    import shutil

    other = model.parent / f"{model.name}_changed"
    shutil.copytree(model, other, dirs_exist_ok=True)
    config = json.loads((model / "config.json").read_text()) | fields
    (other / "config.json").write_text(json.dumps(config))
    return other


@pytest.mark.parametrize("rename", [("", ""), (r"^language_model\.model\.", "model.language_model.")])
def test_gemma3_in_both_prefixes(rename, family_checkpoint):
    made = planned(family_checkpoint("gemma3", rename=rename))
    launch = next(launches(made, made.nets[1]))
    right = EXPECTED[made.nets[1].kind](Reference(made, Precision()), launch)
    assert far(run(made, made.nets[1], launch.inputs)["output_states"], right["output_states"]) < EXACT


def test_gemma3_fields_may_be_left_out():
    """The published text_config of the 4B says little; the rest is the class's defaults."""
    from transformers import Gemma3TextConfig

    from llmconv.checkpoint.config import Config
    from llmconv.families import family_of

    given = {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
        "sliding_window": 1024,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    }
    spec = family_of("gemma3").spec(
        Config({"model_type": "gemma3", "text_config": given | {"model_type": "gemma3_text"}}, "config.json")
    )
    right = Gemma3TextConfig(**deepcopy(given))
    assert (spec.heads, spec.kv_heads, spec.head_dim, spec.vocab) == (
        right.num_attention_heads,
        right.num_key_value_heads,
        right.head_dim,
        right.vocab_size,
    )
    assert ["sliding_attention" if kind.window else "full_attention" for kind in spec.kinds] == right.layer_types
    for kind, name in zip(spec.kinds, right.layer_types):
        theirs = right.rope_parameters[name]
        assert (kind.rope["rope_type"], kind.rope["rope_theta"], kind.rope.get("factor")) == (
            theirs["rope_type"],
            theirs["rope_theta"],
            theirs.get("factor"),
        )
    assert spec.tied and spec.attention_scale == 256**-0.5 and spec.eps == right.rms_norm_eps


def test_gemma3_rope_of_both_config_forms(family_checkpoint):
    new = {k: v for k, v in GEMMA3_TEXT.items() if not k.startswith("rope") and k != "sliding_window_pattern"} | {
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 8.0},
        },
    }
    old, model = planned(family_checkpoint("gemma3_text")), family_checkpoint("gemma3_text")
    directory = _with(model)
    (directory / "config.json").write_text(json.dumps(new))
    assert planned(directory).spec.kinds == old.spec.kinds


def test_groups_of_experts(family_checkpoint):
    with pytest.raises(InputError, match="q_group_size 256 does not divide the 128 inputs"):
        planned(family_checkpoint("qwen2_moe"), quantize="w4bf16", q_group_size=256)
