"""What a .bmodel holds, for comparing two of them."""

from __future__ import annotations

from pathlib import Path

from llmconv.bmodel.read import Blob, BModel
from llmconv.bmodel.schema import DEFAULTS, SCALARS, SCHEMA


def content(out: Path) -> dict:
    """All of the .bmodel of an output directory but its time: every field, and every blob (commands of every core,
    dynamic programs, coefficients, the kernel module) by its sha256."""
    bmodel = BModel.read(next(out.glob("*.bmodel")))
    return described(bmodel, "Model", bmodel.tree | {"time": ""})


def described(bmodel: BModel, table: str, tree: dict) -> dict:
    """A tree without what defaults say anyway, and with (size, sha256) for its blobs: what must not depend on the
    writer."""

    def one(kind: str, value):
        if kind == "Binary":
            start, size = value
            return size, bmodel.sha256(Blob(bmodel.base + start, size))
        return described(bmodel, kind, value) if kind in SCHEMA else value

    found = {}
    for name, kind in SCHEMA[table]:
        if name in tree and not (kind in SCALARS and tree[name] == DEFAULTS.get((table, name), 0)):
            many = kind[0] == "[" and kind != "[u8]"
            found[name] = [one(kind[1:-1], item) for item in tree[name]] if many else one(kind, tree[name])
    return found


def patched(place: Path, code: str) -> str:
    """A directory whose sitecustomize runs `code` in llmconv's processes, the workers too."""
    folder = place / "patched"
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(code)
    return str(folder)
