"""The nets of the models that see slice by slice, as graphs, against the published class in float32 (written again in
tests/slice_checkpoints.py): no compiler, no chip."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from plans import planned
from slice_checkpoints import CONFIGS, TEXTS, Published, noise
from test_families_graph import EXACT, far, launches, run

from llmconv.blocks.vision.images import Images
from llmconv.blocks.vision.sliced import graph as graphs
from llmconv.checkpoint import recipe
from llmconv.errors import InputError
from llmconv.plan.handover import Handover
from llmconv.runtime import launches as nets
from llmconv.top.interpret import interpret
from llmconv.verify.answers import EXPECTED
from llmconv.verify.reference import Reference
from llmconv.verify.weights import Precision

# (name, fields of vision_config, of the whole, max_pixels): other sizes, depths, heads, patches and channels than the
# published ones, a tower as wide as the language model, and fields that are left out
ODD = (
    (
        "minicpmv_4",
        {"num_hidden_layers": 3, "num_attention_heads": 6, "intermediate_size": 100},
        {"query_num": 40},
        "98,112",
    ),
    ("minicpmv_4", {"hidden_size": 256, "num_attention_heads": 2, "layer_norm_eps": 1e-5}, {"query_num": 5}, "42,56"),
    ("minicpmv_2_6", {"patch_size": 7, "image_size": 63, "num_channels": 4}, {"query_num": 3}, "63,63"),
    ("minicpmv_4_5", {"hidden_act": "gelu", "image_size": 70}, {"hidden_size": 384, "query_num": 8}, "70,56"),
    ("minicpmv_4_5", {"num_hidden_layers": 1}, {"hidden_size": 320, "query_num": 8}, "112,84"),
)


class Both:
    """The vit net in our interpreter, and the published class."""

    def __init__(self, made):
        self.made, self.spec = made, made.towers[0].spec
        self.net = next(net for net in made.nets if net.name == "vit")
        self.graph = self.net.graph
        self.weights = {w.name: recipe.evaluate(w.recipe, made.checkpoint) for w in self.graph.weights.values()}
        self.published = Published(made.job.model_path)
        self.reference = Reference(made, Precision())

    def see(self, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
        """(what the net makes of a random slice, what the class makes of it)."""
        grids = ((1, rows, columns),)
        patches = noise(self.spec.row, grids, rows * 100 + columns)
        launch = nets.tower(self.net, Images(patches, grids))
        (found,) = interpret(self.graph, launch.inputs, self.weights)
        return found, self.published.see(patches, grids)


def fitting(spec, count: int = 12) -> list[tuple[int, int]]:
    """Sizes of slices: all of the net, one patch, longer ones than the square of learned positions, and random ones."""
    width, height = (pixels // spec.patch for pixels in spec.pixels)
    found = [(height, width), (1, 1), (spec.reach, 1), (1, spec.reach), (spec.side + 1, spec.reach // (spec.side + 1))]
    rng = np.random.default_rng(0)
    while len(found) < count:
        rows, columns = (int(n) for n in rng.integers(1, spec.side + 1, 2))
        found += [(rows, columns)] * (rows * columns <= spec.patches)
    return found


@pytest.mark.parametrize(
    "name, vision, changes, pixels", [*((name, {}, {}, "112,112") for name in CONFIGS), *ODD], ids=lambda v: str(v)[:40]
)
def test_towers_equal_the_class(name, vision, changes, pixels, slice_checkpoint):
    both = Both(planned(slice_checkpoint(name, vision=vision, **changes), max_pixels=pixels))
    for rows, columns in fitting(both.spec):
        found, right = both.see(rows, columns)
        assert found.shape == right.shape == (both.spec.queries, both.made.spec.hidden)
        assert far(found, right) < EXACT, (rows, columns)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_reference_equals_the_class(name, slice_checkpoint):
    """What verification compares with, which is made of SigLIP and MultiheadAttention; several slices at once."""
    both = Both(planned(slice_checkpoint(name), max_pixels="112,112"))
    grids = ((1, 8, 8), (1, 3, 7), (1, 20, 3), (1, 1, 5))
    patches = noise(both.spec.row, grids)
    shown = nets.Shown(both.made.towers[0], Images(patches, grids))
    (found,) = both.reference.sight.features(shown)
    assert far(found, both.published.see(patches, grids)) < EXACT


def turned(inputs, spec) -> np.ndarray:
    """Patches whose pixels go column by column."""
    rows = inputs["input_states"].reshape(-1, spec.channels, spec.patch, spec.patch)
    return rows.transpose(0, 1, 3, 2).reshape(inputs["input_states"].shape)


def interleaved(inputs, spec) -> np.ndarray:
    """Patches whose pixels have their channels side by side."""
    rows = inputs["input_states"].reshape(-1, spec.channels, spec.patch**2)
    return rows.transpose(0, 2, 1).reshape(inputs["input_states"].shape)


FAULTS = {
    "patches turned": ("input_states", turned),
    "channels side by side": ("input_states", interleaved),
    "places as they are": ("pos_ids", lambda inputs, spec: inputs["pos_embed_ids"]),
    "places one too far": ("pos_ids", lambda inputs, spec: np.minimum(inputs["pos_ids"] + 1, spec.side**2 - 1)),
    "keys' places stretched": ("pos_embed_ids", lambda inputs, spec: inputs["pos_ids"]),
    "keys' places turned": (
        "pos_embed_ids",
        lambda inputs, spec: inputs["pos_embed_ids"] % spec.side * spec.side + inputs["pos_embed_ids"] // spec.side,
    ),
    "padding is seen": ("attn_mask", lambda inputs, spec: 0 * inputs["attn_mask"]),
    "padding is resampled": ("resampler_attn_mask", lambda inputs, spec: 0 * inputs["resampler_attn_mask"]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_wrong_preparation_is_seen(fault, slice_checkpoint):
    both = Both(planned(slice_checkpoint("minicpmv_4"), max_pixels="112,112"))
    name, wrong = FAULTS[fault]
    grids = ((1, 7, 5),)
    patches = noise(both.spec.row, grids)
    inputs = dict(nets.tower(both.net, Images(patches, grids)).inputs)
    inputs[name] = wrong(inputs, both.spec)
    (found,) = interpret(both.net.graph, inputs, both.weights)
    assert far(found, both.published.see(patches, grids)) > 0.02


@pytest.mark.parametrize("part", ["query, key and value", "norm behind the blocks", "eps", "projection"])
def test_a_wrong_graph_is_seen(part, slice_checkpoint, monkeypatch):
    both = Both(planned(slice_checkpoint("minicpmv_4"), max_pixels="112,112"))
    matmul, norm = graphs.matmul, graphs.layer_norm

    def mixed(g, path, x, out, source, bias=True):
        """The rows of q for k, those of k for v, those of v for q."""
        if not path.startswith("resampler.attn.") or path.endswith("out_proj"):
            return matmul(g, path, x, out, source, bias)

        def other(name):
            kind, tensor, first, last, total = source(name)
            return (kind, tensor, (first + total // 3) % total, (last + total // 3 - 1) % total + 1, total)

        return matmul(g, path, x, out, other, bias)

    if part == "query, key and value":
        monkeypatch.setattr(graphs, "matmul", mixed)
    elif part == "norm behind the blocks":
        monkeypatch.setattr(graphs, "layer_norm", lambda g, path, x, e: x if "post_l" in path else norm(g, path, x, e))
    elif part == "eps":
        monkeypatch.setattr(graphs, "EPS", 1e-3)
    both.graph = graphs.graph("vit", both.spec)
    both.weights = {w.name: recipe.evaluate(w.recipe, both.made.checkpoint) for w in both.graph.weights.values()}
    if part == "projection":
        both.weights["resampler.proj.weight"] = both.weights["resampler.proj.weight"].T
    found, right = both.see(7, 6)
    assert far(found, right) > (20 * EXACT if part == "eps" else 0.02)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("options", [{}, {"use_block_with_kv": 1}, {"lora_max_rank": 4}], ids=str)
def test_blocks_equal_the_class(name, options, slice_checkpoint):
    """Qwen2's, Llama's and Qwen3's own, behind names that begin with llm."""
    made = planned(slice_checkpoint(name), max_pixels="112,112", **options)
    reference = Reference(made, Precision())
    assert reference.config.model_type == TEXTS[name] and made.spec.positions == 1
    adapter = None
    if "lora_max_rank" in options:
        from llmconv.verify.adapters import Adapter

        adapter = Adapter.random(made, np.random.default_rng(0))
        reference = Reference(made, Precision(), adapter=adapter)
    for net in (net for net in made.nets if net.layer is not None):
        for launch in launches(made, net):
            found = run(made, net, launch.inputs, adapter)
            for output, right in EXPECTED[net.kind](reference, launch).items():
                assert far(found[output][:, : launch.count], right) < EXACT, (net.name, output, launch.label)


@pytest.mark.parametrize("name", CONFIGS)
def test_text_is_the_plain_model(name, slice_checkpoint, tmp_path):
    """A block has the graph of the language model's own family, to the bit but for names."""
    from safetensors.torch import load_file, save_file

    model = slice_checkpoint(name)
    config = json.loads((model / "config.json").read_text())
    left_out = ("vision_config", "slice_config", "auto_map", "architectures")
    plain = tmp_path / "plain"
    plain.mkdir()
    text = {field: value for field, value in config.items() if field not in left_out} | {"model_type": TEXTS[name]}
    (plain / "config.json").write_text(json.dumps(text))
    own = {n.removeprefix("llm."): t for n, t in load_file(model / "model.safetensors").items() if n.startswith("llm.")}
    save_file(own, plain / "model.safetensors", metadata={"format": "pt"})
    ours, theirs = planned(model, max_pixels="112,112"), planned(plain)
    assert [net.name for net in ours.nets] == ["vit", *(net.name for net in theirs.nets)]
    for net, other in zip(ours.nets[1:], theirs.nets):
        assert net.mlir.replace("llm.", "") == other.mlir, net.name


def test_scales_of_minicpm(slice_checkpoint):
    """Each field that config.json has counts; the published Llama has none."""
    fields = {"scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 128}
    for given in (fields, {"scale_emb": 3.5}, {"scale_depth": 1.4}, {"dim_model_base": 64}):
        made = planned(slice_checkpoint("minicpmv_4", **given), max_pixels="112,112")
        scale = given.get("scale_depth", 2**0.5) / 2**0.5
        assert made.spec.embedding_scale == given.get("scale_emb", 1) and made.spec.residual_scale == scale
        assert made.spec.logit_scale == given.get("dim_model_base", 256) / 256
        reference, by_name = Reference(made, Precision()), {net.name: net for net in made.nets}
        ids = np.random.default_rng(0).integers(0, 1024, (1, 64)).astype(np.int32)
        (found,) = run(made, by_name["embedding"], {"input_ids": ids}).values()
        assert far(found, reference.embed(ids)) < EXACT
        launch = next(launches(made, by_name["block_0"]))
        states = run(made, by_name["block_0"], launch.inputs)
        for output, right in EXPECTED["block"](reference, launch).items():
            assert far(states[output][:, : launch.count], right) < EXACT
        hidden = np.random.default_rng(1).standard_normal((1, 256)).astype(np.float32)
        made = planned(slice_checkpoint("minicpmv_4", **given), max_pixels="112,112", do_sample=1)
        (found,) = run(made, next(n for n in made.nets if n.name == "lm_head"), {"hidden_states": hidden}).values()
        assert far(found, reference.logits(hidden)) < EXACT
    for name in ("minicpmv_2_6", "minicpmv_4_5"):
        with pytest.raises(InputError, match="scale_depth in .* is 1.4"):
            planned(slice_checkpoint(name, scale_depth=1.4), max_pixels="112,112")


def changed(model: Path, place: Path, **fields) -> Path:
    """A copy of a checkpoint with fields of config.json changed; None leaves one out."""
    made = shutil.copytree(model, place)
    config = json.loads((made / "config.json").read_text()) | fields
    (made / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    return made


def test_fields_that_are_left_out(slice_checkpoint, tmp_path):
    """They have the class's defaults, and a version may be text."""
    model = slice_checkpoint("minicpmv_4")
    config = json.loads((model / "config.json").read_text())
    less = ("num_channels", "layer_norm_eps", "hidden_act", "attention_dropout")
    vision = {field: value for field, value in config["vision_config"].items() if field not in less}
    other = changed(model, tmp_path / "less", version="4.0", vision_config=vision, slice_config=None, query_num=None)
    ours, theirs = (planned(m, max_pixels="112,112") for m in (model, other))
    assert [net.mlir for net in ours.nets] == [net.mlir for net in theirs.nets]
    assert (ours.towers[0].spec.most, theirs.towers[0].spec.most) == (9, 1)
    real = changed(model, tmp_path / "real", vision_config=None)
    with pytest.raises(
        InputError, match=r"tensor vpm.embeddings.patch_embedding.weight .* has shape \[288, 3, 14, 14\]"
    ):
        planned(real, max_pixels="448,504")


@pytest.mark.parametrize("held", [False, True], ids=["not held", "held"])
def test_the_last_layer_may_be_left_out(held, slice_checkpoint, tmp_path):
    """With drop_vision_last_layer, which is its default, the class runs all but the last layer, whether a checkpoint
    holds that or not."""
    model = slice_checkpoint("minicpmv_4", vision={"num_hidden_layers": 1})
    vision = json.loads((model / "config.json").read_text())["vision_config"] | {"num_hidden_layers": 2}
    for value in (True, None):
        other = changed(model, tmp_path / str(value), vision_config=vision, drop_vision_last_layer=value)
        if held:
            shutil.copy(slice_checkpoint("minicpmv_4") / "model.safetensors", other)
        made = planned(other, max_pixels="112,112")
        assert made.nets[0].mlir == planned(model, max_pixels="112,112").nets[0].mlir
        shown = nets.Shown(made.towers[0], Images(noise(588, [(1, 2, 3)]), ((1, 2, 3),)))
        (found,) = Reference(made, Precision()).sight.features(shown)
        assert far(found, Published(model).see(shown.items.patches, shown.items.grids)) < EXACT


def test_the_largest_image_is_told(slice_checkpoint, tmp_path, capsys):
    from llmconv.cli.main import main

    model, out = slice_checkpoint("minicpmv_4"), tmp_path / "out"
    assert main(["plan", "-m", str(model), "-s", "128", "--max_pixels", "98,112", "-o", str(out)]) == 2
    assert "would take 56 patches" in capsys.readouterr().err
    assert main(["plan", "-m", str(model), "-s", "128", "--max_pixels", "112,112", "-o", str(out)]) == 0
    assert "largest image   112 x 112 pixels, 64 patches, 64 tokens" in capsys.readouterr().out
    device = Handover.of(planned(model, max_pixels="112,112")).to_dict()
    assert device["image"] == {"width": 112, "height": 112, "patches": 64, "tokens": 64}
    assert device["tokens"]["seen"] == {"unk_token_id": 0} and device["equal_lengths"]


@pytest.mark.parametrize("name", CONFIGS)
def test_what_minicpm_o_hears_is_left_out(name, slice_checkpoint, tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    model = slice_checkpoint(name)
    other = changed(model, tmp_path / "o", model_type="minicpmo", audio_config={}, tts_config={}, init_audio=True)
    tensors = load_file(model / "model.safetensors")
    extra = ("apm.conv1.weight", "audio_projection_layer.linear1.weight", "tts.projector.linear1.weight")
    save_file(tensors | {n: torch.zeros(2) for n in extra}, other / "model.safetensors", metadata={"format": "pt"})
    made = planned(other, max_pixels="112,112")
    (note,) = (note for note in made.notes if "left out" in note)
    assert note == (
        "the language model and what it sees are converted: 3 tensors such as apm.conv1.weight are left out"
    )
    assert [n.mlir for n in made.nets] == [n.mlir for n in planned(model, max_pixels="112,112").nets]


def test_models_that_do_not_fit_are_refused(slice_checkpoint, tmp_path):
    for name, fields, word in (
        ("minicpmv_4", {"version": None}, "version None of the minicpmv model"),
        ("minicpmv_4", {"version": 2.0}, r"version 2.0 .* knows 2.6 \(qwen2\), 4.0 \(llama\), 4.5 \(qwen3\)"),
        ("minicpmv_4", {"version": 4.5}, "its language model is a qwen3, and the tensors are those of a llama"),
        ("minicpmv_4_5", {"version": 4.0}, "its language model is a llama, and the tensors are those of a qwen3"),
        ("minicpmv_4", {"version": "2.6"}, "its language model is a qwen2, and the tensors are those of a llama"),
        ("minicpmv_4", {"query_num": 32}, "tensor resampler.query .* has shape"),
        ("minicpmv_4", {"slice_config": {"scale_resolution": 7}}, "scale_resolution in .* is 7; .* at least 14"),
        ("minicpmv_4", {"vision_config": {"hidden_size": 288, "image_size": 7}}, "image_size in .* at least 14"),
        ("minicpmv_4", {"vision_config": {"hidden_size": 288, "num_attention_heads": 5}}, "5 heads of vision_config"),
    ):
        model = slice_checkpoint(name)
        if "vision_config" in fields:
            old = json.loads((model / "config.json").read_text())["vision_config"]
            fields = {"vision_config": old | fields["vision_config"]}
        with pytest.raises(InputError, match=word):
            planned(changed(model, tmp_path / "wrong", **fields), max_pixels="112,112")
        shutil.rmtree(tmp_path / "wrong")


def test_max_pixels(slice_checkpoint):
    model = slice_checkpoint("minicpmv_4", vision={"image_size": 980})
    for text, word in (
        (
            "450,504",
            r"max_pixels 450,504: both sides must be multiples of 14: that is the side of a patch. Use 448,504",
        ),
        ("994,14", r"positions for slices of 980 x 980 pixels. Use 448,504"),
        ("112,98", r"would take 56 patches, and runtimes copy the mask of the first 64 .* Use 448,504"),
    ):
        with pytest.raises(InputError, match=word):
            planned(model, max_pixels=text)
    made = planned(model, seq=1024)
    assert made.job.max_pixels == "980,980" and made.nets[0].inputs[0].shape == (4900, 588)
    told = "\n".join(made.notes)
    assert "max_pixels is not set, 980,980 is used" in told
    assert "have at most 1152 patches: max_pixels 448,504 is enough, and its tower has 4.3 times less to read" in told
    assert "up to 640 tokens: an overview and 9 slices, each a launch of 64" in told and "more than" not in told
    usual = planned(model, max_pixels="448,504", seq=512)
    told = "\n".join(usual.notes)
    assert "enough" not in told and "an image of 640 tokens is more than the 512 of one prefill" in told
    assert usual.nets[0].inputs[0].shape == (1152, 588)
    table = next(w for w in usual.nets[0].graph.weights.values() if "position_embedding" in w.name)
    assert table.shape == (4900, 288), "every slice finds its place, however few patches a launch has"
    small = planned(model, max_pixels="448,448")
    assert any("slices of an image may have 1152 patches, and vit takes 1024" in note for note in small.notes)


@pytest.mark.parametrize(
    "options, word",
    [
        ({"quantize": "w4f16"}, "half is f16: the public demo of minicpmv can drive nets with bf16 alone"),
        ({"use_history_kv": 1}, "use_history_kv is on: the public demo of minicpmv can drive nets with off alone"),
        ({"max_input_length": 32}, "max_input_length 32 is not seq_length 64: the public demo of minicpmv"),
        ({"embedding_disk": 1}, "embedding_disk is on"),
        ({"batch": 2}, "batch is 2: the public demo of minicpmv can drive nets with 1 alone"),
        ({}, ""),
    ],
    ids=str,
)
def test_what_the_demo_cannot_drive_is_said(options, word, slice_checkpoint):
    notes = planned(slice_checkpoint("minicpmv_4"), max_pixels="112,112", **options).notes
    assert any(word in note for note in notes) and any("public demo" in note for note in notes) is bool(word)


def test_the_tower_is_static_and_in_half_precision(slice_checkpoint):
    made = planned(slice_checkpoint("minicpmv_4_5"), max_pixels="112,112", quantize="w4bf16", dynamic=1)
    flags = {net.name: net.flags for net in made.nets}
    assert flags["block_0"].mode == "W4BF16" and flags["block_0"].dynamic
    assert (flags["vit"].mode, flags["vit"].q_group_size, flags["vit"].dynamic) == ("BF16", 0, False)
