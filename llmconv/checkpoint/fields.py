"""What is legal for each number of config.json: one declaration for a field, wherever the file has it.

A number outside of it cannot be a model's: it comes from damage or a mistake, and would make a wrong program, or one
that is never finished.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Range:
    """Numbers from `least` to `most`, both included unless `above` says that `least` is not.

    whole: no others than whole ones. Infinities and NaN are never in it.
    """

    least: float
    most: float
    whole: bool = False
    above: bool = False

    def fault(self, value: Any) -> str:
        """Why a value of JSON is not in it, "" if it is."""
        kinds = (int,) if self.whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds):
            return f"{'a whole number' if self.whole else 'a number'} is expected"
        if not self.least <= value <= self.most or (self.above and value == self.least) or not math.isfinite(value):
            return f"{self} is expected"
        return ""

    def __str__(self) -> str:
        what = "a whole number" if self.whole else "a number"
        if self.above:
            return f"{what} above {self.least:g}, up to {self.most:g},"
        return f"{what} from {self.least:g} to {self.most:g}"


def whole(most: int, least: int = 1) -> Range:
    return Range(least, most, whole=True)


def positive(most: float) -> Range:
    return Range(0, most, above=True)


COUNT = whole(1 << 16)  # of heads, experts, things in a layer
WIDTH = whole(1 << 20)  # of hidden states and heads
LAYERS = whole(1 << 10)  # the deepest published model has 126
LENGTH = whole(1 << 40)  # in tokens; some have "no limit" as 1e30 in other files
SCALE = positive(1e6)
OFTEN = whole(1 << 10, least=0)  # an index of a layer, a step between layers

# Field -> what it may be. The limits are far above all published models, and small enough to be computed with
LEGAL: Mapping[str, Range] = {
    "hidden_size": WIDTH,
    "embed_dim": WIDTH,
    "out_hidden_size": WIDTH,
    "head_dim": whole(1 << 14),
    "kv_channels": whole(1 << 14),
    "intermediate_size": whole(1 << 22),
    "ffn_hidden_size": whole(1 << 22),
    "block_ff_dim": whole(1 << 22),
    "block_multiple_of": whole(1 << 20),
    "block_ffn_dim_multiplier": positive(1024),
    "moe_intermediate_size": whole(1 << 22),
    "shared_expert_intermediate_size": whole(1 << 22),
    "vocab_size": whole(1 << 24),
    "padded_vocab_size": whole(1 << 24),
    "num_hidden_layers": LAYERS,
    "num_layers": LAYERS,
    "depth": LAYERS,
    "num_attention_heads": COUNT,
    "attention_heads": COUNT,
    "num_heads": COUNT,
    "num_key_value_heads": COUNT,
    "multi_query_group_num": COUNT,
    "num_experts": COUNT,
    "num_experts_per_tok": COUNT,
    "decoder_sparse_step": OFTEN,
    "no_rope_layer_interval": OFTEN,
    "sliding_window_pattern": OFTEN,
    "no_rope_layers": whole(1, least=0),
    "mlp_only_layers": whole(1 << 10, least=0),
    "full_attn_idxs": whole(1 << 10, least=0),
    "full_attention_layers": whole(1 << 10, least=0),
    "conv_L_cache": whole(1 << 8),
    "num_global_layers": LAYERS,
    "cross_attention_layers": OFTEN,
    "intermediate_layers_indices": OFTEN,
    "max_num_tiles": whole(64),
    "vision_output_dim": whole(1 << 22),
    "max_window_layers": whole(1 << 20, least=0),
    "max_position_embeddings": LENGTH,
    "original_max_position_embeddings": LENGTH,
    "seq_length": LENGTH,
    "sliding_window": LENGTH,
    "image_size": whole(1 << 16),
    "patch_size": whole(1 << 10),
    "mm_tokens_per_image": whole(1 << 20),
    "spatial_merge_size": whole(64),
    "temporal_patch_size": whole(64),
    "in_channels": whole(64),
    "in_chans": whole(64),
    "num_channels": whole(64),
    "num_position_embeddings": whole(1 << 24, least=0),
    "window_size": whole(1 << 16, least=0),
    "rms_norm_eps": Range(0, 0.1),
    "layernorm_epsilon": Range(0, 0.1),
    "layer_norm_eps": Range(0, 0.1),
    "norm_eps": Range(0, 0.1),
    "rope_theta": Range(1, 1e15, above=True),
    "rope_local_base_freq": Range(1, 1e15, above=True),
    "rope_ratio": positive(1e9),
    "partial_rotary_factor": positive(1),
    "factor": SCALE,
    "attention_factor": SCALE,
    "low_freq_factor": SCALE,
    "high_freq_factor": SCALE,
    "beta_fast": SCALE,
    "beta_slow": SCALE,
    "mscale": Range(0, 1e6),
    "mscale_all_dim": Range(0, 1e6),
    "short_factor": SCALE,
    "long_factor": SCALE,
    "mrope_section": whole(1 << 14, least=0),
    "embedding_multiplier": SCALE,
    "residual_multiplier": SCALE,
    "attention_multiplier": SCALE,
    "logits_scaling": SCALE,
    "query_pre_attn_scalar": SCALE,
    "scale_emb": SCALE,
    "scale_depth": SCALE,
    "dim_model_base": positive(1 << 20),
    "mlp_ratio": positive(1024),
    "tokens_per_second": Range(0, 1e6),
    "d_model": WIDTH,
    "output_dim": WIDTH,
    "encoder_layers": LAYERS,
    "encoder_attention_heads": COUNT,
    "encoder_ffn_dim": whole(1 << 22),
    "downsample_hidden_size": whole(1 << 14),
    "num_mel_bins": whole(1 << 12),
    "n_window": whole(1 << 12),
    "n_window_infer": whole(1 << 16),
}
NUMBER = Range(-1e30, 1e30)  # a field that has no line of its own
WHOLE = whole(1 << 40, least=-(1 << 40))


def legal(field: str, whole: bool) -> Range:
    """What a field may be; whole: it is read as a whole number."""
    known = LEGAL.get(field)
    return known or (WHOLE if whole else NUMBER)
