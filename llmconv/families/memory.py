"""How the states of a layer lie in the cache of transformers' class: one for each kind of mixer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class Memory(ABC):
    """Puts a layer's states, by name and in the layout of the nets but without copies, into a cache of the class's, and
    takes them out."""

    @abstractmethod
    def fill(self, config: Any, past: Mapping[str, torch.Tensor]) -> Any:
        """A cache for a model of that one layer, with the states in it; config: the decoder's. Where there is no past,
        a state that grows has no rows, one that is made once is missing, and another one has zeros."""

    @abstractmethod
    def read(self, cache: Any, past: Mapping[str, torch.Tensor], count: int) -> dict[str, torch.Tensor]:
        """The new states after `count` tokens: their rows of states that grow, else the new values."""


class KeysAndValues(Memory):
    """Keys, after rope, and values: [1, L, KV, D] in the nets, [1, KV, L, D] in the class."""

    def fill(self, config: Any, past: Mapping[str, torch.Tensor]) -> Any:
        from transformers import DynamicCache

        cache = DynamicCache()
        if past["k"].shape[1]:
            cache.update(past["k"].transpose(1, 2), past["v"].transpose(1, 2), 0)
        return cache

    def read(self, cache: Any, past: Mapping[str, torch.Tensor], count: int) -> dict[str, torch.Tensor]:
        start = past["k"].shape[1]
        (held,) = cache.layers
        parts = {"k": held.keys, "v": held.values}
        return {name: part[:, :, start : start + count].transpose(1, 2) for name, part in parts.items()}


class Columns(Memory):
    """The columns of a convolution [1, C, taps], alike in both. Zeros are what the class begins with."""

    def fill(self, config: Any, past: Mapping[str, torch.Tensor]) -> Any:
        import copy

        from transformers import DynamicCache

        # the decoder asks a cache how long it is, which only one with a layer of keys and values can say
        both = copy.deepcopy(config)
        both.layer_types, both.num_hidden_layers = [*config.layer_types, "full_attention"], 2
        cache = DynamicCache(config=both)
        cache.update_conv_state(past["conv"].clone(), 0, conv_kernel_size=past["conv"].shape[-1])
        return cache

    def read(self, cache: Any, past: Mapping[str, torch.Tensor], count: int) -> dict[str, torch.Tensor]:
        return {"conv": cache.layers[0].conv_states[0]}


class DeltaStates(Columns):
    """The convolution's columns, and the recurrent state [1, heads, keys, values], alike in both."""

    def fill(self, config: Any, past: Mapping[str, torch.Tensor]) -> Any:
        cache = super().fill(config, past)
        cache.update_recurrent_state(past["recurrent"].clone(), 0)
        return cache

    def read(self, cache: Any, past: Mapping[str, torch.Tensor], count: int) -> dict[str, torch.Tensor]:
        return super().read(cache, past, count) | {"recurrent": cache.layers[0].recurrent_states[0]}


class CrossStates(Memory):
    """Keys, behind their norm, and values of a tower's hidden states [1, KV, m, D], alike in both but for the copies of
    heads. There are none where nothing was seen yet."""

    def fill(self, config: Any, past: Mapping[str, torch.Tensor]) -> Any:
        from transformers import DynamicCache

        cache = DynamicCache()
        if past:
            cache.update(past["k"], past["v"], 0)
        return cache

    def read(self, cache: Any, past: Mapping[str, torch.Tensor], count: int) -> dict[str, torch.Tensor]:
        return {"k": cache.layers[0].keys, "v": cache.layers[0].values} if cache.layers else {}
