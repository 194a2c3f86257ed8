"""What a measurement is kept under: a key of all that its figures depend on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

from llmconv.checkpoint.digest import tensor_digests
from llmconv.checkpoint.files import tensors_of
from llmconv.engine import own_code
from llmconv.plan.plan import Plan
from llmconv.quality.variants import Variant
from llmconv.quality.windows import Windows
from llmconv.verify.settings import JUDGES, LIBRARIES
from llmconv.verify.weights import Precision

CODE = (*JUDGES, "quality", "plan", "coefficients")  # our packages that figures depend on


def about(base: Plan, seen: Windows) -> str:
    """Of tensors, config, tokens, code and libraries: all but the variants. Reads the whole checkpoint."""
    checkpoint, digest = base.checkpoint, hashlib.sha256()
    for shard in checkpoint.shards:
        file, tensors = tensors_of(checkpoint.path, shard.name)
        found = tensor_digests(file, max(1, os.cpu_count() or 1), tensors)
        digest.update(json.dumps(sorted(found.items())).encode())
    digest.update(base.config.file.read_bytes())
    for ids in seen.ids:
        digest.update(ids.tobytes() + b"|")
    ours, others = own_code.digest(*CODE), own_code.versions(LIBRARIES)
    digest.update(json.dumps([seen.lead, base.job.seq_length, ours, others]).encode())
    return digest.hexdigest()


def key(of: str, found: Sequence[Variant], alone: bool) -> str:
    """Of a measurement of these variants. of: what `about` gave; alone: linears are measured alone too."""
    return hashlib.sha256(json.dumps([of, alone, *map(_described, found)]).encode()).hexdigest()


def _described(variant: Variant) -> list[Any]:
    """A variant as a part of a key."""
    return [variant.name, _fields(variant.precision)]


def _fields(precision: Precision) -> dict[str, Any]:
    return {name: _plain(value) for name, value in vars(precision).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Precision):
        return _fields(value)
    return sorted(map(str, value)) if isinstance(value, frozenset) else value
