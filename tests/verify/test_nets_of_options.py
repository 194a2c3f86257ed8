"""What the options' nets mean: conversations, batches, heads, adapters and the table on disk, on a chip made of the
NumPy interpreter."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import test_generate
from speaking import converse, generate_batch
from test_generate import right
from verify_helpers import alone, plan_of, transformers_model

from llmconv.blocks import heads as graphs
from llmconv.errors import ConvertError
from llmconv.runtime import launches
from llmconv.top.interpret import interpret
from llmconv.verify.adapters import Adapter
from llmconv.verify.embedding_file import check
from llmconv.verify.generate import Runtime, turns
from llmconv.verify.sampling import TRIED, Settings
from llmconv.verify.session import Session

SEQ, TOKENS = 32, 6
SMALL = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 256,
}


class Interpreted(test_generate.Interpreted):
    """Also with stages, with nets that write to their inputs, and with an adapter in the weights."""

    def __init__(self, plan, adapter: Adapter | None = None, **options):
        super().__init__(plan, **options)
        self.stages = {name: [net for net in plan.nets if name in (net.name, net.stage_of)] for name in self.nets}
        for weights in self.weights.values() if adapter else ():
            weights |= {name: adapter.weights[name] for name in weights if name in adapter.weights}

    @staticmethod
    def takes(net, shape, given) -> bool:
        """Whether an input of this shape may be given so; the heads alone are dynamic and computed at any length."""
        return shape == given or (
            net.kind == "sample_head" and net.flags.dynamic and all(map(lambda most, n: n <= most, shape, given))
        )

    def run(self, name, inputs, read=()):
        net = next(
            n for n in self.stages[name] if all(self.takes(n, io.shape, inputs[io.name].shape) for io in n.inputs)
        )
        self.runs.append(net.name)
        graph, outputs = net.graph, net.graph.outputs
        graph.outputs = (*outputs, *(op.results[0] for op in graph.ops if op.kind == "Insert"))
        found = interpret(graph, inputs, self.weights[net.name])
        graph.outputs = outputs
        named = dict(zip([*(io.name for io in net.outputs), *read], found))
        kinds = {io.name: io.dtype for io in (*net.inputs, *net.outputs)}
        return {n: x.astype(np.int32) if kinds[n] == "i32" else launches.half(x, kinds[n]) for n, x in named.items()}


def whole(model, ids: list[int], tokens: list[int]) -> list[int]:
    """What transformers would have chosen behind one long prompt, and behind that and each of `tokens` but the last."""
    import torch

    with torch.inference_mode():
        logits = transformers_model(model)(torch.tensor([ids + tokens[:-1]])).logits[0]
    return logits[len(ids) - 1 :].argmax(-1).tolist()


SCHEMES = [
    {"use_block_with_kv": 1},
    {"use_block_with_kv": 1, "max_prefill_kv_length": 20},
    {"share_prompt": 1, "max_prefill_kv_length": 16},
    {"chunk_length": 8},
]


@pytest.mark.parametrize("options", SCHEMES, ids=str)
def test_conversations_are_what_transformers_makes_of_one_long_prompt(options, checkpoint):
    model = checkpoint("qwen2", **SMALL)
    plan = plan_of(model, seq=SEQ, **options)
    runtime, chip = Runtime.of(plan), Interpreted(plan)
    session = Session(plan, chip)
    said = turns(plan, runtime, np.random.default_rng(2), TOKENS)
    found = converse(session, runtime, said)
    assert right(session, found) and len(found.tokens) == TOKENS
    read, expected, generated = [], [], [t.found for t in found.tokens]
    for turn in said:
        read = (read if turn.back is None else read[: turn.back]) + [int(i) for i in turn.ids]
        if turn.tokens:
            tokens, generated = generated[: turn.tokens], generated[turn.tokens :]
            expected += whole(model, read, tokens)
            read += tokens
    assert [t.expected for t in found.tokens] == expected
    if "chunk_length" in options:
        assert {"block_cache_0_2", "block_cache_0_1"} <= set(chip.runs), "the shortest cache first, then a longer one"
    elif "share_prompt" in options:
        assert chip.runs.count("block_prompt_0") == 1 and chip.runs.count("block_0") == 2
    else:
        assert chip.runs.count("block_0") == 3, "two chunks of the first prompt, and the second"


def test_a_batch_decodes_each_sequence_as_transformers_does(checkpoint):
    model = checkpoint("qwen2", **SMALL)
    plan = plan_of(model, seq=SEQ, batch=3)
    prompts = [np.random.default_rng(n).integers(0, 256, n) for n in (5, 17, 11)]
    session = Session(plan, Interpreted(plan))
    found = generate_batch(session, Runtime.of(plan), prompts, [None] * 3, TOKENS)
    assert right(session, found)
    tokens = [[t.found for t in found.tokens[first : first + TOKENS]] for first in range(0, 3 * TOKENS, TOKENS)]
    assert [t.expected for t in found.tokens] == [
        token for prompt, own in zip(prompts, tokens) for token in whole(model, prompt.tolist(), own)
    ]


def test_a_batch_that_touches_another_row_is_seen(checkpoint):
    plan = plan_of(checkpoint("qwen2", **SMALL), seq=SEQ, batch=2)
    chip = Interpreted(plan)
    sound = chip.run

    def run(name, inputs, read=()):
        found = sound(name, inputs, read)
        if read:
            found["history_k"][1, 3] += 1
        return found

    chip.run = run
    session = Session(plan, chip)
    alone(session, next(n for n in plan.nets if n.name == "block_cache_0"), np.random.default_rng(0), thorough=False)
    assert {c.output for c in session.compared if not c.ok} == {"history_k, other rows"}


@pytest.mark.parametrize("settings", [*TRIED, Settings(1.2, 0.9, 7, 0.0), Settings(1.0, 1.0, 50, 0.999)], ids=str)
def test_sample_head_is_what_the_settings_mean(settings, checkpoint):
    """The graph in the interpreter against the rendering in verify.sampling, which shares nothing with it."""
    spec = plan_of(checkpoint("qwen2", **SMALL)).spec
    rng = np.random.default_rng(4)
    logits, ids = rng.standard_normal((1, spec.vocab)) * 4, np.zeros((1, SEQ), np.int32)
    ids[0, :20] = rng.integers(0, spec.vocab, 20)
    given = {"m_logits": logits, "input_ids": ids, "top_k": np.array([settings.top_k])}
    given |= {name: np.array([getattr(settings, name)]) for name in ("penalty", "temperature", "top_p")}
    weights = {
        "Constant0": np.ones(1),
        "Constant1": np.array([[[0, i] for i in range(5)]]),
        "Constant2": np.ones((1, 5)),
    }
    odds, tokens = interpret(graphs.sample_head(spec, SEQ), given, weights)
    right_odds, right_tokens = settings.candidates(logits[0], ids)
    assert tokens[0].tolist() == right_tokens.tolist()
    np.testing.assert_allclose(odds[0], right_odds, rtol=1e-9, atol=1e-15)


def test_heads_by_themselves_and_their_faults(checkpoint):
    plan = plan_of(checkpoint("qwen2", **SMALL), seq=SEQ, do_sample=1)
    heads = [net for net in plan.nets if net.name.endswith("_head")]

    def judged(spoil) -> set[str]:
        chip = Interpreted(plan)
        sound = chip.run
        chip.run = lambda name, inputs, read=(): spoil(name, sound(name, inputs, read))
        session = Session(plan, chip)
        for net in heads:
            alone(session, net, np.random.default_rng(1), thorough=True)
        return {j.net for j in (*session.compared, *session.picked) if not j.ok}

    assert judged(lambda name, out: out) == set()
    assert judged(lambda name, out: out | {"token_id": out["token_id"] ^ 1} if name == "greedy_head" else out) == {
        "greedy_head"
    }
    assert judged(
        lambda name, out: out | {"token_idx": np.roll(out["token_idx"], 1)} if name == "sample_head" else out
    ) == {"sample_head"}
    assert judged(lambda name, out: out | {"Softmax1": out["Softmax1"] * 1.001} if name == "sample_head" else out) == {
        "sample_head"
    }


@pytest.mark.parametrize("model", ["qwen2", "llama"])
def test_adapters(model, checkpoint):
    """With an adapter in their weights the nets are the adapted model; a chip that has another one is seen, in every
    net."""
    plan = plan_of(checkpoint(model, **SMALL), seq=SEQ, lora_max_rank=4)
    roomy = [net for net in plan.nets if net.places]
    assert {net.kind for net in roomy} == {"block", "block_cache", "lora"}
    adapter, other = (Adapter.random(plan, np.random.default_rng(seed)) for seed in (1, 2))
    assert set(adapter.weights) == {name for net in roomy for name in net.graph.weights if ".lora_" in name}
    for loaded, wrong in ((adapter, set()), (other, {f"{net.name} + adapter" for net in roomy})):
        session = Session(plan, Interpreted(plan, loaded), adapter=adapter)
        for net in roomy:
            alone(session, net, np.random.default_rng(0), thorough=False)
        assert {c.net for c in session.compared if not c.ok} == wrong


def test_a_table_on_disk(checkpoint, tmp_path):
    from llmconv.tasks.actions import copy_config

    model = checkpoint("qwen2_tied", **SMALL)
    plan = plan_of(model, seq=SEQ, embedding_disk=1)
    plan = replace(plan, job=replace(plan.job, out_dir=tmp_path))
    copy_config(str(model), [], plan.disk_tensors[0], plan.job.half, {}, {"config": str(tmp_path / "config")})
    runtime = Runtime.of(plan)
    session = Session(plan, Interpreted(plan))
    found = converse(session, runtime, turns(plan, runtime, np.random.default_rng(0), TOKENS))
    check(runtime.table, session)
    assert right(session, found) and {c.output for c in session.compared if c.net == "embedding.bin"} == {
        "hidden states",
        "table",
    }
    file = tmp_path / "config" / "embedding.bin"
    data = bytearray(file.read_bytes())
    data[1001] ^= 1
    file.write_bytes(data)
    check(runtime.table, session)
    assert not right(session)
    file.write_bytes(data[:-2])
    with pytest.raises(ConvertError, match="bytes"):
        check(runtime.table, session)
