"""What is printed when a conversion is done: where the result is, how large, how long it took, what comes next."""

from __future__ import annotations

import json
from typing import Any

from llmconv.engine import events
from llmconv.layout import Layout

CLOCK = {"bm1684x": 1.0e9, "bm1688": 0.9e9, "cv186x": 0.9e9}  # Hz, of the compiler's static cost model


def latencies(manifest: dict[str, Any]) -> dict[str, float | None]:
    """Compiler estimates in seconds: `prefill` of the longest prompt, `decode` of one token at full KV length.

    None where the compiler estimates nothing (dynamic nets). Work of the host is in neither.
    """
    clock = CLOCK[manifest["job"]["chip"]]

    def total(*names: str) -> float | None:
        nets = [n for n in manifest["nets"] if n["name"].rstrip("0123456789").rstrip("_") in names and not n.get("stage_of")]
        known = [n["cycles"] for n in nets]
        return sum(known) / clock if known and None not in known else None

    return {"prefill": total("embedding", "block", "lm_head"), "decode": total("embedding_cache", "block_cache", "lm_head")}


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
        if isinstance(event, events.TaskFinished) and event.name == "verify":
            print(event.values["text"])
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
        estimates = []
        if time["prefill"]:
            estimates.append(f"prefill of {manifest['job']['max_input_length']} tokens {1000 * time['prefill']:.2f} ms")
        if time["decode"]:
            estimates.append(f"decode {1000 * time['decode']:.2f} ms/token ({1 / time['decode']:.0f} tokens/s)")
        if estimates:
            lines.append(f"compiler estimate on {manifest['job']['chip']}: {', '.join(estimates)}")
        return "\n".join([*lines, f"next: llmconv verify {self.layout.out}"])
