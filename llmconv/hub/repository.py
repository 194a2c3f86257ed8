"""A model of the hub: its commit, its small files, the table of its tensors.

llmconv.hub.weights brings the weights.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from llmconv.checkpoint.directory import INDEX, WHOLE
from llmconv.checkpoint.files import Checkpoint
from llmconv.checkpoint.tensor import DTYPES, TensorInfo
from llmconv.errors import ConvertError, InputError
from llmconv.hub.errors import ONLINE, Unreachable, explained, quiet
from llmconv.hub.name import Name

if TYPE_CHECKING:
    from huggingface_hub.utils import SafetensorsFileMetadata

# What a runtime or the conversion reads beside the weights: configuration, tokenizer, chat templates
SMALL = (".json", ".txt", ".model", ".jinja", ".tiktoken")
LARGEST = 200 << 20  # bytes of a file that still passes for a small one
AT_ONCE = 4  # requests
_SHA256 = re.compile(r"[0-9a-f]{64}")


def settle(name: Name, check: Callable[[Path], None], say: Callable[[str], None]) -> Name:
    """The name with its commit, its config.json and then its other small files in the cache.

    check: is given the folder when it holds config.json alone, and raises what is wrong with that. say: takes a remark.
    Without the hub what is in the cache does, if it is whole.
    Errors: InputError for what the hub does not have or give, Unreachable.
    """
    name.need_library()
    if name.pinned and is_whole(name):
        return name
    quiet()
    try:
        found = _config(name)
        check(found.folder)
        _small(found)
        return found
    except Unreachable as error:
        found = name.cached()
        if not (found.pinned and is_whole(found)):
            why = f"{error.why}; {_missing(found)}"
            advice = ONLINE if error.try_ == ONLINE else "Check the network and HF_ENDPOINT, or name a directory."
            raise Unreachable(error.what, why, advice) from None
        say(f"{error.what} ({error.why}): its files in the cache are used, as of commit {found.revision[:12]}")
        return found


def _missing(name: Name) -> str:
    if not name.pinned or not name.folder.is_dir():
        return f"nothing of {name.repo} is in the cache {name.store.parent}"
    return f"of {name.repo} only a part is in the cache {name.store.parent}"


def _config(name: Name) -> Name:
    """config.json in the cache, and the name with the commit that it is of."""
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_download, hf_hub_url

    with explained(name, f"config.json of {name}"):
        try:
            # this fails at once where the next call tries for long
            get_hf_file_metadata(hf_hub_url(name.repo, "config.json", revision=name.revision))
            path = hf_hub_download(name.repo, "config.json", revision=name.revision)
        except errors.RemoteEntryNotFoundError:
            raise InputError(
                f"the model {name} has no config.json",
                "it is no checkpoint of transformers",
                "Name a repository with config.json and safetensors files.",
            ) from None
    return replace(name, revision=Path(path).parent.name)


def _small(name: Name) -> None:
    from huggingface_hub import hf_hub_download

    def download(file: str) -> None:
        with explained(name, f"{file} of {name}"):
            hf_hub_download(name.repo, file, revision=name.revision)

    listed = files(name)
    small = [file for file, info in listed.items() if _is_small(PurePosixPath(file), info.size)]
    if WHOLE in listed:  # the index does not count then
        small = [file for file in small if file != INDEX]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(download, [file for file in small if not (name.folder / file).exists()]))


def _is_small(file: PurePosixPath, size: int) -> bool:
    if size > LARGEST or file.suffix not in SMALL or file.name.startswith("."):
        return False
    if file.name.endswith(".index.json"):  # of weights in other formats
        return str(file) == INDEX
    return len(file.parts) == 1 or file.parts[0] == "additional_chat_templates"


@dataclass(frozen=True)
class File:
    """size: bytes; sha256: hexadecimal, or "" for a file that git keeps itself."""

    size: int
    sha256: str


def files(name: Name) -> dict[str, File]:
    """The files of a revision, as the hub announces them."""
    from huggingface_hub import HfApi

    with explained(name, f"the files of {name}"):
        info = HfApi().model_info(name.repo, revision=name.revision, files_metadata=True)
    return {file.rfilename: File(file.size or 0, file.lfs.sha256 if file.lfs else "") for file in info.siblings or ()}


def announced(name: Name, shards: list[str]) -> dict[str, str]:
    """{shard: sha256} as the hub announces it. A shard is left out whose sha256 it does not announce.

    The hub is not asked about a shard that the cache holds as a link: a large file is a link to blobs/SHA256 there.
    """
    known, unknown = {}, []
    for shard in shards:
        if (name.folder / shard).is_symlink():
            blob = Path(os.readlink(name.folder / shard)).name
            known[shard] = blob if _SHA256.fullmatch(blob) else ""  # git keeps small files, by another digest
        else:
            unknown.append(shard)
    if unknown:
        listed = _listed(name, unknown)
        known |= {shard: listed[shard].sha256 for shard in unknown if shard in listed}
    return {shard: sha256 for shard, sha256 in known.items() if sha256}


def _listed(name: Name, shards: list[str]) -> dict[str, File]:
    """What the hub tells of the files. Nothing when it does not answer and these are all in a cache without links."""
    try:
        return files(name)
    except ConvertError:
        if all((name.folder / shard).exists() for shard in shards):
            return {}  # such weights can be used without the hub, if not compared with it
        raise


def shards(name: Name) -> list[str]:
    """The safetensors files that the model is made of, as transformers has it: the whole file goes before an index.
    InputError when it has none."""
    if (name.folder / WHOLE).exists():
        return [WHOLE]
    index = name.folder / INDEX
    if index.exists():
        try:
            return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            why = f"{type(error).__name__}: {error}"
            raise InputError(f"{INDEX} of {name} cannot be read", why, "Choose another revision.") from None
    beside = [file for file in files(name) if file.endswith(".safetensors") and "/" not in file]
    found = [file for file in beside if not file.startswith("consolidated")]
    if not found:
        raise InputError(
            f"the model {name} has no safetensors files",
            "llmconv reads no other format of the hub, and never unpickles a file",
            "Name a repository that has them, or download a GGUF file and name that.",
        )
    return [WHOLE] if WHOLE in found else sorted(found)


def is_whole(name: Name) -> bool:
    """Whether config.json and all weights are in the cache."""
    folder = name.folder
    if not (folder / "config.json").exists():
        return False
    if (folder / INDEX).exists() and not (folder / WHOLE).exists():
        return all((folder / shard).exists() for shard in shards(name))
    return any(folder.glob("*.safetensors"))


def checkpoint(name: Name) -> Checkpoint:
    """The table of the model's tensors: from its files, or, while those are not there, from their headers alone.

    Offsets in a table of headers count from the first tensor: nothing can be read by them.
    """
    if is_whole(name):
        found = _opened(name)
        return replace(found, sha256=announced(name, [shard.name for shard in found.shards]))
    named, tensors = shards(name), {}
    for file, table in zip(named, _headers(name, named)):
        for tensor, info in table.tensors.items():
            start, end = info.data_offsets
            if info.dtype not in DTYPES:
                what = f"tensor {tensor} of {name} is of the unknown type {info.dtype}"
                raise InputError(what, "", "Name another model.")
            tensors[tensor] = TensorInfo(tensor, name.folder / file, start, end - start, info.dtype, tuple(info.shape))
    return Checkpoint(name.folder, tuple(name.folder / file for file in named), tensors, announced(name, named))


def _headers(name: Name, named: list[str]) -> list[SafetensorsFileMetadata]:
    from huggingface_hub import HfApi

    def header(file: str) -> SafetensorsFileMetadata:
        with explained(name, f"{file} of {name}"):
            return HfApi().parse_safetensors_file_metadata(name.repo, file, revision=name.revision)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(header, named))


def _opened(name: Name) -> Checkpoint:
    try:
        return Checkpoint.open(name.folder)
    except InputError as error:
        removal = f"`hf cache rm model/{name.repo}` removes the model from the cache"
        raise InputError(error.what, error.why, f"{removal}; this command then downloads it again.") from None
