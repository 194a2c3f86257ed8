"""The nets as a runtime uses them: which net takes which tokens, and what goes from one to the next.

Where the public demo programs differ, this is the convention that asks most of a net:

* Hidden states go from net to net whole, padding included (Llama 3, Phi-3, Qwen2-VL, Qwen3-VL; others copy the real
  rows only), and behind the prompt the first block finds the states of an earlier one, as in a buffer that is never
  cleared (Qwen3-VL).
* Keys and values of a whole prefill output go into the history (Qwen2-VL, Qwen2.5-VL, Llama 3; others copy the real
  rows only). Behind them lie the rows of an earlier conversation: a demo without clear_history never zeroes the history
  between two.
* A tower runs once for each item, over zeroed inputs; only the item's own tokens are copied to their places.
* Where a tower gives more outputs (deepstack), the net `add` sums whole [L * H] buffers, with zeros where nothing is
  seen.
* Where layers look across and nothing is shown, their nets get zeros (a runtime may as well leave them out, but the
  last layer's, which has the final norm).
* Of several decode stages, the shortest one with a row for the new token runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llmconv.blocks.heads import MIN_KEPT
from llmconv.blocks.spec import Spec
from llmconv.plan.net import Net
from llmconv.plan.plan import Plan
from llmconv.runtime import launches, state
from llmconv.runtime.chip import Chip
from llmconv.runtime.embedding_file import Table
from llmconv.runtime.heads import choice, sample
from llmconv.runtime.sampling import Settings
from llmconv.runtime.seen import Seen
from llmconv.runtime.state import LayerState

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Runtime:
    """by_name: the plan's nets; layers: their number; capacity: rows of the whole cache; table: the embedding, where it
    is a file."""

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
        if not all(name in by_name for name in names) or not all(map(launches.known, plan.nets)):
            return None
        capacity = max(launches.capacity(by_name[f"block_cache_{i}"]) for i in layers)
        return cls(by_name, len(layers), capacity, table)

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
        nets = self.blocks(past)
        return launches.length(nets[0]) if all(launches.follows(net, past) for net in nets) else 0

    def reach(self) -> int:
        """The longest history that a prefill reads on behind, in tokens."""
        return max(map(launches.capacity, self.blocks(1)))

    def caches(self, past: int) -> list[Net]:
        """The decode nets, by layer, for a token behind `past` others: of several stages, the shortest one with a row
        for it."""

        def stages(layer: int) -> list[Net]:
            name = f"block_cache_{layer}"
            named = [net for net in self.by_name.values() if name in (net.name, net.stage_of)]
            return [net for net in named if not net.history or launches.capacity(net) > past]

        return [min(stages(layer), key=launches.capacity) for layer in range(self.layers)]

    def states(self, spec: Spec) -> list[LayerState]:
        """The states by layer as an earlier conversation left them: full of rows that must not count."""
        import numpy as np

        rng = np.random.default_rng(0)
        return [LayerState.used(kind.mixer.states(spec), self.capacity, rng) for kind in spec.kinds]

    def fresh(self, spec: Spec) -> list[LayerState]:
        """The states by layer of a new sequence."""
        return [LayerState(kind.mixer.states(spec), self.capacity) for kind in spec.kinds]

    def prompt(self, tokens: int) -> int:
        """A prompt's length that leaves padding in the prefill. If prefill takes so long a prompt, a generation of
        `tokens` behind it fills the cache to its last row."""
        last = self.capacity - tokens + 1
        if 0 < last < self.chunk(0) and tokens > 1:
            return last
        return max(1, min(self.chunk(0), self.capacity - tokens) * 3 // 4)

    def embed(self, chip: Chip, ids: np.ndarray, label: str, decode: bool = False) -> np.ndarray:
        """The hidden states [1, L, H] of tokens [n]; beyond them are those of the padding, token 0."""
        names = ("embedding_cache", "embedding_cache_lora") if decode else ("embedding", "embedding_lora")
        net = self.by_name.get(names[0])
        if net is None:
            assert self.table  # one of the two is there: see `of`
            return chip.look_up(self.table, ids)
        launch = launches.tokens(net, ids, label)
        hidden = chip.launch(launch)[net.outputs[0].name]
        if lora := self.by_name.get(names[1]):
            given = {"input_ids": next(iter(launch.inputs.values())), "input_states": hidden}
            hidden = chip.launch(launches.lora(lora, given, len(ids), label))[lora.outputs[0].name]
        return hidden

    def choose(self, chip: Chip, hidden: np.ndarray, label: str) -> int:
        """The best token behind the hidden state [1, H]."""
        found = self._head(chip, hidden, label)
        if greedy := self.by_name.get("greedy_head"):
            (logits,) = found.values()
            found = chip.launch(launches.head(greedy, logits, label))
        return choice(found)

    def sample(
        self, chip: Chip, hidden: np.ndarray, ids: np.ndarray, settings: Settings, rng: np.random.Generator, label: str
    ) -> int:
        """A token behind the hidden state [1, H], drawn from the candidates of sample_head. ids [n]: all tokens so far,
        which the penalty is for."""
        (logits,) = self._head(chip, hidden, label).values()
        net = self.by_name["sample_head"]
        wide = replace(settings, top_k=max(settings.top_k, MIN_KEPT))
        found = chip.launch(sample(net, logits.reshape(1, -1), ids, wide, whole=not net.flags.dynamic))
        odds, tokens = (found[name].ravel()[: settings.top_k] for name in ("Softmax1", "token_idx"))
        return int(tokens[rng.choice(len(odds), p=odds.astype(float) / odds.sum(dtype=float))])

    def _head(self, chip: Chip, hidden: np.ndarray, label: str) -> dict[str, np.ndarray]:
        """What lm_head gives, the adapter's part of the logits with it."""
        found = chip.launch(launches.head(self.by_name["lm_head"], hidden, label))
        if lora := self.by_name.get("lm_head_lora"):
            (logits,) = found.values()
            found = chip.launch(launches.lora(lora, {"input_states": hidden, "input_logits": logits}, 1, label))
        return found

    def prefill(
        self,
        chip: Chip,
        ids: np.ndarray,
        past: int,
        layers: Sequence[LayerState],
        label: str,
        places: np.ndarray | None = None,
        seen: Seen | None = None,
    ) -> np.ndarray:
        """Read up to a chunk of tokens [n] behind `past` others; returns their hidden states [1, n, H].

        Their rows go into the layers' states, and the rows of the padding behind them, as a runtime copies them.
        places: the tokens' positions [3, n], where they have three."""
        hidden = self.embed(chip, ids, label)
        blocks = self.blocks(past)
        hidden = _in_a_used_buffer(seen.enter(hidden) if seen else hidden, len(ids), launches.length(blocks[0]))
        for layer, (net, kept) in enumerate(zip(blocks, layers)):
            across = seen.across if seen else None
            found = chip.launch(launches.step(net, hidden, len(ids), past, kept.values, label, places, across))
            hidden = found["output_states"]
            more = seen.after(layer, hidden.shape[1]) if seen else None
            if more is not None:
                (sums,) = chip.launch(launches.add(self.by_name["add"], hidden, more)).values()
                hidden = sums[: hidden.size].reshape(hidden.shape)
            kept.take(state.made(net, found), past)
        return hidden[:, : len(ids)]

    def decode(
        self,
        chip: Chip,
        tokens: Sequence[int],
        pasts: Sequence[int],
        sequences: Sequence[Sequence[LayerState]],
        label: str,
        places: Sequence[np.ndarray] | None = None,
        seen: Sequence[Seen | None] = (),
    ) -> list[np.ndarray]:
        """One more token for each sequence, behind pasts[b] others; returns their hidden states [1, 1, H].

        The sequences' states take the new ones. places: each token's positions [3, 1], where it has three. seen: what
        each sees."""
        import numpy as np

        states = [self.embed(chip, np.array([token]), label, decode=True)[:, :1] for token in tokens]
        hidden, across = np.concatenate(states), [one.across if one else None for one in seen or [None] * len(tokens)]
        for layer, net in enumerate(self.caches(max(pasts))):
            kept = [layers[layer] for layers in sequences]
            if self.batch > 1:
                stacked = np.stack(places) if places else None
                launch = launches.steps(net, hidden, pasts, state.batch(kept), label, stacked, across)
            else:
                place = places[0] if places else None
                launch = launches.step(net, hidden, 1, pasts[0], kept[0].values, label, place, across[0])
            found = chip.launch(launch)
            hidden, new = found["output_states"], state.made(net, found)
            for sequence, (past, one) in enumerate(zip(pasts, kept)):
                one.take({name: values[sequence : sequence + 1] for name, values in new.items()}, past)
        return [hidden[b : b + 1] for b in range(len(tokens))]


def _in_a_used_buffer(hidden: np.ndarray, count: int, rows: int) -> np.ndarray:
    """The first `count` of hidden states [1, n, H] in a buffer of `rows` that an earlier, longer prompt has filled:
    here with the same states, over and over."""
    import numpy as np

    return np.resize(hidden[0, :count], (rows, hidden.shape[-1]))[None]
