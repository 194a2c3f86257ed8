"""What is printed when a conversion is done: where the result is, how large, how long it took, what comes next."""

from __future__ import annotations

import json
from typing import Any

from llmconv.engine import events
from llmconv.layout import Layout

CLOCK = {"bm1684x": 1.0e9, "bm1688": 0.9e9, "cv186x": 0.9e9}  # Hz, of the compiler's static cost model


def latencies(manifest: dict[str, Any]) -> dict[str, float]:
    """Compiler estimates in seconds: `prefill` of the full prompt length, `decode` of one token. Host work is not in them."""
    clock = CLOCK[manifest["job"]["chip"]]
    cycles = {net["name"]: net["cycles"] or 0 for net in manifest["nets"]}

    def total(*kinds: str) -> float:
        return sum(cycles[n["name"]] for n in manifest["nets"] if n["kind"] in kinds) / clock

    once = sum(cycles.get(n, 0) for n in ("lm_head",)) / clock
    return {
        "prefill": total("block") + cycles.get("embedding", 0) / clock + once,
        "decode": total("block_cache") + cycles.get("embedding_cache", 0) / clock + once,
    }


def size(nbytes: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if nbytes < 1000 or unit == "GB":
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    raise AssertionError


class Summary:
    """A listener that prints a few lines when a run that made a .bmodel ends well."""

    def __init__(self, layout: Layout):
        self.layout = layout
        self.merged = False

    def __call__(self, event: Any) -> None:
        if isinstance(event, (events.TaskFinished, events.TaskUnchanged)) and event.name == "manifest":
            self.merged = True
        if isinstance(event, events.RunFinished) and self.merged and not event.status:
            print(self.text(event))

    def text(self, event: Any) -> str:
        manifest = json.loads(self.layout.manifest.read_text(encoding="utf-8"))
        time = latencies(manifest)
        nets = manifest["nets"]
        lines = [
            f"{self.layout.out / manifest['bmodel']}  {size(manifest['bytes'])}, {len(nets)} nets",
            f"built {event.built}, cached {event.cached}, unchanged {event.unchanged} tasks in {event.seconds:.1f} s",
        ]
        if time["decode"]:
            lines.append(
                f"compiler estimate on {manifest['job']['chip']}: prefill of {manifest['job']['max_input_length']} tokens "
                f"{1000 * time['prefill']:.2f} ms, decode {1000 * time['decode']:.2f} ms/token ({1 / time['decode']:.0f} tokens/s)"
            )
        return "\n".join([*lines, f"next: llmconv verify {self.layout.out}"])
