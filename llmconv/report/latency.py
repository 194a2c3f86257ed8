"""Estimated time on the chip, from the compiler's cycles: of each net, and of prefill, decode and towers. No
measurement: work of the host, and copies between host and chip, are in none of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmconv.chips import CHIPS
from llmconv.plan.handover import towers_of

# kinds of nets -> the part that they are
HEADS = ("lm_head", "lm_head_lora", "greedy_head")
NEEDED = ("embedding", "embedding_cache", "lm_head")  # an estimate without one of these, or a block, tells nothing
LONGER = 4  # prompts of so many launches at most
SHORT = {"token table": "emb", "output head": "head"}  # names in plots


@dataclass(frozen=True)
class Net:
    """A net of a manifest. rows: tokens that it takes; past: rows of its history, 0 for none; stage: it is a further
    stage of another net."""

    name: str
    layer: int | None
    kind: str
    seconds: float | None
    rows: int
    past: int
    stage: bool

    @classmethod
    def of(cls, net: Mapping[str, Any], clock: float) -> Net:
        shapes = {io["name"]: io["shape"] for io in net["inputs"]}
        first = net["inputs"][0]["shape"]
        layer, cycles = net["layer"], net["cycles"]
        kind = net["kind"] if layer is not None else net["name"]
        past = shapes.get("history_k", (0, 0))[1]
        seconds, rows = cycles / clock if cycles else None, first[1] if first[1:] else 0
        return cls(net["name"], layer, kind, seconds, rows, past, bool(net.get("stage_of")))

    @property
    def part(self) -> str:
        if self.layer is not None:
            return "layers"
        return "output head" if self.kind in HEADS else "token table"


@dataclass(frozen=True)
class Step:
    """What one prefill, decoded token or launch of a tower takes.

    step: "prefill", "decode", or what a tower looks at. tokens: of the prompt; of the KV cache; that the tower gives.
    launches: of every block. seconds: None where the compiler estimates nothing. tokens_per_second: of all sequences
    together. shares: of the seconds, by part. without: nets that have no estimate and are left out of the sum. nets:
    those that it launches, each once, in order."""

    step: str
    tokens: int
    launches: int
    seconds: float | None
    tokens_per_second: float | None
    shares: Mapping[str, float]
    without: tuple[str, ...] = ()
    nets: tuple[Net, ...] = ()


def steps(manifest: Mapping[str, Any]) -> tuple[Step, ...]:
    """Prefills of one launch and of more, decodes at the whole KV length and in shorter stages, and the largest launch
    of each tower. Raises KeyError, TypeError or ValueError for what is no manifest."""
    job, device = manifest["job"], manifest.get("device")  # an earlier llmconv told nothing of the device
    nets = [Net.of(net, CHIPS[job["chip"]].clock) for net in manifest["nets"]]
    return (*_prefills(nets, job), *_decodes(nets, job), *_looks(nets, device or {}))


def firsts(manifest: Mapping[str, Any]) -> dict[str, Step]:
    """Of each kind of step the first: a prefill of one launch, a decode at the whole KV length, a launch of a tower."""
    found: dict[str, Step] = {}
    for step in steps(manifest):
        found.setdefault(step.step, step)
    return found


def plots(manifest: Mapping[str, Any] | None) -> dict[str, Any]:
    """The data of the page's bars by step: names, short names, milliseconds."""
    made: dict[str, Any] = {}
    for name, step in firsts(manifest).items() if manifest else ():
        if name in ("prefill", "decode") and step.seconds is not None:
            known = [net for net in step.nets if net.seconds is not None]
            made[name] = {
                "names": [net.name for net in known],
                "short": [SHORT.get(net.part, str(net.layer)) for net in known],
                "ms": [round(1000 * (net.seconds or 0.0), 6) for net in known],
            }
    return made


def _named(nets: Sequence[Net], *names: str) -> list[Net]:
    return [net for net in nets if net.layer is None and net.name in names]


def _blocks(nets: Sequence[Net], *kinds: str) -> list[Net]:
    """Of every layer the net of the first kind that it has."""
    found: dict[int, Net] = {}
    for kind in kinds:
        for net in nets:
            if net.layer is not None and net.kind == kind:
                found.setdefault(net.layer, net)
    return [found[layer] for layer in sorted(found)]


def _prefills(nets: Sequence[Net], job: Mapping[str, Any]) -> Iterator[Step]:
    """Of a prompt that fills one launch, and of longer ones where the blocks read on behind a history."""
    first, more = _blocks(nets, "block_prompt", "block"), _blocks(nets, "block_kv", "block")
    if not first:
        return
    chunk, ends = first[0].rows, _named(nets, *HEADS)
    table = _named(nets, "embedding", "embedding_lora")
    reach = max(net.past for net in more)  # of the history that a launch can read on behind
    count = min(LONGER, job["seq_length"] // chunk, 1 + reach // chunk) if reach else 1
    for number in range(1, max(1, count) + 1):
        launched = [*table * number, *first, *more * (number - 1), *ends]
        yield _step("prefill", number * chunk, number, launched, number * chunk)


def _decodes(nets: Sequence[Net], job: Mapping[str, Any]) -> Iterator[Step]:
    """Of a token behind as many as the cache holds: of the whole one, and of shorter stages. Layers whose states do not
    grow have the same net at every length."""
    caches = [net for net in nets if net.kind == "block_cache"]
    whole = {net.layer: net for net in caches if not net.stage}
    alone, ends = _named(nets, "embedding_cache", "embedding_cache_lora"), _named(nets, *HEADS)
    longest = max((net.past for net in whole.values()), default=0)
    for past in sorted({longest, *(net.past for net in caches if net.stage)}, reverse=True):
        blocks = whole | {net.layer: net for net in caches if net.stage and net.past == past}
        if blocks:
            launched = [*alone * job["batch"], *blocks.values(), *ends * job["batch"]]
            yield _step("decode", past, 1, launched, job["batch"])


def _looks(nets: Sequence[Net], device: Mapping[str, Any]) -> Iterator[Step]:
    """Of the largest item of each tower's launch."""
    for item, kinds in towers_of(device).items():
        for net in _named(nets, *dict.fromkeys(tower.net for tower in kinds)):
            tokens = int((device.get(item) or {}).get("tokens", 0))
            rate = tokens / net.seconds if net.seconds else None
            shares = {net.name: 1.0} if net.seconds else {}
            yield Step(item, tokens, 1, net.seconds, rate, shares, () if net.seconds else (net.name,), (net,))


def _step(step: str, tokens: int, launches: int, launched: Sequence[Net], made: int) -> Step:
    """made: tokens that come out of it."""
    missing, nets = dict.fromkeys(net.name for net in launched if net.seconds is None), tuple(dict.fromkeys(launched))
    if any(net.seconds is None and (net.layer is not None or net.name in NEEDED) for net in launched):
        return Step(step, tokens, launches, None, None, {}, tuple(missing), nets)
    parts: dict[str, float] = {}
    for net in launched:
        parts[net.part] = parts.get(net.part, 0.0) + (net.seconds or 0.0)
    total = sum(parts.values())
    shares = {part: seconds / total for part, seconds in sorted(parts.items(), key=lambda one: -one[1])}
    return Step(step, tokens, launches, total, made / total, shares, tuple(missing), nets)
