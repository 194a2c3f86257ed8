"""A directory that stands for a GGUF file: config.json and the tokenizer in HuggingFace's form, in the user's cache.

It holds no weights: those are read from the file itself whenever they are needed. The directory may be removed at any
time, and is made again where it is missing.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from llmconv.checkpoint.gguf import tokenizer
from llmconv.checkpoint.gguf.clip_config import processor, whole
from llmconv.checkpoint.gguf.config import config
from llmconv.checkpoint.gguf.file import FOLDER, PART, STANDS_FOR, title
from llmconv.checkpoint.gguf.header import Header, read
from llmconv.checkpoint.gguf.pair import tower
from llmconv.checkpoint.gguf.tensors import Contents
from llmconv.checkpoint.plain import Unreadable, load, regular
from llmconv.checkpoint.tensor import TensorInfo
from llmconv.errors import InputError
from llmconv.extras import GGUF, need
from llmconv.user_cache import cache_dir

FORMAT = 3  # of what is written; another one is another directory
MOST_PARTS = 1000


@dataclass(frozen=True)
class Read:
    """What the files of a model hold, of which a tower's is the last one. table: the tensors by HuggingFace's names;
    why: which files these are, for people; notes: what becomes of each type."""

    files: tuple[Path, ...]
    table: Mapping[str, TensorInfo]
    why: str
    notes: tuple[str, ...]


def folder(path: Path, mmproj: Path | None = None) -> Path:
    """The directory for a GGUF file, or for the first of several; made unless it is there already. mmproj: the file of
    its tower.

    Raises InputError for a file that is damaged, or of a model that llmconv does not know, and for two that do not go
    together.
    """
    need(GGUF, f"{path.name} is a GGUF file")
    pair = Pair(tuple(_parts(path)), mmproj)
    made = cache_dir() / FOLDER / pair.key / title(path)
    if (made / STANDS_FOR).is_file():
        return made
    found = pair.contents()
    table = found.table  # every fault shows before anything is written
    shapes = {tensor.name: tensor.shape for tensor in found.tensors}
    own = (info for info in table.values() if info.file in pair.files)
    fields, metadata = config(found.header, shapes, found.facts), found.header.metadata
    if found.tower:
        fields = whole(found.tower, fields, metadata.get("tokenizer.ggml.tokens"))
    written = {
        "config.json": {
            **fields,
            "torch_dtype": _half(own),
            **found.quantisation,
        },
        **tokenizer.files(metadata),
        **({"preprocessor_config.json": processor(found.tower)} if found.tower else {}),
        STANDS_FOR: {"files": [str(file) for file in pair.files], "mmproj": str(mmproj) if mmproj else None},
    }
    try:
        _write(made, written)
    except OSError as error:
        what = f"config.json for {path.name} cannot be written to {made}"
        raise InputError(what, error.strerror or str(error), "Make room, or set LLMCONV_CACHE.") from None
    return made


def contents(folder: Path) -> Read:
    """What the files hold that a directory stands for."""
    try:
        given = load(folder / STANDS_FOR)
        seeing = given["mmproj"]
        pair = Pair(tuple(Path(file) for file in given["files"]), Path(seeing) if seeing else None)
    except (Unreadable, KeyError, TypeError) as error:
        raise InputError(f"{folder / STANDS_FOR} cannot be read", str(error), f"Remove {folder}.") from None
    need(GGUF, f"{folder.name} is of a GGUF file")
    return _read(pair, pair.key)


@lru_cache(maxsize=4)
def _read(pair: Pair, key: str) -> Read:
    """key: of the files as they are; another one makes another result."""
    found = pair.contents()
    first, *others = pair.all
    more = f" and {len(others)} more" if others else ""
    return Read(pair.all, found.table, f"{first.name}{more}", found.notes)


@dataclass(frozen=True)
class Pair:
    """The files of a model. files: of the language model, all of its parts; mmproj: that of a tower."""

    files: tuple[Path, ...]
    mmproj: Path | None = None

    @property
    def all(self) -> tuple[Path, ...]:
        return (*self.files, self.mmproj) if self.mmproj else self.files

    @property
    def key(self) -> str:
        """Of the files as they are."""
        return _key(self.all)

    def contents(self) -> Contents:
        """What they hold. InputError for files that are damaged, that llmconv does not know, or that do not belong
        together."""
        headers = _headers(self.files)
        if self.mmproj and self.mmproj.name in [file.name for file in self.files]:
            what = f"{self.files[0]} and {self.mmproj} have one name"
            raise InputError(what, "a build tells a model's files apart by their names", "Rename one of them.")
        return Contents.of(headers, tower(headers[0], self.mmproj))


def _parts(path: Path) -> list[Path]:
    """All parts of a model, of which `path` is the first."""
    found = PART.fullmatch(path.name)
    if not found:
        return [path]
    total = int(found[3])
    if int(found[2]) != 1 or not 1 <= total <= MOST_PARTS:
        raise InputError(f"{path} is not the first part of its model", "", f"Name {found[1]}-00001-of-{found[3]}.gguf.")
    parts = [path, *(path.with_name(f"{found[1]}-{n:05}-of-{found[3]}.gguf") for n in range(2, total + 1))]
    for part in parts[1:]:
        if not part.exists():
            raise InputError(f"{part} is not there", f"{path.name} is one of {total} parts", "Download it again.")
    return parts


def _key(files: Sequence[Path]) -> str:
    """What a directory is named by: the files' places, sizes and times."""
    digest = hashlib.sha256(str(FORMAT).encode())
    for file in files:
        try:
            found = regular(file)
            if found is None:
                raise Unreadable("it is not there")
        except Unreadable as error:
            raise InputError(f"{file} cannot be read", str(error), "Name the file again.") from None
        digest.update(repr((os.path.realpath(file), found.st_size, found.st_mtime_ns)).encode())
    return digest.hexdigest()[:24]


def _headers(files: Sequence[Path]) -> list[Header]:
    """Of all parts. InputError where they do not belong together."""
    headers = [read(file) for file in files]
    for number, header in enumerate(headers):
        told = [header.metadata.get(f"split.{key}", usual) for key, usual in (("no", number), ("count", len(files)))]
        if told != [number, len(files)]:
            what = f"{header.file} says that it is part {told[0]} of {told[1]}, counted from 0"
            raise InputError(what, f"it stands as part {number} of {len(files)}", "Give it its own name again.")
    names = Counter(tensor.name for header in headers for tensor in header.tensors)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise InputError(f"{files[0]} and its other parts have the tensor {twice[0]} twice", "", "Download them again.")
    if not names:
        raise InputError(f"{files[0]} has no tensors", "it holds a vocabulary alone", "Name the file of the model.")
    return headers


def _half(tensors: Iterable[TensorInfo]) -> str:
    """What config.json says of the weights: the type of most bytes that are not quantised. tensors: the language
    model's, for which a tower in float16 says nothing."""
    sizes = Counter[str]()
    for one in tensors:
        if len(one.shape) > 1:
            sizes[one.dtype] += one.nbytes
    return "float16" if sizes["F16"] > sizes["BF16"] + sizes["F32"] else "bfloat16"


def _write(place: Path, written: dict[str, Any]) -> None:
    """A directory with these JSON files, all at once."""
    place.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=place.parent))
    try:
        for name, content in written.items():
            text = json.dumps(content, indent=1, ensure_ascii=False)
            (part / name).write_text(text, encoding="utf-8", errors="replace")
        os.chmod(part, 0o755)
        if not place.exists():  # another process may have been faster; what it wrote is the same
            os.rename(part, place)
    finally:
        shutil.rmtree(part, ignore_errors=True)
