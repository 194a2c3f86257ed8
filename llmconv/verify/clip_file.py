"""The file of a tower (llama.cpp's mmproj) by the gguf package alone: its reader, its table of names and its
dequantisation.

Nothing of llmconv.checkpoint.gguf is used here. What llama.cpp's converter does to tensors is undone as it defines it
(conversion/qwenvl.py, conversion/qwen3vl.py): queries, keys and values may be apart, each frame of a patch has a kernel
of its own, and deepstack's mergers have the numbers of their blocks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmconv.runtime.half import half

if TYPE_CHECKING:
    import numpy as np

SEEN = re.compile(r"^(model\.)?visual\.")  # what the names of a tower's tensors begin with
FLOATS = ("F32", "F16", "BF16")
LEAST = 3  # blocks: the table counts the linears of a merger like them
# in no table of names
MERGER = {"merger.norm": "v.post_ln", "merger.linear_fc1": "mm.0", "merger.linear_fc2": "mm.2"}
_DEEP = re.compile(r"deepstack_merger_list\.(\d+)\.(?:linear_)?(norm|fc1|fc2)\.")


@dataclass
class ClipFile:
    """found: the reader's tensors, by GGUF's names; names: gguf's TensorNameMap; deep: the blocks whose states the
    language model gets too; width: of the tower's states."""

    found: dict[str, Any]
    names: Any
    deep: list[int]
    width: int

    @classmethod
    def of(cls, reader: Any) -> ClipFile:
        """reader: a GGUFReader of the file."""
        import gguf

        fields = {name: field.contents() for name, field in reader.fields.items() if name.startswith("clip.vision.")}
        blocks = max(LEAST, fields["clip.vision.block_count"])
        flags = fields.get("clip.vision.is_deepstack_layers", [])
        return cls(
            {tensor.name: tensor for tensor in reader.tensors},
            gguf.get_tensor_name_map(gguf.MODEL_ARCH.MMPROJ, blocks),
            [i for i, flag in enumerate(flags) if flag],
            fields["clip.vision.embedding_length"],
        )

    def float32(self, name: str) -> np.ndarray:
        """One tensor by its name in HuggingFace's tower."""
        import numpy as np

        if name == "patch_embed.proj.weight":
            return np.stack([self._values(f"v.patch_embd.weight{frame}") for frame in ("", ".1")], 2)
        theirs = self._called(name)
        if theirs not in self.found and ".attn_qkv." in theirs:
            return np.concatenate([self._values(theirs.replace("attn_qkv", f"attn_{one}")) for one in "qkv"])
        return self._values(theirs)

    def _called(self, name: str) -> str:
        stem, _, part = name.rpartition(".")
        if stem in MERGER:
            return f"{MERGER[stem]}.{part}"
        if deep := _DEEP.match(name):
            return f"v.deepstack.{self.deep[int(deep[1])]}.{deep[2]}.{part}"
        theirs = self.names.get_name(f"visual.{name}", try_suffixes=(".weight", ".bias"))
        up, down = "ffn_up", "ffn_down"
        block, _, role = theirs.rpartition(".")[0].rpartition(".")
        if role in (up, down) and f"{block}.ffn_gate.weight" not in self.found:
            # older files have the two linears under each other's names
            first, second = (self.found[f"{block}.{one}.weight"].data.shape for one in (up, down))
            if first[0] == self.width != second[0]:
                return f"{block}.{down if role == up else up}.{part}"
        return theirs

    def _values(self, theirs: str) -> np.ndarray:
        """float32; what was quantised is rounded to bf16, which a checkpoint would have."""
        import gguf
        import numpy as np

        tensor = self.found[theirs]
        values = np.array(gguf.dequantize(tensor.data, tensor.tensor_type), np.float32)
        return values if tensor.tensor_type.name in FLOATS else half(values, "bf16")
