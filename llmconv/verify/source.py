"""Which files transformers itself would load: what is proved has to be the model that others get from the directory."""

from __future__ import annotations

import json

from llmconv.plan.plan import Plan


def foreign(plan: Plan) -> list[str]:
    """Differences between the files that the plan reads and those that transformers' from_pretrained picks:
    model.safetensors, else what model.safetensors.index.json names. It loads no directory with neither of them, so
    that there is nothing to compare then."""
    folder = plan.checkpoint.path
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        theirs = {"model.safetensors"}
    elif index.is_file():
        theirs = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    else:
        return []
    ours = {shard.name for shard in plan.checkpoint.shards}
    if ours == theirs:
        return []
    return [f"the weights are those of {', '.join(sorted(ours))}; transformers loads {', '.join(sorted(theirs))}"]
