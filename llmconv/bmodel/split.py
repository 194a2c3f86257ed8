"""Take a one-net .bmodel apart: what all layers of a structure share, and the coefficients, which each has for itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .flatbuffer import find
from .read import BModel
from .write import Piece, write


@dataclass(frozen=True)
class Split:
    """What was split off: size in bytes and sha256 (hex) of the coefficients; 0 and "" for a net without any."""

    size: int
    sha256: str


def split(path: Path, bare: Path, coefficients: Path) -> Split:
    """Write the net of `path` without kernel module and coefficients to `bare`, and the coefficients to `coefficients`.

    The kernel module is a file of the toolchain and the same in every net; `combine` puts both back.
    """
    model = BModel.read(path)
    (net,) = model.nets
    (stage,) = net.stages
    _write_blob(model, stage.coeff, coefficients)
    for where, holder, key in find("Binary", "Model", model.tree):
        start, size = holder[key]
        if holder is model.tree.get("kernel_module") or "check_code" in holder:
            size = 0
        holder[key] = Piece(path, model.base + start, size)
    write(bare, model.tree)
    return Split(stage.coeff.size, stage.coeff_sha256 if stage.coeff.size else "")


def _write_blob(model: BModel, blob, to: Path, chunk: int = 8 << 20) -> None:
    with model.content(blob) as content, to.open("wb") as file:
        for first in range(0, len(content), chunk):
            with content[first : first + chunk] as piece:
                file.write(piece)
