"""What is run, what is refused, and what is printed and written: without compiler or chip."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from verify_helpers import plan_of

from llmconv.errors import ConvertError, InputError
from llmconv.runtime import manifest
from llmconv.runtime.launches import HIDDEN, mask, step, tokens
from llmconv.simulator.arrays import NetInfo
from llmconv.verify import compare, result, selection
from llmconv.verify.compare import Difference
from llmconv.verify.generate import CHAIN, Generation, Runtime
from llmconv.verify.ledger import Compared, Picked
from llmconv.verify.verification import differences

REAL = {  # Qwen2-0.5B
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
}


# ------------------------------------------------------------------------------------------------------------ what is
# run


def test_a_tiny_model_is_verified_in_full(checkpoint):
    plan = plan_of(checkpoint("qwen2"), seq=128)
    chosen = selection.choose(plan, None, full=False, tokens=16)
    assert chosen.nets == plan.nets and chosen.tokens == 16
    assert 5 < chosen.seconds < 60


def test_a_real_model_by_one_decode_block(checkpoint, monkeypatch):
    """Sizes alone count: the plan of a tiny checkpoint, estimated with a real one's graph."""
    plan = plan_of(checkpoint("qwen2"), seq=128)
    monkeypatch.setattr(
        selection, "seconds", lambda net: {"block": 350.0, "block_cache": 6.4, "lm_head": 160.0}.get(net.kind, 0.1)
    )
    chosen = selection.choose(plan, None, full=False, tokens=16)
    assert [net.name for net in chosen.nets] == ["block_cache_0"] and not chosen.tokens
    assert selection.choose(plan, None, full=True, tokens=4).tokens == 4
    assert [n.name for n in selection.choose(plan, ["lm_head", "block_1"], full=False, tokens=4).nets] == [
        "lm_head",
        "block_1",
    ]


def test_a_real_model_by_one_decode_block_of_each_kind_of_layer(checkpoint, monkeypatch):
    """The first layer of the first kind, the last one of the last; the prefill nets of all with lengths."""
    plan = plan_of(checkpoint("qwen2", num_hidden_layers=6), seq=128)
    monkeypatch.setattr(selection, "seconds", lambda net: 350.0)
    one = plan.spec.kinds[0]
    for windows, layers in (
        ([None] * 6, [0]),
        ([8, 8, None, 8, 8, None], [0, 5]),
        ([8, None, 16, 8, None, 16], [0, 1, 5]),
        ([8, 16, 16, 16, None, None], [0, 2, 5]),
    ):
        kinds = tuple(replace(one, window=window) for window in windows)
        mixed = replace(plan, spec=replace(plan.spec, kinds=kinds))
        chosen = selection.choose(mixed, None, full=False, tokens=16)
        assert [net.name for net in chosen.nets] == [f"block_cache_{layer}" for layer in layers]
        chosen = selection.choose(mixed, None, False, 16, (1, 31))
        assert [net.name for net in chosen.nets] == [
            f"{kind}_{layer}" for kind in ("block_cache", "block") for layer in layers
        ]
        assert chosen.seconds == pytest.approx(len(layers) * (2 + 2) * 350)


def test_estimates_are_those_that_were_measured(checkpoint):
    from llmconv.plan.decoder import decoder_nets

    plan = plan_of(checkpoint("qwen2"), seq=512, graph="vendor")  # whose head was measured
    spec = replace(plan.spec, hidden=896, intermediate=4864, heads=14, kv_heads=2, vocab=151936, kinds=plan.spec.kinds)
    found = {net.name: selection.seconds(net) for net in decoder_nets(plan.job, spec)}
    assert 200 < found["block_0"] < 500 and 4 < found["block_cache_0"] < 10 and 80 < found["lm_head"] < 250
    assert found["embedding_cache"] < 1


def test_an_unknown_net(checkpoint):
    with pytest.raises(InputError, match="Did you mean block_0"):
        selection.choose(plan_of(checkpoint("qwen2")), ["blok_0"], full=False, tokens=1)


# ------------------------------------------------------------------------------------------------------- what the chip
# is fed


def test_masks():
    hidden = mask(4, 3, 2, 1, HIDDEN)[0, 0] != 0
    assert hidden.tolist() == [[0, 1, 1, 0, 1, 1, 1], [0, 1, 1, 0, 0, 1, 1], [1] * 7, [1] * 7]
    decode = mask(1, 5, 1, 3, HIDDEN)[0, 0, 0]
    assert decode.tolist() == [0, 0, 0, HIDDEN, HIDDEN, 0]


def test_launches_follow_the_net(checkpoint):
    plan = plan_of(checkpoint("qwen2"), seq=64, max_input_length=16)
    by_name = {net.name: net for net in plan.nets}
    prefill = step(by_name["block_0"], np.ones((1, 16, 256), np.float32), 5)
    assert list(prefill.inputs) == ["input_states", "position_ids", "attention_mask"]
    assert prefill.inputs["position_ids"].tolist() == [[0, 1, 2, 3, 4] + [0] * 11]
    assert prefill.inputs["attention_mask"].shape == (1, 1, 16, 16)
    assert float(prefill.inputs["attention_mask"].min()) == -9984.0, "as bf16 has it"
    rows = np.full((1, 64, 2, 64), 1 / 3, np.float32)
    decode = step(by_name["block_cache_1"], np.ones((1, 1, 256)), 1, 40, {"k": rows, "v": rows})
    assert decode.inputs["position_ids"].tolist() == [[40]] and decode.inputs["attention_mask"].shape == (1, 1, 1, 65)
    assert decode.inputs["history_k"][0, 0, 0, 0] == np.float32(0.333984375), "what bf16 holds of a third"
    assert tokens(by_name["embedding"], np.array([3, 4])).inputs["input_ids"].tolist() == [[3, 4] + [0] * 14]


def test_the_prompt_leaves_room(checkpoint):
    for seq, longest in ((64, 64), (64, 16), (8, 8), (2, 2)):
        runtime = Runtime.of(plan_of(checkpoint("qwen2"), seq=seq, max_input_length=longest))
        n = runtime.prompt(6)
        assert 1 <= n <= longest and (seq < 8 or n + 5 <= seq)
        assert longest < seq or seq < 8 or n + 5 == seq, "the sixth token comes behind the last row"


def test_the_interface_is_compared(checkpoint):
    plan = plan_of(checkpoint("qwen2"))

    def info(net, **changes):
        shapes = (tuple(io.shape for io in net.inputs), tuple(io.shape for io in net.outputs))
        made = NetInfo(net.inputs, net.outputs, net.flags.dynamic, 1, 1, net.flags.addr_mode, (shapes,))
        return replace(made, **changes)

    good = {net.name: info(net) for net in plan.nets}
    assert list(differences(plan, good)) == []
    block = next(net for net in plan.nets if net.name == "block_1")
    renamed = tuple(io._replace(name=f"{io.name}_f32") for io in block.outputs)
    (problem,) = differences(plan, good | {"block_1": info(block, outputs=renamed)})
    assert "outputs of block_1" in problem and "k_cache_f32" in problem
    (problem,) = differences(plan, good | {"block_1": info(block, shapes=())})
    assert "block_1" in problem
    (problem,) = differences(plan, {k: v for k, v in good.items() if k != "lm_head"})
    assert "lm_head" in problem


# -------------------------------------------------------------------------------------------------------- what is
# refused


@pytest.fixture
def built(checkpoint, tmp_path) -> Path:
    """An output directory whose .bmodel is no .bmodel, which reading the manifest does not see."""
    model = tmp_path / "model"
    shutil.copytree(checkpoint("qwen2"), model)
    plan, out = plan_of(model), tmp_path / "out"
    out.mkdir()
    (out / "a.bmodel").write_bytes(b"content")
    job = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(plan.job).items()}
    data = {
        "format": 1,
        "job": job,
        "bmodel": "a.bmodel",
        "sha256": hashlib.sha256(b"content").hexdigest(),
        "nets": [{"name": n.name} for n in plan.nets],
    }
    (out / "manifest.json").write_text(json.dumps(data))
    return out


def test_a_build_is_read_back_even_from_elsewhere(built, tmp_path):
    moved = built.rename(tmp_path / "moved")
    found = manifest.read(moved)
    assert found.bmodel == moved / "a.bmodel" and found.plan.job.out_dir == moved and len(found.plan.nets) == 7


def test_no_build(tmp_path):
    for place, word in ((tmp_path / "nowhere", "does not exist"), (tmp_path, "manifest.json")):
        with pytest.raises(ConvertError, match=word):
            manifest.read(place)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"job": {}, "bmodel": "a.bmodel", "sha256": "", "nets": []}',
        '{"job": 1, "bmodel": 2, "sha256": 3, "nets": 4}',
    ],
)
def test_a_broken_manifest(text, built):
    (built / "manifest.json").write_text(text)
    with pytest.raises(ConvertError, match="cannot be read"):
        manifest.read(built)


def test_a_missing_or_changed_bmodel(built):
    (built / "a.bmodel").write_bytes(b"contents")
    with pytest.raises(ConvertError, match="has changed"):
        manifest.read(built)
    (built / "a.bmodel").unlink()
    with pytest.raises(ConvertError, match="is gone"):
        manifest.read(built)


def test_a_checkpoint_that_is_gone_or_another(built, checkpoint, tmp_path):
    shutil.rmtree(tmp_path / "model")
    with pytest.raises(ConvertError, match="is gone"):
        manifest.read(built)
    shutil.copytree(checkpoint("qwen2", num_hidden_layers=3), tmp_path / "model")
    with pytest.raises(ConvertError, match="does not fit"):
        manifest.read(built)


# -------------------------------------------------------------------------------------------------------- what is
# reported


def difference(relative: float, **more) -> Difference:
    return Difference(error=relative**2, expected=1.0, found=1.0, dot=1 - relative**2 / 2, rows=1, **more)


def a_report(relative: float = 0.004, found: int = 7, **more) -> result.Report:
    compared = (
        Compared("block_0", "output_states", "chip", compare.BLOCK, difference(relative), difference(0.005)),
        Compared("block_0", "k_cache", "chip", compare.BLOCK, difference(0.003), difference(0.003)),
        Compared("block_0", "output_states", "original", compare.ORIGINAL, difference(0.1)),
        Compared(CHAIN, "output_states", "chip", compare.CHAIN, difference(0.012), difference(0.011)),
    )
    generated = Generation((1, 2), (Picked("generation", "token 1", found, 7, 0.0 if found == 7 else 0.3, 0.3, 0.1),))
    picked = (Picked("lm_head", "random state 1", 3, 3, 0.0, 0.5, 0.02),)
    settings = {
        "generation": generated,
        "interface": (),
        "unchecked": (),
        "launches": {"block_0": 2, "lm_head": 1},
        "seconds": {"block_0": 2.0},
    }
    return result.Report("m.bmodel on bm1684x", compared, picked, **(settings | more))


def printed(made: result.Report, terminal: bool = False) -> str:
    out = io.StringIO()
    result.show(made, Console(file=out, force_terminal=terminal, width=120))
    return out.getvalue()


def test_a_report_of_what_is_right():
    made = a_report()
    assert made.ok
    text = printed(made)
    assert "\x1b" not in text and "block_0" in text and "0.0040" in text and "1 of 1 token equals transformers'" in text
    assert text.strip().splitlines()[-1].startswith("verified: ")
    assert "\x1b" in printed(made, terminal=True)
    data = json.loads(json.dumps(result.to_json(made), allow_nan=False))
    assert data["ok"] and [n["name"] for n in data["nets"]] == ["block_0", "lm_head", CHAIN]
    assert (
        data["nets"][0]["outputs"][0]["relative_l2_limit"] == 0.01
        and data["nets"][0]["outputs"][2]["weights"] == "original"
    )
    assert {"torch", "transformers", "numpy"} <= set(data["versions"])


def test_an_ill_conditioned_model_is_named():
    wrong = a_report(relative=0.04)
    torch_too = replace(wrong.compared[0], torch_half=difference(0.0315))
    text = printed(replace(wrong, compared=(torch_too, *wrong.compared[1:])))
    assert "FAILED" in text and "torch in half precision misses the tolerance too" in text and "0.0315" in text
    assert "torch in half" not in printed(wrong)


def test_torch_is_shown_where_it_sets_the_limit():
    made = a_report(relative=0.0145)
    sharp = replace(made.compared[0], torch_half=difference(0.012))
    made = replace(made, compared=(sharp, *made.compared[1:]))
    assert made.ok and "0.0150 (torch 0.0120)" in printed(made)
    outputs = result.to_json(made)["nets"][0]["outputs"]
    assert outputs[0]["limited_by"] == "torch_half" and outputs[0]["relative_l2_limit"] == pytest.approx(0.015)
    assert outputs[0]["torch_half"]["relative_l2"] == pytest.approx(0.012) and outputs[1]["limited_by"] == "tolerance"
    assert "(torch" not in printed(a_report())


@pytest.mark.parametrize(
    "made, word",
    [
        (a_report(relative=0.011), "wrong: block_0"),
        (a_report(found=5), "0 of 1 token"),
        (a_report(interface=("outputs of block_0 are odd",)), "outputs of block_0 are odd"),
    ],
)
def test_a_report_of_what_is_wrong(made, word):
    assert not made.ok
    assert word in printed(made) and "FAILED" in printed(made)
    assert result.to_json(made)["ok"] is False


def test_nan_is_written_as_null(tmp_path):
    made = replace(
        a_report(), compared=(Compared("block_0", "output_states", "chip", compare.BLOCK, Difference(not_finite=4)),)
    )
    result.write(made, tmp_path / "verify.json", {"chip": "bm1684x"})
    data = json.loads((tmp_path / "verify.json").read_text())
    assert data["nets"][0]["outputs"][0]["relative_l2"] is None and data["nets"][0]["outputs"][0]["not_finite"] == 4
    assert not data["ok"] and data["chip"] == "bm1684x" and "WRONG" in printed(made)


def test_nothing_checked_is_not_right():
    made = replace(a_report(), compared=(), picked=(), generation=None, launches={}, unchecked=("sample_head",))
    assert not made.ok and "not checked: sample_head" in made.summary()
