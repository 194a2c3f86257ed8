"""What a cluster costs and gives: `python benchmarks/cluster.py SHAPE [--seq N] [--workers 1 2 4] [--repeat N]`.

A shape is one of benchmarks/convert.py. Every net is compiled (--no_stamp, --no_cache), first on this machine with one
task at a time, then on local Dask workers with one core each. Kernels are warm. On a machine with two cores four workers
show the overhead, and no more."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from convert import write_checkpoint
from dask.utils import format_bytes
from distributed import LocalCluster

MAIN = "import sys; from llmconv.cli.main import main; sys.exit(main())"


def seconds(model: Path, seq: int, *words: str) -> float:
    """Of one conversion into a new directory."""
    with tempfile.TemporaryDirectory(dir=model.parent) as folder:
        out = Path(folder) / "out"
        given = ["convert", "-m", str(model), "-s", str(seq), "-o", str(out), "--no_stamp", "--no_cache"]
        begin = time.monotonic()
        subprocess.run([sys.executable, "-c", MAIN, *given, "--progress", "quiet", *words], check=True)
        return time.monotonic() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape")
    parser.add_argument("--seq", type=int, default=512)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--place", type=Path, default=Path(tempfile.gettempdir()) / "llmconv-bench")
    given = parser.parse_args()
    model = write_checkpoint(given.shape, given.place)
    subprocess.run(
        [sys.executable, "-c", MAIN, "convert", "-m", str(model), "-s", str(given.seq), "-o", str(given.place / "warm"),
         "--progress", "quiet"],
        check=True,
    )  # fmt: skip
    shutil.rmtree(given.place / "warm")
    print(f"{os.cpu_count()} cores, {format_bytes(shutil.disk_usage(given.place).free)} of disk")
    alone = min(seconds(model, given.seq, "-n", "1") for _ in range(given.repeat))
    print(f"this machine, one task at a time: {alone:.1f} s")
    for count in given.workers:
        with LocalCluster(
            n_workers=count, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0", memory_limit=0
        ) as cluster:
            words = ["--scheduler", cluster.scheduler_address, "-n", "1"]
            took = min(seconds(model, given.seq, *words) for _ in range(given.repeat))
        print(f"{count} workers: {took:.1f} s, {100 * (took / alone - 1):+.1f} %")


if __name__ == "__main__":
    main()
