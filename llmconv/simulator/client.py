"""Run the nets of a .bmodel on the chip simulator, from Python, with NumPy arrays."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llmconv.bmodel.read import IO, BModel
from llmconv.chips import CHIPS
from llmconv.errors import ConvertError, ToolError
from llmconv.simulator import arrays, threads
from llmconv.simulator.arrays import NetInfo
from llmconv.simulator.child import receive, send
from llmconv.simulator.device import Libsophon
from llmconv.simulator.library import link
from llmconv.simulator.log import reason

if TYPE_CHECKING:
    import numpy as np

MiB = 1 << 20


class Simulator:
    """A simulated chip with one .bmodel loaded, in a process of its own; use it in a `with` statement.

    bmodel: the file. chip: "bm1684x", "bm1688" or "cv186x", which must be the file's. root: the compiler's folder
    (TPUC_ROOT), or the Libsophon of a device: then a device runs the file, by the same calls. memory_bytes: the
    simulated chip's memory, by default what the file needs and a margin (only what is touched costs anything). log:
    where the libraries' output goes (by default nowhere; an error quotes its end).

    Every failure is a ToolError: a file that is no whole .bmodel, the wrong chip, too little memory, a crash of the
    simulator. The process dies with the thread that made it.
    """

    def __init__(
        self, bmodel: Path, chip: str, root: Path | Libsophon, memory_bytes: int | None = None, log: Path | None = None
    ):
        self.bmodel = Path(bmodel).resolve()
        self.nets: dict[str, NetInfo] = {}
        self.kind = "device" if isinstance(root, Libsophon) else "chip simulator"
        needed = memory_needed(_check(self.bmodel, chip))
        self._folder = Path(tempfile.mkdtemp(prefix="llmconv-simulator-"))
        self._keeps_log = log is not None
        self.log = Path(log).resolve() if log else self._folder / "log"
        self._log_start = 0
        try:
            libraries = root if isinstance(root, Libsophon) else link(root, CHIPS[chip], self._folder)
            self._start(libraries, memory_bytes or needed)
            for net in self._ask("loading the nets")[0]["nets"]:
                self.nets[net["name"]] = _net_info(net)
        except BaseException:
            self.close(at_once=True)
            raise

    def __enter__(self) -> Simulator:
        return self

    def __exit__(self, kind, *_) -> None:
        self.close(at_once=kind is not None)

    def _start(self, libraries: Libsophon, memory_bytes: int) -> None:
        """Start the child with two pipes; its other output goes to the log."""
        # a path of its own would choose another simulator
        hidden, more = ((), {}) if self.kind == "device" else (("LD_LIBRARY_PATH",), threads.ENVIRONMENT)
        environment = more | {name: value for name, value in os.environ.items() if name not in hidden}
        package_root = str(Path(__file__).resolve().parents[2])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (package_root, environment.get("PYTHONPATH"))))
        environment["CMODEL_GLOBAL_MEM_SIZE"] = hex(memory_bytes)  # decimal numbers are misread
        child_read, write = os.pipe()
        read, child_write = os.pipe()
        self._requests, self._replies = os.fdopen(write, "wb"), os.fdopen(read, "rb")
        command = [sys.executable, "-m", f"{__package__}.child"]
        command += [str(child_read), str(child_write), str(os.getpid()), str(libraries.runtime)]
        command += [str(libraries.driver), str(self.bmodel), "device" if self.kind == "device" else "simulated"]
        try:
            with self.log.open("ab") as log:
                self._log_start = log.tell()
                self._process = subprocess.Popen(
                    command, cwd=self._folder, env=environment, pass_fds=(child_read, child_write),
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                )  # fmt: skip
        finally:
            os.close(child_read)
            os.close(child_write)

    def run(self, net: str, inputs: Mapping[str, np.ndarray], read: Sequence[str] = ()) -> dict[str, np.ndarray]:
        """Run a net; returns its outputs by name: f32 for f32, bf16 and f16 tensors, else the tensor's own integer
        type.

        inputs: one array per input of the net, by name. Floats are rounded (nearest even) to the net's bf16 or f16; a
        uint16 array is taken for a bf16 tensor's bits; integers must fit. The shapes must be those of a stage. In a
        dynamic net any dimension may also be smaller, but not 0, and outputs come in their true shapes. The runtime
        cannot tell which dimensions may vary: a smaller one that may not gives a wrong result.

        read: inputs that the net writes to. They are returned too, as the launch left them.
        """
        if net not in self.nets:
            raise ToolError(f"{self.bmodel} has no net {net!r}", f"it has {', '.join(self.nets)}")
        info = self.nets[net]
        buffers, shapes = arrays.pack(net, info, inputs)
        self._log_start = self.log.stat().st_size
        numbers = [n for n, io in enumerate(info.inputs) if io.name in read]
        self._wake(True)
        try:
            send(self._requests, {"net": net, "shapes": shapes, "read": numbers}, buffers)
        except BrokenPipeError:
            pass  # the child has died: `_ask` tells why
        reply, outputs = self._ask(f"running net {net}")
        written = [info.inputs[n] for n in numbers]
        return arrays.unpack((*info.outputs, *written), [*reply["shapes"], *(shapes[n] for n in numbers)], outputs)

    def _ask(self, doing: str) -> tuple[dict, list[bytearray]]:
        """The child's next message. ToolError if it refuses or has died."""
        reply = receive(self._replies)
        if reply and "error" not in reply[0]:
            self._wake(False)
            return reply
        if reply:
            what = reply[0]["error"]
        else:
            code = self._process.wait()
            what = f"it died of {signal.Signals(-code).name}" if code < 0 else f"it ended with exit code {code}"
            what += " (out of memory?)" if code == -signal.SIGKILL else ""
        said = reason(self.log, self._log_start)
        raise ToolError(
            f"the {self.kind} failed while {doing} of {self.bmodel.name}",
            f"{what}{': ' if said else ''}{said}",
            log=self.log if self._keeps_log else None,
        )

    def _wake(self, wanted: bool) -> None:
        """Let the child go on, or halt it: between two runs a simulated chip's threads would keep both cores busy."""
        if self.kind != "device":
            self._process.send_signal(signal.SIGCONT if wanted else signal.SIGSTOP)

    def close(self, at_once: bool = False) -> None:
        """End the child (at_once: without waiting for it to finish) and delete its folder. May be called twice."""
        process = getattr(self, "_process", None)
        if process:
            self._wake(True)
            for pipe in (self._requests, self._replies):
                with contextlib.suppress(OSError):
                    pipe.close()
            if at_once:
                process.kill()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def memory_needed(bmodel: BModel) -> int:
    """Bytes of device memory that the nets of a file may take together, with a margin.

    Coefficients that nets share are loaded once. Beyond them: what the nets keep for inputs, outputs and intermediate
    tensors, and the instructions, which lie in the file too.
    """
    stages = [stage for net in bmodel.nets for stage in net.stages]
    coefficients = {stage.coeff: stage.coeff.size for stage in stages}
    tensors = sum(stage.io_bytes for stage in stages) + max((stage.context_bytes for stage in stages), default=0)
    commands = {blob: blob.size for stage in stages for group in stage.commands for blob in (group.bdc, group.gdma)}
    needed = sum(coefficients.values()) + 2 * tensors + sum(commands.values()) + 1024 * MiB
    return math.ceil(needed / (256 * MiB)) * 256 * MiB


def _check(path: Path, chip: str) -> BModel:
    """Read the file, and raise every error that can be found before a start."""
    try:
        bmodel = BModel.read(path)
    except ConvertError as error:
        raise ToolError(error.what, error.why, error.try_) from None
    if bmodel.chip != chip.upper():
        raise ToolError(f"{path} is for {bmodel.chip}", f"it cannot run on a simulated {chip.upper()}")
    if chip not in CHIPS:
        raise ToolError(f"{path} is for {bmodel.chip}", f"there are simulators for {', '.join(CHIPS).upper()}")
    if bmodel.device_num > 1:
        raise ToolError(f"{path} is for {bmodel.device_num} devices", "the simulator has one")
    return bmodel


def _net_info(net: dict) -> NetInfo:
    def first(stages: list) -> tuple[IO, ...]:
        return tuple(IO(name, dtype, tuple(shape)) for name, dtype, shape in stages[0])

    def shapes(stage: list) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(shape) for _, _, shape in stage)

    return NetInfo(
        first(net["inputs"]),
        first(net["outputs"]),
        net["dynamic"],
        len(net["inputs"]),
        net["core_num"],
        net["addr_mode"],
        tuple((shapes(ins), shapes(outs)) for ins, outs in zip(net["inputs"], net["outputs"])),
    )
