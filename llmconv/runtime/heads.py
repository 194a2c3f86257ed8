"""Launches of the heads that pick a token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from llmconv.plan.net import Net
from llmconv.runtime.launches import Launch
from llmconv.runtime.sampling import Settings

if TYPE_CHECKING:
    import numpy as np


def choice(outputs: Mapping[str, np.ndarray]) -> int:
    """The token that a head's outputs say: its id, or the best of its logits."""
    (values,) = outputs.values()
    return int(values.argmax()) if values.dtype.kind == "f" else int(values.ravel()[0])


def sample(net: Net, logits: np.ndarray, ids: np.ndarray, settings: Settings, whole: bool) -> Launch:
    """A launch of sample_head for logits [1, V] behind the tokens `ids` [n]. whole: at the net's full length, token 0
    in places that are not used, as Qwen2.5's demo does it, penalty on token 0 included; else at the length of the ids,
    as Qwen3's does.
    """
    import numpy as np

    most = next(io.shape for io in net.inputs if io.name == "input_ids")
    given = np.zeros(most if whole else (1, len(ids)), np.int32)
    given[0, : len(ids)] = ids
    inputs = {"m_logits": logits.astype(np.float32), "input_ids": given, "top_k": np.array([settings.top_k], np.int32)}
    inputs |= {name: np.array([getattr(settings, name)], np.float32) for name in ("penalty", "temperature", "top_p")}
    return Launch(net, {io.name: inputs[io.name] for io in net.inputs}, 1, label=str(settings))
