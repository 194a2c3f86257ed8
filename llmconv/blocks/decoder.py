"""The pre-norm decoder block that dense families share: attention with KV cache, gated MLP, RMSNorm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from llmconv.blocks.spec import ACTIVATIONS, LLAMA, Spec, bias_roles
from llmconv.checkpoint.config import Config
from llmconv.top.graph import Graph, Value


@dataclass(frozen=True)
class Decoder:
    """A family's knobs. A bias knob is True, False, or the config.json field that says so."""

    names: Mapping[str, str] = field(default_factory=lambda: LLAMA)
    attention_bias: bool | str = False
    output_bias: bool | str = False
    mlp_bias: bool | str = False
    qk_norm: bool = False

    def spec(self, config: Config) -> Spec:
        """The sizes of a model of this family. Raises InputError for a missing or senseless field."""
        hidden, heads = config.int("hidden_size"), config.int("num_attention_heads")
        head_dim = config.int("head_dim", hidden // heads)
        window = config.int("sliding_window", 0, least=0) if config.bool("use_sliding_window", False) else 0
        return Spec(
            names=self.names,
            hidden=hidden,
            layers=config.int("num_hidden_layers"),
            heads=heads,
            kv_heads=config.int("num_key_value_heads", heads),
            head_dim=head_dim,
            intermediate=config.int("intermediate_size"),
            vocab=config.int("vocab_size"),
            eps=config.float("rms_norm_eps", 1e-6),
            activation=config.get("hidden_act") or "silu",
            rope=config.rope(head_dim),
            tied=config.bool("tie_word_embeddings", False),
            bias=bias_roles(config, attention=self.attention_bias, output=self.output_bias, mlp=self.mlp_bias),
            qk_norm=self.qk_norm,
            max_position=config.int("max_position_embeddings", 2048),
            window=window or None,
        )


@dataclass(frozen=True)
class Step:
    """How a block net runs: `length` new tokens behind `history` rows of KV cache, tables for `capacity` positions.

    mask_history: whether the mask's columns start with the history's.
    """

    length: int
    capacity: int
    history: int = 0


def tensor(path: str) -> tuple:
    return ("tensor", path)


def linear(g: Graph, spec: Spec, role: str, layer: int, x: Value) -> Value:
    """x [1, L, K] times the role's weight, stored [N, K] by HuggingFace and [K, N] in the net, plus its bias."""
    k, n = spec.linear(role)
    path = spec.path(role, layer)
    bias = g.weight(f"{path}.bias", (1,) * (len(x.shape) - 1) + (n,), tensor(f"{path}.bias")) if role in spec.bias else g.none
    weight = g.weight(f"{path}.weight", (k, n), ("transpose", tensor(f"{path}.weight")))
    return g.MatMul(x, weight, bias, name=path)


def rms_norm(g: Graph, spec: Spec, path: str, x: Value, name: str | None = None) -> Value:
    """RMSNorm over the last axis; the operation is named after its weight unless `name` says otherwise."""
    weight = g.weight(f"{path}.weight", (1,) * (len(x.shape) - 1) + (x.shape[-1],), tensor(f"{path}.weight"))
    return g.RMSNorm(x, weight, eps=spec.eps, name=name or path)


def rotate(g: Graph, spec: Spec, step: Step, positions: Value, q: Value, k: Value) -> tuple[Value, Value]:
    """Rotary embedding of q and k [1, L, heads, D] by rows of the cos and sin tables."""
    rows = {}
    for part in ("cos", "sin"):
        table = g.weight(f"rotary_{part}.weight", (step.capacity, 1, spec.rope["dim"]), ("rope", part, dict(spec.rope), step.capacity))
        rows[part] = g.Gather(table, positions, name=f"rotary_{part}")
    return tuple(g.Rope(x, rows["sin"], rows["cos"], name=n) for x, n in ((q, "q_proj"), (k, "k_cache")))


def attention(g: Graph, spec: Spec, layer: int, step: Step, x: Value, positions: Value, mask: Value, cache: tuple[Value, Value] | None) -> tuple[Value, Value, Value]:
    """Self-attention of x [1, L, H]; returns its output and the new rows of k and v, [1, L, KV, D] each, k after rope.

    cache: history_k and history_v [1, history, KV, D], or None for a prefill without history.
    """
    projected = {}
    for role in "qkv":
        projected[role] = linear(g, spec, role, layer, x)
    for role, name in (("q", None), ("k", None), ("v", "v_cache")):
        heads = spec.heads if role == "q" else spec.kv_heads
        shape = (1, step.length, heads, spec.head_dim)
        # -1 lets a dynamic launch set the length; a decode step has length 1 for good
        free = {"shape": (1, -1, heads, spec.head_dim)} if step.length > 1 or cache is None else {}
        projected[role] = g.Reshape(projected[role], to=shape, **free, name=name or f"{spec.path(role, layer)}.reshape")
    q, k, v = projected["q"], projected["k"], projected["v"]
    if spec.qk_norm:
        q = rms_norm(g, spec, spec.path("q_norm", layer), q)
        k = rms_norm(g, spec, spec.path("k_norm", layer), k)
    q, k = rotate(g, spec, step, positions, q, k)
    keys, values = k, v
    if cache is not None:
        # only_merge: the address pass puts the new rows right behind the history, so nothing is copied
        keys = g.Concat(cache[0], k, axis=1, only_merge=True, name=f"{spec.path('k', layer)}.concat")
        values = g.Concat(cache[1], v, axis=1, only_merge=True, name=f"{spec.path('v', layer)}.concat")
    out = g.FAttention(
        q,
        keys,
        values,
        mask,
        g.none,
        name=spec.names["layer"].format(i=layer) + "fattention",
        scale=spec.head_dim**-0.5,
        batch=1,
        q_head=spec.heads,
        kv_head=spec.kv_heads,
        dim=spec.head_dim,
        mq=step.length,
        mk=step.history + step.length,
    )
    return linear(g, spec, "o", layer, out), k, v


def mlp(g: Graph, spec: Spec, layer: int, x: Value) -> Value:
    """down(act(gate(x)) * up(x))."""
    gate, up, down = (spec.path(r, layer) for r in ("gate", "up", "down"))
    kind, attrs = ACTIVATIONS[spec.activation]
    hidden = linear(g, spec, "gate", layer, x)
    hidden = g.op(kind, hidden, **attrs, name=f"{gate}.{kind.lower()}")
    hidden = g.Mul(hidden, linear(g, spec, "up", layer, x), name=f"{up}.mul")
    return linear(g, spec, "down", layer, hidden)


def block(name: str, spec: Spec, layer: int, step: Step, decode: bool) -> Graph:
    """One transformer block as a net: prefill (step.history 0), history prefill, or decode (length 1 behind the cache).

    Inputs input_states [1, L, H], position_ids [1, L], attention_mask [1, 1, L, history + L], and with a cache
    history_k and history_v [1, history, KV, D]. Outputs output_states, k_cache, v_cache. The last block ends with the final norm.
    """
    g = Graph(name)
    x = g.input("input_states", (1, step.length, spec.hidden))
    positions = g.input("position_ids", (1, step.length), "si32")
    mask = g.input("attention_mask", (1, 1, step.length, step.history + step.length))
    cache = None
    if decode or step.history:
        shape = (1, step.history, spec.kv_heads, spec.head_dim)
        cache = (g.input("history_k", shape), g.input("history_v", shape))
    last = layer == spec.layers - 1
    y = rms_norm(g, spec, spec.path("input_norm", layer), x)
    y, k, v = attention(g, spec, layer, step, y, positions, mask, cache)
    x = g.Add(x, y, name=f"{spec.path('o', layer)}.add")
    y = mlp(g, spec, layer, rms_norm(g, spec, spec.path("mlp_norm", layer), x))
    x = g.Add(x, y, name=f"{spec.path('down', layer)}.add" if last else "output_states")
    if last:
        x = rms_norm(g, spec, spec.path("norm"), x, "output_states")
    return g.output(x, k, v)
