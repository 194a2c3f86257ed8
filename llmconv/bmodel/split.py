"""Split a one-net .bmodel into the program, which layers of one structure share, and the layer's own coefficients."""

from __future__ import annotations

from pathlib import Path

from llmconv.bmodel.flatbuffer import find
from llmconv.bmodel.read import BModel
from llmconv.bmodel.sums import Summing, Sums
from llmconv.bmodel.write import Piece, write
from llmconv.errors import ConvertError, ToolError

# The compiler's sha256 counts bits in 32 bits: from this many bytes on its check code is not the sha256 of the
# coefficients (measured on a table of 1.09 GB, tpu_mlir 1.30.2). `write` puts the right one into the file.
MISCOUNTED = 1 << 29


def split(path: Path, bare: Path, coefficients: Path, shared: Sums | None = None) -> Sums:
    """Write the net of `path` without kernel module and coefficients to `bare`, and the coefficients to `coefficients`.

    Returns their sums (without a sha256 for a net that has none). The kernel module is a file of the toolchain and the
    same in every net; `combine` puts both back. shared: coefficients that are kept elsewhere: when the net's are the
    same, `coefficients` is left empty. Raises ConvertError when they are not what their own check code says.
    """
    model = BModel.read(path)
    (net,) = model.nets
    (stage,) = net.stages
    taken = Sums(stage.coeff.size, stage.coeff_sha256 if stage.coeff.size else "")
    if taken == shared:
        coefficients.write_bytes(b"")
    else:
        found = _copy(Piece(path, stage.coeff.offset, stage.coeff.size), coefficients)
        if taken.size and found.sha256 != taken.sha256 and taken.size < MISCOUNTED:
            raise ConvertError(
                f"the compiler's {path.name} is damaged",
                f"its coefficients should have sha256 {taken.sha256} and have {found.sha256}",
                "Run again.",
            )
        taken = found if taken.size else taken
        if taken == shared:
            coefficients.write_bytes(b"")
    for _, holder, key in find("Binary", "Model", model.tree):
        start, size = holder[key]
        if holder is model.tree.get("kernel_module") or "check_code" in holder:
            size = 0
        holder[key] = Piece(path, model.base + start, size)
    write(bare, model.tree)
    return shared if shared and taken == shared else taken  # whose xxh3 is known


def keep(path: Path, bare: Path, devices: int) -> list[int]:
    """Write the nets of `path`, the parts of one net for several devices, without the kernel module to `bare`.
    Coefficients stay.

    Returns the bytes of coefficients of each device. ToolError when a device has none, or far less than another: the
    compiler leaves what it cannot split on the first device, without a word.
    """
    model = BModel.read(path)
    held = [0] * devices
    for net, found in zip(model.tree["net"], model.nets):
        held[net.get("cascade", {}).get("device_id", 0)] += sum(stage.coeff.size for stage in found.stages)
    if min(held) < 0.8 * max(held):
        raise ToolError(
            f"the compiler did not split {path.name} over {devices} devices",
            f"they have {', '.join(map(str, held))} bytes of coefficients",
            "Use distribute_strategy pp.",
        )
    for _, holder, key in find("Binary", "Model", model.tree):
        start, size = holder[key]
        holder[key] = Piece(path, model.base + start, 0 if holder is model.tree.get("kernel_module") else size)
    write(bare, model.tree)
    return held


def _copy(blob: Piece, to: Path) -> Sums:
    """Copy a blob to a file; returns its sums."""
    summing = Summing()
    with to.open("wb") as file:
        for piece in blob.chunks():
            file.write(piece)
            summing.update(piece)
    return summing.sums
