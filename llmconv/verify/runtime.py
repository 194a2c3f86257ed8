"""The nets as a runtime uses them: which net takes which tokens, and what goes from one to the next.

Where the public demo programs differ, this is the convention that asks most of a net:

* Hidden states go from net to net whole, padding included (Llama 3, Phi-3, Qwen2-VL, Qwen3-VL; others copy the real
  rows only), and behind the prompt the first block finds the states of an earlier one, as in a buffer that is never
  cleared (Qwen3-VL).
* Keys and values of a whole prefill output go into the history (Qwen2-VL, Qwen2.5-VL, Llama 3; others copy the real
  rows only), and behind them are the rows of an earlier conversation (none of those without clear_history zeroes the
  history between two).
* A tower runs once for each item, over zeroed inputs; only the item's own tokens are copied to their places.
* Where a tower gives more, the net `add` sums the whole [L * H] buffers, zeros where nothing is seen.
* Of several decode stages the shortest runs that has a row for the new token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmconv.blocks.spec import Spec
from llmconv.plan.net import Net
from llmconv.plan.plan import Plan
from llmconv.verify import launches
from llmconv.verify.embedding_file import Table
from llmconv.verify.session import Session, checkable, choice
from llmconv.verify.vision import Seen

if TYPE_CHECKING:
    import numpy as np

Cache = tuple["np.ndarray", "np.ndarray"]  # keys and values [1, S, KV, D] of a layer


@dataclass(frozen=True)
class Runtime:
    """by_name: the plan's nets; layers: how many; capacity: rows of the whole cache; table: the embedding, where it is
    a file."""

    by_name: Mapping[str, Net]
    layers: int
    capacity: int
    table: Table | None = None

    @classmethod
    def of(cls, plan: Plan) -> Runtime | None:
        """None if the plan lacks a net that a plain generation needs, or has one that nobody here knows how to run."""
        by_name, layers = {net.name: net for net in plan.nets}, range(plan.spec.layers)
        table = Table.of(plan) if plan.job.embedding_disk else None
        names = [
            *(f"block_{i}" for i in layers),
            *(f"block_cache_{i}" for i in layers),
            "lm_head",
            *(() if table else ("embedding", "embedding_cache")),
        ]
        if not all(name in by_name for name in names) or not all(map(checkable, plan.nets)):
            return None
        return cls(by_name, len(layers), launches.capacity(by_name["block_cache_0"]), table)

    @property
    def batch(self) -> int:
        """Sequences that are decoded at once."""
        return self.by_name["block_cache_0"].inputs[0].shape[0]

    def blocks(self, past: int) -> list[Net]:
        """The prefill nets, by layer, for tokens behind `past` others."""
        kind = "block_kv" if past else "block_prompt"
        return [self.by_name.get(f"{kind}_{i}") or self.by_name[f"block_{i}"] for i in range(self.layers)]

    def chunk(self, past: int) -> int:
        """How many tokens one prefill takes behind `past` others; 0 where none can."""
        net = self.blocks(past)[0]
        return launches.length(net) if past <= launches.capacity(net) else 0

    def caches(self, past: int) -> list[Net]:
        """The decode nets, by layer, for a token behind `past` others: of several stages the shortest that has a row
        for it."""

        def stages(layer: int) -> list[Net]:
            name = f"block_cache_{layer}"
            named = [net for net in self.by_name.values() if name in (net.name, net.stage_of)]
            return [net for net in named if launches.capacity(net) > past]

        return [min(stages(layer), key=launches.capacity) for layer in range(self.layers)]

    def history(self, spec: Spec) -> list[Cache]:
        """Keys and values by layer [1, S, KV, D] as an earlier conversation left them: full of rows that must not
        count."""
        import numpy as np

        rng, shape = np.random.default_rng(0), (1, self.capacity, spec.kv_heads, spec.head_dim)
        return [tuple(rng.standard_normal(shape, np.float32) for _ in "kv") for _ in range(self.layers)]

    def prompt(self, tokens: int) -> int:
        """A prompt's length that leaves padding in the prefill and lets a generation of `tokens` fill the cache to its
        last row, if prefill takes one that is so long."""
        last = self.capacity - tokens + 1
        if 0 < last < self.chunk(0) and tokens > 1:
            return last
        return max(1, min(self.chunk(0), self.capacity - tokens) * 3 // 4)

    def embed(self, session: Session, ids: np.ndarray, label: str, decode: bool = False) -> np.ndarray:
        """The hidden states [1, L, H] of tokens [n]; beyond them are those of the padding, token 0."""
        names = ("embedding_cache", "embedding_cache_lora") if decode else ("embedding", "embedding_lora")
        net = self.by_name.get(names[0])
        if net is None:
            return self.table.embed(session, ids)
        launch = launches.tokens(net, ids, label)
        hidden = session.launch(launch)[net.outputs[0].name]
        if lora := self.by_name.get(names[1]):
            given = {"input_ids": next(iter(launch.inputs.values())), "input_states": hidden}
            hidden = session.launch(launches.lora(lora, given, len(ids), label))[lora.outputs[0].name]
        return hidden

    def choose(self, session: Session, hidden: np.ndarray, label: str) -> int:
        """The token behind the hidden state [1, H]."""
        found = session.launch(launches.head(self.by_name["lm_head"], hidden, label))
        if lora := self.by_name.get("lm_head_lora"):
            (logits,) = found.values()
            found = session.launch(launches.lora(lora, {"input_states": hidden, "input_logits": logits}, 1, label))
        if greedy := self.by_name.get("greedy_head"):
            (logits,) = found.values()
            found = session.launch(launches.head(greedy, logits, label))
        return choice(found)

    def prefill(
        self,
        session: Session,
        ids: np.ndarray,
        past: int,
        caches: Sequence[Cache],
        label: str,
        places: np.ndarray | None = None,
        seen: Seen | None = None,
    ) -> np.ndarray:
        """Read up to a chunk of tokens [n] behind `past` others; returns their hidden states [1, n, H]. Their rows go
        into the caches, and those of the padding behind them, as in a runtime's copy. places: the tokens' positions [3,
        n], where they have three."""
        hidden = self.embed(session, ids, label)
        blocks = self.blocks(past)
        hidden = _in_a_used_buffer(seen.enter(hidden) if seen else hidden, len(ids), launches.length(blocks[0]))
        for layer, (net, cache) in enumerate(zip(blocks, caches)):
            found = session.launch(launches.step(net, hidden, len(ids), past, cache, label, places))
            hidden = found["output_states"]
            more = seen.after(layer, hidden.shape[1]) if seen else None
            if more is not None:
                (sums,) = session.launch(launches.add(self.by_name["add"], hidden, more)).values()
                hidden = sums[: hidden.size].reshape(hidden.shape)
            for rows, new in zip(cache, (found["k_cache"], found["v_cache"])):
                rows[:, past : past + new.shape[1]] = new[:, : rows.shape[1] - past]
        return hidden[:, : len(ids)]

    def decode(
        self,
        session: Session,
        tokens: Sequence[int],
        pasts: Sequence[int],
        caches: Sequence[Sequence[Cache]],
        label: str,
        places: Sequence[np.ndarray] | None = None,
    ) -> list[np.ndarray]:
        """One more token for each sequence, behind pasts[b] others; returns the hidden states [1, 1, H]. New rows go
        into the caches.
        places: each token's positions [3, 1], where it has three."""
        import numpy as np

        states = [self.embed(session, np.array([token]), label, decode=True)[:, :1] for token in tokens]
        hidden = np.concatenate(states)
        for layer, net in enumerate(self.caches(max(pasts))):
            if self.batch > 1:
                history = tuple(np.concatenate([cache[layer][part] for cache in caches]) for part in (0, 1))
                found = session.launch(
                    launches.steps(net, hidden, pasts, history, label, np.stack(places) if places else None)
                )
                found = {name: values.swapaxes(0, 1) for name, values in found.items()}
            else:
                found = session.launch(
                    launches.step(net, hidden, 1, pasts[0], caches[0][layer], label, places[0] if places else None)
                )
            hidden = found["output_states"]
            for sequence, (past, cache) in enumerate(zip(pasts, caches)):
                for rows, new in zip(cache[layer], (found["k_cache"], found["v_cache"])):
                    rows[:, past] = new[sequence, 0]
        return [hidden[b : b + 1] for b in range(len(tokens))]


def _in_a_used_buffer(hidden: np.ndarray, count: int, rows: int) -> np.ndarray:
    """The first `count` of hidden states [1, n, H] in a buffer of `rows` that an earlier, longer prompt has filled:
    here with the same states, over and over."""
    import numpy as np

    return np.resize(hidden[0, :count], (rows, hidden.shape[-1]))[None]
