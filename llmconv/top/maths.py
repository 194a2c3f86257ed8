"""The maths of the Top operations, in NumPy. Every function takes NumPy itself first, so that this import is cheap."""

from __future__ import annotations


def rms(np, attrs, x, w):
    return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + attrs["eps"]) * w


def layer_norm(np, attrs, x, w, b):
    """Over the last axis."""
    x = x - np.mean(x, -1, keepdims=True)
    return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + attrs["eps"]) * w + b


def add_const(np, attrs, x):
    y = x + attrs["const_val"]
    return np.maximum(y, 0) if attrs["do_relu"] else y


def pad(np, attrs, x, _none):
    rank, more = x.ndim, attrs["paddings"]
    return np.pad(x, list(zip(more[:rank], more[rank:])), constant_values=attrs["val"])


def triangle(np, attrs, x):
    """The values on and above (below) a diagonal of the last two axes, 0 elsewhere."""
    return (np.triu if attrs["upper"] else np.tril)(x, attrs["diagonal"])


def matmul(np, attrs, x, w, bias):
    y = x @ (np.swapaxes(w, -1, -2) if attrs["right_transpose"] else w)
    return y if bias is None else y + bias


def a16(np, attrs, x, q, scale, zero, bias):
    n = q.shape[0]
    if attrs["weight_bits"] == 4:
        q = np.stack([q & 15, q >> 4], -1).reshape(n, -1)
    groups = scale.reshape(n, -1).shape[1]
    w = (q.reshape(n, groups, -1).astype(np.float32) - zero.reshape(n, groups, 1)) * scale.reshape(n, groups, 1)
    y = x @ w.reshape(n, -1).T
    return y if bias is None else y + bias


def rope(np, attrs, x, sin, cos):
    """Rotation of the pairs (i, i + D/2), or (2i, 2i + 1) where rope_mode is interleaved_pairs."""
    if attrs["rope_mode"] == "interleaved_pairs":
        turned = np.stack([-x[..., 1::2], x[..., 0::2]], -1).reshape(x.shape)
    else:
        half = x.shape[-1] // 2
        turned = np.concatenate([-x[..., half:], x[..., :half]], -1)
    return x * cos + turned * sin


def attention(np, attrs, q, k, v, mask, _none):
    """softmax(q k^T * scale + mask) v with grouped kv heads; q [B,mq,Hq,D], k and v [B,mk,Hkv,D], mask [B,1,mq,mk]."""
    batch, mq, _, _dim = q.shape
    groups = attrs["q_head"] // attrs["kv_head"]
    k, v = np.repeat(k, groups, 2), np.repeat(v, groups, 2)
    score = np.einsum("bqhd,bkhd->bhqk", q, k) * attrs["scale"]
    if attrs["mask_size"]:  # a small causal tile that the chip slides along: token i sees the history and j <= i
        score = np.where(np.tri(mq, k.shape[1], k.shape[1] - mq, dtype=bool), score, -1e9)
    elif mask is not None:
        score = score + mask
    score = np.exp(score - score.max(-1, keepdims=True))
    score /= score.sum(-1, keepdims=True)
    return np.einsum("bhqk,bkhd->bqhd", score, v).reshape(batch, mq, -1)


def compare(np, attrs, x, y):
    return {"Less": np.less, "Equal": np.equal, "Greater": np.greater}[attrs["mode"]](x, y).astype(np.float32)


def reduce(np, attrs, x):
    return {"ReduceSum": np.sum, "ReduceMean": np.mean}[attrs["mode"]](x, attrs["axes"], keepdims=attrs["keepdims"])


def topk(np, attrs, x, count=None):
    """`count`, when given, is the number to return at run time; attribute K is then its maximum."""
    count = attrs["K"] if count is None else int(np.ravel(count)[0])
    order = np.argsort(-x, axis=attrs["axis"], kind="stable")
    index = np.take(order, range(count), attrs["axis"])
    return np.take_along_axis(x, index, attrs["axis"]), index


def gelu(np, attrs, x):
    if attrs["approx_mode"] == "tanh":
        return 0.5 * x * (1 + np.tanh(0.7978845608028654 * (x + 0.044715 * x**3)))
    from math import erf

    return 0.5 * x * (1 + np.vectorize(erf)(x / 2**0.5))


def scatter_elements(np, attrs, x, index, updates):
    out = x.copy()
    np.put_along_axis(out, index.astype(np.int64), updates, attrs["axis"])
    return out


def scatter_nd(np, attrs, x, index, updates):
    out = x.copy()
    out[tuple(np.moveaxis(index.astype(np.int64), -1, 0))] = updates
    return out


def where(np, attrs, condition, x, y):
    x = attrs["x_const_val"] if attrs["x_is_const"] else x
    y = attrs["y_const_val"] if attrs["y_is_const"] else y
    return np.where(condition != 0, x, y)


def softmax(np, attrs, x):
    e = np.exp(attrs["beta"] * (x - x.max(attrs["axis"], keepdims=True)))
    return e / e.sum(attrs["axis"], keepdims=True)


def insert(np, attrs, x, rows):
    """x with `rows` written at `offset` along `axis`."""
    out = x.copy()
    place = [slice(None)] * x.ndim
    place[attrs["axis"]] = slice(attrs["offset"], attrs["offset"] + rows.shape[attrs["axis"]])
    out[tuple(place)] = rows
    return out


def conv(np, attrs, x, w, bias):
    """Two-dimensional, any group; x [N, C, H, W], w [O, C / group, kh, kw]."""
    top, left, bottom, right = attrs["pads"]
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    windows = np.lib.stride_tricks.sliding_window_view(x, tuple(w.shape[2:]), (2, 3))
    windows = windows[:, :, :: attrs["strides"][0], :: attrs["strides"][1]]
    n, c, h, v = windows.shape[:4]
    group = attrs["group"]
    windows = windows.reshape(n, group, c // group, h, v, *w.shape[2:])
    y = np.einsum("ngchvij,gocij->ngohv", windows, w.reshape(group, -1, *w.shape[1:])).reshape(n, -1, h, v)
    return y if bias is None else y + bias.reshape(1, -1, 1, 1)


def concat_slice(np, attrs, x, y):
    """x moved on along an axis by what y brings: as long as x, the oldest fall out."""
    axis = attrs["axis"]
    return np.concatenate([x, y], axis)[(slice(None),) * axis + (slice(y.shape[axis], None),)]


def delta_rule(np, attrs, q, k, v, g, beta, state, *_):
    """The gated delta rule token by token, whatever the chunks: q, k [B, L, Hk, d], v [B, L, Hv, d], g and beta [B, L,
    Hv], state [B, Hv, d, d], which becomes the new one in place, as on the chip. Value head h has the queries and keys
    of head h * Hk / Hv.

    S = exp(g) S, S = S + k (beta (v - S^T k))^T, y = S^T q: Yang, Kautz and Hatamizadeh 2024, Gated Delta Networks.
    """
    many = attrs["num_v_heads"] // attrs["num_k_heads"]
    if attrs["use_qk_l2norm"]:
        q, k = (x / np.sqrt((x * x).sum(-1, keepdims=True) + 1e-6) for x in (q, k))
    q, k = (np.repeat(x, many, 2) for x in (q * attrs["scale"], k))
    out = np.empty_like(v)
    for t in range(v.shape[1]):
        state *= np.exp(g[:, t])[..., None, None]
        known = np.einsum("bhij,bhi->bhj", state, k[:, t])
        state += k[:, t, :, :, None] * (beta[:, t, :, None] * (v[:, t] - known))[:, :, None]
        out[:, t] = np.einsum("bhij,bhi->bhj", state, q[:, t])
    return out
