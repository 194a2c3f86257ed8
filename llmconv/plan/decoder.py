"""The nets of a decoder: which there are, in which order, how each is compiled, and its public inputs and outputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from llmconv.blocks import decoder, heads
from llmconv.blocks.mixer import Step
from llmconv.blocks.spec import Spec
from llmconv.chips import CHIPS
from llmconv.plan.net import Net, flags_for, ios
from llmconv.request.job import Job
from llmconv.toolchain.flags import IO_CONFIG, CompileFlags
from llmconv.top.graph import Graph


def decoder_nets(job: Job, spec: Spec) -> Iterator[Net]:
    """The nets in the vendor's order: those that bring new coefficients first, then those that share them.

    Runtimes count the nets, so none may be added or left out.
    """
    # a dynamic net reads float32 norm weights as half precision and gives NaN (1.30.2); decode shares the coefficients
    # of prefill
    spec = replace(spec, float_norms=not job.dynamic)
    layers, blocks = range(spec.layers), Blocks(job, spec)
    stages = decode_lengths(job)
    head = _lm_head(job, spec)
    if not job.embedding_disk:
        yield _embedding(job, spec, "embedding", embedding_length(job))
    if job.lora_max_rank:
        yield _lora(job, heads.lm_head_lora(spec, job.lora_max_rank))
        yield _embedding_lora(job, spec, "embedding_lora", embedding_length(job))
    if not spec.shares_table:
        yield head
    if has_sampling_heads(job):
        yield _sampling(job, heads.greedy_head(spec), [("token_id", "i32")])
        yield _sampling(
            job, heads.sample_head(spec, job.seq_length), [("Softmax1", "f32"), ("token_idx", "i32")], dynamic=True
        )
    for layer in layers:
        yield _decode(blocks, layer, 0, job.seq_length, bool(stages) and _grows(spec, layer))
    if not job.embedding_disk:
        yield _embedding(job, spec, "embedding_cache", 1)
    if job.lora_max_rank:
        yield _embedding_lora(job, spec, "embedding_cache_lora", 1)
    if spec.shares_table:
        yield head
    for layer in layers:
        yield from _prefill(blocks, layer)
    for layer in filter(lambda layer: _grows(spec, layer), layers):
        for stage, length in enumerate(stages, 1):
            yield _decode(blocks, layer, stage, length, True)


def embedding_length(job: Job) -> int:
    """Most tokens of one launch of `embedding`. A shared prompt goes through it too."""
    return max(job.max_input_length, job.max_prefill_kv_length) if job.share_prompt else job.max_input_length


def has_sampling_heads(job: Job) -> bool:
    """Whether lm_head gives logits instead of a token: for sampling, or so that lm_head_lora can add to them."""
    return job.do_sample or job.lora_max_rank > 0


def decode_lengths(job: Job) -> list[int]:
    """KV lengths of the decode stages behind the full one, longest first: chunk_length doubled while below
    seq_length."""
    lengths, length = [], job.chunk_length
    while 0 < length < job.seq_length:
        lengths.append(length)
        length *= 2
    return lengths[::-1]


def _grows(spec: Spec, layer: int) -> bool:
    """Whether the layer keeps a row for every token, so that decode has stages by their number."""
    return any(state.grows for state in spec.kinds[layer].mixer.states(spec))


def _table_dtype(job: Job) -> str:
    """bf16 weights reach the compiler as raw bits: a large table is then never expanded to float32."""
    return "bf16" if job.half == "bf16" else "f32"


def _embedding(job: Job, spec: Spec, name: str, length: int) -> Net:
    graph = heads.embedding(name, spec, length, _table_dtype(job))
    return Net(
        name,
        "embedding",
        None,
        flags_for(job, job.half),
        *ios(graph, job.half, [(graph.outputs[0].name, job.half)]),
        lambda: graph,
    )


def _embedding_lora(job: Job, spec: Spec, name: str, length: int) -> Net:
    return _lora(job, heads.embedding_lora(name, spec, length, job.lora_max_rank))


def _lora(job: Job, graph: Graph) -> Net:
    flags = flags_for(job, job.half, addr_mode="io_alone")
    return Net(
        graph.name, "lora", None, flags, *ios(graph, job.half, [(f"{graph.name}.lora_add", job.half)]), lambda: graph
    )


def _lm_head(job: Job, spec: Spec) -> Net:
    greedy = not has_sampling_heads(job)
    graph = heads.lm_head(spec, _table_dtype(job), greedy, norm=job.splits)
    # the compiler marks a trailing cast to float32 in the tensor's name
    out = ("token_id", "i32") if greedy else (f"{spec.path('head')}.reshape_f32", "f32")
    mode, more = job.half, {}
    if spec.head_bits < 16:
        mode, more = f"w{spec.head_bits}{job.half}", {"q_group_size": job.head_group, "q_symmetric": job.symmetric}
    flags = flags_for(job, mode, quant_output=False, **more)
    return Net("lm_head", "lm_head", None, flags, *ios(graph, job.half, [out]), lambda: graph)


def _sampling(job: Job, graph: Graph, outputs: list[tuple[str, str]], dynamic: bool = False) -> Net:
    flags = CompileFlags(
        chip=job.chip, mode="F32", quant_input=False, quant_output=False, addr_mode="io_alone", dynamic=dynamic
    )
    return Net(graph.name, graph.name, None, flags, *ios(graph, "f32", outputs), lambda: graph)


class Blocks:
    """The block nets of a model. Layers that differ in names alone have one pattern: the net of the first of them."""

    def __init__(self, job: Job, spec: Spec):
        self.job, self.spec = job, spec
        self._firsts: dict[tuple, Net] = {}
        self._packed: dict[int, list[str]] = {}
        self._likes: dict[int, tuple] = {}
        for layer in range(spec.layers) if spec.stored else ():
            scope = self._scope(layer)
            packed = sorted(f"{path} {one}" for path, one in spec.stored.items() if path.startswith(scope))
            self._packed[layer] = [text.replace(scope, "") for text in packed]

    def step(self, length: int, history: int, **more: Any) -> Step:
        """How a net of the job is run; more: fields of Step."""
        job = self.job
        return Step(length, job.seq_length, history, split=job.splits, half=job.half, **more)

    def net(self, name: str, kind: str, layer: int, step: Step, **flags: Any) -> Net:
        """The net of a layer; flags: CompileFlags of its own."""
        spec, quantised = self._of(layer), self.job.weight_bits < 16 and not self._whole(layer)
        if self.job.num_core > 1 and quantised:
            step = replace(step, halved=True)
        build = partial(decoder.block, name, spec, layer, step, self.job.lora_max_rank)
        if layer not in self._likes:
            self._likes[layer] = self._like(layer)
        key = (kind, step, *flags.items(), *self._likes[layer])
        if first := self._firsts.get(key):
            return first.of_layer(name, layer, self._scope(layer), build)
        self._firsts[key] = made = self._first(name, kind, layer, step, build(), flags)
        return made

    def _like(self, layer: int) -> tuple:
        """Equal for layers whose graphs differ in names alone: all that llmconv.blocks.decoder asks about a layer."""
        kinds = self.spec.kinds
        kept = "whole" if self._whole(layer) else self._kept(layer)
        return kinds.index(kinds[layer]), layer == self.spec.layers - 1, kept, *self._packed.get(layer, ())

    def _kept(self, layer: int) -> tuple[str, ...]:
        """The roles of the layer's linears that stay in half precision beside quantised ones."""
        return tuple(role for role in self.spec.roles(layer) if (layer, role) in self.spec.kept)

    def _whole(self, layer: int) -> bool:
        """Whether none of the layer's linears is quantised, because all of them are kept: its nets are then those of a
        model in half precision."""
        return bool(self.spec.kept) and len(self._kept(layer)) == len(self.spec.roles(layer))

    def _of(self, layer: int) -> Spec:
        return replace(self.spec, kept={}) if self._whole(layer) else self.spec

    def _scope(self, layer: int) -> str:
        return self.spec.names["layer"].format(i=layer)

    def _first(self, name: str, kind: str, layer: int, step: Step, graph: Graph, flags: dict[str, Any]) -> Net:
        job, spec, mixer = self.job, self.spec, self.spec.kinds[layer].mixer
        states, ports = mixer.states(spec), mixer.ports(spec, layer, step)
        own = {state.name: state.dtype for state in states}
        types = {tensor: own[state] or job.half for state, tensor in (*ports.inputs, *ports.outputs)}
        outputs = [(v.name, types.get(v.name, job.half)) for v in graph.outputs]
        mode, more = self._quantisation(layer, step)
        settings = flags_for(job, mode, **flags, **more, **vars(mixer.compiling(spec, step)))
        tensors = ios(graph, job.half, outputs, types)
        scope = self._scope(layer)
        return Net(name, kind, layer, settings, *tensors, lambda: graph, scope=scope, states=states, ports=ports)

    def _quantisation(self, layer: int, step: Step) -> tuple[str, dict[str, Any]]:
        """The mode that a layer's blocks are compiled in, and the flags that go with it."""
        job, spec = self.job, self.spec
        more: dict[str, Any] = {"num_device": job.num_device if job.splits else 1}
        if self._whole(layer):
            return job.half, more
        if not spec.packed:
            quantised = job.weight_bits < 16
            more |= {"q_group_size": job.q_group_size * quantised, "q_symmetric": job.symmetric and quantised}
        elif job.splits:  # only what the flags know is split
            more |= {"q_group_size": spec.group}
        else:  # what is quantised already says so itself
            return job.half, more
        # the compiler takes its own quantisation for all linears of a net or none, and beside no table of other modes
        own = bool(self._kept(layer)) or any(one.compiling(spec, step).precision for one in spec.mixers)
        return job.quantize, more | {"coded": job.weight_bits < 16 and own}


def _prefill(blocks: Blocks, layer: int) -> Iterator[Net]:
    """The prefill nets of a layer. Document: block_i, with history when use_block_with_kv asks for it, and
    block_prompt_i for a shared prompt. The vendor's newer scheme (use_history_kv): block_i without history and
    block_kv_i with; of a layer that keeps no rows one block_i, which takes its states in every launch."""
    job = blocks.job

    def net(kind: str, length: int, history: int = 0, tile: int = 0) -> Net:
        step = blocks.step(length, history, mask_tile=tile, dynamic=job.dynamic)
        return blocks.net(f"{kind}_{layer}", kind, layer, step, dynamic=job.dynamic)

    tile = _tile(job, blocks.spec, layer)
    if job.use_history_kv:
        if not _grows(blocks.spec, layer):
            yield net("block", job.max_input_length, job.seq_length)
            return
        yield net("block", job.max_input_length, tile=tile)
        yield net("block_kv", job.max_input_length, job.seq_length, tile)
        return
    yield net("block", job.max_input_length, job.max_prefill_kv_length if job.use_block_with_kv else 0, tile)
    if job.share_prompt:
        yield net("block_prompt", job.max_prefill_kv_length, tile=tile)


def _tile(job: Job, spec: Spec, layer: int) -> int:
    """Edge of the constant mask of a layer's prefill, which decode has as a placeholder; 0 for a mask input.

    The document's prefill with history has the mask alone to hide the row that it gets where there is no history yet.
    """
    maskless = spec.kinds[layer].mixer.maskless and not job.use_block_with_kv
    return CHIPS[job.chip].mask_tile if job.use_history_kv or maskless else 0


def _decode(blocks: Blocks, layer: int, stage: int, history: int, staged: bool) -> Net:
    """A decode net. Stages of one layer carry one name in the .bmodel, and use the addresses that stage 0 was given."""
    name, job = f"block_cache_{layer}", blocks.job
    tile = _tile(job, blocks.spec, layer)
    step = blocks.step(1, history, decode=True, batch=job.batch, mask_tile=tile)
    assign = ""
    if staged:
        assign = f"{'use' if stage else 'save'}_io_alone_config={IO_CONFIG}"
    net = blocks.net(name, "block_cache", layer, step, addr_mode="io_alone", address_assign=assign)
    return replace(net, name=f"{name}_{stage}", stage_of=name) if stage else net
