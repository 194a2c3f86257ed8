"""--dry_run: resolve every option, run every check, and show the overview of the work. Nothing is written.

The first lines are the vendor's keys in the vendor's order, so that scripts can go on reading them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from llmconv.plan.net import Net
from llmconv.plan.plan import Plan
from llmconv.plan.tuned import planned
from llmconv.queries.overview import overview
from llmconv.queries.overview_text import text
from llmconv.queries.why import outlook
from llmconv.request.request import Request

KEYS = [
    "model_path",
    "model_type",
    "out_dir",
    "chip",
    "quantize",
    "seq_length",
    "max_input_length",
    "max_prefill_kv_length",
    "max_shape",
    "max_pixels",
    "num_device",
    "distribute_strategy",
    "num_core",
    "batch",
    "dynamic",
    "embedding_disk",
    "do_sample",
    "use_block_with_kv",
    "share_prompt",
    "lora_max_rank",
    "symmetric",
]
MORE = ("q_group_size", "use_history_kv", "chunk_length", "quantize_head")  # which the vendor's report does not have


def dry_run(asked: Request) -> str:
    """The report; with `debug` also each net's inputs, outputs and flags.

    Raises InputError for every fault that would stop the conversion.
    """
    made = planned(asked)
    nets = [*net_lines(made.nets), ""] if asked.job.debug else []
    return "\n".join([*_keys(made), "", *nets, text(overview(made, outlook(asked, made), asked.job))])


def _keys(made: Plan) -> list[str]:
    lines = ["=== llm_convert dry-run ==="]
    values = {k: getattr(made.job, k, None) for k in KEYS} | {"model_type": made.config["model_type"]}
    shape = made.job.pixels
    values |= {"max_shape": list(shape) if shape else None, "max_pixels": shape[0] * shape[1] if shape else None}
    lines += [f"  {k:<22} = {values[k]}" for k in KEYS]
    lines.append(f"  {'converter':<22} = llmconv.families.{made.family.name}")
    return lines + [f"  {k:<22} = {getattr(made.job, k)}" for k in MORE]


def net_lines(nets: Sequence[Net]) -> list[str]:
    """A line per net with its inputs, outputs and flags."""

    def told(ios: Any) -> str:
        return ", ".join(f"{io.name} {'x'.join(map(str, io.shape))} {io.dtype}" for io in ios)

    return [f"{net.name}: {told(net.inputs)} -> {told(net.outputs)} [{', '.join(_flags(net))}]" for net in nets]


def _flags(net: Net) -> list[str]:
    f = net.flags
    flags = [f.mode, f.addr_mode, "dynamic" if f.dynamic else "static"]
    if f.num_device > 1:
        flags.append(f"split over {f.num_device} devices")
    if f.q_group_size:
        flags.append(f"g={f.q_group_size}{' symmetric' if f.q_symmetric else ''}")
    packed = Counter(
        (op.attrs["weight_bits"], op.attrs["q_group_size"]) for op in net.graph.ops if op.kind == "A16MatMul"
    )
    return flags + [
        f"{number} x w{bits} g={group} of the checkpoint" for (bits, group), number in sorted(packed.items())
    ]
