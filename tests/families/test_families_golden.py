"""MiniCPM's nets against what the vendor's own converter makes of the same checkpoint (see tests/test_golden.py)."""

from __future__ import annotations

import json

import pytest
from test_golden import GOLDEN, ours


@pytest.mark.compiler
def test_minicpm_equals_the_vendors(family_checkpoint, convert):
    golden = json.loads((GOLDEN / "minicpm-bf16.json").read_text())["nets"]
    got = ours(convert(family_checkpoint("minicpm"), seq=128))
    assert [n["name"] for n in got] == [n["name"] for n in golden]
    for net, expected in zip(got, golden):
        assert net == expected
