"""The sizes of config.json, held against the checkpoint's headers before anything is built from them."""

from __future__ import annotations

import re
from dataclasses import replace

from llmconv.blocks.spec import Spec
from llmconv.checkpoint.files import Checkpoint
from llmconv.errors import InputError


def check_sizes(checkpoint: Checkpoint, spec: Spec) -> None:
    """InputError when the checkpoint lacks the token table, the last layer, the last expert or the head, or when the
    table is not [vocab, hidden]: then config.json is of another model, and nets of its sizes would take any time and
    memory."""
    table = checkpoint.info(f"{spec.path('embedding')}.weight")
    if table.shape != (spec.rows, spec.hidden):
        raise InputError(
            f"tensor {table.name} of {checkpoint.path} has shape {list(table.shape)}",
            f"vocab_size and hidden_size of config.json are {spec.vocab} and {spec.hidden}"
            + (f", and {spec.marks} more rows are expected" if spec.marks else ""),
            "config.json and the weights do not belong together: download both again.",
        )
    _check_layers(checkpoint, spec)
    _check_experts(checkpoint, spec)
    head = spec.path("head")
    if not spec.tied and f"{head}.weight" not in checkpoint.tensors and head not in spec.stored:
        bare = spec.naming is not None and spec.naming.bare
        what = "it is a base model, saved without one" if bare else "config.json says that it is not the token table"
        tie = "If the token table is the head, set tie_word_embeddings to true in config.json"
        raise InputError(
            f"the checkpoint {checkpoint.path} has no head (tensor {head}.weight)",
            what,
            f"{tie}; else convert a checkpoint with a head (...ForCausalLM).",
        )


def _check_layers(checkpoint: Checkpoint, spec: Spec) -> None:
    before, _, behind = spec.names["layer"].partition("{i}")
    pattern = re.compile(f"{re.escape(before)}(\\d+){re.escape(behind)}")
    found = {int(hit[1]) for name in checkpoint.tensors if (hit := pattern.match(name)) and len(hit[1]) < 7}
    missing = next((layer for layer in range(spec.layers) if layer not in found), None)
    if missing is not None:
        name = spec.names["layer"].format(i=missing)
        raise InputError(
            f"the checkpoint {checkpoint.path} has no layer {missing} (tensors {name}...)",
            f"num_hidden_layers of config.json is {spec.layers}, it has {len(found)}",
            "config.json and the weights do not belong together, or the download is not complete.",
        )


def _check_experts(checkpoint: Checkpoint, spec: Spec) -> None:
    layer = next((i for i, kind in enumerate(spec.kinds) if kind.sparse), None)
    if layer is None or not spec.experts:
        return
    joined = {name: shape for i in range(spec.layers) for name, shape in spec.joined(i).items()}
    for name, shape in joined.items():
        if checkpoint.info(name).shape != shape:
            raise InputError(
                f"tensor {name} of {checkpoint.path} has shape {list(checkpoint.info(name).shape)}",
                f"num_experts, moe_intermediate_size and hidden_size of config.json demand {list(shape)}",
                "config.json and the weights do not belong together: download both again.",
            )
    names = [spec.names[role] for role in ("expert_gate", "expert_up", "expert_down") if role in spec.names]
    for name in names if not joined else ():
        last = spec.names["layer"].format(i=layer) + name.format(e=spec.experts.count - 1)
        if not any(f"{last}.{part}" in checkpoint.tensors for part in ("weight", "qweight", "weight_packed")):
            raise InputError(
                f"the checkpoint {checkpoint.path} has no expert {spec.experts.count - 1} in layer {layer} ({last})",
                f"num_experts of config.json is {spec.experts.count}",
                "config.json and the weights do not belong together, or the download is not complete.",
            )


def with_own_head(checkpoint: Checkpoint, spec: Spec) -> tuple[Spec, list[str]]:
    """The spec and notes, where config.json ties the head to the token table and the checkpoint has both: as in
    transformers, a head that is not equal to the table counts."""
    head, table = (f"{spec.path(role)}.weight" for role in ("head", "embedding"))
    if not spec.tied or head == table or head not in checkpoint.tensors or not readable(checkpoint):
        return spec, []
    if checkpoint.same(head, table):
        return spec, []
    note = f"tie_word_embeddings is true, but {head} is not equal to {table}: it is the head, as in transformers"
    return replace(spec, tied=False), [note]


def readable(checkpoint: Checkpoint) -> bool:
    """Whether tensors can be read: those of a model of the hub are not there before the download."""
    return all(shard.exists() for shard in checkpoint.shards)
