"""Pictures and sounds that tests show a model, each the same whatever ran before, and the class's answer to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

CLEAR = 0.05  # between the logits of the two best tokens: half precision turns a lead of 0.011 around here (seen)


def noise(height: int, width: int, seed: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def tone(samples: int, seed: int = 7) -> np.ndarray:
    at, hiss = np.arange(samples) / 16000, np.random.default_rng(seed).standard_normal(samples)
    return (0.4 * np.sin(2 * np.pi * 300 * at) + 0.1 * hiss).astype(np.float32)


def save(path: Path, values: np.ndarray) -> Path:
    from PIL import Image

    Image.fromarray(values).save(path)
    return path


def greedy(logits: Callable[[Any], Any], ids: Any, most: int, special: int) -> list[int]:
    """The next `most` tokens behind ids [1, n], by the class's logits(tokens) [1, n, vocab].

    The sample has to be one that half precision cannot tell otherwise, and in which no placeholder (an id below
    `special`) is spoken: the class would take that for another picture."""
    import torch

    tokens = ids
    with torch.no_grad():
        for _ in range(most):
            best = logits(tokens)[0, -1].topk(2)
            assert best.values[0] - best.values[1] > CLEAR and best.indices[0] >= special, "take another seed"
            tokens = torch.cat([tokens, best.indices[None, :1]], 1)
    return tokens[0, ids.shape[1] :].tolist()
