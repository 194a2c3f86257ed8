"""The same tower in torch, for verification: transformers' SigLIP, torch's MultiheadAttention, and between them what
the published class (modeling_navit_siglip, resampler) does. Nothing of our graph and preparation is used."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from llmconv.blocks.vision.images import Images
from llmconv.blocks.vision.sliced.spec import VISION
from llmconv.checkpoint.config import Config

if TYPE_CHECKING:
    import torch


def modules(config: Config) -> Any:
    """A torch module with `vpm` and `resampler`, whose parameters have the names of the checkpoint's tensors, but that
    those of vpm may have transformers' prefix vision_model."""
    from torch import empty, nn
    from transformers import AutoModel, SiglipVisionConfig

    published: Mapping[str, Any] = config.get("vision_config") or VISION
    given: dict[str, Any] = {k: v for k, v in published.items() if k not in ("model_type", "architectures")}
    given["vision_use_head"] = False  # a field of newer releases; older ones look for it all the same
    vision = SiglipVisionConfig(**given)
    vision.num_hidden_layers -= bool(config.get("drop_vision_last_layer", True))
    size = config["hidden_size"]
    norm = partial(nn.LayerNorm, size, eps=1e-6)
    whole, resampler = nn.Module(), nn.Module()
    whole.vpm, whole.resampler = AutoModel.from_config(vision, attn_implementation="eager"), resampler
    resampler.query = nn.Parameter(empty(config.get("query_num", 64), size))
    same = vision.hidden_size == size
    resampler.kv_proj = nn.Identity() if same else nn.Linear(vision.hidden_size, size, bias=False)
    resampler.attn = nn.MultiheadAttention(size, size // 128)
    resampler.ln_q, resampler.ln_kv, resampler.ln_post = norm(), norm(), norm()
    resampler.proj = nn.Parameter(empty(size, size))
    return whole.eval()


def features(whole: Any, images: Images, dtype: torch.dtype) -> torch.Tensor:
    """The tokens [k * q, H] of k slices, which have (1, rows, columns) patches each."""
    import torch

    found = []
    for one in images.each():
        ((_, rows, columns),) = one.grids
        side, channels = whole.vpm.config.patch_size, whole.vpm.config.num_channels
        blocks = torch.from_numpy(one.patches).to(dtype).view(rows, columns, channels, side, side)
        picture = blocks.permute(2, 0, 3, 1, 4).reshape(1, channels, rows * side, columns * side)
        places = _buckets(whole.vpm.config, rows, columns)
        learned = next(m for name, m in whole.vpm.named_modules() if name.endswith("position_embedding"))
        with learned.register_forward_pre_hook(lambda _, __, places=places: (places,)):
            states = whole.vpm(picture).last_hidden_state[0]
        found.append(_resampled(whole.resampler, states, rows, columns))
    return torch.cat(found)


def _buckets(config: Any, rows: int, columns: int) -> torch.Tensor:
    """[1, rows * columns]: NaViT's places in the square of learned positions, by torch.bucketize. In float64, so that a
    corner on the border of two places is exactly there."""
    import torch

    side = config.image_size // config.patch_size
    borders = torch.arange(1, side, dtype=torch.float64) / side
    y, x = (
        torch.bucketize(torch.arange(count, dtype=torch.float64) / count, borders, right=True)
        for count in (rows, columns)
    )
    return (y[:, None] * side + x).reshape(1, -1)


def _resampled(resampler: Any, states: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """[q, H] of the patches' states [rows * columns, width]."""
    import torch

    values = resampler.ln_kv(resampler.kv_proj(states))
    size = values.shape[-1]
    x = torch.arange(columns).repeat(rows)
    y = torch.arange(rows).repeat_interleave(columns)
    frequencies = 1 / 10000 ** (torch.arange(size // 4, dtype=torch.float64) / (size / 4))
    turns = [(at[:, None] * frequencies) for at in (x, y)]  # the width first
    places = torch.cat([part for turn in turns for part in (turn.sin(), turn.cos())], 1).to(values.dtype)
    queries = resampler.ln_q(resampler.query)
    out, _ = resampler.attn(queries, values + places, values)
    return resampler.ln_post(out) @ resampler.proj
