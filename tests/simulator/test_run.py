"""Nets on the simulated chips against NumPy's own maths."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from processes import wait_for
from sample_nets import CHIPS, Compile, Sample, embedding, linear, token

from llmconv.bmodel.read import BModel
from llmconv.bmodel.write import Part, Produced, combine
from llmconv.chips import CHIPS as CHIPS_BY_NAME
from llmconv.numeric import from_bf16, to_bf16
from llmconv.simulator.client import Simulator
from llmconv.simulator.library import link
from llmconv.toolchain.find import Toolchain
from llmconv.top.graph import Graph
from llmconv.top.text import render

pytestmark = [pytest.mark.compiler, pytest.mark.simulator]

RANDOM = np.random.default_rng(7)


def error(found: np.ndarray, expected: np.ndarray) -> float:
    """Relative L2."""
    assert found.shape == expected.shape
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def rounded(values: np.ndarray) -> np.ndarray:
    return from_bf16(to_bf16(values))


@pytest.mark.parametrize("chip", CHIPS)
def test_chips(compiler: Toolchain, compiled: Compile, chip: str, tmp_path: Path):
    """One file with three nets on every chip; and wrong inputs, rows and weights are far off."""
    rows, product, head = embedding(), linear(), token()
    parts = [compiled(rows, chip), compiled(product, chip), compiled(head, chip, quant_output=False)]
    combine(parts, tmp_path / "nets.bmodel", 0)
    with Simulator(tmp_path / "nets.bmodel", chip, compiler.root) as simulator:
        assert list(simulator.nets) == ["embedding", "linear", "lm_head"]
        info = simulator.nets["linear"]
        assert (info.dynamic, info.stages, info.core_num, info.addr_mode) == (False, 1, CHIPS[chip], "basic")
        assert info.inputs == BModel.read(parts[1]).nets[0].stages[0].inputs
        assert info.outputs == BModel.read(parts[1]).nets[0].stages[0].outputs

        ids = RANDOM.permutation(32)[:16][None]
        table = rounded(rows.weights["table"])
        found = simulator.run("embedding", {"input_ids": ids})["embedding"]
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, table[ids])
        assert error(simulator.run("embedding", {"input_ids": ids[:, ::-1]})["embedding"], table[ids]) > 1

        x = RANDOM.standard_normal((1, 16, 64))
        expected = rounded(x) @ rounded(product.weights["w"])
        assert error(simulator.run("linear", {"x": x})["y"], expected) < 0.004
        assert error(simulator.run("linear", {"x": np.roll(x, 1, axis=1)})["y"], expected) > 1

        for row in (5, 77):  # a row's product with itself is by far the largest
            found = simulator.run("lm_head", {"hidden_states": head.weights["table"][row][None]})["token_id"]
            assert (found.dtype, found.tolist()) == (np.int32, [[row]])


def test_rounding_of_inputs(compiler: Toolchain, compiled: Compile):
    """The identity gives back what the net was given: the nearest bf16, ties to even; bf16 bits go in as they are."""
    x = RANDOM.standard_normal((1, 16, 64)).astype(np.float32)
    x[0, 0, :4] = [1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 0]
    with Simulator(compiled(linear(identity=True)), "bm1684x", compiler.root) as simulator:
        found = simulator.run("linear", {"x": x})["y"]
        np.testing.assert_array_equal(found, rounded(x))
        assert found[0, 0, :4].tolist() == [1, 1 + 2**-6, -1, 0]
        np.testing.assert_array_equal(simulator.run("linear", {"x": to_bf16(x)})["y"], found)
        np.testing.assert_array_equal(simulator.run("linear", {"x": x.astype(np.float64)})["y"], found)
        np.testing.assert_array_equal(
            simulator.run("linear", {"x": x.transpose(0, 2, 1).copy().transpose(0, 2, 1)})["y"], found
        )


def test_modes_stages_and_true_shapes(compiler: Toolchain, compiled: Compile, tmp_path: Path):
    """f16, io_alone with two stages, f32 at the borders, and dynamic nets, in one file."""
    weight = linear().weights["w"]
    parts = [
        compiled(linear("half"), mode="F16"),
        compiled(linear("stages", rows=16), addr_mode="io_alone"),
        compiled(linear("stages", rows=8), addr_mode="io_alone"),
        compiled(linear("dynamic"), dynamic=True),
        compiled(linear("casting"), quant_input=False, quant_output=False),
    ]
    combine(parts, tmp_path / "nets.bmodel", 0)
    with Simulator(tmp_path / "nets.bmodel", "bm1684x", compiler.root) as simulator:
        nets = simulator.nets
        assert (nets["stages"].stages, nets["stages"].addr_mode) == (2, "io_alone")
        assert [ins for ins, _ in nets["stages"].shapes] == [((1, 16, 64),), ((1, 8, 64),)]
        assert nets["dynamic"].dynamic
        assert [io.dtype for io in (*nets["half"].inputs, *nets["casting"].inputs)] == ["f16", "f32"]
        for net, rows, bound in [
            ("half", 16, 0.0005),
            ("stages", 16, 0.004),
            ("stages", 8, 0.004),
            ("dynamic", 16, 0.004),
            ("dynamic", 5, 0.004),
            ("dynamic", 1, 0.004),
            ("casting", 16, 0.004),
        ]:
            x = RANDOM.standard_normal((1, rows, 64)).astype(np.float32)
            (found,) = simulator.run(net, {"x": x}).values()
            assert found.dtype == np.float32
            assert error(found, x @ weight) < bound, (net, rows)


def test_stamped_net(compiler: Toolchain, compiled: Compile, tmp_path: Path):
    """A template with other coefficients computes with them."""
    template, other = linear("template"), linear("other", seed=3)
    content = to_bf16(other.weights["w"]).tobytes()
    parts = [compiled(template), Part(compiled(template), "other", Produced(len(content), lambda: [content]))]
    combine(parts, tmp_path / "nets.bmodel", 0)
    x = RANDOM.standard_normal((1, 16, 64)).astype(np.float32)
    with Simulator(tmp_path / "nets.bmodel", "bm1684x", compiler.root) as simulator:
        expected = x @ other.weights["w"]
        assert error(simulator.run("other", {"x": x})["y"], expected) < 0.004
        assert error(simulator.run("template", {"x": x})["y"], expected) > 1


def test_two_chips_at_once(compiler: Toolchain, compiled: Compile):
    ids = np.arange(16)[None]
    with Simulator(compiled(embedding()), "bm1684x", compiler.root) as one:
        with Simulator(compiled(embedding(), "bm1688"), "bm1688", compiler.root) as other:
            first, second = (simulator.run("embedding", {"input_ids": ids}) for simulator in (one, other))
    np.testing.assert_array_equal(first["embedding"], second["embedding"])


def sums() -> Sample:
    """x and kept [1, 1, 64] -> product [1, 1, 64] = x * kept + x, and new [1, 1, 64] = kept + x."""
    g = Graph("sums")
    x, kept = (g.input(name, (1, 1, 64)) for name in ("x", "kept"))
    product = g.Add(g.Mul(x, kept, name="times"), x, name="product")
    return Sample("sums", render(g.output(product, g.Add(kept, x, name="new")), "sums.npz"), {})


@pytest.mark.parametrize("chip", CHIPS)
def test_a_net_that_writes_to_its_input(compiler: Toolchain, compiled: Compile, chip: str):
    """An output in the memory of an input: the input is read back as the launch left it, and the others untouched."""
    x, kept = RANDOM.standard_normal((2, 1, 1, 64))
    file = compiled(sums(), chip, addr_mode="io_alone", same_addr="1:1")
    with Simulator(file, chip, compiler.root) as simulator:
        for _ in range(2):
            found = simulator.run("sums", {"x": x, "kept": kept}, ["kept", "x"])
            assert error(found["new"], rounded(kept) + rounded(x)) < 0.004
            np.testing.assert_array_equal(found["kept"], found["new"])
            np.testing.assert_array_equal(found["x"], rounded(x))
            kept = found["kept"]
    apart = compiled(sums(), chip, addr_mode="io_alone")
    with Simulator(apart, chip, compiler.root) as simulator:
        found = simulator.run("sums", {"x": x, "kept": kept}, ["kept"])
        np.testing.assert_array_equal(found["kept"], kept)


def test_an_operation_in_another_precision(compiler: Toolchain, compiled: Compile):
    """One operation in F32: its inputs are not rounded, which the net's own half precision would show."""
    x, kept = RANDOM.standard_normal((2, 1, 1, 64)).astype(np.float32)
    file = compiled(sums(), "cv186x", addr_mode="io_alone", precision=(("times", "F32"), ("new", "F32")))
    with Simulator(file, "cv186x", compiler.root) as simulator:
        assert [io.dtype for io in simulator.nets["sums"].inputs] == ["f32", "f32"]
        whole = simulator.run("sums", {"x": x, "kept": kept})["new"]
    with Simulator(compiled(sums(), "cv186x", addr_mode="io_alone"), "cv186x", compiler.root) as simulator:
        half = simulator.run("sums", {"x": x, "kept": kept})["new"]
    exact = x + kept
    assert error(whole, exact) < error(half, exact)


def niceness(process: int) -> set[int]:
    """Of a process's threads."""
    files = Path(f"/proc/{process}/task").glob("*/stat")
    return {int(file.read_text().rpartition(")")[2].split()[16]) for file in files}


def halted(process: int) -> bool:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_a_device_is_left_to_itself(compiler: Toolchain, compiled: Compile, tmp_path: Path, monkeypatch):
    """A simulated chip's threads give way to each other, are nudged and halt between two runs; a device's do not. Its
    stand-in are the simulator's own libraries."""
    file, given = compiled(embedding()), {"input_ids": np.zeros((1, 16), np.int32)}
    own = {os.getpriority(os.PRIO_PROCESS, 0)}
    with Simulator(file, "bm1684x", compiler.root) as simulator:
        simulator.run("embedding", given)
        assert niceness(simulator._process.pid) > own and nudged(simulator._process.pid)
        wait_for(lambda: halted(simulator._process.pid))
        assert "OMP_WAIT_POLICY=PASSIVE" in environment(simulator._process.pid).upper()
    monkeypatch.setattr("llmconv.simulator.threads.ENVIRONMENT", {"NUDGED": "1"})
    libraries = link(compiler.root, CHIPS_BY_NAME["bm1684x"], tmp_path)
    with Simulator(file, "bm1684x", libraries) as device:
        device.run("embedding", given)
        assert niceness(device._process.pid) == own and not nudged(device._process.pid)
        time.sleep(0.2)  # longer than it takes to halt
        assert not halted(device._process.pid)
        assert "NUDGED" not in environment(device._process.pid)


def nudged(process: int) -> bool:
    """Whether it waits for the signal that ends its naps."""
    status = Path(f"/proc/{process}/status").read_text()
    return bool(int(status.partition("SigCgt:")[2].split()[0], 16) >> signal.SIGUSR1 - 1 & 1)


def environment(process: int) -> str:
    return Path(f"/proc/{process}/environ").read_text(errors="replace")
