"""Prints what the engine costs: a no-op build of 1,000 tasks, and the milliseconds per executed task.

    python benchmarks/engine.py [--tasks N] [--dir DIR]

Whole processes are timed, start-up of Python and doit included. The checkpoint is a sparse file of 15 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SPARSE = 15 * 10**9

DODO = """
import sys
sys.path.insert(0, {root!r}); sys.path.insert(0, {bench!r})
from pathlib import Path
from llmconv import engine
from llmconv.engine import Need
out = Path({out!r})
engine.install(lambda: engine.RunOptions(state_dir=out / ".llmconv", memory=1 << 40))
count, local = {count}, {local}
digests, shard = out / "digests.json", Path({shard!r})

def task_digest():
    return engine.task(None, "engine_bench:digest", {{"count": count}}, targets=[digests], watch=[shard],
                       basename="digest", local=True)

def task_net():
    for i in range(count):
        yield engine.task(f"n{{i}}", "engine_bench:write", {{"text": f"net {{i}}"}}, targets=[out / f"n{{i}}.bin"],
                          picks=[(digests, [f"tensor.{{i}}.{{j}}" for j in range(12)])], reads=[shard],
                          key={{"net": i, "mode": "W4BF16", "seq": 512}}, local=local, need=Need(memory=1 << 20))

def task_merge():
    return engine.task(None, "engine_bench:write", {{"text": "all"}}, targets=[out / "all.bin"],
                       file_dep=[out / f"n{{i}}.bin" for i in range(count)], basename="merge", local=True)
"""

ACTIONS = """
import hashlib, json

def digest(count, out):
    (path,) = out.values()
    names = (f"tensor.{i}.{j}" for i in range(count) for j in range(12))
    with open(path, "w") as file:
        json.dump({name: hashlib.sha256(name.encode()).hexdigest() for name in names}, file)

def write(text, out):
    (path,) = out.values()
    with open(path, "w") as file:
        file.write(text)
"""


def main() -> None:
    """Runs all measurements."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=1000, help="tasks of the no-op build (default: 1000)")
    parser.add_argument("--dir", type=Path, help="where to work (default: a new temporary directory)")
    args = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="engine-bench-", dir=args.dir))
    try:
        shard = work / "model.safetensors"
        with open(shard, "wb") as file:
            file.truncate(SPARSE)
        (work / "engine_bench.py").write_text(ACTIONS)
        no_op(work, shard, args.tasks)
        per_task(work, shard, local=False)
        per_task(work, shard, local=True)
    finally:
        shutil.rmtree(work)


def no_op(work: Path, shard: Path, count: int) -> None:
    """Seconds of a build with nothing to do."""
    dodo = write_dodo(work, shard, count, local=True)
    first = doit(dodo)
    times = sorted(doit(dodo) for _ in range(5))
    print(f"first build of {count} tiny tasks in the main process: {first:.2f} s")
    print(
        f"no-op build of {count} tasks, 15 GB checkpoint: {times[2]:.2f} s (best {times[0]:.2f}, worst {times[-1]:.2f})"
    )


def per_task(work: Path, shard: Path, local: bool, count: int = 300) -> None:
    """Milliseconds from one finished task to the next, one at a time, with actions that write ten bytes."""
    costs = []
    for _ in range(3):
        shutil.rmtree(work / "out", ignore_errors=True)
        doit(write_dodo(work, shard, count, local), "-n", "1")
        lines = map(json.loads, (work / "out" / ".llmconv" / "events.jsonl").read_text().splitlines())
        times = [line["time"] for line in lines if line["event"] == "TaskFinished" and line["name"].startswith("net:")]
        costs.append((times[-1] - times[0]) / (len(times) - 1) * 1000)
    place = "the main process" if local else "a worker"
    print(
        f"engine's cost per executed task in {place}: {sorted(costs)[1]:.1f} ms (best {min(costs):.1f}, worst {max(costs):.1f})"
    )
    start = time.perf_counter()
    for _ in range(200):
        raw_sync(work)
    print(f"  now this disk takes {(time.perf_counter() - start) * 5:.1f} ms for fsync of one file and its directory")


def raw_sync(work: Path) -> None:
    """What durability alone costs: a small file and its directory synced."""
    path = work / "sync.tmp"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.write(descriptor, b"x")
    os.fsync(descriptor)
    os.close(descriptor)
    os.replace(path, work / "sync")
    descriptor = os.open(work, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def write_dodo(work: Path, shard: Path, count: int, local: bool) -> Path:
    """A dodo.py of `count` nets."""
    path = work / "dodo.py"
    values = {"root": str(ROOT), "bench": str(work), "out": str(work / "out"), "shard": str(shard)}
    path.write_text(DODO.format(count=count, local=local, **values))
    return path


def doit(dodo: Path, *options: str) -> float:
    """Seconds that a doit process takes for everything in the dodo file."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "doit", "-f", str(dodo), *options], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
