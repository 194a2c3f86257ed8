"""Which experts a chip has sent a token to, where its router is in doubt, so that the reference may take the same ones.

Half precision cannot tell two experts apart whose logits differ by less than its own error. Either is right, and what
the layer gives differs by a great deal; so do the states of all layers behind it, and of all tokens behind that one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import TYPE_CHECKING

from llmconv.verify import compare

if TYPE_CHECKING:
    import numpy as np

WAYS = 6  # sets of experts that are tried for a token; each is a run of the layer


@dataclass(frozen=True)
class Taken:
    """experts [n, chosen]: those that n tokens were sent to, best guess; known [n]: whether it is more than a guess."""

    experts: np.ndarray
    known: np.ndarray

    def of(self, first: int, count: int) -> Taken:
        """Those of `count` tokens from the first one on."""
        return Taken(self.experts[first : first + count], self.known[first : first + count])


def ways(logits: np.ndarray, half: np.ndarray, chosen: int) -> list[list[tuple[int, ...]]]:
    """For each token of logits [n, E] the sets of `chosen` experts that half precision may send it to, the model's own
    first; the model's own alone where there are more than WAYS.

    half: the same logits in half precision."""
    import numpy as np

    bound, found = compare.doubt(logits, half), []
    for row in logits:
        order = np.argsort(-row, kind="stable")
        own = tuple(map(int, order[:chosen]))
        last, first = row[order[chosen - 1]], row[order[chosen]] if chosen < len(row) else -np.inf
        inside = [e for e in own if row[e] - first <= bound]
        outside = [int(e) for e in order[chosen:] if last - row[e] <= bound]
        sets = [own]
        if inside and comb(len(inside) + len(outside), len(inside)) <= WAYS:
            sure = tuple(e for e in own if e not in inside)
            others = (sure + one for one in combinations(inside + outside, len(inside)))
            sets += [one for one in others if set(one) != set(own)]
        found.append(sets)
    return found


def taken(
    logits: np.ndarray,
    half: np.ndarray,
    chosen: int,
    found: np.ndarray,
    right: np.ndarray,
    again: Callable[[np.ndarray], np.ndarray],
) -> Taken:
    """The experts of each token by what the chip gave: of several sets the one whose results are nearest.

    found, right: hidden states [1, n, H] of the chip and of the model. again: experts [n, chosen] -> the model's hidden
    states with them."""
    import numpy as np

    sets = ways(logits, half, chosen)
    clear = compare.clearly_routed(logits, half, chosen)
    best = np.array([one[0] for one in sets])
    nearest = ((found - right) ** 2).sum(-1)[0]
    for number in range(1, max(map(len, sets))):
        tried = np.array([one[number] if number < len(one) else tuple(kept) for one, kept in zip(sets, best)])
        error = ((found - again(tried)) ** 2).sum(-1)[0]
        better = error < nearest
        best[better], nearest = tried[better], np.minimum(error, nearest)
    return Taken(best, clear | np.array([len(one) > 1 for one in sets]))


def followed(logits: np.ndarray, half: np.ndarray, taken: Taken) -> np.ndarray:
    """The experts [n, chosen] that the model is to take where it has logits [n, E]: its own, or the chip's where half
    precision may send the token there. Where it may not, the chip is wrong, and is to be judged by the model's own."""
    import numpy as np

    bound, made = compare.doubt(logits, half), np.argsort(-logits, -1, kind="stable")[:, : taken.experts.shape[-1]]
    for token, (row, theirs) in enumerate(zip(logits, taken.experts)):
        mine, chip = set(made[token].tolist()), set(theirs.tolist())
        gained, lost = sorted(chip - mine), sorted(mine - chip)
        if taken.known[token] and gained and max(row[lost]) - min(row[gained]) <= bound:
            made[token] = theirs
    return made


def sends(experts: np.ndarray) -> Callable[..., tuple]:
    """A forward hook of a router, which gives (logits [m, E], weights [m, chosen], experts [m, chosen]): the first n
    tokens go to `experts` [n, chosen]."""
    import torch

    def hook(_: object, __: tuple, output: tuple) -> tuple:
        logits, weights, own = output
        there = torch.from_numpy(experts).to(own.dtype)
        n = len(there)
        shares = torch.softmax(logits[:n].float(), -1)
        mine, found = (shares.gather(-1, chosen.long()) for chosen in (own[:n], there))
        bare, whole = ((weights[:n].float() - w).abs().max() for w in (mine, mine / mine.sum(-1, keepdim=True)))
        if whole < bare:  # the class makes them sum to 1
            found = found / found.sum(-1, keepdim=True)
        same = (own[:n].sort(-1).values == there.sort(-1).values).all(-1, keepdim=True)
        weights, own = weights.clone(), own.clone()
        weights[:n] = torch.where(same, weights[:n], found.to(weights.dtype))
        own[:n] = torch.where(same, own[:n], there)
        return logits, weights, own

    return hook
