"""What the tests of verification share: the transformers model itself, and plans without a conversion."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from plans import planned
from speaking import converse

import llmconv.convert as convert
from llmconv.plan.net import Net
from llmconv.plan.plan import Plan
from llmconv.request.request import Request
from llmconv.verify import prompt, verification
from llmconv.verify.generate import Generation, Runtime, Turn, turns
from llmconv.verify.session import Session, launched, work
from llmconv.verify.settings import Settings


def plan_of(model: Path, seq: int = 64, quantize: str = "bf16", **options) -> Plan:
    """As `planned`, in bf16 whatever the checkpoint is."""
    return planned(model, seq=seq, quantize=quantize, **options)


def built(compiler, cache: Path, model: Path, out: Path, **options) -> Path:
    """The output directory of a conversion that ended well. cache: of the session."""
    given = {"model": model, "out": out} | options
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TPUC_ROOT", str(compiler.root))
        patch.setenv("LLMCONV_CACHE", str(cache))
        assert convert.run(Request.create({name: str(value) for name, value in given.items()})) == 0
    return out


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


def alone(session: Session, net: Net, rng: np.random.Generator, thorough: bool, lengths: Sequence[int] = ()) -> None:
    """Launch one net by itself."""
    work(session, launched(session, net, rng, thorough, lengths))


def look_alone(session: Session, net: Net, rng: np.random.Generator, most: int) -> None:
    """Launch a tower's net by itself."""
    work(session, prompt.launched(session.plan, net, rng, most))


def relative(found: np.ndarray, right: np.ndarray) -> float:
    return float(np.linalg.norm(found - right) / np.linalg.norm(right))


# options that change how the nets of a model that sees are driven; tests of whole files try each
SEEING_OPTIONS = (
    {"dynamic": 1},
    {"use_block_with_kv": 1},
    {"use_history_kv": 1},
    {"share_prompt": 1},
    {"chunk_length": 16},
    {"batch": 2},
    {"embedding_disk": 1, "do_sample": 1},
    {"quantize": "f16"},
    {"num_device": 3, "distribute_strategy": "pp"},
)


def conversation(plan: Plan, chip, tokens: int, seed: int = 2) -> tuple[Session, list[Turn], Generation]:
    """What verify says to a model: the session, what was said, what came of it."""
    session, runtime = Session(plan, chip), Runtime.of(plan)
    assert runtime
    said = list(turns(plan, runtime, np.random.default_rng(seed), tokens))
    return session, said, converse(session, runtime, said)


def hold_answers(said: Sequence[Turn], found: Generation, choose: Callable[[np.ndarray, list[int]], list[int]]) -> None:
    """Every answer was expected to be what choose(all that was read, tokens of the answer) gives."""
    read, judged = np.zeros(0, int), list(found.tokens)
    for turn in said:
        read = np.concatenate([read if turn.back is None else read[: turn.back], turn.ids])
        answer, judged = judged[: turn.tokens], judged[turn.tokens :]
        tokens = [t.found for t in answer]
        assert not tokens or [t.expected for t in answer] == choose(read, tokens)
        read = np.concatenate([read, tokens]).astype(int)
