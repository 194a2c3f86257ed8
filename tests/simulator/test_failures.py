"""What the simulator says when something is wrong, and that it never leaves anything behind."""

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from processes import SOON, living, wait_for
from sample_nets import Compile, embedding, linear

from llmconv.bmodel.read import Blob, BModel
from llmconv.errors import ToolError
from llmconv.simulator.client import Simulator, memory_needed
from llmconv.simulator.log import reason
from llmconv.toolchain.find import Toolchain

pytestmark = [pytest.mark.compiler, pytest.mark.simulator]

IDS = np.zeros((1, 16), np.int32)


@pytest.fixture(autouse=True)
def nothing_left(nothing_open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """No child process, open file or folder outlives a test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield
    assert not list(tmp_path.glob("llmconv-simulator-*"))


@pytest.fixture
def start(compiler: Toolchain) -> Callable[..., Simulator]:
    return lambda path, chip="bm1684x", **more: Simulator(path, chip, compiler.root, **more)


def test_no_whole_file(start, compiled: Compile, tmp_path: Path):
    cut = tmp_path / "cut.bmodel"
    cut.write_bytes(compiled(embedding()).read_bytes()[:-1])
    with pytest.raises(ToolError, match="cut.bmodel is no whole .bmodel: by its header it has"):
        start(cut)
    with pytest.raises(ToolError, match="cannot read .*missing: No such file"):
        start(tmp_path / "missing")


def test_wrong_chip(start, compiled: Compile):
    with pytest.raises(ToolError, match="is for BM1688: it cannot run on a simulated BM1684X"):
        start(compiled(embedding(), "bm1688"))


def test_a_file_that_lies_about_its_chip(start, compiled: Compile, tmp_path: Path):
    """The runtime itself refuses or dies; either way it is said."""
    lying = tmp_path / "lying.bmodel"
    lying.write_bytes(compiled(embedding(), "cv186x").read_bytes().replace(b"CV186X", b"BM1999"))
    with pytest.raises(ToolError, match="is for BM1999: there are simulators for BM1684X, BM1688, CV186X"):
        start(lying, "bm1999")


def test_several_devices(start, compiled: Compile):
    with pytest.raises(ToolError, match="is for 2 devices: the simulator has one"):
        start(compiled(linear(k=256, n=256), num_device=2))


def test_no_compiler(compiled: Compile, tmp_path: Path):
    with pytest.raises(ToolError, match="holds no chip simulator: it lacks lib/libbmrt.so.1.0"):
        Simulator(compiled(embedding()), "bm1684x", tmp_path)


def test_too_little_memory(start, compiled: Compile):
    with pytest.raises(ToolError, match="failed while loading the nets of embedding.bmodel: .*Memory exhausted"):
        start(compiled(embedding()), memory_bytes=16 << 20)


def test_memory_counts_shared_coefficients_once(compiled: Compile):
    bmodel = BModel.read(compiled(linear()))
    stage = bmodel.nets[0].stages[0]

    def needed(*offsets: int) -> int:
        stages = tuple(replace(stage, coeff=Blob(offset, 1 << 30)) for offset in offsets)
        bmodel.nets = (replace(bmodel.nets[0], stages=stages),)
        return memory_needed(bmodel)

    assert needed(0, 0, 0) == needed(0)
    assert needed(0, 1 << 30, 0) == needed(0) + (1 << 30)


@pytest.mark.parametrize(
    "inputs, message",
    [
        ({}, "net embedding takes input_ids: given were no tensors"),
        ({"input_ids": IDS, "more": IDS}, "net embedding takes input_ids: given were input_ids, more"),
        ({"ids": IDS}, "net embedding takes input_ids: given were ids"),
        (
            {"input_ids": IDS[:, 1:]},
            r"input input_ids of net embedding has the shape \[1, 15\]: the net takes \[1, 16\]",
        ),
        ({"input_ids": IDS[0]}, r"input input_ids of net embedding has the shape \[16\]: the net takes \[1, 16\]"),
        ({"input_ids": IDS.astype(np.float32)}, "input input_ids of net embedding was given as float32: it is i32"),
        (
            {"input_ids": IDS + np.int64(2**40)},
            "input input_ids of net embedding has values from 1099511627776 .*: it is i32",
        ),
    ],
)
def test_wrong_inputs(start, compiled: Compile, inputs: dict, message: str):
    with start(compiled(embedding())) as simulator:
        with pytest.raises(ToolError, match=message):
            simulator.run("embedding", inputs)
        assert simulator.run("embedding", {"input_ids": IDS})["embedding"].shape == (1, 16, 64)


def test_wrong_net_and_shape(start, compiled: Compile):
    with start(compiled(linear(), dynamic=True)) as simulator:
        with pytest.raises(ToolError, match="has no net 'x': it has linear"):
            simulator.run("x", {})
        for rows in (0, 17):
            with pytest.raises(ToolError, match=rf"has the shape \[1, {rows}, 64\]: the net takes up to \[1, 16, 64\]"):
                simulator.run("linear", {"x": np.zeros((1, rows, 64), np.float32)})
        with pytest.raises(ToolError, match="input x of net linear was given as int64: it is bf16"):
            simulator.run("linear", {"x": np.zeros((1, 16, 64), np.int64)})


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_death(start, compiled: Compile, how: signal.Signals):
    with start(compiled(embedding())) as simulator:
        os.kill(simulator._process.pid, how)
        for _ in range(2):
            with pytest.raises(
                ToolError, match=f"failed while running net embedding of embedding.bmodel: it died of {how.name}"
            ):
                simulator.run("embedding", {"input_ids": IDS})


def test_prints_nothing_but_keeps_the_log(start, compiled: Compile, tmp_path: Path, capfd: pytest.CaptureFixture):
    with start(compiled(embedding()), log=tmp_path / "log") as simulator:
        simulator.run("embedding", {"input_ids": IDS})
    assert capfd.readouterr() == ("", "")
    assert "cmodel init" in (tmp_path / "log").read_text()
    with pytest.raises(ToolError) as failure:
        start(compiled(embedding()), log=tmp_path / "log", memory_bytes=16 << 20)
    assert failure.value.log == tmp_path / "log"


def test_library_path_does_not_mislead(start, compiled: Compile, compiler, monkeypatch: pytest.MonkeyPatch):
    """With LD_LIBRARY_PATH the loader would find the wrong chip's simulator."""
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{compiler.root}/lib")
    with start(compiled(embedding(), "cv186x"), "cv186x") as simulator:
        assert simulator.run("embedding", {"input_ids": IDS})["embedding"].shape == (1, 16, 64)


def test_child_dies_with_its_parent(compiled: Compile, compiler, tmp_path: Path):
    """Also when the parent has no chance to say goodbye, and also in the middle of a run."""
    script = f"""
        import numpy, threading, time
        from llmconv.simulator.client import Simulator
        simulator = Simulator({str(compiled(linear(rows=512, k=1024, n=1024)))!r}, "bm1684x", {str(compiler.root)!r})
        print(simulator._process.pid, flush=True)
        simulator.run("linear", dict(x=numpy.ones((1, 512, 1024), numpy.float32)))
        print("finished", flush=True)
    """
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "TMPDIR": str(tmp_path / "temporary")}
    (tmp_path / "temporary").mkdir()
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, env=environment)
    child = int(parent.stdout.readline())
    time.sleep(0.3)  # into the run
    parent.kill()
    assert b"finished" not in parent.stdout.read()
    parent.stdout.close()
    parent.wait()
    wait_for(lambda: not living(child), SOON)


def test_reason(tmp_path: Path):
    log = tmp_path / "log"
    log.write_text("old error\nbegin to cmodel init...\n\nfirst\nAssert: here\nsecond\n")
    assert reason(log, 0) == "old error; Assert: here"
    assert reason(log, 10) == "Assert: here"
    log.write_text("begin to cmodel init...\none\ntwo\nthree\nfour\n")
    assert reason(log, 0) == "two; three; four"
    assert reason(tmp_path / "missing", 0) == ""
