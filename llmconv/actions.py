"""What the tasks do. Each function runs in a worker process, writes the staged paths in `out`, and returns JSON values.

Paths in the arguments are strings: actions travel as JSON.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmconv.nets import IO_CONFIG

Out = Mapping[str, str]

# Files of a model directory that a runtime needs are copied; weights, code and hidden files are not (spec, section 3).
NOT_CONFIG = ("*.safetensors", ".*", "*.pth", "*.pt", "*.py", "*.bin", "*.bin.index.json", "model.safetensors.index.json", "*.gguf", "*.onnx")


def write_text(files: Mapping[str, str], out: Out) -> None:
    """Write each text to its target: the MLIR and the weight recipes of a net."""
    for target, text in files.items():
        Path(out[target]).write_text(text, encoding="utf-8")


def digest_shard(model: str, shard: str, out: Out) -> dict[str, Any]:
    """sha256 of every tensor of one safetensors file, as {name: digest of type, shape and bytes}."""
    from llmconv.checkpoint.digest import tensor_digests

    (target,) = out
    table = tensor_digests(Path(model) / shard)
    Path(out[target]).write_text(json.dumps(table, sort_keys=True, indent=0), encoding="utf-8")
    return {"tensors": len(table)}


def fetch_toolchain(out: Out) -> dict[str, Any]:
    """Make sure that the compiler is there, and record which one it is."""
    from llmconv import toolchain

    (target,) = out
    found = toolchain.find() or toolchain.fetch()
    Path(out[target]).write_text(json.dumps({"version": found.version, "digest": found.digest}), encoding="utf-8")
    return {"root": str(found.root), "version": found.version}


def compile_net(net: str, model: str, mlir: str, weights: str, flags: dict[str, Any], addresses: str, scratch: str, log: str, keep: bool, out: Out) -> dict[str, Any]:
    """Compile one net: its weights go to an npz in `scratch`, tpuc-opt makes the .bmodel, scratch is deleted unless `keep`.

    addresses: file of input and output addresses that a decode stage has to use, or "".

    Targets: the .bmodel, and a JSON file of facts for the manifest (cycles, seconds, CPU seconds, peak memory in bytes,
    size and sha256 of the coefficients); for the first of several decode stages also its addresses.
    """
    from llmconv import toolchain
    from llmconv.bmodel.read import BModel
    from llmconv.bmodel.normalise import normalise
    from llmconv.checkpoint import npz
    from llmconv.checkpoint.files import Checkpoint

    target, facts, *saved = out
    tools = toolchain.find() or toolchain.fetch()
    place = Path(scratch)
    shutil.rmtree(place, ignore_errors=True)
    (place / "source").mkdir(parents=True)
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    try:
        source = place / "source" / f"{net}.mlir"
        shutil.copyfile(mlir, source)
        recipes = json.loads(Path(weights).read_text(encoding="utf-8"))
        npz.write(source.parent / "weights.npz", recipes, Checkpoint.open(Path(model)))
        run = place / "run"
        run.mkdir()
        if addresses:
            shutil.copyfile(addresses, run / IO_CONFIG)
        jit = toolchain.kernels(toolchain.cache_dir(), tools.version, tools.digest)
        result = toolchain.compile_mlir(tools, source, toolchain.CompileFlags(**flags), Path(out[target]), run, Path(log), jit)
        normalise(Path(out[target]))
        for path in saved:
            shutil.copyfile(run / IO_CONFIG, out[path])
    finally:
        if not keep:
            shutil.rmtree(place, ignore_errors=True)
    stage = BModel.read(Path(out[target])).nets[0].stages[0]
    values = {
        "cycles": result.cycles,
        "seconds": round(result.seconds, 3),
        "cpu_seconds": round(result.cpu_seconds, 3),
        "peak_rss": result.peak_rss,
        "bytes": Path(out[target]).stat().st_size,
        "coefficient_bytes": stage.coeff.size,
        "coefficient_sha256": stage.coeff_sha256,
    }
    Path(out[facts]).write_text(json.dumps(values), encoding="utf-8")
    return values


def merge(nets: list[str], epoch: int, out: Out) -> dict[str, Any]:
    """Combine the nets' files, in order, to one .bmodel stamped with `epoch` (seconds). Second target: its size and sha256."""
    from llmconv.bmodel.write import combine

    target, facts = out
    combine([Path(n) for n in nets], Path(out[target]), epoch)
    values = {"bytes": Path(out[target]).stat().st_size, "sha256": _sha256(Path(out[target]))}
    Path(out[facts]).write_text(json.dumps(values), encoding="utf-8")
    return values


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as f:
        while piece := f.read(8 << 20):
            digest.update(piece)
    return digest.hexdigest()


def write_manifest(job: dict[str, Any], bmodel: str, merged: str, nets: list[dict[str, Any]], digests: list[str], toolchain: str, notes: list[str], out: Out) -> None:
    """manifest.json: what was built from what. `nets` carry the name of their facts file, `digests` are the shards' tables."""
    from llmconv import __version__

    (target,) = out
    tensors: dict[str, str] = {}
    for path in digests:
        tensors |= json.loads(Path(path).read_text(encoding="utf-8"))
    content = {
        "format": 1,
        "llmconv": __version__,
        "job": job,
        "notes": notes,
        "checkpoint": {"tensors": len(tensors), "sha256": hashlib.sha256(json.dumps(tensors, sort_keys=True).encode()).hexdigest()},
        "toolchain": json.loads(Path(toolchain).read_text(encoding="utf-8")),
        "bmodel": bmodel,
        **json.loads(Path(merged).read_text(encoding="utf-8")),
        "nets": [{k: v for k, v in net.items() if k != "facts"} | json.loads(Path(net["facts"]).read_text(encoding="utf-8")) for net in nets],
    }
    Path(out[target]).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def copy_config(model: str, embedding: str, half: str, out: Out) -> None:
    """Copy configuration and tokenizer files of the model directory; with `embedding`, the name of the token table, also
    write that as embedding.bin: row-major [V, H], 2 bytes each in type `half`, little endian, no header."""
    (target,) = out
    shutil.copytree(model, out[target], ignore=shutil.ignore_patterns(*NOT_CONFIG))
    if embedding:
        from llmconv.checkpoint.files import Checkpoint
        from llmconv.checkpoint.npz import half_rows

        with open(Path(out[target]) / "embedding.bin", "wb") as f:
            for rows in half_rows(Checkpoint.open(Path(model)), embedding, half):
                f.write(rows.data)
