"""A causal convolution of a few taps, of every channel by itself: it goes before a delta rule
(llmconv.blocks.delta_net) or stands in attention's place (llmconv.blocks.short_conv), and keeps its last columns."""

from __future__ import annotations

from dataclasses import dataclass

from llmconv.blocks.mixer import Step
from llmconv.blocks.slices import slab
from llmconv.top.graph import Graph, Value


@dataclass(frozen=True)
class Convolution:
    """path: of the kernel [channels, 1, taps]; its last tap is the token's own.

    The state [B, channels, taps] is the last `taps` columns, with zeros for those before the first token. It is the
    layout that prefill and decode have, so that a runtime copies bytes.
    """

    path: str
    channels: int
    taps: int

    def prompt(
        self, g: Graph, step: Step, x: Value, past: Value | None, ends: Value | None, name: str
    ) -> tuple[Value, Value]:
        """x [1, L, channels] -> the state behind the prompt, under that name, and the convolved columns
        [1, channels, 1, L].

        past: the state before the prompt; None for a conversation's beginning. Its columns, or zeros, stand before the
        prompt's, so that a prompt may be shorter than the convolution. ends: the numbers [taps] of the columns that are
        the new state, where the prompt may be shorter than x (see llmconv.blocks.mixer.ENDS).
        """
        c, count = self.channels, step.length + self.taps
        before = past or self._zeros(g)
        if past:
            self._zeros(g, placeholder="Auto")
        y = g.Concat(before, g.Permute(x, order=(0, 2, 1), name="conv.permute"), axis=2, name="conv.behind")
        columns = g.Gather(y, ends, axis=2, name=name) if ends else slab(g, y, 2, -self.taps, count, name)
        y = g.Reshape(y, to=(1, c, 1, count), shape=(1, c, 1, -1), name="conv.rows")
        kernel = self._kernel(g, (c, 1, 1, self.taps))
        shape = {"kernel_shape": (1, self.taps), "strides": (1, 1), "pads": (0, self.taps - 1, 0, 0), "group": c}
        y = g.Conv(y, kernel, g.none, **shape, name="conv")
        return columns, slab(g, y, 3, self.taps, count, "conv.new")

    def token(self, g: Graph, step: Step, x: Value, past: Value, name: str) -> tuple[Value, Value]:
        """x [B, 1, channels] -> the state behind one more token, under that name, and its convolved column [B,
        channels]."""
        self._zeros(g, placeholder="Auto")
        new = g.Reshape(x, to=(step.batch, self.channels, 1), name="conv.column")
        columns = g.ConcatSlice(past, new, axis=2, name=name)
        y = g.Mul(columns, self._kernel(g, (1, self.channels, self.taps)), name="conv.products")
        return columns, g.Reduce(y, axes=(2,), keepdims=False, mode="ReduceSum", name="conv")

    def _kernel(self, g: Graph, shape: tuple[int, ...]) -> Value:
        """The kernel; the shapes of prefill and of decode are the same bytes."""
        return g.weight(f"{self.path}.weight", shape, ("reshape", ("tensor", f"{self.path}.weight"), shape))

    def _zeros(self, g: Graph, **attrs: str) -> Value:
        """Columns before the first token. A placeholder only gives a net the same coefficients as prefill."""
        shape = (1, self.channels, self.taps)
        return g.weight(f"{self.path}.zeros", shape, ("fill", shape, 0.0), **attrs)
