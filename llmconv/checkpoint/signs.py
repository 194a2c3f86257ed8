"""What the names of a checkpoint's tensors give away: that it was saved around something, or is of another format."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from llmconv.checkpoint.files import Checkpoint
from llmconv.checkpoint.patterns import any_of
from llmconv.errors import InputError, shown

FLOAT = "Convert the float checkpoint with -q w4bf16."


@dataclass(frozen=True)
class Sign:
    """pattern: of a tensor's name (re.search); what: it says of the checkpoint; advice: what to do then."""

    pattern: str
    what: str
    advice: str


MERGE = "Merge the adapter (PEFT's merge_and_unload) and save the model again with save_pretrained."
SIGNS = (
    Sign(
        r"\.lora_(A|B|embedding_A|embedding_B|magnitude_vector)\b", "it holds a LoRA adapter that is not merged", MERGE
    ),
    Sign(r"\.base_layer\.(weight|bias|qweight)$", "it holds the layers below a PEFT adapter that is not merged", MERGE),
    Sign(
        r"^base_model\.model\.",
        "it was saved from around the model, by PEFT",
        "Save the model itself: merge_and_unload() gives it, and save_pretrained writes it.",
    ),
    Sign(r"\.weight\._(data|scale)$", "its layers are quantised with optimum-quanto", FLOAT),
    Sign(
        r"\.(quant_state\.bitsandbytes__\w+|weight\.absmax|SCB)$", "its layers are quantised with bitsandbytes", FLOAT
    ),
    Sign(
        r"^(_orig_mod|module|_forward_module|_fsdp_wrapped_module)\.",
        "it was saved from around the model, by a compiler or a trainer",
        "Save the model itself with save_pretrained.",
    ),
    Sign(
        r"^layers\.\d+\.attention\.wq\.weight$",
        "its tensors have Meta's and Mistral's own names",
        "Download the model's files for transformers, or convert these with transformers' own script.",
    ),
    Sign(r"^blk\.\d+\.attn_q\.weight$", "its tensors have the names of GGUF files", "Convert the original checkpoint."),
)


def check(checkpoint: Checkpoint, known: Collection[str]) -> None:
    """InputError for a checkpoint that cannot be converted whatever config.json says, with the cause.

    known: patterns of names that belong to parts which are left out, and are no sign.
    """
    apart = any_of(known)
    names = [name for name in checkpoint.tensors if not apart(name)]
    for sign in SIGNS:
        found = list(filter(re.compile(sign.pattern).search, names))
        if found:
            raise _fault(checkpoint, found, sign.what, sign.advice)
    empty = [name for name in names if checkpoint.tensors[name].shape == (0,)]
    if empty:
        raise _fault(
            checkpoint,
            empty,
            "without values, as DeepSpeed's ZeRO-3 leaves them when a model is saved without gathering its parts",
            "Gather them (zero_to_fp32.py, or stage3_gather_16bit_weights_on_model_save) and save the model again.",
        )
    words = [n for n in names if n.endswith(".weight") and checkpoint.tensors[n].dtype == "U32"]
    if words and f"{words[0].removesuffix('weight')}scales" in checkpoint.tensors:
        raise _fault(checkpoint, words, "its layers are quantised in MLX's form", FLOAT)


def _fault(checkpoint: Checkpoint, names: list[str], what: str, advice: str) -> InputError:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return InputError(f"the checkpoint {checkpoint.path} has tensor {shown(names[0], 200)}{more}", what, advice)
