"""A short greedy generation on the simulator exactly as a runtime does it, beside the same with the model's own maths.

The reference follows the chip's tokens, so that every one is judged on the same prefix; it never sees the chip's numbers. Each
launch is also compared by itself (runs.Session), fed with what the chip's previous net gave.

Noise: half precision blurs the logits. How much is measured on the model itself: torch computes the same chain in the net's half
precision, sigma is the RMS of its logits' error. Two logits with errors of 1.5 sigma (compare.FACTOR) each may swap places
when they are less than 3 * sqrt(2) * 1.5 * sigma apart (three standard deviations of their difference).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmconv.nets import Net
from llmconv.plan import Plan
from llmconv.verify import compare, nets
from llmconv.verify.nets import checkable
from llmconv.verify.reference import Reference
from llmconv.verify.runs import CHIP, Picked, Session, choice, pick

if TYPE_CHECKING:
    import numpy as np

CHAIN = "all blocks"  # the name under which chained errors are reported


@dataclass(frozen=True)
class Generation:
    """prompt: token ids; tokens: one judged pick per generated token, in order."""

    prompt: tuple[int, ...]
    tokens: tuple[Picked, ...]


class Own:
    """The model run by itself, layer by layer, with a cache of its own."""

    def __init__(self, reference: Reference):
        self.reference = reference
        self.caches: list[tuple[np.ndarray, np.ndarray] | None] = [None] * reference.layers

    def forward(self, ids: np.ndarray) -> np.ndarray:
        """Final hidden states [1, n, H] of the next tokens [n]."""
        import numpy as np

        n, past = len(ids), self.caches[0][0].shape[1] if self.caches[0] else 0
        hidden, positions = self.reference.embed(np.asarray(ids)[None]), past + np.arange(n)[None]
        mask = nets.mask(n, past, n, past, nets.FAR)
        for layer, cache in enumerate(self.caches):
            hidden, k, v = self.reference.block(layer, hidden, positions, mask, cache)
            self.caches[layer] = tuple(np.concatenate(pair, 1) for pair in zip(cache, (k, v))) if cache else (k, v)
        return hidden


@dataclass(frozen=True)
class Runtime:
    """The nets as a runtime uses them: prefill and decode blocks by layer, the two embeddings, the head."""

    blocks: tuple[Net, ...]
    caches: tuple[Net, ...]
    embedding: Net
    embedding_cache: Net
    head: Net

    @classmethod
    def of(cls, plan: Plan) -> Runtime | None:
        """None if the plan lacks a net that a plain generation needs (embeddings that are on disk, say)."""
        by_name = {net.name: net for net in plan.nets}
        layers = range(plan.spec.layers)
        names = [*(f"block_{i}" for i in layers), *(f"block_cache_{i}" for i in layers), "embedding", "embedding_cache", "lm_head"]
        if not all(name in by_name and checkable(by_name[name]) for name in names):
            return None
        found = [by_name[name] for name in names]
        return cls(tuple(found[: len(layers)]), tuple(found[len(layers) : -3]), *found[-3:])

    def prompt(self, tokens: int) -> int:
        """A prompt's length that leaves padding in the prefill and room for `tokens` more."""
        return max(1, min(nets.length(self.embedding), nets.capacity(self.caches[0]) - tokens) * 3 // 4)


def generate(session: Session, runtime: Runtime, prompt: np.ndarray, tokens: int) -> Generation:
    """Generate up to `tokens` tokens (as far as the cache reaches) behind `prompt` [n]."""
    import numpy as np

    n = len(prompt)
    own, blurred = Own(session.reference), Own(session.half)
    hidden = session.launch(nets.tokens(runtime.embedding, prompt, f"prompt of {n}"))[runtime.embedding.outputs[0].name]
    history = []
    for net, decode in zip(runtime.blocks, runtime.caches):
        found = session.launch(nets.step(net, hidden, n))
        hidden = found["output_states"]
        history.append(_history(decode, found))
    judged, ids, past = [], prompt, n
    while True:
        label = f"token {len(judged) + 1}"
        rows = hidden[:, : len(ids)]
        token = choice(session.launch(nets.head(runtime.head, rows[:, -1], label)))
        judged.append(_judge(session, own, blurred, ids, rows, token, label))
        if len(judged) == tokens or past >= nets.capacity(runtime.caches[0]) or not 0 <= token < session.plan.spec.vocab:
            return Generation(tuple(map(int, prompt)), tuple(judged))
        ids = np.array([token])
        hidden = session.launch(nets.tokens(runtime.embedding_cache, ids, label))[runtime.embedding_cache.outputs[0].name]
        for net, cache in zip(runtime.caches, history):
            found = session.launch(nets.step(net, hidden, 1, past, cache, label))
            hidden = found["output_states"]
            for rows_of, new in zip(cache, (found["k_cache"], found["v_cache"])):
                rows_of[:, past] = new[:, 0]
        past += 1


def _history(net: Net, found: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    """The decode net's history with a prefill's rows at its beginning. Rows of the padding go along, as in a runtime's copy."""
    import numpy as np

    made = []
    for name, new in (("history_k", found["k_cache"]), ("history_v", found["v_cache"])):
        rows = np.zeros(next(io.shape for io in net.inputs if io.name == name), np.float32)
        rows[:, : new.shape[1]] = new
        made.append(rows)
    return tuple(made)


def _judge(session: Session, own: Own, blurred: Own, ids: np.ndarray, rows: np.ndarray, token: int, label: str) -> Picked:
    """Compare the chain's state with the reference's, and the token with the reference's choice."""
    right, half = own.forward(ids), blurred.forward(ids)
    given = {"difference": compare.measure(rows, right), "torch_half": compare.measure(half, right)}
    session.record(CHAIN, "output_states", CHIP, tolerance=compare.CHAIN, **given)
    logits = session.reference.logits(right[:, -1])[0]
    error = blurred.reference.logits(half[:, -1])[0] - logits
    noise = compare.FACTOR * 3 * math.sqrt(2) * math.sqrt(float((error**2).mean()))
    return pick("generation", label, token, logits, noise)
