"""A prompt with an overview and slices against a chip made of the NumPy interpreter: what is launched, that it is what
the published class generates, and that every fault is seen."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from slice_checkpoints import CONFIGS, Published, noise
from speaking import converse, generate_batch
from test_generate import right
from test_nets_of_options import Interpreted
from verify_helpers import conversation, hold_answers, look_alone, plan_of

from llmconv.blocks.vision.images import Images
from llmconv.blocks.vision.sliced import graph as graphs
from llmconv.blocks.vision.sliced import host
from llmconv.runtime.seen import Shown
from llmconv.verify import prompt as towers
from llmconv.verify.generate import CHAIN, Runtime, Turn
from llmconv.verify.session import Session

SEQ, TOKENS, QUERIES = 64, 4, 8
SMALL = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 256,
    "head_dim": 64,
    "query_num": QUERIES,
    "slice_config": {"max_slice_nums": 3, "model_type": "minicpmv"},
    "vision": {"hidden_size": 96, "intermediate_size": 128},
}


def planned(slice_checkpoint, name: str, **options):
    return plan_of(slice_checkpoint(name, **SMALL), seq=SEQ, max_pixels="84,112", **options)


def chosen(plan, ids: np.ndarray, images: Images | None, tokens: list[int]) -> list[int]:
    published = Published(plan.job.model_path)
    seen = None if images is None else published.see(images.patches, images.grids)
    return published.choose(ids, seen, tokens)


@pytest.mark.parametrize("name", CONFIGS)
def test_an_overview_and_slices_are_what_the_class_generates(name, slice_checkpoint):
    plan = planned(slice_checkpoint, name)
    chip = Interpreted(plan)
    session, (turn,), found = conversation(plan, chip, TOKENS)
    assert right(session, found)
    (shown,) = turn.shown
    assert shown.items.grids == ((1, 8, 6), (1, 4, 8), (1, 4, 8)), "as many as there is room for, of two shapes"
    assert np.count_nonzero(turn.ids == 0) == 3 * QUERIES and chip.runs[:4] == ["vit", "vit", "vit", "embedding"]
    tokens = [t.found for t in found.tokens]
    assert [t.expected for t in found.tokens] == chosen(plan, turn.ids, shown.items, tokens)
    assert {c.net for c in session.compared} == {*chip.runs, CHAIN} - {"lm_head"}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_prompt_as_the_processor_writes_it(name, slice_checkpoint):
    """Placeholders in runs, between them the tokens that begin and end overview and slices; two images, of which one is
    an overview alone."""
    plan = planned(slice_checkpoint, name)
    hole = [0] * QUERIES
    ids = np.array([5, 200, *hole, 201, 202, *hole, 203, 202, *hole, 203, 10, 7, 200, *hole, 201, 6, 3])
    grids = ((1, 6, 6), (1, 8, 5), (1, 8, 5), (1, 2, 8))
    images = Images(noise(588, grids), grids)
    chip = Interpreted(plan)
    session = Session(plan, chip)
    found = converse(session, Runtime.of(plan), [Turn(ids, TOKENS, shown=[Shown(plan.towers[0], images)])])
    assert right(session, found) and chip.runs.count("vit") == 4
    assert [t.expected for t in found.tokens] == chosen(plan, ids, images, [t.found for t in found.tokens])


@pytest.mark.parametrize("name", CONFIGS)
def test_text_alone(name, slice_checkpoint):
    plan = planned(slice_checkpoint, name)
    chip = Interpreted(plan)
    session, ids = Session(plan, chip), np.arange(3, 20)
    found = converse(session, Runtime.of(plan), [Turn(ids, TOKENS)])
    assert right(session, found) and "vit" not in chip.runs
    assert [t.expected for t in found.tokens] == chosen(plan, ids, None, [t.found for t in found.tokens])


@pytest.mark.parametrize("options", [{"use_block_with_kv": 1, "max_input_length": 32}, {"share_prompt": 1}], ids=str)
def test_slices_in_a_conversation(options, slice_checkpoint):
    plan = planned(slice_checkpoint, "minicpmv_4_5", **options)
    session, said, found = conversation(plan, Interpreted(plan), TOKENS)
    assert right(session, found) and len(found.tokens) == TOKENS and said[0].shown
    hold_answers(said, found, lambda read, tokens: chosen(plan, read, said[0].shown[0].items, tokens))


def test_a_batch_with_slices(slice_checkpoint):
    plan = planned(slice_checkpoint, "minicpmv_2_6", batch=2)
    session = Session(plan, Interpreted(plan))
    prompts = [towers.prompt(plan, np.random.default_rng(n), n) for n in (17, 50)]
    found = generate_batch(session, Runtime.of(plan), *zip(*prompts), TOKENS)
    assert right(session, found)
    for (ids, shown), first in zip(prompts, (0, TOKENS)):
        judged = found.tokens[first : first + TOKENS]
        images = shown[0].items if shown else None
        assert [t.expected for t in judged] == chosen(plan, ids, images, [t.found for t in judged])


def test_the_placeholder_is_the_tokenizers(slice_checkpoint, tmp_path):
    model = shutil.copytree(slice_checkpoint("minicpmv_4_5", **SMALL), tmp_path / "model")
    table = {"77": {"content": "<unk>"}, "5": {"content": "<s>"}}
    (model / "tokenizer_config.json").write_text(json.dumps({"unk_token": "<unk>", "added_tokens_decoder": table}))
    plan = plan_of(model, seq=SEQ, max_pixels="84,112")
    assert plan.towers[0].spec.token == 77
    session, (turn,), found = conversation(plan, Interpreted(plan), TOKENS)
    assert right(session, found) and np.count_nonzero(turn.ids == 77) == 3 * QUERIES


def _swapped(g, path, x, out, source, bias=True):
    """The resampler's q by the rows of k, and so on."""
    if path.startswith("resampler.attn.") and not path.endswith("out_proj"):
        roles = "qkvq"
        part = roles[roles.index(path[len("resampler.attn.")]) + 1]
        number, inner = "qkv".index(part), source

        def source(name):
            kind, tensor, *_, total = inner(name)
            return kind, tensor, number * total // 3, (number + 1) * total // 3, total

    return MATMUL(g, path, x, out, source, bias)


def _left_out(g, path, x, eps):
    """The norm behind the last block counts for nothing."""
    y = NORM(g, path, x, eps)
    return g.Add(x, g.MulConst(y, const_val=0.0, name=f"{path}.0"), name=f"{path}.+") if "post_l" in path else y


MATMUL, NORM, PREPARE = graphs.matmul, graphs.layer_norm, host.preprocess
GRAPHS = {
    "query, key and value": ("matmul", _swapped),
    "eps": ("EPS", 1e-3),
    "norm behind the blocks": ("layer_norm", _left_out),
}
HOSTS = {
    "patch order": lambda given, spec: {"input_states": np.ascontiguousarray(given["input_states"][:, ::-1])},
    "positions": lambda given, spec: {"pos_ids": given["pos_embed_ids"]},
    "keys' positions": lambda given, spec: {"pos_embed_ids": 0 * given["pos_embed_ids"]},
    "padding is resampled": lambda given, spec: {"resampler_attn_mask": 0 * given["resampler_attn_mask"]},
}


def seen(plan) -> Session:
    """The vit net by itself, with four slices, of which the last is small."""
    session, net = Session(plan, Interpreted(plan)), next(net for net in plan.nets if net.name == "vit")
    look_alone(session, net, np.random.default_rng(0), 4)
    return session


@pytest.fixture(scope="module")
def faint(slice_checkpoint, tmp_path_factory):
    """A model whose resampler gets small values, so that the eps of its norms matters. Verification finds it right."""
    model = shutil.copytree(slice_checkpoint("minicpmv_4", **SMALL), tmp_path_factory.mktemp("faint") / "model")
    tensors = load_file(model / "model.safetensors")
    tensors["resampler.kv_proj.weight"] *= 0.01
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    sound = plan_of(model, seq=SEQ, max_pixels="84,112")
    assert right(seen(sound))
    return model


@pytest.mark.parametrize("fault", [*GRAPHS, *HOSTS])
def test_faults_are_seen(fault, faint, monkeypatch):
    """In the net, or in what a runtime prepares."""
    if fault in GRAPHS:
        monkeypatch.setattr(graphs, *GRAPHS[fault])
    else:
        monkeypatch.setattr(
            host, "preprocess", lambda spec, *given: (made := PREPARE(spec, *given)) | HOSTS[fault](made, spec)
        )
    session = seen(plan_of(faint, seq=SEQ, max_pixels="84,112"))
    assert not session.compared[-1].ok, "a slice that leaves room for padding"
