"""The graph of a tower that hears: convolutions over a log-mel spectrogram, a transformer encoder with sinusoids for
positions, and a projector.

Conventions are those of transformers' modeling_qwen3_asr (Qwen3ASREncoder, as Qwen3-Omni's) and modeling_qwen2_5_omni
(Qwen2_5OmniAudioEncoder, as Whisper's). Names of operations are those of the tensors.
"""

from __future__ import annotations

from llmconv.blocks.audio.spec import AudioSpec
from llmconv.blocks.vision.layers import activate, attend, layer_norm, linear
from llmconv.top.graph import Graph, Value

GELU = "gelu"  # between convolutions, whatever the blocks have


def graph(name: str, spec: AudioSpec) -> Graph:
    """The tower as a net of that name. k: chunks of a launch, c: frames of a chunk, n: hidden states in the blocks.

    Inputs: input_states [k, 1, mels, c] f32, or [k, mels, c] where convolutions go over frames alone. A masked net has
    attn_mask [1, 1, n, n] f32 behind it; where convolutions go over frames alone, frame_mask [k, 1, c] f32 before that,
    1 for frames that are there. Output: the hidden states [1, N, out], or [N, out] of a masked net.
    """
    g = Graph(name)
    x = _in_two(g, spec) if spec.planar else _in_one(g, spec)
    size = (spec.states(spec.chunk), spec.width)
    x = g.Add(x, g.weight("positions.weight", (1, *size), ("sinusoids", *size)), name="positions.add")
    if spec.chunks > 1:
        x = g.Reshape(x, to=(1, spec.rows, spec.width), shape=(1, -1, spec.width), name="positions.rows")
    mask = g.input("attn_mask", (1, 1, spec.rows, spec.rows)) if spec.masked else g.none
    for layer in range(spec.depth):
        x = _block(g, spec, layer, x, mask)
    x = _project(g, spec, _pooled(g, spec, x))
    if spec.masked:
        return g.output(x)
    # with other axes than the last operation has: the compiler would drop one that changes nothing
    return g.output(g.Reshape(x, to=(1, *x.shape), shape=(1, -1, spec.out), name=f"{x.name}.rows"))


def _conv(g: Graph, spec: AudioSpec, role: str, x: Value, out: int, sides: tuple[int, int], stride: int) -> Value:
    """A convolution whose kernel has `sides`, 3 or 1 each, and its GELU. A side of 3 moves by the stride, and keeps the
    edge by a zero beyond it."""
    path = spec.path(role)
    kernel = g.weight(f"{path}.weight", (out, x.shape[1], *sides), ("tensor", f"{path}.weight"))
    bias = g.weight(f"{path}.bias", (out,), ("tensor", f"{path}.bias"))
    strides, pads = (tuple(value if side == 3 else least for side in sides) for value, least in ((stride, 1), (1, 0)))
    x = g.Conv(x, kernel, bias, kernel_shape=sides, strides=strides, pads=(*pads, *pads), name=path)
    return activate(g, GELU, x, path)


def _in_two(g: Graph, spec: AudioSpec) -> Value:
    """[k, states, width]: three convolutions, which halve bands and frames, and all that they give of a place in time
    joined."""
    x = g.input("input_states", (spec.chunks, 1, spec.mels, spec.chunk))
    for role in ("conv1", "conv2", "conv3"):
        x = _conv(g, spec, role, x, spec.channels, (3, 3), 2)
    path, (count, channels, bands, steps) = spec.path("conv_out"), x.shape
    x = g.Permute(x, order=(0, 3, 1, 2), name=f"{path}.permute")
    wide = channels * bands
    x = g.Reshape(x, to=(count, steps, wide), shape=(count, -1, wide), name=f"{path}.reshape")
    return linear(g, path, x, spec.width, "conv_out" not in spec.bare)


def _in_one(g: Graph, spec: AudioSpec) -> Value:
    """[k, states, width]: two convolutions over frames, of which the second halves them. A mask silences what the first
    one makes of frames that are not there."""
    count, frames, width = spec.chunks, spec.chunk, spec.width
    x = g.input("input_states", (count, spec.mels, frames))
    there = g.input("frame_mask", (count, 1, frames)) if spec.masked else None
    first = spec.path("conv1")
    x = g.Reshape(x, to=(count, spec.mels, 1, frames), name=f"{first}.plane")
    x = _conv(g, spec, "conv1", x, width, (1, 3), 1)
    if there:
        x = g.Mul(x, g.Reshape(there, to=(count, 1, 1, frames), name=f"{first}.frames"), name=f"{first}.mul")
    x = _conv(g, spec, "conv2", x, width, (1, 3), 2)
    second, steps = spec.path("conv2"), x.shape[-1]
    x = g.Reshape(x, to=(count, width, steps), name=f"{second}.reshape")
    return g.Permute(x, order=(0, 2, 1), name=f"{second}.permute")


def _block(g: Graph, spec: AudioSpec, layer: int, x: Value, mask: Value) -> Value:
    """x + attention(norm(x)), then that + fc2(act(fc1(norm(that))))."""
    fc1, fc2, out = (spec.path(role, layer) for role in ("fc1", "fc2", "o"))
    y = layer_norm(g, spec.path("norm1", layer), x, spec.eps)
    heads = (spec.heads, spec.head_dim)
    q, k, v = (
        g.Reshape(
            linear(g, spec.path(role, layer), y, spec.width, role not in spec.bare),
            to=(1, spec.rows, *heads),
            shape=(1, -1, *heads),
            name=f"{spec.path(role, layer)}.reshape",
        )
        for role in "qkv"
    )
    y = attend(g, f"{out}.fattention", q, k, v, mask)
    x = g.Add(x, linear(g, out, y, spec.width), name=f"{out}.add")
    y = linear(g, fc1, layer_norm(g, spec.path("norm2", layer), x, spec.eps), spec.intermediate)
    return g.Add(x, linear(g, fc2, activate(g, spec.activation, y, fc1), spec.width), name=f"{fc2}.add")


def _pooled(g: Graph, spec: AudioSpec, x: Value) -> Value:
    """[N, width]: the mean of `pool` hidden states that follow one another."""
    name = spec.path("last_norm")
    if spec.pool == 1:
        return g.Reshape(x, to=x.shape[1:], shape=(-1, spec.width), name=f"{name}.flat")
    pairs = (spec.tokens, spec.pool, spec.width)
    x = g.Reshape(x, to=pairs, shape=(-1, *pairs[1:]), name=f"{name}.pairs")
    return g.Reduce(x, axes=(1,), keepdims=False, mode="ReduceMean", name=f"{name}.mean")


def _project(g: Graph, spec: AudioSpec, x: Value) -> Value:
    """The last norm, and linears with activations between them."""
    x = layer_norm(g, spec.path("last_norm"), x, spec.eps)
    for number in range(spec.linears):
        last = number == spec.linears - 1
        path = spec.path(f"project{number}")
        x = linear(g, path, x, spec.out if last else spec.width)
        x = x if last else activate(g, spec.activation, x, path)
    return x
