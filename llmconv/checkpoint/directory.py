"""A model directory, read once into plain facts: which files hold the weights and why, and what else lies there.

The files that count are those that transformers would load from the same directory: model.safetensors, else what
model.safetensors.index.json names. Without either, all other safetensors files are taken together.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from llmconv.checkpoint.gguf.file import STANDS_FOR, is_gguf, stands
from llmconv.checkpoint.plain import LARGE, Unreadable, exists, load, regular
from llmconv.errors import InputError, shown

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER, ADAPTER_CONFIG = ("adapter_model.safetensors", "adapter_model.bin"), "adapter_config.json"
POINTER = b"version https://git-lfs"
DEEPEST = 8  # folders in folders that are copied

# Files of a model directory that a runtime needs are copied; weights, code and hidden files are not.
NOT_CONFIG = (
    "*.safetensors", ".*", "*.pth", "*.pt", "*.py", "*.bin", "*.bin.index.json", "model.safetensors.index.json",
    "*.gguf", "*.onnx", STANDS_FOR,
)  # fmt: skip

# Weights in other formats: what they are called, the names of their files, and what to do
OTHERS = (
    ("weights under Mistral's own names", ("consolidated*",), "Download the model's files for transformers too."),
    (
        "pickled weights, and llmconv never unpickles a file",
        ("*.bin", "*.pt", "*.pth", "*.ckpt"),
        "Save the model as safetensors (model.save_pretrained with transformers).",
    ),
    ("GGUF weights for llama.cpp", ("*.gguf",), "Name the file itself (-m FILE.gguf)."),
    ("an ONNX graph", ("*.onnx",), "Convert the checkpoint that it was exported from."),
    ("weights for TensorFlow or JAX", ("*.h5", "*.msgpack"), "Save the model as safetensors with transformers."),
)
_PART = re.compile(r"(.*)-(\d{1,6})-of-(\d{1,6})\.safetensors")


@dataclass(frozen=True)
class Adapter:
    """A LoRA or another adapter of PEFT. base: the model that it is for, "" where it does not say; rank: 0 likewise."""

    base: str
    kind: str
    rank: int

    def __str__(self) -> str:
        return f"a {self.kind} adapter of {self.base or 'another model'}"

    @property
    def advice(self) -> str:
        base = self.base or "the model that it is for"
        room = f" with --lora_max_rank {self.rank}" if self.rank else " with --lora_max_rank"
        return f"Merge it into {base} (PEFT's merge_and_unload, then save_pretrained), or convert {base}{room}."


@dataclass(frozen=True)
class Weights:
    """The files that count, by name; why, for people; and the table of the index that names them, {} without one."""

    files: tuple[str, ...]
    why: str
    table: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Directory:
    """names: of the entries at the top, sorted."""

    path: Path
    names: tuple[str, ...]

    @property
    def stands_for_gguf(self) -> bool:
        """Whether the weights are those of a GGUF file."""
        return stands(self.path, self.names)

    @cached_property
    def adapter(self) -> Adapter | None:
        """The adapter that lies there."""
        if ADAPTER_CONFIG not in self.names and not set(ADAPTER) & set(self.names):
            return None
        try:
            given = load(self.path / ADAPTER_CONFIG)
        except Unreadable:
            given = {}
        given = given if isinstance(given, dict) else {}
        base, kind, rank = (given.get(key) for key in ("base_model_name_or_path", "peft_type", "r"))
        return Adapter(
            shown(base) if isinstance(base, str) else "",
            {"LORA": "LoRA"}.get(kind, shown(kind)) if isinstance(kind, str) else "PEFT",
            rank if isinstance(rank, int) and 0 < rank < 1 << 16 else 0,
        )

    @cached_property
    def others(self) -> Mapping[str, tuple[str, ...]]:
        """Weights in formats that llmconv does not read, by what they are called."""
        found = {what: tuple(n for n in self.names if _like(n, patterns)) for what, patterns, _ in OTHERS}
        return {what: names for what, names in found.items() if names}

    @cached_property
    def weights(self) -> Weights:
        """The files that count. InputError when there are none, or when one that is named is not there."""
        found = self._weights()
        for name in found.files:
            if not name.isprintable():
                raise InputError(f"{shown(name)} in {self.path} has control characters in its name", "", "Rename it.")
            self._expect(name)
        return found

    @property
    def notes(self) -> list[str]:
        """What lies beside the weights and could be taken for them."""
        counted, notes = set(self.weights.files), []
        beside = [n for n in self.names if n == INDEX or _PART.fullmatch(n)] if WHOLE in counted else []
        if beside:
            notes.append(
                f"{WHOLE} holds the weights, as for transformers; {_some(beside)} beside it "
                f"{'is' if len(beside) == 1 else 'are'} not read"
            )
        if self.adapter:
            notes.append(f"{self.adapter} lies in {self.path.name}: it is not converted, only the weights beside it")
        return notes

    def expect_config(self) -> None:
        """InputError when there is no config.json."""
        if "config.json" in self.names:
            return
        if self.adapter:
            raise InputError(f"{self.path} holds {self.adapter}", "that is no whole model", self.adapter.advice)
        below = [n for n in self.names if exists(self.path / n / "config.json")]
        advice = "Give the directory of a complete HuggingFace checkpoint."
        if below:
            advice = f"Its folder{'s' * (len(below) > 1)} {_some(below)} {'has' if len(below) == 1 else 'have'} one: "
            advice += f"say -m {self.path / below[0]}."
        elif self.others:
            advice = f"It holds {'; '.join(self.others)}. {advice}"
        raise InputError(f"{self.path} has no config.json", "it tells the model's family and sizes", advice)

    def copied(self) -> list[str]:
        """Paths of the files that go to the device as they are: configuration, tokenizer. InputError for one that is
        no regular file, that leads out of the directory, or that git-lfs has not brought."""
        try:
            found = list(self._walk("", 0))
        except OSError as error:
            raise InputError(
                f"{error.filename or self.path} cannot be read",
                error.strerror or str(error),
                "Repair it, or remove it.",
            ) from None
        for name in found:
            self._expect(name)
        return found

    def _walk(self, folder: str, depth: int) -> Iterator[str]:
        with os.scandir(self.path / folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                name = f"{folder}{entry.name}"
                if any(fnmatch(entry.name, pattern) for pattern in NOT_CONFIG):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    if depth == DEEPEST:
                        what = f"{shown(folder)} in {self.path} holds folders in folders"
                        raise InputError(what, f"deeper than {DEEPEST}", "Give the directory of one model.")
                    yield from self._walk(f"{name}/", depth + 1)
                    continue
                if entry.is_symlink() and not self._inside(name):
                    raise InputError(
                        f"{shown(name)} in {self.path} is a link out of it",
                        f"to {shown(os.readlink(entry.path))}, and would be copied to the device",
                        "Put the file itself there, or remove the link.",
                    )
                yield name

    def _inside(self, name: str) -> bool:
        """Whether a link ends in the directory, or in the store of the hub's cache that the directory belongs to."""
        here, end = os.path.realpath(self.path), os.path.realpath(self.path / name)
        places = [here]
        if PurePosixPath(here).parent.name == "snapshots":
            places.append(str(PurePosixPath(here).parents[1] / "blobs"))
        return any(end == place or end.startswith(f"{place}/") for place in places)

    def _expect(self, name: str) -> None:
        """InputError unless the name is a regular file with its own content."""
        path = self.path / name
        try:
            found = regular(path)
            if found is None:
                raise Unreadable("it is not there")
            if found.st_size < 1024:
                with open(path, "rb") as file:
                    start = file.read(len(POINTER))
            else:
                start = b""
        except (Unreadable, OSError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise InputError(f"{shown(str(path), 400)} cannot be read", why, "Put the file itself there.") from None
        if start == POINTER:
            raise InputError(
                f"{path} is a pointer of git-lfs and not the file itself",
                "the repository was cloned without its large files",
                f"Run `git lfs pull` in {self.path}.",
            )

    def _weights(self) -> Weights:
        if WHOLE in self.names:
            return Weights((WHOLE,), WHOLE)
        if INDEX in self.names:
            table = self._table()
            files = tuple(sorted(set(table.values())))
            return Weights(files, f"{len(files)} file{'s' * (len(files) > 1)} that {INDEX} names", table)
        beside = [n for n in self.names if n.endswith(".safetensors") and not _like(n, ("consolidated*", *ADAPTER))]
        if not beside:
            raise self._nothing()
        self._complete(beside)
        return Weights(tuple(beside), _some(beside))

    def _table(self) -> dict[str, str]:
        """The index: tensor -> file."""
        index = self.path / INDEX
        try:
            given = load(index, LARGE)
            table = given.get("weight_map") if isinstance(given, dict) else None
            if not isinstance(table, dict) or not table or not all(isinstance(v, str) for v in table.values()):
                raise Unreadable("its weight_map is no table of file names")
        except Unreadable as error:
            raise InputError(f"{index} cannot be read", str(error), "Download it again.") from None
        for name in sorted(set(table.values())):
            if PurePosixPath(name).name != name or not name.isprintable() or len(os.fsencode(name)) > 255:
                raise InputError(
                    f"{index} names the shard {shown(name)!r}",
                    "a shard is a file beside its index",
                    "Repair the index.",
                )
            if name not in self.names:
                raise InputError(
                    f"the checkpoint {self.path} lacks the shard {name}", f"{INDEX} names it", "Download it again."
                )
        return table

    def _complete(self, names: Sequence[str]) -> None:
        """InputError when files are numbered, and one is not there."""
        for name in names:
            if found := _PART.fullmatch(name):
                stem, total = found[1], int(found[3])
                width = len(found[2])
                wanted = (f"{stem}-{n:0{width}}-of-{found[3]}.safetensors" for n in range(1, total + 1))
                missing = next((part for part in wanted if part not in names), None)
                if missing:
                    raise InputError(
                        f"the checkpoint {self.path} lacks the shard {missing}",
                        f"{name} is one of {total}",
                        "Download it again.",
                    )

    def _nothing(self) -> InputError:
        """There is no file of weights: what there is instead."""
        if self.adapter:
            return InputError(f"{self.path} holds {self.adapter}", "its weights alone", self.adapter.advice)
        for what, _, advice in OTHERS:
            if what in self.others:
                return InputError(f"{self.path} holds only {what} ({_some(self.others[what])})", "", advice)
        return InputError(
            f"{self.path} holds no *.safetensors file", "", "Give the directory of a complete HuggingFace checkpoint."
        )


def place(path: Path, mmproj: Path | None = None) -> Directory:
    """The directory at `path`; of a GGUF file, the one that stands for it, and for the file of its tower. InputError
    when there is none."""
    if is_gguf(path):
        from llmconv.checkpoint.gguf.folder import folder

        path = folder(path, mmproj)
    if not path.is_dir():
        if path.exists():
            beside = exists(path.parent / "config.json")
            advice = f"Say -m {path.parent}." if beside else "Give the directory of a complete HuggingFace checkpoint."
            raise InputError(f"{path} is a file", "-m takes the directory of config.json and the weights", advice)
        raise InputError(
            f"the model directory {path} does not exist",
            "",
            "Give the directory that holds config.json and the safetensors files (-m DIR or model=DIR).",
        )
    try:
        return Directory(path, tuple(sorted(os.listdir(path))))
    except OSError as error:
        raise InputError(f"the model directory {path} cannot be read", error.strerror or str(error)) from None


def snapshot(path: Path) -> Path:
    """The files that a folder of the hub's cache (models--org--name) holds; another path as it is.

    InputError for a folder that holds several snapshots, none of which is that of its main branch.
    """
    snapshots = path / "snapshots"
    if not path.name.startswith("models--") or not snapshots.is_dir() or exists(path / "config.json"):
        return path
    try:
        commit = (path / "refs" / "main").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        commit = ""
    held = sorted(p.name for p in snapshots.iterdir() if p.is_dir())
    if commit in held:
        return snapshots / commit
    if len(held) == 1:
        return snapshots / held[0]
    raise InputError(
        f"{path} holds {len(held)} snapshots of a model",
        "none of them is that of its main branch",
        f"Name one: {_some([str(snapshots / name) for name in held])}." if held else "Download the model again.",
    )


def _like(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _some(names: Sequence[Any]) -> str:
    """The first names of a list."""
    told = ", ".join(shown(str(name), 200) for name in names[:3])
    return told if len(names) <= 3 else f"{told} and {len(names) - 3} more"
