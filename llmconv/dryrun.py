"""--dry_run: every option resolved, every check run, the nets and what they will need; nothing is written.

The first lines are the vendor's keys in the vendor's order (spec, section 1.3), so that scripts can go on reading them.
"""

from __future__ import annotations

from collections import Counter

from llmconv.estimate import coefficient_bytes, compile_seconds, device_memory, scratch_bytes
from llmconv.job import Job
from llmconv.nets import Net
from llmconv.plan import Plan, plan
from llmconv.summary import size

KEYS = (
    "model_path model_type out_dir chip quantize seq_length max_input_length max_prefill_kv_length max_shape max_pixels num_device "
    "distribute_strategy num_core batch dynamic embedding_disk do_sample use_block_with_kv share_prompt lora_max_rank symmetric"
).split()


def dry_run(job: Job) -> str:
    """The report. Raises InputError for whatever would stop the conversion."""
    made = plan(job)
    lines = ["=== llm_convert dry-run ==="]
    values = {k: getattr(made.job, k, None) for k in KEYS} | {"model_type": made.config["model_type"], "max_shape": None}
    if not values["max_pixels"]:
        values["max_pixels"] = None
    lines += [f"  {k:<22} = {values[k]}" for k in KEYS]
    lines.append(f"  {'converter':<22} = llmconv.families.{made.family.name}")
    lines += [f"  {k:<22} = {getattr(made.job, k)}" for k in ("q_group_size", "use_history_kv", "chunk_length")]
    lines += [f"Note: {n}." for n in made.notes]
    lines.append("")
    lines += [_line(net) for net in made.nets]
    lines += ["", *needs(made)]
    return "\n".join(lines)


def _line(net: Net) -> str:
    inputs = ", ".join(f"{io.name} {'x'.join(map(str, io.shape))} {io.dtype}" for io in net.inputs)
    outputs = ", ".join(f"{io.name} {'x'.join(map(str, io.shape))} {io.dtype}" for io in net.outputs)
    f = net.flags
    flags = [f.mode, f.addr_mode, "dynamic" if f.dynamic else "static"]
    if f.num_device > 1:
        flags.append(f"split over {f.num_device} devices")
    if f.q_group_size:
        flags.append(f"g={f.q_group_size}{' symmetric' if f.q_symmetric else ''}")
    packed = Counter((op.attrs["weight_bits"], op.attrs["q_group_size"]) for op in net.graph.ops if op.kind == "A16MatMul")
    flags += [f"{count} x w{bits} g={group} of the checkpoint" for (bits, group), count in sorted(packed.items())]
    return f"{net.name}: {inputs} -> {outputs} [{', '.join(flags)}]"


def needs(made: Plan) -> list[str]:
    """What building and running the plan takes, from sizes alone."""
    nets = made.nets
    coefficients = coefficient_bytes(nets)
    devices = device_memory(made)
    largest = max(nets, key=scratch_bytes)
    return [
        f"nets                     {len(nets)}, from {len(made.checkpoint.tensors)} tensors, {size(made.checkpoint.nbytes)}",
        f".bmodel (estimate)       {size(coefficients)} of coefficients",
        f"compile time (estimate)  {sum(map(compile_seconds, nets)):.0f} CPU-seconds",
        f"scratch (estimate)       {size(scratch_bytes(largest))} for the largest net ({largest.name})",
        *(
            f"{f'memory {name}' if len(devices) > 1 else 'device memory'} (estimate)".ljust(25)
            + f"{size(sum(device.values()))}: {', '.join(f'{k} {size(v)}' for k, v in device.items())}"
            for name, device in devices.items()
        ),
    ]
