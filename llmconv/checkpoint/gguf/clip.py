"""The file of a tower (llama.cpp's mmproj): its tensors by HuggingFace's names. Their names there, and what is done to
them, are as llama.cpp's converter has it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from llmconv.checkpoint.gguf.architectures import ADVICE, Fields
from llmconv.checkpoint.gguf.header import Header, Tensor
from llmconv.checkpoint.gguf.joined import Joined
from llmconv.checkpoint.gguf.named import Named
from llmconv.checkpoint.gguf.values import Values
from llmconv.errors import InputError, shown

AGAIN = "Download it again."
DEEPEST = 1 << 12  # blocks
BLOCK = {"ln1": "norm1", "ln2": "norm2", "attn_qkv": "attn.qkv", "attn_out": "attn.proj"}
MERGER = {"v.post_ln": "merger.ln_q", "mm.0": "merger.mlp.0", "mm.2": "merger.mlp.2"}
DEEP = {"norm": "norm", "fc1": "linear_fc1", "fc2": "linear_fc2"}
QKV = ("attn_q", "attn_k", "attn_v")
KERNELS = ("v.patch_embd.weight", "v.patch_embd.weight.1")  # of the two frames of a patch
_BLOCK = re.compile(r"v\.blk\.(0|[1-9]\d{0,3})\.([a-z_0-9]+)\.(weight|bias)")
_DEEP = re.compile(r"v\.deepstack\.(0|[1-9]\d{0,3})\.(norm|fc1|fc2)\.(weight|bias)")


@dataclass(frozen=True)
class Kind:
    """text: the architecture of the language model; model_type, cls: transformers' of the whole; prefix: of the tower's
    names there; names: of its tensors outside of blocks; mlp: of those of a block's MLP; nested: whether config.json
    has a part for the language model; fields: of vision_config, beside those that all have; pixels: least and most of
    an image to the processor."""

    text: str
    model_type: str
    cls: str
    mlp: Mapping[str, str]
    fields: Callable[[Tower], Fields]
    pixels: tuple[int, int]
    prefix: str = "visual."
    names: Mapping[str, str] = field(default_factory=lambda: MERGER)
    nested: bool = False


@dataclass(frozen=True)
class Tower:
    """One file, which goes with the language model that was asked for."""

    header: Header
    kind: Kind

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        return {tensor.name: tensor for tensor in self.header.tensors}

    def number(self, key: str, usual: int | None = None, least: int = 1, most: int = 1 << 24) -> int:
        """A number of the tower's metadata. InputError where there is none, nor a usual one, or no such number."""
        value = self.header.metadata.get(f"clip.vision.{key}", usual)
        if value is None:
            raise InputError(f"{self.header.file} lacks the key clip.vision.{key}", "its tower needs it", ADVICE)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            why = f"a number from {least} to {most} is expected"
            raise InputError(f"clip.vision.{key} in {self.header.file} is {shown(str(value))}", why, ADVICE)
        return value

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return self.number("block_count", most=DEEPEST)

    def shape(self, name: str, axes: int = 2) -> tuple[int, ...]:
        """Of a tensor. InputError where it is not there."""
        if name not in self.tensors:
            raise InputError(f"{self.header.file} has no tensor {name}", "its tower needs it", AGAIN)
        found = self.tensors[name].shape
        if len(found) != axes:
            why = f"{axes} axes are expected"
            raise InputError(f"tensor {name} of {self.header.file} has the shape {list(found)}", why, AGAIN)
        return found

    @cached_property
    def swapped(self) -> bool:
        """Whether the two linears of an MLP have each other's names, as in files of llama.cpp's older converter."""
        width, up, down = self.number("embedding_length"), *map(self.shape, _mlp(0))
        return "ffn_gate" not in self.kind.mlp and up[-1] != width and down[-1] == width

    @property
    def intermediate(self) -> int:
        """The width of an MLP: files of a Qwen2-VL say another one, that of the language model."""
        return self.shape(_mlp(0)[self.swapped])[0]

    @cached_property
    def deepstack(self) -> list[int]:
        """The blocks whose states the language model's first layers get too."""
        flags = self.header.metadata.get("clip.vision.is_deepstack_layers", [])
        return [i for i, flag in enumerate(flags) if flag] if isinstance(flags, list) else []

    @cached_property
    def named(self) -> tuple[Named, ...]:
        """All of its tensors. InputError for one that llmconv does not know."""
        return tuple(self._named())

    def _named(self) -> Iterator[Named]:
        for tensor in self.header.tensors:
            block = _BLOCK.fullmatch(tensor.name)
            role = block[2] if block else ""
            if tensor.name == KERNELS[0]:
                yield self._patches()
            elif block and role == QKV[0]:
                yield self._qkv(block[1], block[3])
            elif tensor.name != KERNELS[1] and role not in QKV:  # which are parts of another one
                name = f"{self.kind.prefix}{self._called(tensor)}"
                yield Named(name, Values(tensor, 0, tensor.rows), tensor.shape)

    def _called(self, tensor: Tensor) -> str:
        """What HuggingFace calls a tensor, without the prefix."""
        if found := _BLOCK.fullmatch(tensor.name):
            if name := {**BLOCK, **self._mlp}.get(found[2]):
                return f"blocks.{found[1]}.{name}.{found[3]}"
        elif (found := _DEEP.fullmatch(tensor.name)) and int(found[1]) in self.deepstack:
            return f"deepstack_merger_list.{self.deepstack.index(int(found[1]))}.{DEEP[found[2]]}.{found[3]}"
        stem, _, part = tensor.name.rpartition(".")
        if stem in self.kind.names and part in ("weight", "bias"):
            return f"{self.kind.names[stem]}.{part}"
        what = f"{tensor.file} has the tensor {shown(tensor.name)}"
        raise InputError(what, f"llmconv does not know it in the tower of a {self.kind.model_type}", ADVICE)

    @cached_property
    def _mlp(self) -> Mapping[str, str]:
        other = {"ffn_up": "ffn_down", "ffn_down": "ffn_up"} if self.swapped else {}
        return {other.get(theirs, theirs): ours for theirs, ours in self.kind.mlp.items()}

    def _patches(self) -> Named:
        """The kernel [width, channels, frames, side, side], of which each frame is a tensor [width, channels, side,
        side]."""
        width, channels, *sides = self.shape(KERNELS[0], 4)
        made = Joined.of(self._parts(KERNELS), sides[0] * sides[1])
        return Named(f"{self.kind.prefix}patch_embed.proj.weight", made, (width, channels, 2, *sides))

    def _qkv(self, block: str, part: str) -> Named:
        """Queries, keys and values, each of which is a tensor."""
        made = Joined.of(self._parts(tuple(f"v.blk.{block}.{one}.{part}" for one in QKV)))
        rows, *others = made.parts[0].source.shape
        return Named(f"{self.kind.prefix}blocks.{block}.attn.qkv.{part}", made, (3 * rows, *others))

    def _parts(self, names: tuple[str, ...]) -> tuple[Values, ...]:
        for name in names:
            if name not in self.tensors:
                raise InputError(f"{self.header.file} has no tensor {name}", f"it has {names[0]}", AGAIN)
        return tuple(Values(self.tensors[name], 0, self.tensors[name].rows) for name in names)


def _mlp(block: int) -> tuple[str, str]:
    return f"v.blk.{block}.ffn_up.weight", f"v.blk.{block}.ffn_down.weight"
