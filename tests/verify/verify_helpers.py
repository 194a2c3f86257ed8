"""What the tests of verification share: the transformers model itself, and plans without a conversion."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from plans import planned

from llmconv.plan.plan import Plan
from llmconv.verify import verification
from llmconv.verify.settings import Settings


def plan_of(model: Path, seq: int = 64, quantize: str = "bf16", **options) -> Plan:
    """As `planned`, in bf16 whatever the checkpoint is."""
    return planned(model, seq=seq, quantize=quantize, **options)


def transformers_model(model: Path):
    """The whole model as transformers loads it, in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="eager").eval()


def verify(out: Path, **settings) -> bool:
    """The verdict on an output directory, with these fields of Settings."""
    return verification.verify(out, Settings(**settings))


def verified(out: Path, **settings) -> tuple[bool, dict, str]:
    """Verify an output directory: (verdict, verify.json, what was printed)."""
    import io

    from rich.console import Console

    printed = io.StringIO()
    ok = verification.verify(out, Settings(**settings), Console(file=printed, force_terminal=False))
    return ok, json.loads((out / "verify.json").read_text()), printed.getvalue()


def relative(found: np.ndarray, right: np.ndarray) -> float:
    return float(np.linalg.norm(found - right) / np.linalg.norm(right))
