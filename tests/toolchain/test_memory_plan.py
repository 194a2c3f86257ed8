"""What the compiler arranges in memory keeps every tensor until it was read, or is refused."""

from __future__ import annotations

import pytest

from llmconv.toolchain.memory_plan import overwritten

WIDE, SPAN = "tensor<1x8xbf16, {} : i64>", 16  # bytes


def net(second: int, joined: int) -> str:
    """Two halves made side by side; another operation that writes to `second`; then the halves are put together."""
    at, half, all_ = WIDE.format, "tensor<1x8xbf16, {} : i64>".format, "tensor<2x8xbf16, {} : i64>".format
    return f"""module @net {{
  func.func @main(%arg0: {at(1000)}) -> {all_(joined)} {{
    %0 = call @subfunc_0(%arg0) : ({at(1000)}) -> {all_(joined)} loc(#loc)
    return %0 : {all_(joined)} loc(#loc)
  }} loc(#loc)
  func.func @subfunc_0(%arg0: {at(1000)} loc("x")) -> {all_(joined)} {{
    %1:2 = "tpu.GroupParallel"() ({{
      %9 = "tpu.MatMul"(%arg0) {{}} : ({at(1000)}) -> {half(2000)} loc(#loc1)
      "tpu.Yield"(%9) : ({half(2000)}) -> () loc(#loc1)
    }}, {{
      %9 = "tpu.MatMul"(%arg0) {{}} : ({at(1000)}) -> {half(2016)} loc(#loc2)
      "tpu.Yield"(%9) : ({half(2016)}) -> () loc(#loc2)
    }}) {{}} : () -> ({half(2000)}, {half(2016)}) loc(#loc5)
    %2 = "tpu.Active"(%arg0) {{}} : ({at(1000)}) -> {at(second)} loc(#loc3)
    %3 = "tpu.Concat"(%1#0, %1#1) {{}} : ({half(2000)}, {half(2016)}) -> {all_(joined)} loc(#loc4)
    %4 = "tpu.Add"(%2, %3) {{}} : ({at(second)}, {all_(joined)}) -> {all_(joined)} loc(#loc6)
    return %4 : {all_(joined)} loc(#loc)
  }} loc(#loc)
}} loc(#loc)
#loc = loc(unknown)
#loc1 = loc("half_0")
#loc2 = loc("half_1")
#loc3 = loc("other")
#loc4 = loc("whole")
#loc5 = loc(fused[#loc1, #loc2])
#loc6 = loc("sum")
"""


@pytest.mark.parametrize("joined", [2000, 5000], ids=["in place", "elsewhere"])
@pytest.mark.parametrize("second", [1000 + SPAN, 2000 + 2 * SPAN, 2000 - SPAN])
def test_what_lies_elsewhere_is_kept(second, joined):
    assert overwritten(net(second, joined)) is None


@pytest.mark.parametrize("joined", [2000, 5000], ids=["in place", "elsewhere"])
@pytest.mark.parametrize("second", [2000, 2016, 2000 + 2 * SPAN - 1, 2000 - SPAN + 1])
def test_what_is_written_over_is_named(second, joined):
    assert overwritten(net(second, joined)) == ("other", "whole")


def test_the_last_reader_may_write_there():
    wide, same = "-> tensor<2x8xbf16, 5000 : i64> loc(#loc6)", "-> tensor<1x8xbf16, 3000 : i64> loc(#loc6)"
    assert overwritten(net(3000, 5000).replace(wide, same)) is None
