"""What the nets are fed, beside the loops of a runtime written out: values, padding, and what an earlier prompt
left."""

from __future__ import annotations

import numpy as np
import pytest
from speaking import converse
from test_nets_of_options import SMALL, Interpreted
from verify_helpers import plan_of

from llmconv import numeric
from llmconv.blocks.vision import grid
from llmconv.blocks.vision.images import random
from llmconv.runtime import launches
from llmconv.runtime.half import half
from llmconv.runtime.runtime import Runtime
from llmconv.runtime.seen import Shown
from llmconv.verify.generate import Turn
from llmconv.verify.session import Session

SEQ = 32


class Watched(Interpreted):
    """A chip that keeps what every launch was fed."""

    def __init__(self, plan, **options):
        super().__init__(plan, **options)
        self.fed: list[tuple[str, dict[str, np.ndarray]]] = []

    def run(self, name, inputs, read=()):
        self.fed.append((name, {key: values.copy() for key, values in inputs.items()}))
        return super().run(name, inputs, read)

    def of(self, name: str) -> list[dict[str, np.ndarray]]:
        return [inputs for net, inputs in self.fed if net == name]


def watched(plan, said: list[Turn]) -> Watched:
    """A conversation on a watched chip, which must be right."""
    chip = Watched(plan)
    session = Session(plan, chip)
    converse(session, Runtime.of(plan), said)
    assert all(c.ok for c in session.compared)
    return chip


def by_name(plan) -> dict:
    return {net.name: net for net in plan.nets}


def test_hidden_is_what_the_runtimes_write():
    values = np.array([launches.HIDDEN, 0], np.float32)
    assert numeric.to_bf16(half(values, "bf16")).tolist() == [0xC61C, 0] and half(values, "bf16")[0] == -9984
    assert (
        numeric.to_f16(half(values, "f16")).view(np.uint16).tolist() == [0xF0E2, 0] and half(values, "f16")[0] == -10000
    )
    assert grid.HIDDEN == -10000.0


def static_mask(length: int, history: int, new: int, old: int) -> np.ndarray:
    """A runtime's loops for a prefill of `new` tokens behind `old` ones."""
    mask = np.full((length, history + length), launches.HIDDEN)
    for i in range(new):
        for j in range(old):
            mask[i, j] = 0
        for j in range(i + 1):
            mask[i, j + history] = 0
    return mask


@pytest.mark.parametrize(
    "length, history, new, old",
    [(8, 0, 5, 0), (8, 0, 1, 0), (8, 0, 8, 0), (8, 16, 5, 0), (8, 16, 5, 16), (8, 16, 8, 3), (5, 3, 5, 3)],
)
def test_the_mask_of_a_prefill(length, history, new, old):
    np.testing.assert_array_equal(
        launches.mask(length, history, new, old, launches.HIDDEN)[0, 0], static_mask(length, history, new, old)
    )


@pytest.mark.parametrize("position", [1, 20, SEQ - 1])
def test_the_mask_of_decode(position, checkpoint):
    plan = plan_of(checkpoint("qwen2", **SMALL), seq=SEQ)
    shape = (1, SEQ, 1, 64)
    launch = launches.step(
        by_name(plan)["block_cache_0"], np.ones((1, 1, 128)), 1, position, {"k": np.ones(shape), "v": np.ones(shape)}
    )
    length, mask = position + 1, [0.0] * (SEQ + 1)
    for i in range(length - 1, SEQ):
        mask[i] = -9984.0
    assert launch.inputs["attention_mask"].ravel().tolist() == mask and launch.inputs[
        "position_ids"
    ].ravel().tolist() == [position]


def test_every_layer_gets_one_plain_causal_mask(checkpoint):
    plan = plan_of(checkpoint("qwen2", **SMALL), seq=SEQ)
    chip = watched(plan, [Turn(np.arange(1, 12), 3)])
    for kind, expected in (("block", static_mask(SEQ, 0, 11, 0)), ("block_cache", None)):
        first, second = ([fed["attention_mask"] for fed in chip.of(f"{kind}_{layer}")] for layer in (0, 1))
        assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
        if expected is not None:
            np.testing.assert_array_equal(first[0][0, 0], half(expected.astype(np.float32), "bf16"))


def test_a_static_prefill_finds_what_an_earlier_prompt_left(checkpoint):
    """Padding: ids and positions are 0, states are those of an earlier prompt, and they go on from block to block and
    into the history."""
    plan = plan_of(checkpoint("qwen2", **SMALL), seq=SEQ, max_input_length=24)
    chip = watched(plan, [Turn(np.arange(1, 12), 3)])
    (embedding,), (first,), (second,) = (chip.of(name) for name in ("embedding", "block_0", "block_1"))
    assert embedding["input_ids"].ravel().tolist() == [*range(1, 12), *[0] * 13]
    assert first["position_ids"].ravel().tolist() == [*range(11), *[0] * 13]
    assert np.array_equal(first["input_states"][:, 11:22], first["input_states"][:, :11]), (
        "not the embedding of token 0, nor zeros"
    )
    assert np.abs(second["input_states"][:, 11:]).min(-1).max() > 0
    decode = chip.of("block_cache_0")
    assert len(decode) == 2
    for part in ("history_k", "history_v"):
        rows = decode[0][part]
        assert (np.abs(rows).max((0, 2, 3)) > 0).all(), (
            "no row is empty: behind the padding's are those of an earlier conversation"
        )
        changed = [row for row in range(SEQ) if not np.array_equal(decode[1][part][:, row], rows[:, row])]
        assert changed == [11], "each token writes its own row"


def test_a_dynamic_prefill_has_the_real_length(vision_checkpoint):
    """Rows of the mask and of three positions lie side by side; the embedding runs at its full length all the same."""
    plan = plan_of(vision_checkpoint("qwen3_vl"), seq=48, max_pixels="64,96", dynamic=1)
    embedding = launches.tokens(by_name(plan)["embedding"], np.arange(11))
    assert embedding.inputs["input_ids"].shape == (1, 48)
    fed = launches.step(by_name(plan)["block_0"], np.ones((1, 48, plan.spec.hidden), np.float32), 11).inputs
    assert {name: values.shape for name, values in fed.items()} == {
        "input_states": (1, 11, plan.spec.hidden),
        "position_ids": (3, 11),
        "attention_mask": (1, 1, 11, 11),
    }
    assert fed["position_ids"].flags.c_contiguous and fed["position_ids"].ravel().tolist() == [*range(11)] * 3
    np.testing.assert_array_equal(
        fed["attention_mask"][0, 0], half(static_mask(11, 0, 11, 0).astype(np.float32), "bf16")
    )


def test_a_dynamic_prefill_with_history_has_the_real_lengths(checkpoint):
    plan = plan_of(checkpoint("qwen2", **SMALL), seq=SEQ, use_block_with_kv=1, dynamic=1)
    rows = np.ones((1, SEQ, 1, 64), np.float32)
    fed = launches.step(
        by_name(plan)["block_0"], np.ones((1, 16, 128), np.float32), 5, 9, {"k": rows, "v": rows}
    ).inputs
    assert fed["history_k"].shape == fed["history_v"].shape == (1, 9, 1, 64)
    np.testing.assert_array_equal(fed["attention_mask"][0, 0], half(static_mask(5, 9, 5, 9).astype(np.float32), "bf16"))


def test_stages_of_decode_are_chosen_as_by_a_runtime(checkpoint):
    plan = plan_of(checkpoint("qwen2", **SMALL), seq=SEQ, chunk_length=8)
    runtime, lengths = Runtime.of(plan), [32, 16, 8]  # stages, the longest first

    def chosen(history: int) -> int:
        stage = 0
        for length in lengths:
            if history > length:
                break
            stage += 1
        return lengths[max(0, stage - 1)]

    for past in range(SEQ):  # a runtime counts the new token as history
        assert {launches.capacity(net) for net in runtime.caches(past)} == {chosen(past + 1)}, past


def test_padding_of_a_tower_is_hidden_even_from_itself(vision_checkpoint):
    """As in a runtime: a matrix full of -10000 that the patches' own mask is copied into."""
    for name, grids, pixels in (
        ("qwen2_vl", ((1, 4, 4),), "140,140"),
        ("qwen2_5_vl", ((1, 4, 6),), "140,140"),
        ("qwen3_vl", ((1, 2, 4),), "128,128"),
        ("paddleocr_vl", ((1, 2, 4),), "140,140"),
    ):
        plan = plan_of(vision_checkpoint(name), seq=48, max_pixels=pixels)
        tower, net = plan.towers[0].spec, by_name(plan)["vit"]
        shown = random(tower, grids, np.random.default_rng(0))
        inputs = launches.tower(net, shown).inputs
        count = len(shown.patches)
        for key, values in inputs.items():
            if key.endswith("mask"):
                assert values.dtype == np.float32 and set(np.unique(values)) == {-10000.0, 0.0}
                assert (values[0, 0, count:] == -10000).all() and (values[0, 0, :, count:] == -10000).all()
                assert key.startswith("window") or not values[0, 0, :count, :count].any()
            else:
                behind = count // tower.merge**2 if key == "reverse_index" else count
                assert (
                    len(values) == (tower.tokens if key == "reverse_index" else tower.patches)
                    and not values[behind:].any()
                )


def test_the_tower_runs_once_for_each_image(vision_checkpoint):
    plan = plan_of(vision_checkpoint("qwen3_vl"), seq=48, max_pixels="64,96")
    shown = random(plan.towers[0].spec, ((1, 2, 4), (1, 4, 2)), np.random.default_rng(0))
    ids = np.array([5, 998, 1000, 1000, 999, 7, 998, 1000, 1000, 999, 9])
    chip = watched(plan, [Turn(ids, 2, shown=[Shown(plan.towers[0], shown)])])
    assert [np.flatnonzero(fed["input_states"].any(-1)).tolist() for fed in chip.of("vit")] == [list(range(8))] * 2
    size = plan.spec.hidden
    for number, fed in enumerate(chip.of("add")):
        deep = fed["input1"].reshape(-1, size)
        assert len(deep) == 48 and np.flatnonzero(deep.any(-1)).tolist() == [2, 3, 7, 8], number
        assert fed["input0"].reshape(-1, size).any(-1).all(), "the whole buffer, padding included"
