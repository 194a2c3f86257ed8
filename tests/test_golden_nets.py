"""The nets of every family and of every option that changes a graph, against golden/nets: a change of a graph is seen
in a diff.

`pytest tests/test_golden_nets.py --update-golden` writes the files again. They are our own nets; that those are right
is shown elsewhere (test_families_graph, test_golden, and the simulator's tests).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import audio_checkpoints
import checkpoints
import family_checkpoints
import gemma3_checkpoints
import internvl_checkpoints
import janus_checkpoints
import mllama_checkpoints
import pytest
import quantised_checkpoints
import slice_checkpoints
import vision_checkpoints
from net_texts import texts
from plans import planned as drawn

from llmconv.plan.net import Net
from llmconv.tasks.export import with_form
from llmconv.top.text import render

planned = partial(drawn, graph="vendor")  # whose graphs are shown elsewhere to be the vendor's, byte for byte

GOLDEN = Path(__file__).resolve().parent / "golden" / "nets"
PIXELS = {
    "qwen2_vl": "112,112",
    "qwen2_5_vl": "112,224",
    "qwen3_vl": "128,128",
    "glm4v": "112,112",
    "paddleocr_vl": "112,112",
}
PIXELS |= dict.fromkeys(slice_checkpoints.CONFIGS, "112,112")
# InternVL's layout, language model and form of the tower
TILES = {"internvl_chat": ("internvl_chat", "qwen2", "300m"), "internvl": ("internvl", "qwen3", "6b")}
HYBRID = "qwen3_5_golden"
CONVOLVING, EXPERTS = "lfm2", "qwen3_5_moe"
FAMILIES = [*checkpoints.CONFIGS, *family_checkpoints.CONFIGS, *PIXELS, *TILES, HYBRID, CONVOLVING, EXPERTS]
OPTIONS = {
    "static": {},
    "w4": {"quantize": "w4bf16"},
    "w8 f16, groups of 32, symmetric": {"quantize": "w8f16", "q_group_size": 32, "symmetric": 1},
    "dynamic": {"dynamic": 1},
    "history": {"use_history_kv": 1},
    "history, bm1688": {"use_history_kv": 1, "chip": "bm1688"},
    "document's history": {"use_block_with_kv": 1},
    "shared prompt": {"share_prompt": 1},
    "stages": {"chunk_length": 16},
    "batch": {"batch": 2},
    "adapters": {"lora_max_rank": 8},
    "sampling": {"do_sample": 1},
    "embedding on disk": {"embedding_disk": 1},
}
# what changes the nets of other families in ways of their own
MORE = {
    "gemma3_text": ("dynamic",),
    "qwen2_moe": ("adapters",),
    "granite": ("adapters",),
    "phi3_longrope": ("dynamic",),
}
MORE |= {
    HYBRID: ("w4", "history", "document's history", "shared prompt", "stages", "batch", "adapters"),
    CONVOLVING: ("dynamic", "history", "document's history", "shared prompt", "batch", "adapters"),
    EXPERTS: ("w4", "history", "batch", "adapters"),
}
MORE |= {"qwen2": tuple(OPTIONS)[1:]} | dict.fromkeys(vision_checkpoints.CONFIGS, ("dynamic", "batch"))


@pytest.fixture(scope="module")
def headers(tmp_path_factory: pytest.TempPathFactory):
    """headers(name, layers) -> a checkpoint of the family without bytes on the disk: plans read its headers alone."""

    def make(name: str, layers: int = 0) -> Path:
        place = tmp_path_factory.mktemp("models") / name
        if name in checkpoints.CONFIGS:
            changes = {"num_hidden_layers": layers} if layers else {}
            return checkpoints.headers(place, *checkpoints.published(name, **changes))
        if name in TILES:
            layout, *which = TILES[name]
            config = deeper(internvl_checkpoints.CONFIGS[layout](*which), layers)
            return checkpoints.headers(place, config, internvl_checkpoints.tensors(config))
        if name in slice_checkpoints.CONFIGS:
            config = slice_checkpoints.configured(name, **({"num_hidden_layers": layers} if layers else {}))
            return checkpoints.headers(place, config, slice_checkpoints.tensors(config))
        module = vision_checkpoints if name in PIXELS else family_checkpoints
        known = (module.CONFIGS | family_checkpoints.HYBRIDS)[name]
        config = deeper(known, layers) if layers else known
        if name not in PIXELS:
            return checkpoints.headers(place, config, family_checkpoints.tensors(config))
        parameters = vision_checkpoints.whole(config).state_dict().items()
        shapes = {vision_checkpoints.published(tensor, name): tuple(value.shape) for tensor, value in parameters}
        return checkpoints.headers(place, config, shapes.items())

    return make


def deeper(config: dict[str, Any], layers: int) -> dict[str, Any]:
    """config.json of a family's model with more layers; 0: as it is."""
    for part in ("text_config", "llm_config"):
        if part in config:
            return config | {part: deeper(config[part], layers)}
    if not layers:
        return config
    rope = {"no_rope_layers": [1, 0] * (layers // 2) + [1] * (layers % 2)} if "no_rope_layers" in config else {}
    return config | {"num_layers" if config["model_type"] == "chatglm" else "num_hidden_layers": layers} | rope


def hold(file: Path, text: str, update: bool) -> None:
    """Compare with a golden file, or write it."""
    if update:
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    assert file.read_text(encoding="utf-8") == text, "right? pytest tests/test_golden_nets.py --update-golden"


def different(nets: tuple[Net, ...]) -> list[Net]:
    """The first net of every structure."""
    return list({net.structure: net for net in reversed(nets)}.values())[::-1]


def sections(name: str, model: Path) -> Iterator[tuple[str, list[Net]]]:
    pixels = {"max_pixels": PIXELS[name]} if name in PIXELS else {}
    for title in ("static", *MORE.get(name, ())):
        yield title, different(planned(model, **pixels, **OPTIONS[title]).nets)


@pytest.mark.parametrize("name", FAMILIES)
def test_nets(name, headers, request):
    found = texts(sections(name, headers(name)))
    hold(GOLDEN / f"{name}.txt", found, request.config.getoption("--update-golden"))


@pytest.mark.parametrize("name, pixels", [("qwen3_5", "128,128"), ("minicpmv4_6", "112,168"), ("lfm2_vl", "128,160")])
def test_towers_of_hybrids(name, pixels, tmp_path, request):
    """Families whose layers keep more than rows: their towers alone."""
    config = (vision_checkpoints.HYBRIDS | vision_checkpoints.NAFLEX)[name]
    parameters = vision_checkpoints.whole(config).state_dict().items()
    shapes = {vision_checkpoints.published(tensor, name): tuple(value.shape) for tensor, value in parameters}
    del shapes["lm_head.weight"]
    model = checkpoints.headers(tmp_path / name, config, shapes.items())
    kinds = ("static", "dynamic") if name in vision_checkpoints.NAFLEX else ("dynamic",)
    plans = ((kind, planned(model, max_pixels=pixels, dynamic=int(kind == "dynamic"))) for kind in kinds)
    found = texts([(kind, [net for net in made.nets if net.tower]) for kind, made in plans])
    hold(GOLDEN / f"{name}_towers.txt", found, request.config.getoption("--update-golden"))


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_nets_of_quantised_checkpoints(method, checkpoint, tmp_path, request):
    """The checkpoint's own integers; with gptq in mixed order, which the nets undo."""
    how = quantised_checkpoints.How(mixed=5 if method == "gptq" else 0)
    model, _ = quantised_checkpoints.convert(checkpoint("llama"), tmp_path / "model", method, how)
    made = planned(model), planned(model, quantize="bf16")
    found = texts((title, different(one.nets)) for title, one in zip(("its integers", "dequantised"), made))
    hold(GOLDEN / f"llama_{method}.txt", found, request.config.getoption("--update-golden"))


def test_nets_of_split_layers(tmp_path, request):
    """Over several devices layers have the form that the compiler splits."""
    model = checkpoints.headers(tmp_path / "model", *checkpoints.published("llama", **checkpoints.SPLIT))
    found = texts([("two devices", different(planned(model, num_device=2).nets))])
    hold(GOLDEN / "llama_split.txt", found, request.config.getoption("--update-golden"))


@pytest.mark.parametrize("name", janus_checkpoints.CONFIGS)
def test_nets_of_janus(name, tmp_path, request):
    """In both layouts: of transformers, and DeepSeek's own."""
    config = janus_checkpoints.CONFIGS[name]
    tensors = janus_checkpoints.values(janus_checkpoints.twin(config))
    tensors = tensors if name == "janus" else janus_checkpoints.deepseek(tensors)
    shapes = [(tensor, tuple(value.shape)) for tensor, value in tensors.items()]
    model = checkpoints.headers(tmp_path / "model", config, shapes)
    found = texts([("static", different(planned(model).nets))])
    hold(GOLDEN / f"{name}.txt", found, request.config.getoption("--update-golden"))


def test_tower_of_gemma3(tmp_path, request):
    """Its language model is that of gemma3.txt."""
    config = gemma3_checkpoints.CONFIG
    shapes = {name: tuple(value.shape) for name, value in gemma3_checkpoints.whole(config).state_dict().items()}
    del shapes["lm_head.weight"]
    named = [(gemma3_checkpoints.called(name), shape) for name, shape in shapes.items()]
    made = planned(checkpoints.headers(tmp_path / "gemma3", config, named))
    found = texts([("static", [net for net in made.nets if net.tower])])
    hold(GOLDEN / "gemma3_tower.txt", found, request.config.getoption("--update-golden"))


def test_nets_of_mllama(tmp_path, request):
    config = mllama_checkpoints.MLLAMA
    parameters = mllama_checkpoints.whole(config).state_dict().items()
    shapes = [(mllama_checkpoints.published(name), tuple(value.shape)) for name, value in parameters]
    model = checkpoints.headers(tmp_path / "model", config, shapes)
    several = ("static", "document's history", "batch", "adapters")
    found = texts([(name, different(planned(model, **OPTIONS[name]).nets)) for name in several])
    hold(GOLDEN / "mllama.txt", found, request.config.getoption("--update-golden"))


@pytest.mark.parametrize("name", audio_checkpoints.CONFIGS)
def test_nets_of_models_that_hear(name, tmp_path, request):
    config = audio_checkpoints.CONFIGS[name]
    model = checkpoints.headers(tmp_path / name, config, audio_checkpoints.tensors(name, config))
    cases = {"static": {}, "dynamic": {"dynamic": 1}, "exact": {"exact_audio": 1}}
    pixels = {"max_pixels": "112,224"} if name == "qwen2_5_omni" else {}
    found = texts((title, different(planned(model, **pixels, **options).nets)) for title, options in cases.items())
    hold(GOLDEN / f"{name}.txt", found, request.config.getoption("--update-golden"))


def test_nets_drawn_otherwise(tmp_path, request):
    """What differs from the vendor's graphs: heads, MLPs, MLPs in pieces."""
    small, large = {"intermediate_size": 512}, {"intermediate_size": 18944}
    cases = {
        "head on the right, pieces": ("qwen2", large),
        "table on the right": ("qwen2_tied", small | {"hidden_size": 896, "num_attention_heads": 14}),
    }
    found = []
    for title, (name, sizes) in cases.items():
        config, tensors = checkpoints.published(name, num_hidden_layers=2, **sizes)
        model = checkpoints.headers(tmp_path / name, config, tensors)
        both = (drawn(model, quantize="w4bf16", graph=graph).nets for graph in ("vendor", "fast"))
        theirs, ours = ({net.name: net for net in different(nets)} for nets in both)
        found.append(
            (title, [ours[name] for name in ours if name not in theirs or ours[name].mlir != theirs[name].mlir])
        )
    hold(GOLDEN / "drawn.txt", texts(found), request.config.getoption("--update-golden"))


@pytest.mark.parametrize("net", ["block_0", "sample_head"])
def test_mlir(net, headers, request):
    """The whole text of two nets: every attribute, type and location."""
    made = planned(headers("qwen2"), do_sample=1)
    found = next(one for one in made.nets if one.name == net).mlir
    hold(GOLDEN / f"qwen2_{net}.mlir", found, request.config.getoption("--update-golden"))


@pytest.mark.parametrize("name", FAMILIES)
def test_texts_of_patterns_are_the_nets_own(name, headers, monkeypatch):
    """A text that is made once and given other names is the one that the net's own graph gives."""
    monkeypatch.setattr("llmconv.plan.forms.LARGE", 1)
    model, pixels = headers(name, 12 if name == "llama" else 6), {"max_pixels": PIXELS[name]} if name in PIXELS else {}
    made = planned(model, **pixels, chunk_length=16, lora_max_rank=8, quantize="w4bf16")
    stamped = [net for net in made.nets if net.pattern]
    assert len(stamped) >= made.spec.layers
    for net in stamped:
        alone = replace(net, pattern=None)
        assert net.mlir == render(net.graph, "weights.npz")
        assert net.text(with_form) == with_form(alone)
        assert net.structure == alone.structure
