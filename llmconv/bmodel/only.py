"""A .bmodel with one net of another one, for who runs that net alone."""

from __future__ import annotations

from pathlib import Path

from llmconv.bmodel.flatbuffer import find
from llmconv.bmodel.read import BModel
from llmconv.bmodel.write import Piece, write
from llmconv.errors import InputError


def only(bmodel: Path, net: str, target: Path) -> None:
    """Write the .bmodel to `target` with all stages of the one net, unchanged. InputError when it has none of that
    name."""
    model = BModel.read(bmodel)
    model.tree["net"] = [one for one in model.tree["net"] if one["name"] == net]
    if not model.tree["net"]:
        raise InputError(f"{bmodel} has no net {net}", f"it has {', '.join(one.name for one in model.nets)}")
    for _, holder, key in find("Binary", "Model", model.tree):
        start, size = holder[key]
        holder[key] = Piece(model.path, model.base + start, size)
    write(target, model.tree)
