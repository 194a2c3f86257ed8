"""A GGUF file as the float checkpoint that it stands for, by the gguf package alone: its reader, its table of names and
its dequantisation.

Nothing of llmconv.checkpoint.gguf is used here, so that a mistake there shows. What llama.cpp's converter does to
values is undone as it defines it (convert_hf_to_gguf.py: LlamaModel.permute, and norm_shift of Gemma's norms).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmconv.checkpoint.files import Checkpoint
from llmconv.checkpoint.tensor import TensorInfo
from llmconv.plan.plan import Plan
from llmconv.runtime.half import half
from llmconv.verify.clip_file import SEEN, ClipFile

if TYPE_CHECKING:
    import numpy as np

PERMUTED = ("llama", "granite", "smollm3")
SHIFTED = ("gemma3",)
FLOATS = ("F32", "F16", "BF16")
NESTED = "model.language_model."  # what "model." is called in a model that has more parts
ONE = b"\x00\x3c"  # the scale 1 in f16, little endian
_EXPERT = re.compile(r"\.experts\.(\d+)\.")


@dataclass
class GgufFile:
    """The tensors under HuggingFace's names. found: the reader's, by GGUF's names; names: gguf's TensorNameMap; heads:
    of "attn_q" and "attn_k". scales: the type that the scales of kept integers are rounded to (f32: as they are).
    tower: the file of what the model sees with."""

    checkpoint: Checkpoint
    found: dict[str, Any]
    names: Any
    architecture: str
    heads: dict[str, int]
    scales: str = "f32"
    tower: ClipFile | None = None

    @classmethod
    def of(cls, plan: Plan, scales: str = "f32") -> GgufFile:
        """The file of a plan."""
        import gguf

        readers = [gguf.GGUFReader(path) for path in plan.checkpoint.shards]
        tower = ClipFile.of(readers.pop()) if plan.job.mmproj else None
        architecture = readers[0].fields["general.architecture"].contents()
        known = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
        count = {
            "attn_q": readers[0].fields[f"{architecture}.attention.head_count"].contents(),
            "attn_k": readers[0].fields[f"{architecture}.attention.head_count_kv"].contents(),
        }
        tensors = {tensor.name: tensor for reader in readers for tensor in reader.tensors}
        names = gguf.get_tensor_name_map(known, plan.spec.layers)
        return cls(plan.checkpoint, tensors, names, architecture, count, scales, tower)

    def info(self, name: str) -> TensorInfo:
        return self.checkpoint.info(name)

    def float32(self, name: str, rows: slice | None = None) -> np.ndarray:
        """As Checkpoint.float32."""
        import numpy as np

        if self.tower and SEEN.match(name):
            values = self.tower.float32(SEEN.sub("", name, 1))
            return values if rows is None else values[rows]
        expert = _EXPERT.search(name)
        plain = _EXPERT.sub(".experts.", name.replace(NESTED, "model."))
        theirs = self.names.get_name(plain, try_suffixes=(".weight", ".bias"))
        tensor, data = self._tensor(theirs)
        data = data[int(expert[1])] if expert else data
        kind, permuted = tensor.tensor_type.name, self._permuted(theirs)
        whole = permuted or data.ndim < 2 or rows is None
        values = self._values(data if whole else data[rows], kind, f"{name.removesuffix('.weight')}.weight_packed")
        if permuted:
            values = _ordered(values, permuted)
        if self.architecture in SHIFTED and "norm" in name:
            values = values - np.float32(1)
        if name.endswith("shared_expert_gate.weight"):
            return values.reshape(1, -1)  # llama.cpp drops axes of one element
        return values[rows] if whole and rows is not None else values

    def _tensor(self, theirs: str) -> tuple[Any, np.ndarray]:
        """A tensor of the reader and its data; q, k and v may be rows of one, in this order, each of its heads."""
        if theirs in self.found:
            return self.found[theirs], self.found[theirs].data
        layer, role, part = theirs.rsplit(".", 2)
        tensor = self.found[f"{layer}.attn_qkv.{part}"]
        size = len(tensor.data) // (self.heads["attn_q"] + 2 * self.heads["attn_k"])
        q, kv = self.heads["attn_q"] * size, self.heads["attn_k"] * size
        first = {"attn_q": 0, "attn_k": q, "attn_v": q + kv}[role]
        return tensor, tensor.data[first : first + (q if role == "attn_q" else kv)]

    def _permuted(self, theirs: str) -> int:
        """Heads of a tensor whose rows are in llama.cpp's order, or 0."""
        part = theirs.split(".")[-2]
        return self.heads.get(part, 0) if self.architecture in PERMUTED else 0

    def _values(self, data: np.ndarray, kind: str, packed: str) -> np.ndarray:
        """packed: the name of the integers, where the conversion keeps them. What is not kept becomes bf16."""
        import gguf
        import numpy as np

        known = gguf.GGMLQuantizationType[kind]
        if kind in FLOATS:
            return np.array(gguf.dequantize(data, known), np.float32)
        if packed not in self.checkpoint.tensors:
            return half(gguf.dequantize(data, known), "bf16")
        size, nbytes = gguf.GGML_QUANT_SIZES[known]
        blocks = np.array(data).reshape(-1, nbytes)
        scales = half(blocks[:, :2].copy().view("<f2").astype(np.float32), self.scales)
        blocks[:, :2] = np.frombuffer(ONE, "u1")
        codes = gguf.dequantize(blocks, known).reshape(-1, size)  # of blocks with the scale 1
        return (codes * scales).reshape(*data.shape[:-1], -1)


def _ordered(values: np.ndarray, heads: int) -> np.ndarray:
    """What llama.cpp's converter permutes, undone: its pairs of neighbours are the two halves of a head."""
    pairs = values.reshape(heads, len(values) // heads // 2, 2, *values.shape[1:])
    return pairs.swapaxes(1, 2).reshape(values.shape)
