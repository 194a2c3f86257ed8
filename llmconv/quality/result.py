"""What `llmconv quality` found, as JSON (docs/json.md) and as text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from llmconv.quality.suggest import Linear
from llmconv.words import size

if TYPE_CHECKING:
    from llmconv.quality.score import Score
    from llmconv.quality.variants import Variant

WORST = 5  # linears, and layers, that are named


@dataclass(frozen=True)
class Measured:
    """A variant. perplexity: None where it is not finite. agreement: share of tokens whose likeliest successor is the
    original's. bytes: of the .bmodel, an estimate; None where no conversion makes it."""

    name: str
    perplexity: float | None
    agreement: float
    bytes: int | None

    @classmethod
    def of(cls, variant: Variant, found: Score, original: Score) -> Measured:
        """From a variant's score and that of the original."""
        return cls(variant.name, found.perplexity, float((found.best == original.best).mean()), variant.bytes)


@dataclass(frozen=True)
class Layer:
    """loss: relative L2 of the layer's output with all of its linears quantised, on half precision's states. drift: by
    variant, how far the states behind it are from the original's. None where they are not finite."""

    layer: int
    loss: float | None
    drift: Mapping[str, float | None]

    @classmethod
    def of(cls, layer: int, record: Mapping[str, Any]) -> Layer:
        """From what the walk keeps, which are squares."""
        return cls(layer, root(record["alone"][""]), {name: root(value) for name, value in record["drift"].items()})


@dataclass(frozen=True)
class Suggested:
    """limit: bytes that were allowed. bytes: an estimate. lost, of: the linears' losses together, with it and without.
    proof: measured as a whole; None where nothing is kept. job_file: as a job file."""

    limit: int
    keep_half: str
    bytes: int
    lost: float
    of: float
    proof: Measured | None
    job_file: str


@dataclass(frozen=True)
class Quality:
    """model: its directory; text: the file, "" for the one that comes along. tokens: that were foretold, in windows of
    `window`. base: the variant whose layers and linears are measured alone. linears: each with its loss, a relative
    squared error, and the bytes that keeping it adds."""

    model: str
    text: str
    tokens: int
    window: int
    base: str
    variants: tuple[Measured, ...]
    layers: tuple[Layer, ...]
    linears: tuple[Linear, ...]
    suggestion: Suggested | None
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @property
    def worst_layers(self) -> list[Layer]:
        return sorted(self.layers, key=lambda one: -_order(one.loss))

    @property
    def worst_linears(self) -> list[Linear]:
        return sorted(self.linears, key=lambda one: -_order(one.loss))


def root(value: float | None) -> float | None:
    """A relative L2 from a mean of squares."""
    return None if value is None else math.sqrt(value)


def _order(value: float | None) -> float:
    return math.inf if value is None else value


def figure(value: float | None, digits: int = 3) -> str:
    return "not finite" if value is None else f"{value:.{digits}g}"


def rows(found: Sequence[Measured]) -> Iterator[tuple[str, str, str, str]]:
    """A line for each variant."""
    for one in found:
        told = "" if one.perplexity is None else f"{one.perplexity:.3f}"
        yield one.name, told or "not finite", f"{100 * one.agreement:.1f} %", size(one.bytes) if one.bytes else ""


COLUMNS = ("weights", "perplexity", "next token as original", "file, about")


def lines(found: Quality) -> Iterator[str]:
    """What is told below the table."""
    yield f"{found.tokens} tokens foretold, in windows of {found.window}; {found.text or 'the text that comes along'}"
    worst = ", ".join(f"{one.layer} ({figure(one.loss)})" for one in found.worst_layers[:WORST])
    yield f"{found.base}: relative L2 by layer, worst layers {worst}"
    named = ", ".join(f"{one.layer}.{one.name} ({figure(root(one.loss))})" for one in found.worst_linears[:WORST])
    yield f"worst linears {named}"
    yield from (f"note: {note}" for note in found.notes)
    made = found.suggestion
    if made is None:
        return
    if not made.keep_half:
        yield f"within {size(made.limit)} nothing more can be kept in half precision ({size(made.bytes)})"
        return
    share = f", {100 * (1 - made.lost / made.of):.0f} % of the linears' losses gone" if made.of else ""
    yield f"suggestion: {size(made.bytes)} of {size(made.limit)}{share}"
    if made.proof:
        (told,) = rows([made.proof])
        yield f"  measured: perplexity {told[1]}, next token as original {told[2]}"
    yield f"  --keep-half {made.keep_half}"
