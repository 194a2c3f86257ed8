"""How much CPU the planning of a large model takes: `python benchmarks/planning.py [--layers N] [--against DIR]`.

Writes the headers of a checkpoint with the shape of Llama 70B (a sparse file: no bytes on the disk), plans it and lists
the tasks of its conversion, each in a process of its own, and prints user and system CPU seconds. With the directory of
another version of llmconv it prints that version's seconds too, and their ratio. BLAS threads are off, so that the
figures do not depend on the number of cores.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from math import prod
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIG = {
    "model_type": "llama",
    "torch_dtype": "bfloat16",
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 5e5,
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
}
SHARDS = 10
# tasks/ is llmconv.tasks in an installed llmconv; of any version it lies beside llmconv/
RUN = """
import llmconv, runpy, sys
llmconv.__path__.append({tree!r})
runpy.run_module(sys.argv.pop(1), run_name="__main__")
"""


def write_checkpoint(place: Path, layers: int) -> Path:
    """A checkpoint of that many layers in SHARDS files: headers, and no bytes on the disk."""
    from llmconv.cli.demo import dense_tensors

    config = CONFIG | {"num_hidden_layers": layers}
    place.mkdir()
    (place / "config.json").write_text(json.dumps(config))
    tensors = [(name, list(shape)) for name, shape, _ in dense_tensors(config, ())]
    names = {}
    for number in range(SHARDS):
        header, at = {}, 0
        file = f"model-{number + 1:05}-of-{SHARDS:05}.safetensors"
        for name, shape in tensors[number::SHARDS]:
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": (at, at := at + 2 * prod(shape))}
            names[name] = file
        text = json.dumps(header).encode()
        with open(place / file, "wb") as shard:
            shard.write(len(text).to_bytes(8, "little") + text)
            shard.truncate(8 + len(text) + at)
    (place / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return place


def cpu_seconds(tree: Path, argv: list[str], work: Path) -> float:
    """User and system CPU seconds of a process that runs the version of llmconv in `tree`."""
    settings = {
        "PYTHONPATH": str(tree),
        "LLMCONV_CACHE": str(work / "cache"),
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": str(work / "pyc"),
    }
    env = os.environ | settings | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", RUN.format(tree=str(tree)), *argv],
        env=env,
        cwd=work,
        capture_output=True,
        text=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(argv)} failed with exit code {done.returncode}:\n{done.stderr}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Run all measurements."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=80, help="layers of the model (default: 80)")
    parser.add_argument("--seq", type=int, default=4096, help="tokens of a sequence (default: 4096)")
    parser.add_argument("--quantize", default="w4bf16", help="quantisation (default: w4bf16)")
    parser.add_argument(
        "--runs", type=int, default=3, help="runs of each command, of which the fastest counts (default: 3)"
    )
    parser.add_argument("--against", type=Path, metavar="DIR", help="the directory of another version of llmconv")
    args = parser.parse_args()
    trees = [ROOT, *([args.against.resolve()] if args.against else [])]
    with tempfile.TemporaryDirectory(prefix="planning-bench-") as folder:
        work = Path(folder)
        model, out = write_checkpoint(work / "model", args.layers), work / "out"
        options = [f"model={model}", f"seq={args.seq}", f"quantize={args.quantize}", f"out={out}"]
        commands = {
            "llmconv plan": lambda tree: [
                "llmconv.cli.main" if (tree / "llmconv" / "cli").is_dir() else "llmconv.cli",  # it was a module once
                "plan",
                "-m",
                str(model),
                "-s",
                str(args.seq),
                "-q",
                args.quantize,
                "-o",
                str(out),
            ],
            "doit list --all": lambda tree: ["doit", "-f", str(tree / "dodo.py"), "list", "--all", *options],
        }
        print(f"{args.layers} layers, {args.quantize}, CPU seconds, the fastest of {args.runs} runs")
        for name, command in commands.items():
            # one version after the other in every run: a busy machine slows them alike
            runs = [[cpu_seconds(tree, command(tree), work) for tree in trees] for _ in range(args.runs)]
            found = [min(times) for times in zip(*runs)]
            ratio = f"   {trees[-1].name} {found[1]:.2f}   ratio {found[0] / found[1]:.2f}" if len(found) > 1 else ""
            print(f"{name:<20} {found[0]:.2f}{ratio}")


if __name__ == "__main__":
    main()
