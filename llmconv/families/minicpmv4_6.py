"""MiniCPM-V 4.6: Qwen3.5's language model, and a SigLIP tower whose patches become tokens 4 or 16 at a time."""

from __future__ import annotations

from llmconv.blocks.navit.tower import StripTower
from llmconv.families import qwen3_5
from llmconv.families.family import Family
from llmconv.families.oracle import Oracle

# Of pictures up to 5 : 1 no slice of the processor is larger: it rounds the sides of about 448 x 448 pixels, and makes
# 392 x 560 of a slice of 2 : 3, 504 x 448 of others.
SLICE = (448, 504)

family = Family(
    model_types=("minicpmv4_6",),
    decoder=qwen3_5.DECODER,
    towers=(StripTower("vit_4x", "4x", SLICE), StripTower("vit_16x", "16x", SLICE)),
    reference=Oracle(
        tensor=qwen3_5.whole_tensor,
        auto="AutoModelForImageTextToText",
        memories=qwen3_5.REFERENCE.memories,
    ),
    unused=qwen3_5.family.unused,
    forces={"dynamic": True},
)
