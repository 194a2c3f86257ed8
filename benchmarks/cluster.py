"""What a cluster costs and gives: `python benchmarks/cluster.py SHAPE [--seq N] [--workers 1 2 4] [--repeat N]`.

A shape is one of benchmarks/convert.py. Every net is compiled (--no_stamp, --no_cache), first on this machine with one
task at a time, then on local Dask workers with one core each. Kernels are warm. With --verify a build's blocks are
verified instead, each by itself, on the simulator of a cv186x. The minimum of --repeat runs is told. On a machine with
two cores four workers show the overhead, and no more."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from convert import SHAPES, write_checkpoint
from dask.utils import format_bytes
from distributed import LocalCluster

MAIN = "import sys; from llmconv.cli.main import main; sys.exit(main())"
CHIP = "cv186x"  # its simulator is the fastest


def llmconv(*words: str) -> float:
    """Seconds of a command."""
    begin = time.monotonic()
    subprocess.run([sys.executable, "-c", MAIN, *words], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - begin


def conversion(model: Path, seq: int, *words: str) -> float:
    """Seconds of one conversion into a new directory."""
    with tempfile.TemporaryDirectory(dir=model.parent) as folder:
        out, how = str(Path(folder) / "out"), ["--no_stamp", "--no_cache", "-n", "1", "--progress", "quiet"]
        return llmconv("convert", "-m", str(model), "-s", str(seq), "-o", out, *how, *words)


def compared(run: Callable[..., float], workers: list[int], repeat: int) -> None:
    """Prints the seconds of a run here, and on so many workers."""
    alone = min(run() for _ in range(repeat))
    print(f"this machine, one at a time: {alone:.1f} s", flush=True)
    for count in workers:
        with LocalCluster(
            n_workers=count, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0", memory_limit=0
        ) as cluster:
            took = min(run("--scheduler", cluster.scheduler_address) for _ in range(repeat))
        print(f"{count} workers: {took:.1f} s, {100 * (took / alone - 1):+.1f} %", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape")
    parser.add_argument("--seq", type=int, default=512)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--layers", type=int, help="of the shape's")
    parser.add_argument("--verify", action="store_true")
    parser.add_argument("--place", type=Path, default=Path(tempfile.gettempdir()) / "llmconv-bench")
    given = parser.parse_args()
    name = given.shape
    if given.layers:
        name = f"{given.shape}-{given.layers}"
        SHAPES[name] = SHAPES[given.shape] | {"num_hidden_layers": given.layers}
    model, built = write_checkpoint(name, given.place), given.place / "built"
    shutil.rmtree(built, ignore_errors=True)
    llmconv("convert", "-m", str(model), "-s", str(given.seq), "-o", str(built), "--chip", CHIP, "--progress", "quiet")
    print(f"{os.cpu_count()} cores, {format_bytes(shutil.disk_usage(given.place).free)} of disk")
    layers = range(SHAPES[name]["num_hidden_layers"])
    nets = ",".join(f"{kind}_{layer}" for layer in layers for kind in ("block", "block_cache"))
    if given.verify:
        compared(
            lambda *words: llmconv("verify", str(built), "--nets", nets, "--again", *words), given.workers, given.repeat
        )
    else:
        compared(lambda *words: conversion(model, given.seq, "--chip", CHIP, *words), given.workers, given.repeat)
    shutil.rmtree(built)


if __name__ == "__main__":
    main()
