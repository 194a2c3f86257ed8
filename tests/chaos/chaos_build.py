"""The build that is killed: python chaos_build.py OUT LOG [SCHEDULER]. A net's action is a fake compiler, see compiler.sh."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from llmconv import engine
from llmconv.engine.options import ClusterOptions
from llmconv.errors import ConvertError, ToolError

HERE = Path(__file__).resolve().parent
NETS = 10
SECONDS = float(os.environ.get("CHAOS_SECONDS", 0))  # of each compile, where that is not to be short
TARGETS = ["digests", "merged", "config", *(f"net{i}" for i in range(NETS))]


def graph(out: Path, log: Path) -> list[dict]:
    """digests, ten nets, one of them a directory, a merge and a copy beside it."""

    def task(name: str, call: str, deps: Sequence[str] = (), **more) -> dict:
        args = {"name": name, "log": str(log), **more.pop("args", {})}
        files = [out / dep for dep in deps]
        return engine.task(
            name, f"chaos_build:{call}", args, targets=[out / name], file_dep=files, key={"name": name}, **more
        )

    nets = [f"net{i}" for i in range(NETS)]
    parts = {"parts": [str(out / net) for net in nets]}
    return [
        task("digests", "write", local=True),
        *(
            task(net, "compile", ["digests"], args={"seconds": SECONDS or 0.04 + 0.01 * (i % 4)})
            for i, net in enumerate(nets)
        ),
        task("merged", "merge", nets, args=parts),
        task("config", "folder", ["merged"]),
    ]


def note(name: str, log: str) -> None:
    """Notes that an action is executed: one write, whole even if the next instant brings the end."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(descriptor, f"{name}\n".encode())
    os.close(descriptor)


def write(name, log, out):
    note(name, log)
    (path,) = out.values()
    Path(path).write_text(name)


def compile(name, log, seconds, out):
    from llmconv.toolchain.process import run

    note(name, log)
    (path,) = out.values()
    command = [str(HERE / "compiler.sh"), name, str(seconds), path]
    outcome = run(command, cwd=HERE, env=os.environ, log=Path(f"{log}.{name}"))
    if not outcome.ok:
        raise ToolError(f"{name}: the compiler {outcome.how()}")


def merge(name, log, parts, out):
    note(name, log)
    (path,) = out.values()
    with open(path, "wb") as file:
        for part in parts:
            file.write(Path(part).read_bytes())


def folder(name, log, out):
    note(name, log)
    (path,) = out.values()
    Path(path).mkdir()
    for number in range(5):
        (Path(path) / f"file{number}").write_text(f"{name} {number}")


def main(graph: Callable[[Path, Path], list[dict]] = graph, **more) -> int:
    """more: options of the run."""
    out, log = Path(sys.argv[1]), Path(sys.argv[2])
    cluster = ClusterOptions(*sys.argv[3:]) if sys.argv[3:] else None
    options = engine.RunOptions(state_dir=out / ".llmconv", jobs=3, memory=1 << 40, cluster=cluster, **more)
    try:
        return engine.run(graph(out, log), [], options)
    except ConvertError as error:
        print(error)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
