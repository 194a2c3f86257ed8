"""Sessions and generations against a chip made of the NumPy interpreter: what is launched, and that every fault is
seen."""

from __future__ import annotations

from shutil import copytree

import numpy as np
import pytest
from speaking import generate
from verify_helpers import alone, plan_of

from llmconv.checkpoint import recipe
from llmconv.runtime import launches
from llmconv.runtime.half import half
from llmconv.top.interpret import interpret
from llmconv.verify.answers import EXPECTED
from llmconv.verify.generate import CHAIN, Runtime
from llmconv.verify.heads import JUDGES
from llmconv.verify.session import Session

SEQ, TOKENS = 24, 6


class Interpreted:
    """A chip that runs the nets' graphs in float32 and rounds what goes out. spoil(net, outputs) may change the
    outputs."""

    def __init__(self, plan, spoil=lambda net, outputs: outputs):
        self.nets, self.spoil, self.runs = {net.name: net for net in plan.nets}, spoil, []
        self.weights = {
            n.name: {w.name: recipe.evaluate(w.recipe, plan.checkpoint) for w in n.graph.weights.values()}
            for n in plan.nets
        }

    def run(self, name, inputs):
        net = self.nets[name]
        assert {io.name: io.shape for io in net.inputs} == {k: v.shape for k, v in inputs.items()}
        for io in net.inputs:
            if io.dtype != "i32":
                np.testing.assert_array_equal(half(inputs[io.name], io.dtype), inputs[io.name])
        self.runs.append(name)
        found = interpret(net.graph, inputs, self.weights[name])
        rounded = {
            io.name: x.astype(np.int32) if io.dtype == "i32" else half(x, io.dtype) for io, x in zip(net.outputs, found)
        }
        return self.spoil(net, rounded)


def generated(plan, **options):
    chip = Interpreted(plan, **options)
    session = Session(plan, chip)
    runtime = Runtime.of(plan)
    prompt = np.random.default_rng(5).integers(0, plan.spec.vocab, runtime.prompt(TOKENS))
    return session, generate(session, runtime, prompt, TOKENS), chip


def right(session: Session, generation=None) -> bool:
    judged = [*session.compared, *session.picked, *(generation.tokens if generation else ())]
    return all(j.ok for j in judged)


@pytest.mark.parametrize(
    "name, options", [("qwen2", {}), ("qwen2_tied", {"max_input_length": 8}), ("qwen3", {"quantize": "f16"})]
)
def test_a_generation_is_what_transformers_generates(name, options, checkpoint):
    import torch
    from verify_helpers import transformers_model

    model = checkpoint(name)
    plan = plan_of(model, seq=SEQ, **options)
    session, generation, chip = generated(plan)
    assert right(session, generation)
    with torch.inference_mode():
        ids = torch.tensor([generation.prompt])
        whole = transformers_model(model).generate(
            ids, max_new_tokens=TOKENS, do_sample=False, eos_token_id=None, pad_token_id=0
        )
    assert [t.found for t in generation.tokens] == whole[0, ids.shape[1] :].tolist()
    layers = range(plan.spec.layers)
    decode = ["lm_head", "embedding_cache", *(f"block_cache_{i}" for i in layers)]
    assert chip.runs == ["embedding", *(f"block_{i}" for i in layers), *(decode * (TOKENS - 1)), "lm_head"]
    assert {c.net for c in session.compared} == {*chip.runs, CHAIN} - {"lm_head"}


def test_a_generation_ends_with_the_cache(checkpoint):
    plan = plan_of(checkpoint("qwen2"), seq=8)
    session, runtime = Session(plan, Interpreted(plan)), Runtime.of(plan)
    generation = generate(session, runtime, np.arange(6), 50)
    assert len(generation.tokens) == 3, "behind the prompt, and behind rows 6 and 7"
    assert right(session, generation)


def spoil_cache(net, outputs):
    """The decode block returns its new key before rope of the next position: every later token sees a wrong one."""
    if net.name == "block_cache_0":
        return outputs | {"k_cache": np.roll(outputs["k_cache"], 1, -1)}
    return outputs


def spoil_token(net, outputs):
    return outputs | {"token_id": (outputs["token_id"] + 1) % 1024} if net.kind == "lm_head" else outputs


def spoil_padding(net, outputs):
    """Garbage in the rows of the padding, as a chip may leave there."""
    if net.kind == "block":
        return {k: np.concatenate([v[:, :19], np.full_like(v[:, 19:], 99)], 1) for k, v in outputs.items()}
    return outputs


def spoil_states(net, outputs):
    return outputs | {"output_states": outputs["output_states"] * 1.05} if net.name == "block_1" else outputs


@pytest.mark.parametrize(
    "spoil, wrong",
    [
        (spoil_cache, {"block_cache_0", CHAIN}),
        (spoil_token, {"lm_head", "generation"}),
        (spoil_states, {"block_1", CHAIN}),
    ],
)
def test_faults_are_seen_where_they_are(spoil, wrong, checkpoint):
    session, generation, _ = generated(plan_of(checkpoint("qwen2"), seq=SEQ), spoil=spoil)
    found = {j.net for j in (*session.compared, *session.picked, *generation.tokens) if not j.ok}
    assert wrong - {CHAIN} <= found <= wrong | {CHAIN, "generation"}


def test_what_is_beyond_the_prompt_does_not_count(checkpoint):
    plan = plan_of(checkpoint("qwen2"), seq=SEQ)
    assert Runtime.of(plan).prompt(TOKENS) == 19
    session, generation, _ = generated(plan, spoil=spoil_padding)
    assert right(session, generation)


EDGE = 77  # a token


def on_edge(model):
    """A copy of a checkpoint whose first layer takes token EDGE away, all but what rounding leaves of it: what the other
    layers make of it is rounding's. Of other tokens it changes little."""
    import torch
    from safetensors.torch import load_file, save_file

    file = model / "model.safetensors"
    tensors = load_file(file)
    layer, state = "model.layers.0.", tensors["model.embed_tokens.weight"][EDGE].float()
    normed = state / state.square().mean().sqrt() * tensors[f"{layer}post_attention_layernorm.weight"].float()
    tensors[f"{layer}self_attn.o_proj.weight"].zero_()
    for name in ("gate", "up"):
        rows = torch.zeros_like(tensors[f"{layer}mlp.{name}_proj.weight"])
        rows[0] = 10 * normed / normed.square().sum()  # ten for EDGE: silu leaves it as it is
        tensors[f"{layer}mlp.{name}_proj.weight"] = rows
    down = torch.zeros_like(tensors[f"{layer}mlp.down_proj.weight"])
    down[:, 0] = -state / 100
    save_file(tensors | {f"{layer}mlp.down_proj.weight": down}, file, metadata={"format": "pt"})
    return model


def spoil_last(net, outputs):
    """The prompt's last token comes out the other way round."""
    if net.name == "block_1":
        outputs["output_states"][:, 18] *= -1
    return outputs


@pytest.mark.parametrize("edge, wrong", [(True, {"block_1"}), (False, {"block_1", CHAIN, "generation"})])
def test_what_rounding_decides_does_not_count_for_all_blocks(edge, wrong, checkpoint, tmp_path):
    """A chip may make something else of a token that the model leaves open, and pick another token behind it. Where
    the model does not leave it open, that is a fault."""
    session, generation = edged(checkpoint, tmp_path, edge, 1)
    assert {j.net for j in (*session.compared, *session.picked, *generation.tokens) if not j.ok} == wrong
    assert session.ledger.open == edge
    (chain,) = (c for c in session.compared if c.net == CHAIN)
    assert chain.difference.rows == 19 - edge
    assert sum("1 token of the generation is judged net by net alone" in n for n in _notes(session, generation)) == edge


def test_a_model_that_leaves_much_open_is_judged_all_the_same(checkpoint, tmp_path):
    """By torch's own error in half precision, as any chain."""
    session, _ = edged(checkpoint, tmp_path, True, 5)
    (chain,) = (c for c in session.compared if c.net == CHAIN)
    assert session.ledger.open == 0 and chain.difference.rows == 19 and chain.by_torch


def edged(checkpoint, place, edge: bool, count: int):
    """A generation behind a prompt of 19 tokens, the last `count` of which are EDGE, on a chip with a fault in what it
    makes of the last one."""
    model = copytree(checkpoint("llama"), place / "model")
    plan = plan_of(on_edge(model) if edge else model, seq=SEQ)
    session, runtime = Session(plan, Interpreted(plan, spoil_last)), Runtime.of(plan)
    prompt = np.random.default_rng(5).integers(100, plan.spec.vocab, 19)
    prompt[-count:] = EDGE
    return session, generate(session, runtime, prompt, 1)


def _notes(session, generation):
    from llmconv.verify.result import Report

    return Report.of([session], "", generation, (), ()).notes


@pytest.mark.parametrize("options", [{}, {"do_sample": 1}, {"use_block_with_kv": 1, "max_input_length": 8}])
def test_nets_by_themselves(options, checkpoint):
    """Each net alone: prefill with and without history, decode, heads that give the token or its logits."""
    plan = plan_of(checkpoint("llama"), seq=SEQ, **options)
    chip = Interpreted(plan)
    session, rng = Session(plan, chip), np.random.default_rng(0)
    for net in plan.nets:
        if net.name not in ("greedy_head", "sample_head"):
            alone(session, net, rng, thorough=True)
    assert right(session)
    assert chip.runs.count("block_cache_0") == 3 and chip.runs.count("lm_head") == 3
    assert chip.runs.count("block_0") == 4
    assert any(c.net == "lm_head" for c in session.compared) == ("do_sample" in options)


def test_every_net_that_a_runtime_launches_has_a_judge():
    assert JUDGES.keys() | EXPECTED.keys() == launches.KINDS
