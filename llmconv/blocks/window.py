"""Sliding windows, made from the one causal mask that runtimes hand to every layer.

Where the keys' columns are in order, a key is `window` or more positions back exactly when the query also sees the
key `window` columns further on. So the mask itself, moved by `window` columns, says what to hide. This needs no
coefficients, and no positions, which bf16 holds exactly only up to 256.
"""

from __future__ import annotations

from llmconv.blocks.mixer import Given, Step
from llmconv.blocks.slices import cut
from llmconv.top.graph import Graph, Value

HIDDEN = -10000.0  # as in the masks of runtimes
SEEN = 8192.0  # a power of two that is nearer to 0 than HIDDEN: the sum of both is negative, and nothing is rounded


def windowed(g: Graph, step: Step, window: int, x: Value, given: Given) -> Value:
    """The mask [B, 1, L, keys] of a layer whose queries see `window` keys, themselves included: 0 where one may look.

    x: the net's input_states [B, L, H]. A mask that is an input has 0 and about -10000; a dynamic launch that brings
    none gets the causal one.
    """
    if given.mask is not None:
        return g.Sub(given.mask, _too_far(g, step, window, given.mask), name="attention_window")
    mask = causal(g, x, given)
    plane = g.Sub(mask, _too_far(g, step, window, mask), name="attention_window.plane")
    return g.Unsqueeze(plane, axes=(0, 1), name="attention_window")


def causal(g: Graph, x: Value, given: Given) -> Value:
    """The causal mask [L, history + L] in the lengths of a dynamic launch.

    It has two dimensions. With four, the compiler makes layer groups with Trilu in or behind them: dynamic nets cannot
    compute some of these, and in others one of two cores does not wait for the other (1.30.2).
    """
    new = _zeros(g, x, "causal_new")
    one = g.AddConst(new, const_val=1.0, name="causal_one")
    hidden = g.MulConst(one, const_val=HIDDEN, name="causal_hidden")
    square = g.MatMul(one, hidden, g.none, right_transpose=True, name="causal_square")
    mask = g.Trilu(square, upper=1, diagonal=1, name="causal_mask")
    if given.history is None:
        return mask
    past = _zeros(g, given.history, "causal_past")
    past = g.MatMul(new, past, g.none, right_transpose=True, name="causal_history")
    return g.Concat(past, mask, axis=1, name="causal_whole")


def _zeros(g: Graph, x: Value, name: str) -> Value:
    """A column of zeros [L, 1] for x [1, L, ...]: a launch says its lengths in the shapes of its inputs alone."""
    first = _corner(g, x, (1, x.shape[1], *(1,) * (len(x.shape) - 2)), f"{name}.first")
    column = g.Reshape(first, to=(x.shape[1], 1), shape=(-1, 1), name=f"{name}.column")
    return g.MulConst(column, const_val=0.0, name=name)


def _too_far(g: Graph, step: Step, window: int, mask: Value) -> Value:
    """SEEN where the mask's key is `window` or more positions back, else 0 (or either where the mask hides it)."""
    keys, past = step.keys, step.history
    if step.decode:  # the token's own key is in the last column, one further on than the last of the history
        return _pad(g, _seen(g, cut(g, mask, window - 1, keys - 1, "window_ahead")), 0, window, "window_far")
    if step.dynamic:  # padded first: of fewer keys than the window has nothing would be left
        padded = _pad(g, _seen(g, mask), 0, window, "window_padded")
        return cut(g, padded, window, keys + window, "window_far")
    new = None
    if window < step.length:
        new = _seen(g, cut(g, mask, past + window, keys, "window_ahead"))
        new = _pad(g, new, 0, window, "window_new" if past else "window_far")
    if not past:
        assert new  # there is no window where it has no more columns than tokens
        return new
    old = _too_far_in_history(g, step, window, mask)
    return _pad(g, old, 0, step.length, "window_far") if new is None else g.Concat(old, new, axis=3, name="window_far")


def _too_far_in_history(g: Graph, step: Step, window: int, mask: Value) -> Value:
    """[1, 1, L, P] for a static net, where columns without a key may lie between past tokens and new ones.

    For new token r, a key of the history is too far back where the history still shows `window` - 1 - r columns further
    on. All tokens see the same history. So each row is the first one, moved by one column more: rows of N elements
    beneath each other, read as rows of N - 1.
    """
    length, past, width = step.length, step.history, step.length + step.history
    row = _seen(g, _corner(g, mask, (1, 1, 1, past), "window_history"), "window_history.seen")
    # in front of the history all is too far back, behind it nothing is
    row = _pad(g, row, max(0, length - window), 0, "window_row.before", SEEN)
    row = _pad(g, row, 0, window, "window_row.behind")
    first = max(0, window - length)
    rows = g.Tile(cut(g, row, first, first + width, "window_row"), tile=(1, 1, length, 1), name="window_rows")
    rows = g.Reshape(rows, to=(1, 1, width, length), name="window_rows.flat")
    rows = _corner(g, rows, (1, 1, width - 1, length), "window_rows.cut")
    rows = g.Reshape(rows, to=(1, 1, length, width - 1), name="window_rows.moved")
    return cut(g, rows, length - 1, width - 1, "window_old")


def _corner(g: Graph, x: Value, ends: tuple[int, ...], name: str) -> Value:
    """The first elements of every axis."""
    return g.Slice(x, *(g.none,) * 3, offset=(0,) * len(ends), steps=(1,) * len(ends), ends=ends, name=name)


def _seen(g: Graph, mask: Value, name: str = "window_seen") -> Value:
    """SEEN where the mask shows a key, 0 where it hides one."""
    return g.AddConst(mask, const_val=SEEN, do_relu=True, name=name)


def _pad(g: Graph, x: Value, before: int, behind: int, name: str, number: float = 0.0) -> Value:
    """More columns; x itself for none."""
    rank = len(x.shape)
    paddings = (0,) * (rank - 1) + (before,) + (0,) * (rank - 1) + (behind,)
    return g.Pad(x, g.none, paddings=paddings, val=number, name=name) if before or behind else x
