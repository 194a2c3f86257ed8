"""What quantisation costs, told of a verify.json; and which record is of what was asked for."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from llmconv.cli.verify import Wish
from llmconv.errors import InputError
from llmconv.verify import record
from llmconv.verify.settings import Settings
from llmconv.verify.table import Table


def net(name: str, *original: float | None, chip: float = 0.005) -> dict:
    outputs = [{"weights": "chip", "relative_l2": chip, "relative_l2_limit": 0.01}]
    return {
        "name": name,
        "ok": True,
        "outputs": outputs
        + [{"weights": "original", "relative_l2": error, "relative_l2_limit": None} for error in original],
    }


def told(*nets: dict, by: str = record.QUANTISED) -> dict:
    return {"quantised": by, "nets": [net("embedding"), *nets]}


def test_a_net_counts_by_its_worst_output_and_a_layer_by_its_worst_net():
    made = told(
        net("block_0", 0.04, 0.1),
        net("block_1", 0.02),
        net("block_cache_0", 0.06),
        net("block_cache_1", 0.05),
        net("block_10", 0.03),
        net("block_2", 0.0052),
    )
    assert record.losses(made) == {
        "block_0": 0.1,
        "block_1": 0.02,
        "block_cache_0": 0.06,
        "block_cache_1": 0.05,
        "block_10": 0.03,
        "block_2": 0.0052,
    }
    mean = (0.1 + 0.05 + 0.03 + 0.0052) / 4
    assert (
        record.cost(made)
        == f"quantisation: relative L2 {mean:.2g} on average against the original weights, worst layers 0 (0.1), 1 (0.05), 10 (0.03)"
    )


def test_one_layer():
    assert record.cost(told(net("block_cache_7", 0.0912))).endswith("worst layer 7 (0.091)")


def test_what_is_not_finite_is_the_worst():
    made = told(net("block_0", 0.5), net("block_1", 0.1, None))
    assert record.losses(made)["block_1"] == math.inf and "worst layers 1 (not finite), 0 (0.5)" in record.cost(made)


@pytest.mark.parametrize(
    "made, text",
    [
        (told(net("block_0"), by=""), ""),
        (told(net("block_0"), by=record.PACKED), "its original weights are not in it"),
        (told(net("block_0", 0.1), by=record.AGAIN), "against the weights that the checkpoint's integers stand for"),
        (told(), "was not measured, as no layer was verified"),
    ],
)
def test_where_there_is_no_original(made, text):
    assert text in record.cost(made) and bool(text) is bool(record.cost(made))


def test_a_whole_verification_is_all_that_others_are():
    """--full stands for what is chosen without it; anything else that differs does not."""
    asked, whole = Settings(), Settings(full=True)

    def record(settings: Settings, ok: bool = True) -> dict:
        return {"ok": ok, "settings": settings.to_dict()}

    assert asked.kept(record(whole)) == whole and whole.kept(record(whole)) == whole
    for other in (
        None,
        {},
        record(asked),
        record(whole, ok=False),
        record(replace(whole, seed=1)),
        record(replace(whole, tokens=4)),
        record(replace(whole, nets=("vit",))),
    ):
        assert asked.kept(other) == asked
    some = Settings(("block_0",))
    assert some.kept(record(whole)) == some


@pytest.mark.parametrize(
    "wrong",
    [lambda: Settings(tokens=-1), lambda: Settings(seed=-1), lambda: Wish(most=-0.1), lambda: Wish(most=math.nan)],
)
def test_senseless_numbers(wrong):
    with pytest.raises(InputError):
        wrong()


def test_a_table_is_kept_whole():
    import json

    made = Table("title", ("net", ""), (("block_0", "ok"), ("[red]", "WRONG")), ("a line", "FAILED"), False)
    assert Table.of_dict(json.loads(json.dumps(made.to_dict()))) == made
