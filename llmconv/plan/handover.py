"""What a device has to know to run a .bmodel: the key "device" of manifest.json, and the same for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from llmconv.blocks.cross_attention import STATES
from llmconv.blocks.tower import Tower
from llmconv.checkpoint import rope, tokens
from llmconv.checkpoint.tokens import SpecialTokens
from llmconv.families import towers
from llmconv.plan.net import Net
from llmconv.plan.plan import Plan
from llmconv.toolchain.pinned import VERSION
from llmconv.words import counted

ITEMS = ("image", "sound")  # what towers of any family look at; to ask the families would import them all


@dataclass(frozen=True)
class Requirement:
    """What the vendor's FAQ asks of a device for programs of this compiler."""

    driver: str = ">= 0.5.1"
    libsophon: str = "after 2024-06-30"


@dataclass(frozen=True)
class Mask:
    """The value that hides a place in a mask input (0 shows it). bits: the same in the input's dtype, in hex."""

    input: str
    dtype: str
    value: float
    bits: str


# As the public runtimes write them
HIDDEN = {"bf16": (-9984.0, "0xC61C"), "f16": (-10000.0, "0xF0E2"), "f32": (-10000.0, "0xC61C4000")}


@dataclass(frozen=True)
class KVCache:
    """The KV cache of one sequence: history inputs [rows, heads, size] of every layer, for keys and for values.

    stages: rows of the further decode stages, the longest first.
    """

    layers: int
    rows: int
    heads: int
    size: int
    stages: tuple[int, ...]


@dataclass(frozen=True)
class Across:
    """Layers that look across at a tower's hidden states: their numbers, and the shape of those states, and of the keys
    and of the values that a prompt makes of them once."""

    layers: tuple[int, ...]
    states: tuple[int, ...]
    kept: tuple[int, ...]


@dataclass(frozen=True)
class Handover:
    """half: dtype of hidden states, KV cache and masks. equal_lengths: the family's public demo needs
    max_input_length == seq_length. largest: for what each tower looks at ("image"), the largest item of one launch, in
    numbers. rope: which of longrope's tables the nets have, "" for other models. across: of a model that has such
    layers."""

    chip: str
    devices: int
    cores: int
    half: str
    seq_length: int
    max_input_length: int
    batch: int
    dynamic: bool
    equal_lengths: bool
    kv_cache: KVCache
    masks: tuple[Mask, ...]
    tokens: SpecialTokens
    largest: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    rope: str = ""
    across: Across | None = None
    compiler: str = VERSION
    requires: Requirement = field(default_factory=Requirement)

    @classmethod
    def of(cls, plan: Plan) -> Handover:
        """The handover of a plan. Raises InputError where generation_config.json or tokenizer_config.json cannot be
        read."""
        job = plan.job
        special = tokens.read(plan.config, plan.checkpoint.path)
        marks = {tower.token[0]: spec.token for tower, spec in plan.towers}
        return cls(
            chip=job.chip,
            devices=job.num_device,
            cores=job.num_core,
            half=job.half,
            seq_length=job.seq_length,
            max_input_length=job.max_input_length,
            batch=job.batch,
            dynamic=job.dynamic,
            equal_lengths=plan.family.equal_lengths,
            kv_cache=_kv_cache(plan),
            masks=tuple(_masks(plan.nets)),
            tokens=replace(special, seen={**special.seen, **marks} if marks else {}),
            largest={tower.item: tower.largest(spec) for tower, spec in plan.towers},
            rope=next(filter(None, (rope.longrope_table(kind.rope, job.seq_length) for kind in plan.spec.kinds)), ""),
            across=_across(plan),
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON. The largest items have keys of their own, null for what the model has no tower for."""
        made: dict[str, Any] = {}
        for name, value in asdict(self).items():
            if name == "across" and value is None:
                continue
            made |= dict.fromkeys(ITEMS, None) | value if name == "largest" else {name: value}
        return made


def _kv_cache(plan: Plan) -> KVCache:
    found = [(net.layer, net.history[0].shape) for net in plan.nets if net.kind == "block_cache" and net.history]
    # the whole length, then those of the further stages
    shapes = [shape for layer, shape in found if layer == found[0][0]]
    return KVCache(len({layer for layer, _ in found}), *shapes[0][1:], stages=tuple(shape[1] for shape in shapes[1:]))


def _across(plan: Plan) -> Across | None:
    """Of the prefill nets of the layers that look across."""
    looking = [layer for layer, kind in enumerate(plan.spec.kinds) if kind.mixer.across]
    if not looking:
        return None
    net = next(net for net in plan.nets if net.name == f"block_{looking[0]}")
    shapes = {io.name: io.shape for io in (*net.inputs, *net.outputs)}
    (kept,) = {shapes[tensor] for _, tensor in net.ports.outputs}
    return Across(tuple(looking), shapes[STATES], kept)


def _masks(nets: tuple[Net, ...]) -> Iterator[Mask]:
    """The inputs that are added to scores of attention, each once: such a mask has four axes."""
    found = dict.fromkeys(
        (f"{net.name} {io.name}" if net.tower else io.name, io.dtype)
        for net in nets
        for io in net.inputs
        if io.name.endswith("_mask") and len(io.shape) == 4
    )
    for name, dtype in found:
        yield Mask(name, dtype, *HIDDEN[dtype])


def rows(device: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a manifest has under "device", for people: pairs of label and text."""
    needs, cache, special = (device[key] for key in ("requires", "kv_cache", "tokens"))
    lengths = f"{device['seq_length']} tokens, prompts up to {device['max_input_length']}" + (
        f", {device['batch']} sequences at once" if device["batch"] > 1 else ""
    )
    if device["equal_lengths"]:
        lengths += "; this family's public demo needs both to be the same" + (
            "" if device["seq_length"] == device["max_input_length"] else ", and THEY ARE NOT"
        )
    stages = f", decode stages of {', '.join(map(str, cache['stages']))}" if cache["stages"] else ""
    ids = [f"{name} {special[name]}" for name in ("bos", "pad") if special[name] is not None]
    ids += [f"eos {' or '.join(map(str, special['eos']))}"] if special["eos"] else []
    ids += [f"{name} {number}" for name, number in special["seen"].items()]
    found = [
        (
            "needs",
            f"driver {needs['driver']}, libsophon {needs['libsophon']} (programs of tpu_mlir {device['compiler']})",
        ),
        ("lengths", lengths),
        (
            "KV cache",
            f"{cache['rows']} rows of {cache['heads']} x {cache['size']} {device['half']} in each of "
            f"{counted(cache['layers'], 'layer')}{stages}",
        ),
        *_looking(device),
        (
            "masks",
            ", ".join(
                f"{mask['input']} {mask['dtype']}: hidden {mask['value']:g} ({mask['bits']})"
                for mask in device["masks"]
            ),
        ),
        ("tokens", ", ".join(ids)),
    ]
    known = {field.name for field in fields(Handover)}
    found += [
        (f"largest {name}", ", ".join(largest(given))) for name, given in device.items() if name not in known and given
    ]
    if device["rope"]:
        found.append(("longrope", f"the table of the {device['rope']} factors"))
    return [(what, text) for what, text in found if text]


def _looking(device: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if across := device.get("across"):
        layers = ", ".join(map(str, across["layers"]))
        states, kept = (" x ".join(map(str, across[name])) for name in ("states", "kept"))
        yield (
            "look across",
            f"layers {layers} at {states} hidden states of the tower; keys and values {kept} {device['half']} in each, "
            "made with the prompt; without an image they are left out, or get zeros",
        )


def towers_of(device: Mapping[str, Any]) -> dict[str, tuple[Tower[Any, Any], ...]]:
    """What `llmconv.families.towers` gives, and no tower for anything where a manifest's `device` says that the model
    has none: a run that finds nothing to do must not import every family. An earlier llmconv told nothing of it."""
    looks = not device or any(device.get(item) for item in ITEMS)
    return towers() if looks else dict.fromkeys(ITEMS, ())


def largest(item: Mapping[str, float]) -> list[str]:
    """The largest item of a tower's launch for people: how large it is, and how many it has of what."""
    counts = [_worded(number, what) for what, number in item.items() if what not in ("width", "height")]
    return ([f"{item['width']} x {item['height']} pixels"] if "width" in item else []) + counts


def _worded(number: float, what: str) -> str:
    """ "16 tokens", "1 second of attention": what: a name in the plural, with _ for blanks."""
    noun, *more = what.split("_")
    if number == 1:
        noun = noun.removesuffix("es") if noun.endswith("ches") else noun.removesuffix("s")
    return " ".join([str(number), noun, *more])
