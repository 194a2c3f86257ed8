"""The summary of a finished conversion: place, size, cost, expected speed, and the next command."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

from llmconv.engine import events
from llmconv.plan.handover import ITEMS, largest, towers_of
from llmconv.report.latency import firsts
from llmconv.request.output import Layout
from llmconv.verify.record import closeness, record, worst_output
from llmconv.words import count, duration, program, rate, size

SILENT = ("quiet", "none")  # ways to show a run without a word about success


def coefficient_bytes(manifest: Mapping[str, Any]) -> int:
    """Bytes of coefficients in the .bmodel; nets that share theirs count once."""
    return sum({n["coefficients"] or n["name"]: n["coefficient_bytes"] for n in manifest["nets"]}.values())


class Summary:
    """A listener that prints the summary after a run that made a .bmodel.

    progress: as in engine.RunOptions; with "json" the summary is one more object, with "quiet" and
    "none" it is left out.
    """

    def __init__(self, layout: Layout, progress: str = "auto"):
        self.layout, self.progress = layout, progress
        self.merged = False
        self.nets: dict[str, str] = {}  # what this run did for each net

    def __call__(self, event: Any) -> None:
        if isinstance(event, (events.TaskFinished, events.TaskUnchanged)):
            self._task(event)
        if isinstance(event, events.RunFinished) and self.merged and not event.status:
            if self.progress == "json":
                print(json.dumps({"event": "Summary"} | self.facts(event)), flush=True)
            elif self.progress not in SILENT:
                print(self.text(event), flush=True)

    def _task(self, event: Any) -> None:
        phase, _, net = event.name.partition(":")
        if phase == "compile":
            unchanged = isinstance(event, events.TaskUnchanged)
            self.nets[net] = (
                "up to date" if unchanged else "from the cache" if event.how == "cached" else event.values["how"]
            )
        self.merged = self.merged or event.name == "manifest"
        if event.name == "verify" and isinstance(event, events.TaskFinished) and self.progress not in ("json", *SILENT):
            print(event.values["text"])

    def facts(self, event: events.RunFinished) -> dict[str, Any]:
        """What is known at the end of a run, JSON-able; bytes and seconds."""
        manifest = self._manifest()
        held, job = coefficient_bytes(manifest), manifest["job"]
        looks = towers_of(manifest.get("device") or {})
        read = [name for kinds in looks.values() for tower in kinds for name in tower.reads]
        return {
            "bmodel": str(self.layout.out / manifest["bmodel"]),
            "bytes": manifest["bytes"],
            "coefficient_bytes": held,
            "weights": manifest["weights"],
            "bits_per_weight": round(8 * held / manifest["weights"], 2),
            "nets": dict(Counter(self.nets.values())),
            "seconds": round(event.seconds, 1),
            "cpu_seconds": round(event.cpu, 1),
            "peak_memory": event.peak_memory,
            "peak_disk": event.peak_disk,
            "chip": job["chip"],
            "max_input_length": job["max_input_length"],
            "batch": job.get("batch", 1),
            **{name: job[name] for name in read if name in job},  # an earlier llmconv had fewer options
            **_estimated(manifest),
            "verified": self._verified(),
        }

    def _manifest(self) -> dict[str, Any]:
        return json.loads(self.layout.manifest.read_text(encoding="utf-8"))

    def _verified(self) -> dict[str, Any] | None:
        """What `llmconv verify` found about this very file: {ok, worst: {net, output, relative_l2, limit}}, worst being
        what comes closest to its limit, its relative_l2 None when it is not finite; None when it did not run.
        """
        told = record(self.layout)
        if told is None:
            return None
        try:
            found = [(net["name"], output) for net in told["nets"] if (output := worst_output(net))]
            net, output = max(found, key=lambda item: closeness(item[1]), default=("", None))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        worst = (
            {
                "net": net,
                "output": output["output"],
                "relative_l2": output["relative_l2"],
                "limit": output["relative_l2_limit"],
            }
            if output
            else None
        )
        return {"ok": told["ok"], "worst": worst}

    def text(self, event: events.RunFinished) -> str:
        """The facts as lines of at most 80 columns, but for paths."""
        f = self.facts(event)
        rows = [
            (
                "size",
                f"{size(f['bytes'])}; {f['bits_per_weight']:.2f} bits per weight ({size(f['coefficient_bytes'])} for "
                f"{count(f['weights'])} weights)",
            ),
            ("nets", f"{sum(f['nets'].values())}: {', '.join(f'{n} {how}' for how, n in sorted(f['nets'].items()))}"),
            ("took", f"{duration(f['seconds'])}, {duration(f['cpu_seconds'])} of CPU" + self._peaks(f)),
            *zip_longest(("estimate",), estimates(f, self._manifest().get("device", {})), fillvalue=""),
            ("verified", _verdict(f["verified"])),
            *([("report", str(self.layout.report))] if self.layout.report.exists() else []),
            ("next", self._next(f)),
        ]
        return "\n".join([f["bmodel"], *(f"  {name:<9} {text}" for name, text in rows)])

    def _peaks(self, f: dict[str, Any]) -> str:
        peaks = [
            f"{size(f[key])} of {word}" for key, word in (("peak_memory", "memory"), ("peak_disk", "disk")) if f[key]
        ]
        return f"; peak {', '.join(peaks)}" if peaks else ""

    def _next(self, f: dict[str, Any]) -> str:
        if f["verified"] is None:
            return f"{program('llmconv')} verify {self.layout.out}"
        if f["verified"]["ok"]:
            return "copy .bmodel, config/ and SHA256SUMS to the device; sha256sum -c there"
        return f"{program('llmconv')} verify {self.layout.out} --full"


def _estimated(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """estimated_seconds: of what towers look at, such as `image`, of the largest size; of `prefill` of the longest
    prompt of a launch; of `decode` of a token at the whole KV length; None where the compiler estimates nothing
    (dynamic nets) and where there is no such net. prefill_tokens: of that prompt; decode_rate: tokens a second, of all
    sequences together."""
    found = firsts(manifest)
    seconds = {name: found[name].seconds if name in found else None for name in (*ITEMS, "prefill", "decode")}
    prefill, decode = found.get("prefill"), found.get("decode")
    told = {"prefill_tokens": prefill and prefill.tokens, "decode_rate": decode and decode.tokens_per_second}
    return {"estimated_seconds": seconds, **told}


def estimates(f: dict[str, Any], device: Mapping[str, Any]) -> list[str]:
    """Lines on the latencies that the compiler estimates, and that nobody has measured. device: as in the manifest."""
    time, parts = f["estimated_seconds"], []
    if time["prefill"]:
        parts.append(f"prefill of {f['prefill_tokens']} tokens in {1000 * time['prefill']:.2f} ms")
    if time["decode"]:
        each = "each" if f["batch"] == 1 else f"for {f['batch']}"
        parts.append(f"then {rate(f['decode_rate'])} ({1000 * time['decode']:.2f} ms {each})")
    looks = [
        f"{kinds[0].one} of {largest(device[item])[0]} in {1000 * seconds:.2f} ms"
        for item, kinds in towers_of(device).items()
        if (seconds := time[item])
    ]
    if not parts and not looks:
        return [f"none: the compiler gives none for dynamic nets on {f['chip']}"]
    return [
        *looks,
        *([", ".join(parts)] if parts else []),
        f"by the compiler's count of cycles for {f['chip']}; not measured",
    ]


def _verdict(told: dict[str, Any] | None) -> str:
    if told is None:
        return "not yet"
    worst = told["worst"]
    verdict = "right" if told["ok"] else "WRONG"
    if not worst:
        return verdict
    error = "not finite" if worst["relative_l2"] is None else f"{worst['relative_l2']:.4f}"
    return f"{verdict}, worst relative L2 {error} ({worst['net']} {worst['output']}, limit {worst['limit']:.4f})"
