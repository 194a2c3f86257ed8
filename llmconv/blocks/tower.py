"""What a tower says of itself: the net that makes hidden states of what is no text, images or sound.

A family has a tuple of towers. Plans, verification and reports ask them alone, and know no tower by its name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, Protocol, TypeVar

from llmconv.checkpoint.config import Config
from llmconv.top.graph import Graph

if TYPE_CHECKING:
    import numpy as np
    import torch


class Sizes(Protocol):
    """What every tower's spec has.

    token: id of the placeholder in prompts; tokens: most hidden states that one launch gives."""

    @property
    def token(self) -> int: ...

    @property
    def tokens(self) -> int: ...

    def check(self, layers: int, hidden: int) -> None:
        """Raise InputError for sizes that contradict each other or the language model's (layers, hidden size)."""


@dataclass(frozen=True)
class Beside:
    """A file of config/ that a tower's runtime reads: an array in NumPy's own format (.npy), float32.

    recipe: how it is made of the checkpoint's tensors (llmconv.checkpoint.recipe)."""

    name: str
    recipe: tuple
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Given:
    """What a prompt shows, as it is: a picture uint8 [height, width, 3] (RGB), or a sound float32 [samples] at 16 kHz,
    by the tower's `item`. mark: the text of the placeholder. processor: the model's preprocessor_config.json, {} where
    there is none."""

    values: np.ndarray
    mark: str
    processor: Mapping[str, Any]


S = TypeVar("S", bound=Sizes)  # a tower's spec
I = TypeVar("I")  # what it looks at in one prompt: its items, one or several  # noqa: E741


class Tower(ABC, Generic[S, I]):
    """A kind of tower with a family's knobs.

    Words: net, what its net is called; title, what people call the tower; item, `one`: what it looks at ("image",
    "an image").
    token: the field of config.json with the placeholder's id, and the class's default. joins: its hidden states take
    the places of the placeholders ("tokens"), or layers look across at them ("cross").
    reads: names of the job's options that size it. dynamic: with --dynamic its net takes fewer rows too.
    """

    net: str
    title: str
    item: str
    one: str
    token: tuple[str, int]
    joins: Literal["tokens", "cross"] = "tokens"
    reads: tuple[str, ...] = ()
    dynamic: bool = True

    @abstractmethod
    def spec(self, config: Config, tensors: Container[str], options: Mapping[str, Any]) -> S | None:
        """The sizes, None for a model without this tower. tensors: names in the checkpoint; options: those that it
        reads, "" or False where they are not set. Raises InputError for a missing or senseless field or option."""

    def settled(self, spec: S) -> Mapping[str, Any]:
        """The options that it reads, as they came to be."""
        return {}

    def notes(self, spec: S, options: Mapping[str, Any], length: int) -> list[str]:
        """What a user should know about how options were settled. length: tokens of the longest prefill."""
        return []

    def deviations(self, spec: S) -> Sequence[str]:
        """Where nets and reference alike do otherwise than the model's class, for people; verification tells it."""
        return ()

    def unused(self, spec: S) -> Sequence[str]:
        """Name patterns (re.search) of tensors that checkpoints hold and a tower of these sizes does not use."""
        return ()

    @abstractmethod
    def largest(self, spec: S) -> Mapping[str, float]:
        """The largest item of one launch, for a runtime: numbers by what they count, how large it is first (width and
        height in pixels, or one such as seconds), `tokens` among them."""

    def cheaper(self, spec: S) -> S:
        """The sizes with a graph of fewer cycles, whose inputs and outputs are the same, as `graph` draws it by them
        (default: there is none)."""
        return spec

    @abstractmethod
    def graph(self, spec: S, dynamic: bool) -> Graph:
        """The net. Float inputs are f32; its first output are the hidden states [N, H], [1, N, H] or [parts, N, H], and
        each further one is added, at the same places, to what the next layer of the language model gives."""

    def extra(self, spec: S, length: int, hidden: int) -> Sequence[Graph]:
        """Nets beside it, in half precision: the sum `add` of two [length * hidden], where there are further
        outputs."""
        return ()

    def beside(self, spec: S) -> Sequence[Beside]:
        """The files of config/ that its runtime reads."""
        return ()

    def holding(self, spec: S, beside: Mapping[str, np.ndarray]) -> S:
        """The sizes with what the files of config/ hold, by their names: `prepare` needs that."""
        return spec

    @abstractmethod
    def prepare(self, spec: S, items: I, dynamic: bool) -> dict[str, np.ndarray]:
        """The inputs of a launch as a runtime prepares them, by name; InputError for items that do not fit."""

    def present(self, spec: S, given: Given) -> tuple[I, str] | None:
        """Items, and what stands for them in the text of a prompt, of one picture or sound. None for a tower whose
        runtime begins with what the model's own processor gives. InputError for what does not fit."""
        return None

    @abstractmethod
    def each(self, items: I) -> Iterator[I]:
        """The items, launch by launch."""

    @abstractmethod
    def count(self, spec: S, items: I) -> int:
        """How many hidden states they come to."""

    @abstractmethod
    def label(self, items: I) -> str:
        """The items for people."""

    def marks(self, spec: S, items: I) -> int:
        """How many placeholders stand for the items in a prompt."""
        return self.count(spec, items) if self.joins == "tokens" else sum(1 for _ in self.each(items))

    def around(self, spec: S) -> tuple[int, ...]:
        """Ids of the tokens right before and behind the placeholders of the items, which text has not; () where the
        class looks for none."""
        return ()

    def positions(self, spec: S, ids: np.ndarray, shown: Mapping[str, Any], first: int) -> np.ndarray | None:
        """Positions [axes, n] of a prompt [n], of which the first is `first`; None: those of text. shown: the items of
        every tower in the prompt, by the towers' nets."""
        return None

    def sees(self, spec: S, ids: np.ndarray, items: I) -> np.ndarray:
        """bool [n, parts] of a tower at whose hidden states layers look across: which parts of them, equal ones in
        their order, each token of a prompt [n] sees (default: all of them). Tokens that are generated see what the last
        one sees."""
        import numpy as np

        return np.ones((len(ids), 1), bool)

    @abstractmethod
    def trials(self, spec: S, dynamic: bool, rng: np.random.Generator) -> Iterator[I]:
        """Random items that its net is tried with, one launch each, the most telling first."""

    @abstractmethod
    def sample(self, spec: S, room: int, rng: np.random.Generator) -> I | None:
        """Random items for a prompt with `room` places for placeholders; None where nothing fits."""

    def apart(self, spec: S, rng: np.random.Generator) -> tuple[I, I] | None:
        """Random items that the model looks at together though its net gets them launch by launch: as the net gets
        them, and as the model does. Verification tells how far `reference` of the two is apart. None where launches
        lose nothing."""
        return None

    @abstractmethod
    def reference(self, model: Any, items: I, dtype: torch.dtype) -> Sequence[torch.Tensor]:
        """What transformers' own model makes of the items in `dtype`: [k, H] for every output of the net."""

    def reference_sees(self, model: Any, spec: S, ids: np.ndarray, items: I) -> np.ndarray:
        """As `sees`, by transformers' own code."""
        return self.sees(spec, ids, items)

    def reference_positions(self, model: Any, spec: S, ids: np.ndarray, shown: Mapping[str, Any]) -> np.ndarray | None:
        """As `positions` from 0, by transformers' own model."""
        return None


class Fitted(NamedTuple):
    """A tower with the sizes that it has in one model."""

    tower: Tower[Any, Any]
    spec: Any
