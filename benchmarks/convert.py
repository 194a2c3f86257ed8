"""How fast a conversion is: `python benchmarks/convert.py [SHAPE ...] [--seq N] [--quantize Q] [--num_device N] [--slim]`.

Writes a random checkpoint with a published model's shape, converts it once with a cache of its own, which then has the
compiler's attention kernels, converts it into a new output directory with nothing else from that cache (`--no_cache`),
and prints what that took. Disk and memory are sampled."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from llmconv.user_cache import per_user

SHAPES = {
    "qwen2-0.5b": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True},
    "qwen2-7b-4layers": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 4, "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False},
    "qwen2.5-72b-2layers": {"hidden_size": 8192, "intermediate_size": 29568, "num_hidden_layers": 2, "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 152064, "tie_word_embeddings": False},
}  # fmt: skip
SHAPES["qwen2-7b-8layers"] = SHAPES["qwen2-7b-4layers"] | {"num_hidden_layers": 8}  # what four more layers take
SHAPES["qwen2-7b"] = SHAPES["qwen2-7b-4layers"] | {"num_hidden_layers": 28}  # 15 GB, and 12 GB beside it
SHARD = 4 << 30  # bytes
COMMON = {
    "model_type": "qwen2",
    "architectures": ["Qwen2ForCausalLM"],
    "torch_dtype": "bfloat16",
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "max_position_embeddings": 32768,
}


def write_checkpoint(name: str, place: Path) -> Path:
    """A random bf16 checkpoint of shape `name`: normal weights of std 0.02, norms around 1. Kept when it is there
    already."""
    import torch
    from safetensors.torch import save_file

    from llmconv.cli.demo import dense_tensors

    model = place / name
    if (model / "config.json").exists():
        return model
    model.mkdir(parents=True, exist_ok=True)
    config = COMMON | SHAPES[name]
    random = torch.Generator().manual_seed(0)
    shards, tensors = {}, {}

    def save() -> None:
        file = f"model-{len(set(shards.values())) + 1:05d}.safetensors"
        save_file(tensors, model / file, metadata={"format": "pt"})
        shards.update(dict.fromkeys(tensors, file))
        tensors.clear()

    for tensor, shape, kind in dense_tensors(config, ("q", "k", "v")):
        values = torch.randn(shape, generator=random)
        tensors[tensor] = (1 + 0.1 * values if kind == "norm" else 0.02 * values).to(torch.bfloat16)
        if sum(values.nbytes for values in tensors.values()) > SHARD:
            save()
    save()
    (model / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    (model / "config.json").write_text(json.dumps(config))
    return model


class Sampler(threading.Thread):
    """Peak resident memory of a process tree and peak bytes on disk below a directory, sampled every 50 ms."""

    def __init__(self, pid: int, place: Path):
        super().__init__(daemon=True)
        self.pid, self.place, self.memory, self.disk, self.over = pid, place, 0, 0, threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.05):
            self.memory = max(self.memory, sum(_resident(p) for p in _tree(self.pid)))
            self.disk = max(self.disk, _disk(self.place))


def _tree(pid: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path(f"/proc/{entry}/stat").read_text()
            except OSError:
                continue
            parents.setdefault(int(stat[stat.rindex(")") + 2 :].split()[1]), []).append(int(entry))
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        todo += parents.get(found[-1], [])
    return found


def _resident(pid: int) -> int:
    """Proportional set size: pages that several processes share count once in the sum."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    except OSError:
        pass
    return 0


def _disk(place: Path) -> int:
    total, seen = 0, set()
    for folder, _, names in os.walk(place):
        for name in names:
            try:
                stat = os.lstat(os.path.join(folder, name))
            except OSError:
                continue
            if stat.st_ino not in seen:
                seen.add(stat.st_ino)
                total += stat.st_blocks * 512
    return total


def run(argv: list[str], out: Path, env: dict[str, str]) -> dict[str, float]:
    """Run a command to its end, in the environment `env`; seconds of wall and CPU, peak bytes of memory and disk. Raises
    when it fails."""
    before, start = os.times(), time.monotonic()
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=env)
    sampler = Sampler(process.pid, out)
    sampler.start()
    _, errors = process.communicate()
    wall = time.monotonic() - start
    sampler.over.set()
    sampler.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(argv)} failed:\n{errors}")
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {"wall": wall, "cpu": cpu, "memory": sampler.memory, "disk": sampler.disk}


def disk_speed(place: Path, megabytes: int = 512) -> tuple[float, float]:
    """(write, read) MB/s of a file of random bytes: synced when written, dropped from the page cache before it is
    read."""
    file, block = place / "speed", os.urandom(1 << 20)
    start = time.monotonic()
    with open(file, "wb", buffering=0) as f:
        for _ in range(megabytes):
            f.write(block)
        os.fsync(f.fileno())
    written = time.monotonic() - start
    with open(file, "rb", buffering=0) as f:
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        start = time.monotonic()
        while f.read(1 << 20):
            pass
    read = time.monotonic() - start
    file.unlink()
    return megabytes / written, megabytes / read


def measure(name: str, args: argparse.Namespace, place: Path) -> None:
    model = write_checkpoint(name, place)
    command = [
        sys.executable,
        "-m",
        "llmconv.cli.main",
        "convert",
        "-m",
        str(model),
        "-s",
        str(args.seq),
        "-q",
        args.quantize,
        "--num_device",
        str(args.num_device),
        *(["--slim"] if args.slim else []),
        "-o",
    ]
    warm, out = place / "warm", place / "out"
    for path in (warm, out):
        shutil.rmtree(path, ignore_errors=True)
    env, cache = os.environ | {"LLMCONV_CACHE": str(place / "cache")}, per_user()
    if cache.is_dir():
        env |= {"LLMCONV_CACHE_BELOW": str(cache)}  # it may have the compiler
    run([*command, str(warm)], warm, env)
    for path in (warm, place / "cache" / "actions"):
        shutil.rmtree(path, ignore_errors=True)
    cold = run([*command, str(out), "--no_cache"], out, env)
    again = run([*command, str(out), "--no_cache"], out, env)
    manifest = json.loads((out / "manifest.json").read_text())
    made = [net["how"] for net in manifest["nets"]]
    source = sum(shard.stat().st_size for shard in model.glob("*.safetensors"))
    write, read = disk_speed(place)
    speed = (source + manifest["bytes"]) / 1e6 / cold["wall"]
    layers = manifest["nets"]
    stamping = sum(n["seconds"] for n in layers if n["how"] == "stamped")
    count = max(1, sum(n["how"] == "stamped" and n["kind"] == "block_cache" for n in layers))
    print(
        f"{name} {args.quantize} seq {args.seq}, {args.num_device} device(s){', slim' if args.slim else ''}: {source / 1e6:.0f} MB -> {manifest['bytes'] / 1e6:.0f} MB, {len(made)} nets"
    )
    print(
        f"  wall {cold['wall']:.1f} s, CPU {cold['cpu']:.1f} s, peak memory {cold['memory'] / 1e9:.2f} GB, peak disk {cold['disk'] / manifest['bytes']:.2f} x output"
    )
    print(
        f"  {made.count('stamped')} stamped ({stamping / count:.2f} s a layer), {made.count('compiled')} compiled, no-op {again['wall']:.2f} s"
    )
    print(
        f"  {speed:.0f} MB/s read and written, {speed / write:.2f} x the disk's write speed ({write:.0f} MB/s), {speed / read:.2f} x its read speed ({read:.0f} MB/s)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "shapes",
        nargs="*",
        default=["qwen2-0.5b"],
        metavar="SHAPE",
        help=f"of {', '.join(SHAPES)} (default qwen2-0.5b)",
    )
    parser.add_argument("--seq", type=int, default=512)
    parser.add_argument("--quantize", default="w4bf16")
    parser.add_argument("--num_device", type=int, default=1)
    parser.add_argument("--slim", action="store_true", help="move coefficients into the .bmodel")
    parser.add_argument("--place", type=Path, help="directory for checkpoints and outputs; default: a temporary one")
    args = parser.parse_args()
    if unknown := set(args.shapes) - set(SHAPES):
        parser.error(f"{', '.join(sorted(unknown))} is not one of the shapes {', '.join(SHAPES)}")
    with tempfile.TemporaryDirectory(prefix="llmconv-bench-") as temporary:
        for name in args.shapes:
            measure(name, args, args.place or Path(temporary))


if __name__ == "__main__":
    main()
