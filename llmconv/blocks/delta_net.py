"""Gated delta-net layers (Yang, Kautz and Hatamizadeh 2024): a short convolution and a linear recurrence in place of
attention. What a layer keeps is as large for every number of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmconv.blocks import delta_rule
from llmconv.blocks.convolution import Convolution
from llmconv.blocks.linear import linear
from llmconv.blocks.mixer import NORMS, Compiling, Given, Mixer, Ports, State, Step
from llmconv.blocks.slices import slab
from llmconv.blocks.spec import Spec
from llmconv.errors import InputError
from llmconv.top.graph import Graph, Value


@dataclass(frozen=True)
class DeltaNet(Mixer):
    """key_heads, value_heads: heads of queries and keys, and of values, each of `width` elements; taps: columns of the
    convolution.

    States: the last `taps` columns that went into the convolution [C, taps], zeros before the first token, and the
    recurrent state [value_heads, width of a key, width of a value], which the rule writes over its input.
    """

    key_heads: int
    value_heads: int
    width: int
    taps: int

    kind = "delta_net"
    last = "delta_out"
    single = NORMS

    @property
    def values(self) -> int:
        """Elements of all value heads."""
        return self.value_heads * self.width

    @property
    def channels(self) -> int:
        """Elements of all queries, keys and values."""
        return 2 * self.key_heads * self.width + self.values

    @property
    def _heads(self) -> dict[str, tuple[int, int]]:
        """First and last head of queries, keys and values side by side."""
        k, v = self.key_heads, self.value_heads
        return {"q": (0, k), "k": (k, 2 * k), "v": (2 * k, 2 * k + v)}

    def states(self, spec: Spec) -> tuple[State, ...]:
        return (
            State("conv", (self.channels, self.taps), "replace"),
            State("recurrent", (self.value_heads, self.width, self.width), "in_place", "f16"),
        )

    def ports(self, spec: Spec, layer: int, step: Step) -> Ports:
        if step.decode:
            own = (("conv", "conv_state"), ("recurrent", "recurrent_state"))
            new = f"{spec.path('delta_conv', layer)}.concat"
            return Ports(own, (("conv", new),), (("recurrent", "recurrent_state"),))
        own = (("recurrent", "recurrent_states"), *((("conv", "conv_states"),) if step.history else ()))
        return Ports(own, (("conv", "conv_states" if not step.history else "conv_states_new"),), (own[0],))

    def linears(self, spec: Spec) -> Mapping[str, tuple[int, int]]:
        hidden = spec.hidden
        return {
            "delta_qkv": (hidden, self.channels),
            "delta_z": (hidden, self.values),
            "delta_b": (hidden, self.value_heads),
            "delta_a": (hidden, self.value_heads),
            "delta_out": (self.values, hidden),
        }

    def check(self, cores: int) -> None:
        """The rule gives every core as many heads of keys, and leaves the rest out (1.30.2)."""
        if self.key_heads % cores:
            raise InputError(
                f"num_core {cores} with linear_num_key_heads {self.key_heads}",
                "the compiler's delta rule gives every core as many heads, and would leave one out",
                "Use num_core 1.",
            )

    def compiling(self, spec: Spec, step: Step) -> Compiling:
        rule = delta_rule.DECODE if step.decode else delta_rule.PREFILL
        return Compiling("0:0,1:1" if step.decode else "", (*rule, *super().compiling(spec, step).precision))

    def mix(
        self, g: Graph, spec: Spec, layer: int, step: Step, x: Value, given: Given
    ) -> tuple[Value, Mapping[str, Value]]:
        """The convolution's new state [B, C, taps] is an output. It has zeros for columns before the first token."""
        z = linear(g, spec, "delta_z", layer, x)
        z = g.SiLU(z, name=f"{spec.path('delta_z', layer)}.silu")
        beta = g.Sigmoid(linear(g, spec, "delta_b", layer, x), name="beta")
        decay = self._decay(g, spec, layer, x)
        columns, convolved = self._convolved(g, spec, layer, step, linear(g, spec, "delta_qkv", layer, x), given)
        qkv = self._parts(g, step, g.SiLU(convolved, name="conv.silu"))
        triangles = [self._triangle(g, spec, layer, step, kind) for kind in delta_rule.TRIANGLES]
        heads, state = delta_rule.Heads(self.key_heads, self.value_heads, self.width), given.states["recurrent"]
        if step.decode:
            y = delta_rule.one_token(g, heads, qkv, decay, beta, state)
        else:
            y = delta_rule.prompt(g, heads, qkv, (decay, beta), state, triangles)
        norm = spec.path("delta_norm", layer)
        gamma = g.weight(f"{norm}.weight", (1, 1, 1, self.width), ("tensor", f"{norm}.weight"))
        y = g.RMSNorm(y, gamma, eps=spec.eps, name="rule.norm")
        free: dict[str, Any] = {} if step.decode else {"shape": (1, -1, self.values)}
        y = g.Reshape(y, to=(step.batch, step.length, self.values), **free, name="rule.flat")
        return linear(g, spec, "delta_out", layer, g.Mul(y, z, name="rule.gated")), {"conv": columns}

    def _decay(self, g: Graph, spec: Spec, layer: int, x: Value) -> Value:
        """The log of the state's decay [B, L, value_heads]: -exp(A_log) * softplus(a + dt_bias)."""
        path = spec.path("delta_decay", layer)
        factor = g.weight(
            path, (1, 1, self.value_heads), ("reshape", ("decay", ("tensor", path)), (1, 1, self.value_heads))
        )
        y = g.Mul(g.Softplus(linear(g, spec, "delta_a", layer, x), name="softplus"), factor, name="decay")
        return g.Clip(y, min=delta_rule.LEAST, max=delta_rule.MOST, name="decay.clip")

    def _convolved(self, g: Graph, spec: Spec, layer: int, step: Step, qkv: Value, given: Given) -> tuple[Value, Value]:
        """The convolution's new state, and what it gives."""
        conv, past = Convolution(spec.path("delta_conv", layer), self.channels, self.taps), given.states.get("conv")
        (_, name), *_ = self.ports(spec, layer, step).outputs
        if step.decode:
            return conv.token(g, step, qkv, given.states["conv"], name)
        return conv.prompt(g, step, qkv, past, None, name)

    def _parts(self, g: Graph, step: Step, y: Value) -> list[Value]:
        """Queries, keys and values [B, L, heads, width], cut out of the convolution's result."""
        if step.decode:
            return [
                g.Reshape(
                    slab(g, y, 1, first * self.width, last * self.width, f"rule.{name}.slice"),
                    to=(step.batch, 1, last - first, self.width),
                    name=f"rule.{name}",
                )
                for name, (first, last) in self._heads.items()
            ]
        heads = self.channels // self.width
        shape = (1, heads, self.width, -1)
        y = g.Reshape(y, to=(*shape[:-1], step.length), shape=shape, name="heads")
        return [
            g.Permute(slab(g, y, 1, first, last, f"rule.{name}.slice"), order=(0, 3, 1, 2), name=f"rule.{name}")
            for name, (first, last) in self._heads.items()
        ]

    def _triangle(self, g: Graph, spec: Spec, layer: int, step: Step, kind: str) -> Value:
        """A constant of the chunked rule; of a net of one token a placeholder, as above. Where that is stored in bf16,
        the bits of the rule's 1.0, which is f16, are those of 2^-7."""
        one = 2.0**-7 if step.decode and step.half == "bf16" else 1.0
        name = f"{spec.names['layer'].format(i=layer)}linear_attn.{kind}"
        attrs = {"placeholder": "Auto"} if step.decode else {}
        return g.weight(name, (delta_rule.CHUNK,) * 2, ("triangle", delta_rule.CHUNK, kind, one), **attrs)
