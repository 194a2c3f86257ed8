"""The tensors of GGUF files by HuggingFace's names, and how each comes out of its file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from llmconv.checkpoint.gguf.architectures import ADVICE, architecture
from llmconv.checkpoint.gguf.clip import Tower
from llmconv.checkpoint.gguf.header import Header, Tensor, decimal
from llmconv.checkpoint.gguf.named import Named
from llmconv.checkpoint.gguf.names import FACTS
from llmconv.checkpoint.gguf.values import FLOATS, KEPT, Values, floats
from llmconv.checkpoint.tensor import TensorInfo
from llmconv.errors import InputError, shown

LONGEST_FACT = 1 << 14  # elements


@dataclass(frozen=True)
class Contents:
    """All tensors of a model, from the headers of its files. tower: what it sees with, in a file of its own."""

    header: Header
    tensors: tuple[Tensor, ...]
    tower: Tower | None = None

    @classmethod
    def of(cls, headers: Sequence[Header], tower: Tower | None) -> Contents:
        """headers: of all parts of the language model, the one with the metadata first."""
        return cls(headers[0], tuple(tensor for header in headers for tensor in header.tensors), tower)

    @cached_property
    def named(self) -> tuple[Named, ...]:
        """InputError for a tensor that llmconv does not know, or of a type that cannot be undone."""
        found = tuple(one for tensor in self.tensors if tensor.name not in FACTS for one in self._named(tensor))
        seeing = self.tower.header.tensors if self.tower else ()
        for kind, tensor in {t.kind: t for t in (*seeing, *self.tensors)}.items():
            _try(kind, tensor)
        return (*found, *self.tower.named) if self.tower else found

    @cached_property
    def kept(self) -> dict[str, Named]:
        """The layers whose integers stay, by their paths: none where they have less than half of the bytes of all
        linear layers, because integers of a few layers do not make the model a quantised one."""
        linear = sum(one.nbytes for one in self.named if one.linear)
        found = {one.packable: one for one in self.named if one.packable}
        return found if 2 * sum(one.nbytes for one in found.values()) >= linear else {}

    @property
    def table(self) -> dict[str, TensorInfo]:
        """As a checkpoint has it."""
        found: dict[str, TensorInfo] = {}
        for one in self.named:
            made = one.packed() if one.packable in self.kept else [one.whole]
            found |= {info.name: info for info in made}
        return found

    @property
    def facts(self) -> dict[str, list[float]]:
        """The values of tensors that are facts of the config."""
        return {tensor.name: _list(tensor) for tensor in self.tensors if tensor.name in FACTS}

    @property
    def notes(self) -> tuple[str, ...]:
        """What becomes of each type."""
        stay = Counter(one.kind for one in self.kept.values())
        lost = Counter(one.kind for one in self.named if one.packable not in self.kept and one.kind not in FLOATS)
        notes = [f"GGUF: {_tensors(n)} of {kind} with integers and scales as they are" for kind, n in stay.items()]
        return (*notes, *(f"GGUF: {_tensors(n)} of {kind}, dequantised to bf16" for kind, n in sorted(lost.items())))

    @property
    def quantisation(self) -> dict[str, Any]:
        """quantization_config of compressed-tensors; the bits of most bytes come first. {} where nothing stays."""
        sizes = Counter[int]()
        for one in self.kept.values():
            sizes[KEPT[one.kind]] += one.nbytes
        groups: dict[str, Any] = {}
        for place, (bits, _) in enumerate(sizes.most_common()):
            paths = [path for path, one in self.kept.items() if KEPT[one.kind] == bits]
            weights = {"num_bits": bits, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}
            groups[f"group_{place}"] = {"targets": ["Linear"] if place == 0 else paths, "weights": weights}
        kinds = " and ".join(sorted({one.kind for one in self.kept.values()}))
        about = {"quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed"}
        about["made_from"] = f"GGUF's {kinds}"  # what messages call it
        return {"quantization_config": {**about, "config_groups": groups}} if groups else {}

    def _named(self, tensor: Tensor) -> Iterator[Named]:
        names = architecture(self.header).names
        name = names.renamed(tensor.name)
        if name is None:
            arch = self.header.metadata["general.architecture"]
            what = f"{tensor.file} has the tensor {shown(tensor.name)}"
            raise InputError(what, f"llmconv does not know it in a model of {arch}", ADVICE)
        values = Values(tensor, 0, tensor.rows, less=names.less if "norm" in name else 0.0)
        if "{e}" in name:
            yield from self._experts(name, tensor, values)
            return
        if "{qkv}" in name:
            yield from self._apart(name, tensor, values)
            return
        if key := names.heads(tensor.name):
            values = replace(values, heads=self._heads(tensor, key))
        # llama.cpp drops axes of one element
        one = name.endswith("shared_expert_gate.weight") and len(tensor.shape) == 1
        shape = (1, *tensor.shape) if one else tensor.shape
        yield Named(name, values, shape)

    def _experts(self, name: str, tensor: Tensor, values: Values) -> Iterator[Named]:
        if len(tensor.shape) != 3:
            what = f"tensor {tensor.name} of {tensor.file} has the shape {list(tensor.shape)}"
            raise InputError(what, "one axis of experts is expected before the others", "Download it again.")
        experts, rows, width = tensor.shape
        for e in range(experts):
            yield Named(name.format(e=e), replace(values, first=e * rows, rows=rows), (rows, width))

    def _apart(self, name: str, tensor: Tensor, values: Values) -> Iterator[Named]:
        """q, k and v, whose rows one tensor has."""
        prefix = f"{self.header.metadata['general.architecture']}.attention"
        heads = self.header.metadata.get(f"{prefix}.head_count")
        kv = self.header.metadata.get(f"{prefix}.head_count_kv", heads)
        counts: dict[str, int] = {}
        if isinstance(heads, int) and isinstance(kv, int) and heads > 0 and kv > 0:
            counts = {"q": heads, "k": kv, "v": kv}
        if not counts or tensor.rows % sum(counts.values()):
            what = f"tensor {tensor.name} of {tensor.file} has {tensor.rows} rows"
            raise InputError(what, f"they are those of {shown(f'{heads} and twice {kv}')} heads", "Download it again.")
        first, size = 0, tensor.rows // sum(counts.values())
        for role, count in counts.items():
            part = replace(values, first=first, rows=count * size)
            yield Named(name.replace("{qkv}", role), part, (count * size, *tensor.shape[1:]))
            first += count * size

    def _heads(self, tensor: Tensor, key: str) -> int:
        """How many heads of a tensor have their rows in another order."""
        prefix = f"{self.header.metadata['general.architecture']}."
        metadata: Mapping[str, Any] = self.header.metadata
        heads = metadata.get(f"{prefix}{key}", metadata.get(f"{prefix}attention.head_count"))
        if not isinstance(heads, int) or heads < 1 or tensor.rows % (2 * heads):
            what = f"tensor {tensor.name} of {tensor.file} has {tensor.rows} rows"
            raise InputError(what, f"{prefix}{key} is {shown(str(heads))}", "Download it again.")
        return heads


def _tensors(count: int) -> str:
    return f"{count} tensor{'s' * (count > 1)}"


def _try(kind: str, tensor: Tensor) -> None:
    """InputError for a type that cannot be undone, before any work starts."""
    import numpy as np

    try:
        floats(np.zeros((1, tensor.block[1]), "u1"), kind)
    except InputError as error:
        raise InputError(
            f"tensor {tensor.name} of {tensor.file} is of the type {kind}", error.why, error.try_
        ) from None


def _list(tensor: Tensor) -> list[float]:
    if tensor.kind != "F32" or len(tensor.shape) != 1 or tensor.shape[0] > LONGEST_FACT:
        raise InputError(f"tensor {tensor.name} of {tensor.file} is no list of F32", "", "Download it again.")
    return [decimal(value) for value in Values(tensor, 0, tensor.rows).read(0, tensor.rows).tolist()]
