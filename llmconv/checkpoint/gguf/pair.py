"""A language model and its tower, each in a file of its own: whether the two go together."""

from __future__ import annotations

from pathlib import Path

from llmconv.checkpoint.gguf.architectures import ADVICE, CLIP, architecture
from llmconv.checkpoint.gguf.clip import Tower
from llmconv.checkpoint.gguf.clip_config import KINDS
from llmconv.checkpoint.gguf.header import Header, read
from llmconv.errors import InputError, shown

PAIR = "Name the two files of one model."


def tower(text: Header, file: Path | None) -> Tower | None:
    """The tower in `file`, of the language model in `text`; None for a model that does not see. InputError where one is
    missing, or where the two do not go together."""
    known, name = architecture(text), str(text.metadata["general.architecture"])
    if file is None:
        if known.sees:
            what = f"{text.file} is of the architecture {name}, the language model of one that sees"
            raise InputError(what, "its tower is in a file of its own", "Name that too: --mmproj FILE.gguf.")
        return None
    if not known.sees:
        what = f"{text.file} is of the architecture {name}, and llmconv knows no tower for it"
        raise InputError(what, f"--mmproj names {file.name}", "Leave --mmproj out.")
    header = read(file)
    other = header.metadata.get("general.architecture")
    if other != CLIP:
        what = f"{file} is of the architecture {shown(str(other))}"
        raise InputError(what, "--mmproj takes the file of a tower (clip)", "Name the model's mmproj file.")
    projector = header.metadata.get("clip.projector_type", header.metadata.get("clip.vision.projector_type"))
    kind = KINDS.get(str(projector))
    if kind is None or header.metadata.get("clip.has_audio_encoder") is True:
        hears = "" if kind is None else " and hears"
        what = f"the tower in {file} has the projector {shown(str(projector))}{hears}"
        raise InputError(what, f"llmconv reads {', '.join(KINDS)}, of images alone", ADVICE)
    made = Tower(header, kind)
    _fits(text, name, made)
    return made


def _fits(text: Header, name: str, made: Tower) -> None:
    file, kind = made.header.file, made.kind
    if kind.text != name:
        raise InputError(
            f"{file} is the tower of a {kind.model_type}", f"{text.file} is of the architecture {name}", PAIR
        )
    gives, takes = made.shape("mm.2.weight")[0], text.metadata.get(f"{name}.embedding_length")
    if gives != takes:
        what = f"the tower in {file} gives tokens of {gives} elements"
        raise InputError(what, f"the language model in {text.file} takes {shown(str(takes))}", PAIR)
    deep = text.metadata.get(f"{name}.n_deepstack_layers", len(made.deepstack))
    if deep != len(made.deepstack):
        what = f"the tower in {file} gives states to {len(made.deepstack)} layers of the language model"
        raise InputError(what, f"{text.file} takes them in {shown(str(deep))}", PAIR)
