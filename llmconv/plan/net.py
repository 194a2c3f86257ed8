"""A net: its name, inputs, outputs, compiler flags and graph, and what follows from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from types import MappingProxyType
from typing import Any, NamedTuple

from llmconv.blocks.mixer import Ports, State
from llmconv.blocks.tower import Fitted
from llmconv.checkpoint import recipe
from llmconv.coefficients.roles import Role, roles
from llmconv.coefficients.structure import structure
from llmconv.request.job import Job
from llmconv.toolchain.flags import CompileFlags
from llmconv.top.graph import Graph, Weight
from llmconv.top.text import render

WEIGHT_FILE = "weights.npz"  # as the MLIR calls it
NO_PORTS = Ports()


class IO(NamedTuple):
    """A tensor of a net's public contract with the runtimes: name, shape, dtype (bf16, f16, f32, i32)."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Net:
    """One net: its name, inputs, outputs, compiler flags and graph.

    build: makes the graph, which is not made before it is needed.
    stage_of: the net of the .bmodel that this one becomes a further stage of.
    pattern: an earlier net that is the same but for the layer's number in names (`of_layer`). scope: what the names of
    the layer's tensors begin with, with that number; "" in a net of no layer.
    states, ports: what its layer keeps between launches, and the tensors that carry it.
    tower: that this is the net of.
    """

    name: str
    kind: str
    layer: int | None
    flags: CompileFlags
    inputs: tuple[IO, ...]
    outputs: tuple[IO, ...]
    build: Callable[[], Graph] = field(repr=False, compare=False)
    stage_of: str | None = None
    scope: str = ""
    states: tuple[State, ...] = ()
    ports: Ports = NO_PORTS
    pattern: Net | None = field(default=None, repr=False, compare=False)
    tower: Fitted | None = field(default=None, repr=False, compare=False)

    def of_layer(self, name: str, layer: int, scope: str, build: Callable[[], Graph]) -> Net:
        """The net of another layer, whose graph differs from this one in names alone."""

        def named(ios: Iterable[IO]) -> tuple[IO, ...]:
            return tuple(IO(io.name.replace(self.scope, scope), io.shape, io.dtype) for io in ios)

        def carried(ends: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
            return tuple((state, tensor.replace(self.scope, scope)) for state, tensor in ends)

        return replace(
            self,
            name=name,
            layer=layer,
            scope=scope,
            build=build,
            pattern=self,
            inputs=named(self.inputs),
            outputs=named(self.outputs),
            ports=Ports(carried(self.ports.inputs), carried(self.ports.outputs), carried(self.ports.written)),
        )

    @cached_property
    def graph(self) -> Graph:
        return self.build()

    @property
    def module(self) -> str:
        """The graph's name. Stages of a net have one."""
        return self.stage_of or self.name

    @cached_property
    def mlir(self) -> str:
        return self.text(_mlir)

    @cached_property
    def weights(self) -> tuple[Weight, ...]:
        if not self.pattern:
            return tuple(self.graph.weights.values())
        before, after = self.pattern.scope, self.scope
        return tuple(
            Weight(self.named(w.name), w.shape, recipe.renamed(w.recipe, before, after), w.dtype)
            for w in self.pattern.weights
        )

    @cached_property
    def roles(self) -> tuple[Role, ...]:
        """How the graph uses each of its weights (llmconv.coefficients.roles)."""
        return tuple(roles(self.graph, dict(self.flags.precision)))

    @cached_property
    def tensors(self) -> list[str]:
        """Names of the checkpoint's tensors that this net is made of."""
        if self.pattern:
            return sorted(map(self.named, self.pattern.tensors))
        return sorted({n for w in self.weights for n in recipe.names(w.recipe)})

    @cached_property
    def structure(self) -> str:
        """A key that is equal for nets with the same program (llmconv.coefficients.structure)."""
        if self.pattern:
            return self.pattern.structure
        return structure(self.mlir, self.weights, self.flags.to_dict())

    @cached_property
    def coefficients(self) -> int:
        """Bytes of them, estimated: 2 per weight, or the packed integers with their scales and zero points."""
        return self.pattern.coefficients if self.pattern else sum(size for _, size in self._weight_sizes())

    @cached_property
    def lasting(self) -> int:
        """Those of them that are made of the checkpoint's tensors, and so the same for all lengths."""
        if self.pattern:
            return self.pattern.lasting
        made = {weight.name for weight in self.weights if any(recipe.names(weight.recipe))}
        return sum(size for name, size in self._weight_sizes() if name in made)

    def _weight_sizes(self) -> Iterator[tuple[str, int]]:
        """Name and bytes of each weight as the compiler keeps it."""
        group, bits = self.flags.q_group_size, {"W4": 4, "W8": 8}.get(self.flags.mode[:2], 16)
        for op in self.graph.ops:
            if op.kind != "Weight":
                continue
            value = op.results[0]
            count = prod(value.shape)
            if value.dtype == "ui8":
                yield value.name, count
            elif value.dtype in ("bf16", "f16"):
                yield value.name, 2 * count
            elif bits < 16 and len(value.shape) == 2 and value.name.endswith(".weight"):
                yield value.name, count * bits // 8 + (count // group * 3 if group else 0)
            else:
                yield value.name, 2 * count

    @cached_property
    def io_bytes(self) -> int:
        """Bytes of its inputs and outputs."""
        sizes = {"f32": 4, "i32": 4}
        if self.pattern:
            return self.pattern.io_bytes
        return sum(prod(io.shape) * sizes.get(io.dtype, 2) for io in (*self.inputs, *self.outputs))

    @cached_property
    def history(self) -> tuple[IO, ...]:
        """The inputs that have a row for every earlier token [B, rows, ...]."""
        growing = {state.name for state in self.states if state.grows}
        named = {tensor for state, tensor in self.ports.inputs if state in growing}
        return tuple(io for io in self.inputs if io.name in named)

    @cached_property
    def places(self) -> list[str]:
        """The paths of the weights that a runtime loads an adapter into."""
        if self.pattern:
            return list(map(self.named, self.pattern.places))
        return [op.attrs["path"] for op in self.graph.ops if op.kind == "Weight" and "path" in op.attrs]

    @property
    def numbered(self) -> list[str]:
        """Names in the .bmodel that hold the layer's number: `places`, and outputs called after their layer."""
        return [*self.places, *(io.name for io in self.outputs if self.scope and self.scope in io.name)]

    def text(self, make: Callable[[Net], str]) -> str:
        """make(self), a text of graph and flags. It is made once for all nets of a pattern, which differ in names
        alone.
        """
        if self.pattern:
            return self._renamed(self.pattern.text(make))
        if make not in self._texts:
            self._texts[make] = make(self)
        return self._texts[make]

    @cached_property
    def _texts(self) -> dict[Callable[[Net], str], str]:
        return {}

    def _renamed(self, text: str) -> str:
        """The pattern's text with the names of this net."""
        assert self.pattern
        return self.named(text).replace(f"module @{self.pattern.module} ", f"module @{self.module} ")

    def named(self, text: str) -> str:
        """A name or a text of the pattern as it is in this net."""
        assert self.pattern
        return text.replace(self.pattern.scope, self.scope)


def _mlir(net: Net) -> str:
    return render(net.graph, WEIGHT_FILE)


def flags_for(job: Job, mode: str, **more: Any) -> CompileFlags:
    """Compiler flags of a net on all cores, with half-precision inputs and outputs unless `more` says otherwise."""
    return CompileFlags(
        **{"chip": job.chip, "mode": mode.upper(), "num_core": job.num_core, "quant_input": True, "quant_output": True}
        | more
    )


def ios(
    graph: Graph, float_type: str, outputs: Sequence[tuple[str, str]], types: Mapping[str, str] = MappingProxyType({})
) -> tuple[tuple[IO, ...], tuple[IO, ...]]:
    """The public tensors: float inputs are of `float_type` unless `types` says otherwise, ids i32; `outputs` gives
    (name, dtype) in order."""
    ins = tuple(
        IO(v.name, v.shape, "i32" if v.dtype == "si32" else types.get(v.name, float_type)) for v in graph.inputs
    )
    return ins, tuple(IO(name, v.shape, dtype) for v, (name, dtype) in zip(graph.outputs, outputs, strict=True))
