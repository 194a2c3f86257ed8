"""Which lengths are tried, by themselves and asked for; and on the chip up to the cache's last row."""

from __future__ import annotations

import numpy as np
import pytest
from test_nets_of_options import SMALL
from verify_helpers import plan_of, verified

from llmconv.cli import main
from llmconv.errors import InputError
from llmconv.runtime import launches
from llmconv.verify import lengths, selection
from llmconv.verify.generate import Runtime, turns

SEQ = 32


def planned(checkpoint, **options):
    plan = plan_of(checkpoint("qwen2", **SMALL), seq=SEQ, **options)
    return plan, {net.name: net for net in plan.nets}


# ------------------------------------------------------------------------------------------------------------ those
# that tell


@pytest.mark.parametrize(
    "options, net, expected",
    [
        ({}, "block_0", [(1, 0), (24, 0), (31, 0), (32, 0)]),
        ({"max_input_length": 12}, "block_0", [(1, 0), (9, 0), (11, 0), (12, 0)]),
        ({"dynamic": 1}, "block_0", [(1, 0), (7, 0), (31, 0), (32, 0)]),
        ({"max_input_length": 1}, "block_0", [(1, 0)]),
        ({"max_input_length": 12}, "block_cache_0", [(1, 0), (1, 19), (1, 31)]),
        (
            {"use_block_with_kv": 1, "max_input_length": 8, "max_prefill_kv_length": 20},
            "block_0",
            [(1, 20), (6, 12), (7, 0), (8, 20)],
        ),
        ({"use_block_with_kv": 1, "max_input_length": 8, "dynamic": 1}, "block_0", [(1, 31), (7, 1), (7, 19), (8, 24)]),
        ({"use_history_kv": 1, "chunk_length": 8}, "block_kv_0", [(1, 31), (7, 1), (7, 19), (8, 24)]),
        ({"chunk_length": 8}, "block_cache_0_2", [(1, 0), (1, 4), (1, 7)]),
        ({"batch": 2}, "block_cache_0", [(1, 0), (1, 19), (1, 31)]),
    ],
    ids=str,
)
def test_thorough_launches(options, net, expected, checkpoint):
    plan, by_name = planned(checkpoint, **options)
    assert lengths.places(by_name[net], plan.job, thorough=True) == expected
    assert len(lengths.places(by_name[net], plan.job, thorough=False)) == 1


@pytest.mark.parametrize(
    "options",
    [{}, {"dynamic": 1}, {"use_block_with_kv": 1}, {"use_history_kv": 1}, {"share_prompt": 1}, {"batch": 2}],
    ids=str,
)
def test_no_launch_goes_beyond_the_nets(options, checkpoint):
    plan, by_name = planned(checkpoint, **options)
    for net in by_name.values():
        if net.layer is not None:
            for asked in ((), (1,), (3, 15, 16), range(1, SEQ + 1)):
                for count, past in lengths.places(net, plan.job, True, asked):
                    assert (
                        1 <= count <= launches.length(net)
                        and 0 <= past <= launches.capacity(net)
                        and count + past <= SEQ
                    )


def test_a_generation_fills_the_cache(checkpoint):
    plan, _ = planned(checkpoint)
    runtime = Runtime.of(plan)
    (turn,) = turns(plan, runtime, np.random.default_rng(0), 6)
    assert len(turn.ids) + 5 == SEQ and len(turn.ids) < runtime.chunk(0), (
        "five tokens are read behind it, and there is padding"
    )


# ------------------------------------------------------------------------------------------------------------ those
# asked for


def test_lengths_are_read():
    assert lengths.read("512, 1,511,1") == (1, 511, 512) and lengths.read("") == ()
    for text in ("a", "0", "-3", "1,x", "1.5", "²"):
        with pytest.raises(InputError, match="no number of tokens"):
            lengths.read(text)


@pytest.mark.parametrize(
    "options, asked, expected",
    [
        ({}, (1, 31, 32), {"block_0": [(1, 0), (31, 0), (32, 0)], "block_cache_0": [(1, 1), (1, 31)]}),
        (
            {"use_history_kv": 1, "chunk_length": 8},
            (8, 9, 24),
            {"block_0": [(8, 0)], "block_kv_0": [(1, 8), (8, 16)], "block_cache_0": [(1, 8), (1, 9), (1, 24)]},
        ),
        ({"use_block_with_kv": 1, "max_input_length": 8}, (5, 20), {"block_0": [(4, 16), (5, 0)]}),
        (
            {"share_prompt": 1, "max_input_length": 8, "max_prefill_kv_length": 20},
            (6, 18),
            {"block_0": [(6, 12)], "block_prompt_0": [(6, 0), (18, 0)]},
        ),
    ],
    ids=str,
)
def test_what_prompts_of_a_length_come_to(options, asked, expected, checkpoint):
    plan, by_name = planned(checkpoint, **options)
    lengths.check(plan, asked)
    assert {name: lengths.places(by_name[name], plan.job, True, asked) for name in expected} == expected


@pytest.mark.parametrize(
    "options, longest, larger",
    [
        ({}, 32, "seq_length"),
        ({"max_input_length": 12}, 12, "max_input_length"),
        ({"use_history_kv": 1}, 32, "seq_length"),
        ({"use_block_with_kv": 1, "max_input_length": 8, "max_prefill_kv_length": 10}, 18, "max_input_length"),
        ({"share_prompt": 1, "max_input_length": 8, "max_prefill_kv_length": 20}, 20, "max_input_length"),
    ],
    ids=str,
)
def test_a_length_that_does_not_fit(options, longest, larger, checkpoint):
    plan, _ = planned(checkpoint, **options)
    lengths.check(plan, (1, longest))
    with pytest.raises(
        InputError,
        match=f"--lengths {longest + 1}: these nets take prompts of 1 to {longest} tokens. .*larger {larger}",
    ):
        selection.choose(plan, None, False, 4, (1, longest + 1))


def test_lengths_need_a_block(checkpoint):
    plan, _ = planned(checkpoint)
    with pytest.raises(InputError, match="only blocks"):
        selection.choose(plan, ["lm_head"], False, 4, (1,))
    assert selection.choose(plan, ["lm_head", "block_0"], False, 4, (1,)).lengths == (1,)


def test_a_real_model_at_some_lengths(checkpoint, monkeypatch):
    """Its prefill block too, and every launch is in the estimate."""
    plan, _ = planned(checkpoint)
    monkeypatch.setattr(
        selection, "seconds", lambda net: {"block": 350.0, "block_cache": 6.4, "lm_head": 160.0}.get(net.kind, 0.1)
    )
    chosen = selection.choose(plan, None, False, 16, (1, 31, 32))
    assert (
        [net.name for net in chosen.nets] == ["block_cache_0", "block_0"]
        and chosen.lengths == (1, 31, 32)
        and not chosen.tokens
    )
    assert chosen.seconds == pytest.approx(2 * 6.4 + 3 * 350)
    assert selection.choose(plan, ["block_1"], False, 16, (1, 31)).seconds == pytest.approx(700)
    assert selection.choose(plan, ["block_1"], False, 16).seconds == pytest.approx(350)


def test_the_estimate_has_every_launch(checkpoint, monkeypatch):
    plan, _ = planned(checkpoint)
    monkeypatch.setattr(selection, "seconds", lambda net: 1.0 if net.kind == "block" else 0.0)
    assert selection.choose(plan, None, False, 16).seconds == pytest.approx(2 * (4 + 1)), (
        "four by themselves and one in the generation, of two layers"
    )


@pytest.mark.parametrize(
    "each, thorough, count", [(2.0, True, 2), (50.0, True, 2), (70.0, False, 2), (400.0, False, 1)]
)
def test_a_model_is_tried_thoroughly_while_that_takes_minutes(each, thorough, count, checkpoint, monkeypatch):
    """Also where one launch takes long: what counts is the whole."""
    plan, _ = planned(checkpoint)
    monkeypatch.setattr(selection, "seconds", lambda net: each if net.kind == "block" else 0.0)
    chosen = selection.choose(plan, None, False, 4)
    blocks = [net for net in chosen.nets if net.kind == "block"]
    assert (
        chosen.thorough == thorough
        and len(blocks) == (2 if count == 2 else 0)
        and chosen.seconds <= selection.FULL_SECONDS
    )
    assert all(selection.launches(net, plan, chosen) == (4 if thorough else 1) for net in blocks)


def test_wrong_lengths_on_the_command_line(tmp_path, capsys):
    assert main.main(["verify", str(tmp_path), "--lengths", "1,many"]) == 2
    assert "many is no number of tokens" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------------- on
# the chip


@pytest.mark.compiler
@pytest.mark.simulator
def test_lengths_on_the_chip(checkpoint, convert):
    """Everything is right at the lengths' ends, and what was launched is what was chosen and estimated."""
    out = convert(checkpoint("qwen2", **SMALL), seq=SEQ, chip="cv186x")
    ok, found, printed = verified(out, tokens=4)
    assert ok, printed
    runs = {net["name"]: net["launches"] for net in found["nets"]}
    assert runs["block_0"] == 4 + 1 and runs["block_cache_0"] == 3 + 3 and len(found["generation"]["prompt"]) == SEQ - 3
    assert (
        next(o["tokens"] for net in found["nets"] if net["name"] == "block_0" for o in net["outputs"])
        == 1 + 24 + 31 + 32 + SEQ - 3
    )
    ok, found, printed = verified(out, nets=["block_0", "block_cache_1"], lengths=(1, 17, 32))
    assert ok, printed
    assert {net["name"]: net["launches"] for net in found["nets"]} == {"block_0": 3, "block_cache_1": 2}
    assert found["nets"][0]["outputs"][0]["tokens"] == 1 + 17 + 32


@pytest.mark.slow
@pytest.mark.compiler
@pytest.mark.simulator
@pytest.mark.parametrize("chip", ["bm1684x", "bm1688", "cv186x"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dynamic": 1},
        {"max_input_length": 24},
        {"use_block_with_kv": 1},
        {"use_history_kv": 1},
        {"share_prompt": 1},
        {"batch": 2},
    ],
    ids=str,
)
def test_every_length_of_every_scheme(options, chip, checkpoint, convert):
    out = convert(checkpoint("qwen2", **SMALL), seq=SEQ, chip=chip, **options)
    ok, _, printed = verified(out, full=True, tokens=6)
    assert ok, printed
    longest = (
        16 if {"use_block_with_kv", "share_prompt"} & set(options) else 24 if "max_input_length" in options else SEQ
    )
    ok, _, printed = verified(out, full=True, tokens=2, lengths=range(1, longest + 1))
    assert ok, printed
