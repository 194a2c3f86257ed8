"""Job: what to convert, and how. Every option is checked as far as possible without the checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from llmconv.checkpoint.directory import snapshot
from llmconv.checkpoint.gguf.file import is_gguf, title
from llmconv.chips import CHIPS
from llmconv.errors import InputError, shown
from llmconv.hub import Name
from llmconv.request.options import BY_NAME, parse

LONGEST = 400  # bytes of a path; SQLite takes 512 with the names of its files
# options with which the compiler does not split a layer over devices
UNSPLIT = ("keep_half", "lora_max_rank", "dynamic", "use_history_kv", "chunk_length")


@dataclass(frozen=True)
class Job:
    """The options of one conversion. `quantize`, `max_input_length`, `num_core` and `q_group_size` are as typed until
    llmconv.plan.settle.resolve settles them for a checkpoint. `origin`: the model of the hub that model_path holds, as
    org/name@commit, or "". `drawing`: the graphs that `tune` has chosen, as the text of a
    llmconv.blocks.drawing.Drawing, or "". Options of the build itself (jobs, memory, ...) are not part of a Job.
    """

    model_path: Path
    seq_length: int
    out_dir: Path
    quantize: str = "auto"
    q_group_size: int = 64
    symmetric: bool = False
    keep_half: str = ""
    quantize_head: str = "auto"
    chip: str = "bm1684x"
    num_device: int = 1
    distribute_strategy: str = "tp"
    num_core: int = 0
    graph: str = "fast"
    tune: bool = False
    batch: int = 1
    max_input_length: int = 0
    max_prefill_kv_length: int = 0
    use_block_with_kv: bool = False
    share_prompt: bool = False
    use_history_kv: bool = False
    chunk_length: int = 0
    max_pixels: str = ""
    exact_audio: bool = False
    lora_max_rank: int = 0
    do_sample: bool = False
    embedding_disk: bool = False
    dynamic: bool = False
    only_mlir: bool = False
    debug: bool = False
    no_stamp: bool = False
    origin: str = ""
    drawing: str = ""
    mmproj: Path | None = None

    @classmethod
    def create(cls, given: Mapping[str, Any]) -> Job:
        """Make a Job from options as they were typed (the document's names or doit's short ones; strings or values).

        Raises InputError for every fault that no checkpoint could make right.
        """
        return cls.of(parse(given))

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Job:
        """Make a Job from every option's typed value (see options.parse). Errors: as `create`."""
        values = dict(values)
        if values["model_path"] is None:
            raise InputError(
                "no model is given", "a conversion needs a checkpoint", "Say model=DIR (doit) or -m DIR (llmconv)."
            )
        if values["seq_length"] is None:
            raise InputError(
                "no sequence length is given", "it sizes the KV cache", "Say seq=512 (doit) or -s 512 (llmconv)."
            )
        if values.pop("rvti"):
            raise InputError(f"rvti with chip {values['chip']}", "RVTI exists on bm1690e alone", "Leave rvti out.")
        hub = Name.parse(values["model_path"])
        if hub is not None:
            hub = hub.cached()
            values["model_path"], values["origin"] = hub.folder, str(hub)
        else:
            given = Path(os.path.abspath(os.path.expanduser(values["model_path"])))
            values["model_path"], values["origin"] = snapshot(given), ""
        values["drawing"] = ""
        if values["mmproj"] is not None:
            values["mmproj"] = Path(os.path.abspath(os.path.expanduser(values["mmproj"])))
        if values["out_dir"] is None:
            values["out_dir"] = (
                f"{(hub.model if hub else title(values['model_path'])).lower()}_{values['chip']}_{values['quantize']}"
            )
        values["out_dir"] = Path(os.path.abspath(os.path.expanduser(values["out_dir"])))
        job = cls(**{f.name: values[f.name] for f in fields(cls)})
        job._check()
        return job

    def forced(self, values: Mapping[str, Any]) -> Job:
        """With other values of its fields. Raises InputError where they do not go with the rest."""
        job = replace(self, **values)
        job._check()
        return job

    def _check(self) -> None:
        if self.seq_length <= 0:
            raise InputError(f"seq_length {self.seq_length}", "it must be positive", "Say e.g. 512.")
        if not 0 <= self.max_input_length <= self.seq_length:
            raise InputError(
                f"max_input_length {self.max_input_length} with seq_length {self.seq_length}",
                "a prompt cannot be longer than the sequence",
                f"Use a value from 1 to {self.seq_length}, or 0 for {self.seq_length}.",
            )
        if self.tune and self.graph == "vendor":
            raise InputError(
                "tune together with graph vendor",
                "the vendor's graphs leave nothing to choose",
                "Leave one of them out.",
            )
        self._check_history()
        self._check_devices()
        if self.batch < 1:
            raise InputError(f"batch {self.batch}", "at least one sequence is decoded", "Use 1 or more.")
        if self.lora_max_rank < 0:
            raise InputError(f"lora_max_rank {self.lora_max_rank}", "a rank is positive", "Use 0 for none.")
        cores = CHIPS[self.chip].cores
        if not 0 <= self.num_core <= cores:
            raise InputError(
                f"num_core {self.num_core} with chip {self.chip}", f"it has {cores}", f"Use {cores}, or 0 for all."
            )
        if self.q_group_size < 0 or (self.q_group_size == 0 and self.quantize.startswith("w")):
            # 4 bits: the compiler would take 128 without a word; 8 bits: it stores signed codes that the chip reads as
            # unsigned
            raise InputError(
                f"q_group_size {self.q_group_size} with quantize {self.quantize}",
                "quantised weights need a positive group",
                "Use 64.",
            )
        for name, path in (("out_dir", self.out_dir), ("model_path", self.model_path), ("mmproj", self.mmproj)):
            if path is not None:
                _check_path(name, path)
        if self.mmproj is not None and (self.origin or not is_gguf(self.model_path)):
            raise InputError(
                f"mmproj {self.mmproj}",
                f"{self.origin or self.model_path} is no GGUF file, and has its tower in itself",
                "Leave mmproj out, or name the GGUF file of the language model with -m.",
            )
        if self.out_dir == self.model_path or self.model_path in self.out_dir.parents:
            raise InputError(
                f"out_dir {self.out_dir} lies inside the model directory",
                "the checkpoint must stay as it is",
                "Choose a directory outside it with -o (out=).",
            )

    def _check_history(self) -> None:
        """Check the rules of the two history schemes (docs/options.md) that hold for every checkpoint."""
        seq, document = self.seq_length, self.use_block_with_kv or self.share_prompt
        if (document or self.use_history_kv or self.chunk_length) and seq < 4:
            raise InputError(
                f"seq_length {seq} with history or decode stages", "there is no room for them", "Use 4 or more."
            )
        if document and self.use_history_kv:
            raise InputError(
                "use_history_kv together with use_block_with_kv or share_prompt",
                "they are two schemes with different nets, and runtimes count nets",
                "Choose one of them.",
            )
        if self.max_prefill_kv_length and not document:
            raise InputError(
                f"max_prefill_kv_length {self.max_prefill_kv_length}",
                "there is no history without use_block_with_kv or share_prompt",
                "Add use_block_with_kv, or leave it out.",
            )
        if not 0 <= self.max_prefill_kv_length <= seq:
            raise InputError(
                f"max_prefill_kv_length {self.max_prefill_kv_length} with seq_length {seq}",
                "the history is part of the sequence",
                f"Use at most {seq}.",
            )
        if document and self.max_input_length > seq // 2:
            raise InputError(
                f"max_input_length {self.max_input_length} with history and seq_length {seq}",
                "a prefill with history takes at most half of the sequence",
                f"Use at most {seq // 2}.",
            )
        if self.use_history_kv and self.max_input_length:
            raise InputError(
                f"max_input_length {self.max_input_length} with use_history_kv",
                "chunk_length sets the length of a prefill there",
                "Use chunk_length instead.",
            )
        if not 0 <= self.chunk_length <= seq // 2:
            raise InputError(
                f"chunk_length {self.chunk_length} with seq_length {seq}",
                "a chunk is at most half of the sequence",
                f"Use a value from 1 to {seq // 2}.",
            )
        if self.batch > 1 and (document or self.use_history_kv or self.chunk_length):
            raise InputError(
                f"batch {self.batch} with prefill history or decode stages",
                "batched decoding keeps its KV cache in another form",
                "Use batch 1.",
            )

    def _check_devices(self) -> None:
        """Check the rules of several devices (docs/options.md) that hold for every checkpoint."""
        if self.num_device < 1:
            raise InputError(f"num_device {self.num_device}", "at least one device runs the model", "Use 1 or more.")
        if self.distribute_strategy == "pp" and self.num_device == 2:
            raise InputError(
                "num_device 2 with distribute_strategy pp",
                "a pipeline has one device for embeddings, one for heads and at least one for layers",
                "Use 3 or more.",
            )
        pipeline = f"distribute_strategy pp{' and num_device 3 or more' if self.num_device < 3 else ''}"
        given = {"batch": self.batch > 1}
        given |= {name: bool(getattr(self, name)) for name in UNSPLIT}
        if self.splits and any(given.values()):
            names = " and ".join(name for name, there in given.items() if there)
            raise InputError(
                f"num_device {self.num_device} with distribute_strategy tp and {names}",
                "the compiler does not split such layers",
                f"Use {pipeline}.",
            )
        connected = next(chip.name for chip in CHIPS.values() if chip.connected)
        if self.splits and not CHIPS[self.chip].connected:
            raise InputError(
                f"num_device {self.num_device} with distribute_strategy tp and chip {self.chip}",
                f"only {connected} devices exchange what they compute",
                f"Use -c {connected}, or {pipeline}.",
            )

    def to_dict(self) -> dict[str, Any]:
        """The fields as a manifest has them: paths as text."""
        return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items()}

    @property
    def pixels(self) -> tuple[int, int] | None:
        """Width and height of max_pixels; None when it is not set."""
        width, _, height = self.max_pixels.partition(",")
        return (int(width), int(height)) if width else None

    @property
    def splits(self) -> bool:
        """Whether every layer is split over several devices."""
        return self.num_device > 1 and self.distribute_strategy == "tp"

    def layers_per_device(self, layers: int) -> int:
        """Number of layers on one device of a pipeline; the last may have fewer.

        Two more devices have the embeddings and the heads.
        """
        return -(-layers // (self.num_device - 2))

    @property
    def model_name(self) -> str:
        hub = self.origin.partition("@")[0]
        return (Path(hub).name if hub else title(self.model_path)).lower()

    @property
    def half(self) -> str:
        """Half-precision type of the tensors between nets: f16 iff the (resolved) quantisation is one of f16, w8f16,
        w4f16.
        """
        return "bf16" if "bf16" in self.quantize else "f16"

    @property
    def weight_bits(self) -> int:
        return {"w4": 4, "w8": 8}.get(self.quantize[:2], 16)

    @property
    def head_bits(self) -> int:
        """Bits of the head's weights, where llmconv quantises them; 16 where not."""
        return {"w4": 4, "w8": 8}.get(self.quantize_head, 16)

    @property
    def head_group(self) -> int:
        """Inputs of each scale of a head that llmconv quantises: the group of the (resolved) job, or the usual one
        where that has none."""
        return self.q_group_size or BY_NAME["q_group_size"].default


def _check_path(name: str, path: Path) -> None:
    """Check that everything that keeps the path can write it down: SQLite, JSON, the compiler's shell."""
    try:
        size = len(str(path).encode("utf-8"))
    except UnicodeEncodeError:
        raise InputError(f"{name} {path}", "its name is not in UTF-8", "Rename it, or choose another.") from None
    if size > LONGEST:
        raise InputError(
            f"{name} {shown(str(path))}",
            f"its path has {size} bytes, and the build's state takes {LONGEST}",
            "Use a shorter one.",
        )
