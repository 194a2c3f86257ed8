"""What the tasks do. Each function runs in a worker process, writes the staged paths in `out`, and returns JSON values.

Paths in the arguments are strings: actions travel as JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmconv.checkpoint.files import Checkpoint

Out = Mapping[str, str]


def write_text(files: Mapping[str, str], out: Out) -> None:
    """Write each text to its target: the MLIR and the weight recipes of a net."""
    for target, text in files.items():
        Path(out[target]).write_text(text, encoding="utf-8")


def digest_shard(model: str, shard: str, only: list[str], threads: int, sha256: str, out: Out) -> dict[str, Any]:
    """Write a digest of every tensor of one of the checkpoint's files: {name: digest}.

    only: those that are digested, if not all. sha256: of the whole file as the hub announces it, which is compared in
    the same read; or "".
    """
    from llmconv.checkpoint.digest import tensor_digests
    from llmconv.checkpoint.files import tensors_of
    from llmconv.hub.damage import digests

    (target,) = out
    if sha256:
        table = digests(Path(model, shard), sha256)
    else:
        path, tensors = tensors_of(Path(model), shard)
        wanted = set(only)
        table = tensor_digests(path, threads, [info for info in tensors if info.name in wanted or not only])
    Path(out[target]).write_text(json.dumps(table, sort_keys=True, indent=0), encoding="utf-8")
    return {"tensors": len(table)}


def fetch_toolchain(out: Out) -> dict[str, Any]:
    """Make sure that the compiler is there, and record which one it is."""
    from llmconv.engine.step import Step, tell
    from llmconv.toolchain.fetch import obtain

    (target,) = out
    found = obtain(lambda line: tell(Step(line)))
    Path(out[target]).write_text(found.record, encoding="utf-8")
    return {"root": str(found.root), "version": found.version}


def merge(nets: list[dict[str, str]], epoch: int, spends: list[str], out: Out, spend: bool = False) -> dict[str, Any]:
    """Combine the nets ({bare, facts}: files of llmconv.compile.records.NetFiles), in order, to one .bmodel stamped
    with `epoch` (seconds). Second target: its size and sha256. spend: the files `spends` are moved, not copied.
    """
    from llmconv.bmodel.move import Moving
    from llmconv.bmodel.read import BModel
    from llmconv.bmodel.write import Part, Piece, combine
    from llmconv.compile.records import Outcome
    from llmconv.toolchain.fetch import obtain

    target, facts = out
    parts = []
    for net in nets:
        known = Outcome.from_json(json.loads(Path(net["facts"]).read_text(encoding="utf-8")))
        holder, sums = Path(net["bare"]).parent / known.coefficients, known.sums
        piece = Piece(holder, 0, sums.size, sums.sha256, sums.xxh3) if known.coefficients else None
        parts.append(Part(Path(net["bare"]), coefficients=piece))
    tools = obtain()
    kernel = tools.root / "lib" / BModel.read(parts[0].path).tree["kernel_module"]["file_name"]
    moving = Moving(list(map(Path, spends)), Path(target)) if spend else None
    sha256 = combine(parts, Path(out[target]), epoch, Piece(kernel, 0, kernel.stat().st_size), moving)
    values = {"bytes": Path(out[target]).stat().st_size, "sha256": sha256}
    Path(out[facts]).write_text(json.dumps(values), encoding="utf-8")
    return values | {"digests": {target: sha256}}


def write_manifest(
    told: Mapping[str, Any],
    files: Mapping[str, str],
    digests: Sequence[str],
    nets: Sequence[Mapping[str, Any]],
    devices: Sequence[Mapping[str, Any]],
    out: Out,
) -> None:
    """Write manifest.json: what was built from what.

    told: {job, notes, graphs, device, bmodel, weights, table}, as they are; device: see llmconv.plan.handover; table:
    dtype and shape of every tensor of the checkpoint, by name. files: {toolchain, merged}. digests: the shards' tables.
    `nets` and `devices` carry the names of their facts files.
    """
    from llmconv import __version__

    (target,) = out
    tools = json.loads(Path(files["toolchain"]).read_text(encoding="utf-8"))
    tensors: dict[str, str] = {}
    for path in digests:
        tensors |= json.loads(Path(path).read_text(encoding="utf-8"))
    checkpoint = hashlib.sha256(json.dumps(tensors, sort_keys=True).encode()).hexdigest()
    content = {
        "format": 1,
        "llmconv": __version__,
        "job": told["job"],
        "notes": told["notes"],
        "graphs": told["graphs"],
        # the form that was used, which may not be the planned one
        "device": {**told["device"], "compiler": tools["version"]},
        "checkpoint": {"tensors": len(tensors), "sha256": checkpoint, "table": told["table"]},
        "toolchain": tools,
        "bmodel": told["bmodel"],
        "weights": told["weights"],
        **json.loads(Path(files["merged"]).read_text(encoding="utf-8")),
        **({"devices": [_with_facts(device) for device in devices]} if devices else {}),
        "nets": [_with_facts(net) for net in nets],
    }
    Path(out[target]).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _with_facts(net: Mapping[str, Any]) -> dict[str, Any]:
    told = {k: v for k, v in net.items() if k not in ("facts", "run")}
    for key in ("facts", "run"):
        if key not in net:  # a device's file has facts alone
            continue
        told |= json.loads(Path(net[key]).read_text(encoding="utf-8"))
    return told


def copy_config(
    model: str, files: list[str], embedding: str, half: str, arrays: Mapping[str, Sequence[Any]], out: Out
) -> None:
    """Copy the model directory's configuration and tokenizer files, by their paths in it.

    embedding: the name of the token table, which is then written as embedding.bin, or "". That file is row-major
    [V, H], 2 bytes each in type `half`, little endian, without a header. arrays: further files, in NumPy's own format
    and float32, by their names, and the recipes that they are made by.
    """
    (target,) = out
    place = Path(out[target])
    for name in files:
        copy = Path(place, name)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(Path(model, name), copy)
    place.mkdir(exist_ok=True)
    if embedding or arrays:
        from llmconv.checkpoint.files import Checkpoint

        checkpoint = Checkpoint.open(Path(model))
        if embedding:
            _write_rows(place / "embedding.bin", checkpoint, embedding, half)
        for name, recipe in arrays.items():
            _write_array(place / name, checkpoint, recipe)


def _write_rows(path: Path, checkpoint: Checkpoint, tensor: str, half: str) -> None:
    from llmconv.checkpoint.npz import half_rows

    with open(path, "wb") as f:
        for rows in half_rows(checkpoint, tensor, half):
            f.write(rows.data)


def _write_array(path: Path, checkpoint: Checkpoint, made_by: Sequence[Any]) -> None:
    import numpy as np

    from llmconv.checkpoint.recipe import evaluate

    # runtimes take the numbers in the file's order for those of the shape
    values = np.ascontiguousarray(evaluate(list(made_by), checkpoint), "<f4")
    path.unlink(missing_ok=True)  # the model directory may have one of its own, read-only
    with open(path, "wb") as f:
        np.save(f, values, allow_pickle=False)


def write_sums(bmodels: Mapping[str, str], others: list[str], out: Out) -> None:
    """Write SHA256SUMS in the form of sha256sum, for files beside it.

    bmodels: path -> its facts file, which has the digest. others: files, and directories whose files are all listed.
    """
    from llmconv.engine import files

    (target,) = out
    root = Path(target).parent
    found = {
        Path(path): json.loads(Path(facts).read_text(encoding="utf-8"))["sha256"] for path, facts in bmodels.items()
    }
    for path in map(Path, others):
        for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
            found[file] = files.digest(str(file))
    lines = (_sum(digest, file.relative_to(root).as_posix()) for file, digest in found.items())
    Path(out[target]).write_text("".join(lines), encoding="utf-8", errors="surrogateescape")


def _sum(digest: str, name: str) -> str:
    """A line of sha256sum: names with a backslash or a line break are escaped, and the line begins with a backslash."""
    escaped = name.replace("\\", r"\\").replace("\n", r"\n")
    return f"{chr(92) if escaped != name else ''}{digest}  {escaped}\n"


def verify_build(place: str, log: str, settings: dict[str, Any], out: Out) -> dict[str, Any]:
    """Verify the build in `place` (see llmconv.verify).

    The table goes to `log` and to the values. Raises NotRight when something is wrong; the
    record is in place then, and the task does not count as done.
    """
    from rich.console import Console

    from llmconv.engine.step import tell
    from llmconv.errors import NotRight
    from llmconv.verify.settings import Settings
    from llmconv.verify.verification import verify

    (target,) = out
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w", encoding="utf-8") as file:
        right = verify(
            Path(place),
            Settings.of_dict(settings),
            console=Console(file=file, width=200),
            to=Path(out[target]),
            tell=tell,
        )
    text = Path(log).read_text(encoding="utf-8").rstrip()
    if not right:
        os.replace(out[target], target)
        raise NotRight("the .bmodel is not right", text.splitlines()[-1], "", Path(log))
    return {"text": text}
