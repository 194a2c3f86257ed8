"""How many cycles the nets of a model take on a chip, as shares of those of the vendor's graphs:
`python benchmarks/chip.py [SHAPE ...] [--chip C ...] [--quantize Q ...] [--quantize_head H] [--graph G] [--seq N ...]
[--of token prefill]`.

Writes a checkpoint with a published model's shape, whose weights are zeros that take no disk (programs do not depend on
values). Compiles one prefill block, one decode block and the head with `--graph vendor` and with G (fast), and
prints the compiler's estimates of a prefill and of one token: all layers, and the head. The last layer's norm is left
out. Nothing else of a conversion is run. Of a long S the prefill takes the compiler minutes; `--of token` leaves it
out."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from itertools import product
from math import prod
from pathlib import Path

from llmconv.cli.demo import dense_tensors
from llmconv.compile.net import compile_net
from llmconv.compile.records import NetFiles, NetTask, Workplace
from llmconv.plan.forms import exported
from llmconv.plan.net import Net
from llmconv.plan.plan import Plan, plan
from llmconv.request.job import Job
from llmconv.toolchain.flags import CompileFlags

Known = dict[tuple[str, CompileFlags], int]

QWEN = {
    "model_type": "qwen2",
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "torch_dtype": "bfloat16",
    "max_position_embeddings": 32768,
}
SHAPES = {
    "0.5b": QWEN | {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True},
    "1.7b": QWEN | {"model_type": "qwen3", "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "attention_bias": False, "vocab_size": 151936, "tie_word_embeddings": True},
    "7b": QWEN | {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False},
    "14b": QWEN | {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 48, "num_attention_heads": 40, "num_key_value_heads": 8, "vocab_size": 152064, "tie_word_embeddings": False},
}  # fmt: skip


COLUMNS = "{:<6} {:<8} {:<7} {:>5} {:<8} {:>15} {:>15} {:>7}"


def write_checkpoint(place: Path, config: dict) -> Path:
    """A model directory whose shard has a header, and zeros that take no disk."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "config.json").write_text(json.dumps(config))
    biases = ("q", "k", "v") if config["model_type"] == "qwen2" else ()
    header, at = {}, 0
    for tensor, shape, _ in dense_tensors(config, biases, qk_norm=config["model_type"] == "qwen3"):
        header[tensor] = {"dtype": "BF16", "shape": shape, "data_offsets": (at, at := at + 2 * prod(shape))}
    text = json.dumps(header).encode()
    with open(place / "model.safetensors", "wb") as shard:
        shard.write(len(text).to_bytes(8, "little") + text)
        shard.truncate(8 + len(text) + at)
    return place


BLOCKS = {"token": "block_cache_0", "prefill": "block_0"}


def cycles(made: Plan, net: Net, place: Path) -> int:
    """The compiler's estimate for one net of a plan."""
    place.mkdir(parents=True, exist_ok=True)
    mlir, weights = place / "net.mlir", place / "net.weights"
    mlir.write_text(net.mlir)
    weights.write_text(json.dumps(exported(net).to_json()))
    files = NetFiles(*(place / f"{net.name}.{part}" for part in ("bmodel", "coeff", "json", "run.json")))
    work = Workplace(place / "scratch", place / "log")
    outcome, _ = compile_net(NetTask(net.name, net.module, made.job.model_path, mlir, weights, net.flags, work), files)
    files.coefficients.unlink()
    if outcome.cycles is None:
        raise SystemExit(f"the compiler gives no estimate for {net.name}")
    return outcome.cycles


def measured(model: Path, place: Path, options: dict[str, str], wanted: Sequence[str], known: Known) -> dict[str, int]:
    """Cycles of a token, of a prefill (all layers, and the head) and of the head. known: cycles by what is compiled:
    nets that two graphs or lengths have in common are compiled once."""
    made = plan(Job.create({"model": str(model), "out": str(place / "out")} | options))
    named = {net.name: net for net in made.nets}

    def one(name: str) -> int:
        net = named[name]
        key = net.mlir, net.flags
        if key not in known:
            known[key] = cycles(made, net, place / "work")
        return known[key]

    head = one("lm_head")
    return {what: made.spec.layers * one(BLOCKS[what]) + head for what in wanted} | {"head": head}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("shapes", nargs="*", default=list(SHAPES), metavar="SHAPE", help=", ".join(SHAPES))
    parser.add_argument("--chip", nargs="+", default=["bm1684x", "bm1688"])
    parser.add_argument("--quantize", nargs="+", default=["w4bf16", "w8bf16", "bf16"])
    parser.add_argument(
        "--quantize_head", default="auto", help="of the default's head; the vendor's is never quantised"
    )
    parser.add_argument(
        "--graph", choices=("fast", "fastest"), default="fast", help="what is held against the vendor's"
    )
    parser.add_argument("--seq", nargs="+", default=["512"])
    parser.add_argument("--of", nargs="+", choices=list(BLOCKS), default=list(BLOCKS))
    return parser.parse_args()


def main() -> None:
    asked, known, worst = arguments(), {}, {}
    print(COLUMNS.format("shape", "chip", "weights", "S", "of", "vendor's", "ours", "ratio"))
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        for shape in asked.shapes:
            model = write_checkpoint(place / shape, SHAPES[shape])
            for chip, quantize, seq in product(asked.chip, asked.quantize, asked.seq):
                options = {"chip": chip, "quantize": quantize, "seq": seq}
                theirs = measured(model, place, options | {"graph": "vendor"}, asked.of, known)
                own = {"quantize_head": asked.quantize_head, "graph": asked.graph}
                ours = measured(model, place, options | own, asked.of, known)
                for what, before in theirs.items():
                    case, ratio = (shape, chip, quantize, seq, what), ours[what] / before
                    worst[what] = max(worst.get(what, (0.0, "")), (ratio, " ".join(case)))
                    print(COLUMNS.format(*case, f"{before:,}", f"{ours[what]:,}", f"{ratio:.4f}"), flush=True)
    for ratio, case in worst.values():
        print(f"worst: {ratio:.4f} {case}")


if __name__ == "__main__":
    main()
