"""plan(job): the nets of a conversion, in the order of the .bmodel, with shapes, flags, MLIR and weights. Pure: reads
config.json and safetensors headers, writes nothing, runs nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from llmconv.blocks import decoder, heads
from llmconv.blocks.decoder import Step
from llmconv.blocks.spec import Spec
from llmconv.checkpoint import recipe
from llmconv.checkpoint.config import Config
from llmconv.checkpoint.files import Checkpoint
from llmconv.errors import InputError
from llmconv.families import family_of
from llmconv.families.family import Family
from llmconv.job import Job
from llmconv.options import CHIPS
from llmconv.toolchain import CompileFlags
from llmconv.top.graph import Graph
from llmconv.top.text import render

WEIGHT_FILE = "weights.npz"


@dataclass(frozen=True)
class IO:
    """A tensor of a net's public contract with the runtimes: name, shape, dtype (bf16, f16, f32, i32)."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Net:
    """One net: what it is called, what goes in and out, how it is compiled, and its graph."""

    name: str
    kind: str
    layer: int | None
    flags: CompileFlags
    inputs: tuple[IO, ...]
    outputs: tuple[IO, ...]
    graph: Graph

    @property
    def mlir(self) -> str:
        return render(self.graph, WEIGHT_FILE)

    @property
    def weights(self) -> list[dict[str, Any]]:
        """JSON form of the graph's weights: name, shape, dtype, recipe."""
        return [asdict(w) for w in self.graph.weights.values()]

    @property
    def tensors(self) -> list[str]:
        """Names of the checkpoint's tensors that this net is made of."""
        return sorted({n for w in self.graph.weights.values() for n in recipe.names(w.recipe)})


@dataclass(frozen=True)
class Plan:
    """A resolved job and its nets, in the order of the .bmodel. `notes`: what a user should know about how options were settled."""

    job: Job
    config: Config
    checkpoint: Checkpoint
    family: Family
    spec: Spec
    nets: tuple[Net, ...]
    notes: tuple[str, ...]

    @property
    def folder(self) -> str:
        """Base name of the .bmodel: model, quantisation, length, chip, devices or cores, static."""
        job = self.job
        parts = f"{job.num_device}dev" if job.chip == "bm1684x" else f"{job.num_core}core"
        return f"{job.model_name}_{job.quantize}_seq{job.seq_length}_{job.chip}_{parts}_static"


def plan(job: Job) -> Plan:
    """The plan of a job. Raises InputError for everything that can be known to be wrong before work starts."""
    config = Config.read(job.model_path)
    family = family_of(config["model_type"])
    job, notes = resolve(job, config)
    spec = family.decoder.spec(config)
    spec.check(job.seq_length)
    _check_groups(job, spec)
    checkpoint = Checkpoint.open(job.model_path)
    nets = tuple(_nets(job, spec))
    _check_tensors(checkpoint, family, spec, nets)
    return Plan(job, config, checkpoint, family, spec, nets, tuple(notes))


def resolve(job: Job, config: Config) -> tuple[Job, list[str]]:
    """The job with every default settled for this checkpoint, and notes on what was chosen."""
    notes = []
    dtype = config.sub("text_config").dtype() or config.dtype()
    quantize = job.quantize
    if isinstance(config.get("quantization_config"), dict):
        method = config["quantization_config"].get("quant_method", "unknown")
        raise InputError(f"the checkpoint is quantised with {method}", "pre-quantised checkpoints are not in this version of llmconv yet", "Convert the float checkpoint with -q w4bf16.")
    if quantize == "auto":
        quantize = "bf16"
        if dtype in ("float16", "float32"):
            notes.append(f"quantize auto: the checkpoint is {dtype} and not quantised, its weights become bf16")
    half = "bfloat16" if "bf16" in quantize else "float16"
    if dtype not in (None, half) and job.quantize != "auto":
        notes.append(f"the checkpoint is {dtype}: its weights are converted to {half}")
    group = job.q_group_size if quantize.startswith("w") else 0
    job = replace(job, quantize=quantize, q_group_size=group, max_input_length=job.max_input_length or job.seq_length, num_core=job.num_core or CHIPS[job.chip])
    return job, notes


def _check_groups(job: Job, spec: Spec) -> None:
    group = job.q_group_size
    if job.weight_bits == 16:
        return
    for role in ("q", "k", "v", "o", "gate", "up", "down"):
        k, _ = spec.linear(role)
        if group and k % group:
            fits = [g for g in (32, 64, 128, 256) if not any(spec.linear(r)[0] % g for r in ("q", "o", "down"))]
            raise InputError(
                f"q_group_size {group} does not divide the {k} inputs of {spec.path(role, 0)}",
                "the compiler would leave that layer in half precision without a word",
                f"Use -g {fits[-1] if 64 not in fits else 64}." if fits else "Use bf16.",
            )


def _nets(job: Job, spec: Spec) -> Iterator[Net]:
    """The nets in the vendor's order: those that bring new coefficients first, then those that share them."""
    head = _lm_head(job, spec)
    yield _embedding(job, spec, "embedding", job.max_input_length)
    if not spec.tied:
        yield head
    for layer in range(spec.layers):
        yield _block(job, spec, f"block_cache_{layer}", layer, Step(1, job.seq_length, job.seq_length), decode=True)
    yield _embedding(job, spec, "embedding_cache", 1)
    if spec.tied:
        yield head
    for layer in range(spec.layers):
        yield _block(job, spec, f"block_{layer}", layer, Step(job.max_input_length, job.seq_length), decode=False)


def _flags(job: Job, mode: str, **more: Any) -> CompileFlags:
    return CompileFlags(chip=job.chip, mode=mode.upper(), num_core=job.num_core, quant_input=True, **{"quant_output": True} | more)


def _ios(graph: Graph, half: str, outputs: list[tuple[str, str]]) -> tuple[tuple[IO, ...], tuple[IO, ...]]:
    """The public tensors: float inputs are half precision, ids i32; `outputs` gives (name, dtype) in order."""
    ins = tuple(IO(v.name, v.shape, "i32" if v.dtype == "si32" else half) for v in graph.inputs)
    return ins, tuple(IO(name, v.shape, dtype) for v, (name, dtype) in zip(graph.outputs, outputs, strict=True))


def _table_dtype(job: Job) -> str:
    """bf16 weights reach the compiler as raw bits: a large table is then never expanded to float32."""
    return "bf16" if job.half == "bf16" else "f32"


def _embedding(job: Job, spec: Spec, name: str, length: int) -> Net:
    graph = heads.embedding(name, spec, length, _table_dtype(job))
    ins, outs = _ios(graph, job.half, [(name, job.half)])
    return Net(name, "embedding", None, _flags(job, job.half), ins, outs, graph)


def _lm_head(job: Job, spec: Spec) -> Net:
    graph = heads.lm_head(spec, _table_dtype(job))
    ins, outs = _ios(graph, job.half, [("token_id", "i32")])
    return Net("lm_head", "lm_head", None, _flags(job, job.half, quant_output=False), ins, outs, graph)


def _block(job: Job, spec: Spec, name: str, layer: int, step: Step, decode: bool) -> Net:
    graph = decoder.block(name, spec, layer, step, decode)
    ins, outs = _ios(graph, job.half, [(n, job.half) for n in ("output_states", "k_cache", "v_cache")])
    flags = _flags(job, job.quantize, addr_mode="io_alone" if decode else "basic", q_group_size=job.q_group_size, q_symmetric=job.symmetric)
    return Net(name, "block_cache" if decode else "block", layer, flags, ins, outs, graph)


def _check_tensors(checkpoint: Checkpoint, family: Family, spec: Spec, nets: tuple[Net, ...]) -> None:
    """Every tensor that the nets need is there in the right shape; every tensor that is there is used or known to be unused."""
    used: set[str] = set()
    for net in nets:
        for weight in net.graph.weights.values():
            found = recipe.shape(weight.recipe, checkpoint)
            used |= set(recipe.names(weight.recipe))
            if _squeeze(found) != _squeeze(weight.shape):
                name = next(recipe.names(weight.recipe), weight.name)
                raise InputError(
                    f"tensor {name} of {checkpoint.path} has shape {list(checkpoint.info(name).shape)}",
                    f"net {net.name} with the sizes of config.json gives {list(weight.shape)} where the tensor gives {list(found)}",
                    "config.json and the weights do not belong together: download both again.",
                )
    known = list(family.unused)
    if spec.tied:
        known.append(f"^{re.escape(spec.path('head'))}\\.weight$")
    stray = sorted(n for n in checkpoint.tensors if n not in used and not any(re.search(p, n) for p in known))
    if stray:
        more = f" (and {len(stray) - 1} more)" if len(stray) > 1 else ""
        raise InputError(
            f"tensor {stray[0]}{more} of {checkpoint.path} would not be used",
            f"a {family.model_types[0]} model with this config.json has no such weight, so the result would be wrong",
            "Check config.json (num_hidden_layers, biases) against the weights.",
        )


def _squeeze(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(d for d in shape if d != 1)
