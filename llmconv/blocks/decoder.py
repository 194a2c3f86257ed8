"""The pre-norm decoder block that dense families share: attention with KV cache, gated MLP, RMSNorm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from llmconv.blocks.attention import MASK_WEIGHT, Step, Tokens, attention
from llmconv.blocks.linear import linear, rms_norm
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


def mlp(g: Graph, spec: Spec, layer: int, x: Value) -> Value:
    """down(act(gate(x)) * up(x))."""
    gate, up = spec.path("gate", layer), spec.path("up", layer)
    kind, attrs = ACTIVATIONS[spec.activation]
    hidden = linear(g, spec, "gate", layer, x)
    hidden = g.op(kind, hidden, **attrs, name=f"{gate}.{kind.lower()}")
    hidden = g.Mul(hidden, linear(g, spec, "up", layer, x), name=f"{up}.mul")
    return linear(g, spec, "down", layer, hidden)


def inputs(g: Graph, spec: Spec, step: Step) -> tuple[Value, Tokens]:
    """The inputs of a block net, in their public order: input_states [B, L, H], position_ids [B, L], attention_mask
    [B, 1, L, keys] (unless it is a constant tile), and history_k and history_v [B, history, KV, D]."""
    x = g.input("input_states", (step.batch, step.length, spec.hidden))
    positions = g.input("position_ids", (step.batch, step.length), "si32")
    tile = {"name": MASK_WEIGHT, "shape": (step.mask_tile, step.mask_tile), "recipe": ("causal", step.mask_tile)}
    constant = step.mask_tile and not step.decode
    mask = None if constant else g.input("attention_mask", (step.batch, 1, step.length, step.keys))
    cache = None
    if step.history:
        shape = (step.batch, step.history, spec.kv_heads, spec.head_dim)
        cache = (g.input("history_k", shape), g.input("history_v", shape))
    if constant:
        mask = g.weight(**tile)
    elif step.mask_tile:
        # never used: it keeps the coefficients of decode laid out as those of prefill, so that they are shared
        g.weight(**tile, placeholder="F32")
    return x, Tokens(positions, mask, cache)


def block(name: str, spec: Spec, layer: int, step: Step, lora_rank: int = 0) -> Graph:
    """One transformer block as a net, see `inputs`. Outputs: output_states [B, L, H] and the new rows k_cache and v_cache
    [B, L, KV, D] (not with batch > 1: they are in the cache then). The last block ends with the final norm."""
    g = Graph(name, lora_rank=lora_rank)
    x, tokens = inputs(g, spec, step)
    y = rms_norm(g, spec, spec.path("input_norm", layer), x)
    y, k, v = attention(g, spec, layer, step, y, tokens)
    x = g.Add(x, y, name=f"{spec.path('o', layer)}.add")
    y = mlp(g, spec, layer, rms_norm(g, spec, spec.path("mlp_norm", layer), x))
    last = layer == spec.layers - 1
    x = g.Add(x, y, name=f"{spec.path('down', layer)}.add" if last else "output_states")
    if last:
        x = rms_norm(g, spec, spec.path("norm"), x, "output_states")
    return g.output(x) if step.batch > 1 else g.output(x, k, v)
