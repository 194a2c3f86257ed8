"""Short convolutions between two gates (LFM2, Liquid AI 2025) in place of attention. What a layer keeps is as large for
every number of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmconv.blocks.convolution import Convolution
from llmconv.blocks.linear import linear
from llmconv.blocks.mixer import ENDS, Compiling, Given, Mixer, Port, Ports, State, Step
from llmconv.blocks.spec import Spec
from llmconv.top.graph import Graph, Value


@dataclass(frozen=True)
class ShortConv(Mixer):
    """out(c * conv(b * x)), where b, c and x are linears. taps: columns of the convolution; biased: it adds a number to
    every channel.

    State: the last `taps` columns that went into the convolution [H, taps], zeros before the first token.
    """

    taps: int
    biased: bool = False

    kind = "short_conv"
    last = "conv_out"

    def states(self, spec: Spec) -> tuple[State, ...]:
        return (State("conv", (spec.hidden, self.taps), "replace"),)

    def ports(self, spec: Spec, layer: int, step: Step) -> Ports:
        if step.decode:
            return Ports((("conv", "conv_state"),), (("conv", "conv_state_new"),))
        if step.history:
            return Ports((("conv", "conv_states"),), (("conv", "conv_states_new"),))
        return Ports(outputs=(("conv", "conv_states"),))

    def linears(self, spec: Spec) -> Mapping[str, tuple[int, int]]:
        return dict.fromkeys(("conv_b", "conv_c", "conv_x", "conv_out"), (spec.hidden, spec.hidden))

    def own(self, spec: Spec, step: Step) -> tuple[Port, ...]:
        return () if step.decode or step.dynamic else (Port(ENDS, (self.taps,), "si32"),)

    def compiling(self, spec: Spec, step: Step) -> Compiling:
        """Decode has the state in place, as that of delta-net layers has."""
        return Compiling("0:0,1:1" if step.decode else "")

    def mix(
        self, g: Graph, spec: Spec, layer: int, step: Step, x: Value, given: Given
    ) -> tuple[Value, Mapping[str, Value]]:
        """The new state is [B, H, taps]."""
        width, path = spec.hidden, spec.path("conv", layer)
        before, behind, x = (linear(g, spec, f"conv_{part}", layer, x) for part in "bcx")
        y = g.Mul(before, x, name="gate.before")
        conv, past = Convolution(path, width, self.taps), given.states.get("conv")
        ((_, name),) = self.ports(spec, layer, step).outputs
        if step.decode:
            columns, y = conv.token(g, step, y, given.states["conv"], name)
            y = g.Reshape(y, to=(step.batch, 1, width), name="conv.row")
        else:
            columns, y = conv.prompt(g, step, y, past, given.own.get(ENDS), name)
            free: dict[str, Any] = {"shape": (1, width, -1)}
            y = g.Reshape(y, to=(1, width, step.length), **free, name="conv.flat")
            y = g.Permute(y, order=(0, 2, 1), name="conv.turned")
        if self.biased:
            y = g.Add(y, g.weight(f"{path}.bias", (1, 1, width), ("tensor", f"{path}.bias")), name="conv.biased")
        return linear(g, spec, "conv_out", layer, g.Mul(behind, y, name="gate.behind")), {"conv": columns}
