"""Models that hear on the chip simulator against transformers, the way a user would: convert, then verify; and negative
controls: a tower that is wrong in one of the usual ways is seen."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from bmodels import content
from negatives import judge, right, with_tensor
from plans import planned
from verify_helpers import SEEING_OPTIONS, verified, verify

from llmconv.blocks.audio.tower import noise
from llmconv.runtime import launches

CHIP = "cv186x"
SEQ = {"qwen3_asr": 64, "qwen3_asr_hf": 64, "qwen2_5_omni": 240}  # room for a launch's tokens
PIXELS = {"qwen2_5_omni": {"max_pixels": "112,112"}}
BUILDS = (("bf16", "bm1688"), ("w4bf16", "bm1684x"), ("w8f16", "cv186x"), ("f16", "bm1684x"))
OPTIONS = (*SEEING_OPTIONS, {"lora_max_rank": 8}, {"exact_audio": 1}, {"exact_audio": 1, "dynamic": 1})
pytestmark = [pytest.mark.compiler, pytest.mark.simulator]


def test_sound_and_its_tokens(audio_checkpoint, convert):
    """All nets; and what it costs that a second is heard alone is told, in words and figures."""
    out = convert(audio_checkpoint("qwen3_asr", seed=3), seq=64, chip=CHIP)
    ok, record, printed = verified(out, full=True, tokens=3)
    assert ok and "audio is launched for one part after the other" in printed
    (apart,) = (o for net in record["nets"] for o in net["outputs"] if o["weights"] == "together")
    assert apart["output"] == "in parts" and 0.03 < apart["relative_l2"] < 1 and apart["relative_l2_limit"] is None
    assert f"a relative L2 of {apart['relative_l2']:.4f} away" in record["notes"][0]
    device = json.loads((out / "manifest.json").read_text())["device"]
    assert device["sound"] == {"seconds": 1, "frames": 100, "tokens": 13, "seconds_of_attention": 3}


TOWER = "thinker.audio_tower."
WRONG_INPUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "right": lambda x: x,
    "bands backwards": lambda x: x[..., ::-1, :],
    "frames backwards": lambda x: x[..., ::-1],
    "a frame later": lambda x: np.roll(x, 1, -1),
    "not scaled": lambda x: 4 * x - 4,
}
WRONG_TENSORS: dict[str, tuple[str, str, Callable]] = {
    "convolutions swapped": ("qwen3_asr", "conv2d2.weight", lambda w: w.flip(0)),
    "kernel turned": ("qwen3_asr", "conv2d1.weight", lambda w: w.swapaxes(2, 3)),
    "frame by channels last": (
        "qwen3_asr",
        "conv_out.weight",
        lambda w: w.reshape(len(w), -1, 16).swapaxes(1, 2).reshape(w.shape),
    ),
    "convolution without bias": ("qwen3_asr", "conv2d3.bias", lambda b: b * 0),
    "projector without bias": ("qwen3_asr", "proj1.bias", lambda b: b * 0),
    "no last norm": ("qwen3_asr", "ln_post.weight", lambda w: w * 0 + 1),
    "taps backwards": ("qwen2_5_omni", "conv2.weight", lambda w: w.flip(2)),
    "first convolution without bias": ("qwen2_5_omni", "conv1.bias", lambda b: b * 0),
    "heads swapped": ("qwen2_5_omni", "layers.1.self_attn.q_proj.weight", lambda w: w.roll(len(w) // 2, 0)),
    "values without bias": ("qwen2_5_omni", "layers.0.self_attn.v_proj.bias", lambda b: b * 0),
    "last norm without bias": ("qwen2_5_omni", "ln_post.bias", lambda b: b * 0),
}


@pytest.fixture(scope="module")
def launched(compiler, session_cache, audio_checkpoint, tmp_path_factory):
    """launched(name) -> (the plan, a launch of the tower, by what its frames are: what the chip gave)"""
    from llmconv import convert
    from llmconv.request.request import Request
    from llmconv.simulator.client import Simulator

    made: dict[str, tuple] = {}

    def get(name: str) -> tuple:
        if name in made:
            return made[name]
        out, model = tmp_path_factory.mktemp(name), audio_checkpoint(name, seed=3)
        options = {"seq": SEQ[name], "chip": CHIP, "out": out, **PIXELS.get(name, {})}
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TPUC_ROOT", str(compiler.root))
            patch.setenv("LLMCONV_CACHE", str(session_cache))
            assert convert.run(Request.create({"model": str(model)} | {k: str(v) for k, v in options.items()})) == 0
        plan = planned(model, **options)
        net = plan.nets[0]
        launch = launches.tower(net, noise(net.tower.spec, (net.tower.spec.frames,), np.random.default_rng(1)))
        (frames,) = launch.inputs.values()
        (bmodel,) = out.glob("*.bmodel")
        with Simulator(bmodel, CHIP, compiler.root) as simulator:
            found = {
                what: simulator.run("audio", {"input_states": np.ascontiguousarray(change(frames))})
                for what, change in WRONG_INPUTS.items()
            }
        made[name] = plan, launch, found
        return made[name]

    return get


@pytest.mark.parametrize("what", WRONG_INPUTS)
@pytest.mark.parametrize("name", ["qwen3_asr", "qwen2_5_omni"])
def test_wrong_frames(name, what, launched):
    plan, launch, found = launched(name)
    assert right(judge(plan, launch, found[what])) is (what == "right")


@pytest.mark.parametrize("what", WRONG_TENSORS)
def test_wrong_tensors(what, launched, tmp_path):
    name, tensor, change = WRONG_TENSORS[what]
    plan, launch, found = launched(name)
    assert not right(judge(with_tensor(plan, TOWER + tensor, change, tmp_path), launch, found["right"]))


@pytest.mark.slow
@pytest.mark.parametrize("quantize, chip", BUILDS)
@pytest.mark.parametrize("name", SEQ)
def test_everything(name, quantize, chip, audio_checkpoint, convert):
    options = {"seq": SEQ[name], "quantize": quantize, "chip": chip, **PIXELS.get(name, {})}
    assert verify(convert(audio_checkpoint(name, seed=1), **options), full=True, tokens=4)


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", ["qwen3_asr", "qwen2_5_omni"])
def test_options(name, options, audio_checkpoint, convert):
    # an adapter's two products are two more roundings for every linear
    model = audio_checkpoint(name, gain=1.0 if "lora_max_rank" in options else 1.5)
    out = convert(model, seq=2 * SEQ[name], chip="bm1688", **PIXELS.get(name, {}), **options)
    assert verify(out, full=True, tokens=4)


@pytest.mark.slow
def test_stamped_nets_equal_compiled_ones(audio_checkpoint, convert):
    model = audio_checkpoint("qwen3_asr", text={"num_hidden_layers": 4})
    options = {"seq": 64, "chip": "bm1688", "dynamic": 1, "quantize": "w4bf16"}
    stamped, compiled = (convert(model, no_stamp=n, **options) for n in (0, 1))
    assert content(stamped) == content(compiled)
