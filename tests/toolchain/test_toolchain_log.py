"""The noise filter, on real logs of tpuc-opt 1.30.2."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmconv.toolchain import log

LOGS = Path(__file__).parent / "logs"


@pytest.mark.parametrize(
    "name, last",
    [
        ("success", []),
        (
            "missing_tensor",
            [
                "WARNING, embedding.npz doesn't exist, please check",
                "failed to find tensor emb.weight to read",
                "readTensor failed",
            ],
        ),
        ("no_cmake", ["run ppl_jit failed with ret 0x7f00!", "ppl jit call failed!", "Error: block split failed!!!"]),
    ],
)
def test_tail(name: str, last: list[str]) -> None:
    found = log.tail(LOGS / f"{name}.txt")
    if not last:
        assert found == []
    for line in last[1:]:
        assert line in found


def test_no_log() -> None:
    assert log.tail(LOGS / "none.txt") == []
    assert log.cause([]) == ("", "")


@pytest.mark.parametrize(
    "name, why, cure",
    [
        ("missing_tensor", "the weight file lacks the tensor emb.weight", ""),
        ("no_cmake", "the kernel JIT did not find cmake or make", "Install cmake"),
        ("lock", "the kernel JIT cannot open /tmp/ppl_11856662619681341955.lock", "another user"),
        ("bad_op", "unregistered operation 'top.Gater'", ""),
        ("bad_chip", "its assertion `chip.has_value()' failed (ProcessorAssign.cpp:26)", ""),
    ],
)
def test_cause(name: str, why: str, cure: str) -> None:
    found = log.cause(log.tail(LOGS / f"{name}.txt"))
    assert why in found[0] and cure in found[1]
    assert "#0 0x" not in found[0] and "Program arguments" not in found[0]


def test_a_long_log_is_read_from_its_end(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text("".join(f"line {i}\n" for i in range(200_000)) + "the last word\n")
    assert log.tail(path, 2) == ["line 199999", "the last word"]


def test_progress_bars_are_no_last_words() -> None:
    lines = ["it went wrong", "[###      ] 30%\r[#########] 100%", "[#########] 100%", "  7%\r 12%", ""]
    assert log.meaningful(lines) == ["it went wrong"]
    assert log.meaningful(["[###  ] 30%\rit went wrong"]) == ["it went wrong"]


@pytest.mark.parametrize("words", ["file too short", "invalid ELF header", "ELF load command past end of file"])
def test_a_damaged_library(words: str) -> None:
    line = f"/x/bin/tpuc-opt: error while loading shared libraries: /x/lib/libcpuop.so: {words}"
    assert log.cause([line]) == ("its library /x/lib/libcpuop.so is damaged", "Run llmconv doctor")
