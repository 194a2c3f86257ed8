"""How a token is sampled, and drawing one from the candidates of the net sample_head."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """How to sample. Logits of tokens that occurred are divided by `penalty` (multiplied when negative). The `top_k`
    best are divided by `temperature`. The candidate with which their odds reach `top_p` is dropped, and all after it,
    but never the five best.
    """

    penalty: float = 1.0
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0

    def __str__(self) -> str:
        return f"penalty {self.penalty:g}, temperature {self.temperature:g}, top_k {self.top_k}, top_p {self.top_p:g}"
