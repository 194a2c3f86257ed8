"""A mixer is the part of a layer that lets tokens see each other, such as attention (llmconv.blocks.attention): the
states that it keeps between launches, the tensors that carry them in and out of a net, its linears, and its graph."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from llmconv.blocks.spec import Spec
    from llmconv.top.graph import Graph, Value

Phase = Literal["prefill", "history", "decode"]  # a prompt; a prompt behind history; one token


NORMS = frozenset(("input_norm", "mlp_norm"))  # of a block
# The input [n] i32 of a net that cannot know where its prompt ends, and keeps n columns of a prompt's last tokens:
# their numbers, counted from the first column of the state before. c tokens have c, c + 1, ..., c + n - 1.
ENDS = "state_index"


@dataclass(frozen=True)
class Step:
    """How a block net is run.

    length: new tokens; history: rows of history before them; capacity: positions in the rotary tables.
    decode: one token behind the history, for good (else `length` is the most that a launch may bring).
    dynamic: a launch may bring fewer tokens, and fewer rows of history.
    split: for several devices: rope is written in elementary operations (the compiler splits no other form), and the
    last block leaves the final norm to the head.
    half: the nets' half precision, bf16 or f16.
    batch: sequences decoded at once; more than one writes the new rows into the history instead of returning them.
    mask_tile: edge of the constant causal tile that replaces the mask input of prefill; 0 for a mask input.
    halved: the compiler may cut a linear layer in two, one half for each core (what it does with those that are
    quantised).
    """

    length: int
    capacity: int
    history: int = 0
    decode: bool = False
    batch: int = 1
    mask_tile: int = 0
    dynamic: bool = False
    split: bool = False
    half: str = "bf16"
    halved: bool = False

    @property
    def phase(self) -> Phase:
        return "decode" if self.decode else "history" if self.history else "prefill"

    @property
    def keys(self) -> int:
        """Rows that the new tokens attend to, their own included."""
        return self.history if self.batch > 1 else self.history + self.length


@dataclass(frozen=True)
class State:
    """What a layer keeps between launches.

    name: unique in its layer. shape: of one token where `update` is append, else of one sequence.
    update: append, a row for every token (a runtime copies new rows behind the old ones, and never clears them);
    replace, a new value from every launch; in_place, the net writes the new value over its input; once, made of what a
    prompt shows and only read after. A conversation begins with zeros in those that are replaced or written in place,
    and without the last.
    dtype: of the nets' tensors; None for the model's half precision.
    copies: so many neighbours along the first axis of `shape` are alike.
    """

    name: str
    shape: tuple[int, ...]
    update: Literal["append", "replace", "in_place", "once"]
    dtype: str | None = None
    copies: int = 1

    @property
    def grows(self) -> bool:
        """Whether it has a row for every token."""
        return self.update == "append"

    def shaped(self, sequences: int, rows: int) -> tuple[int, ...]:
        """The shape of a tensor with this state of `sequences` sequences, each with `rows` rows if it grows."""
        return (sequences, *((rows,) if self.grows else ()), *self.shape)


@dataclass(frozen=True)
class Ports:
    """The tensors of a block net that carry states, in their public order: (name of the state, name of the tensor).

    written: states that the net writes over its inputs (one that grows: into the last row), with the name of the new
    value in reports. A state that is neither there nor among the outputs is only read.
    """

    inputs: tuple[tuple[str, str], ...] = ()
    outputs: tuple[tuple[str, str], ...] = ()
    written: tuple[tuple[str, str], ...] = ()


class Port(NamedTuple):
    """An input of a mixer's own."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "f32"


@dataclass(frozen=True)
class Given:
    """What a mixer gets beside the hidden states.

    positions, mask: where it takes them (mask: None until one is made). states: those that are inputs, by name.
    history: an input state that grows, if there is one; its second axis has the past tokens. own: the inputs of the
    mixer's own, by name."""

    positions: Value | None = None
    mask: Value | None = None
    states: Mapping[str, Value] = field(default_factory=dict)
    history: Value | None = None
    own: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Compiling:
    """What a mixer needs the compiler to be told of its nets.

    same_addr: pairs of an input and an output that share their memory, such as 0:0,1:1.
    precision: (operation, mode) where an operation is computed in another mode than the net. Operations are named
    without their layer's number, so that layers stay one program.
    """

    same_addr: str = ""
    precision: tuple[tuple[str, str], ...] = ()


class Mixer(ABC):
    """What mixes the tokens of a layer. Its instances are frozen dataclasses, equal where they mean the same.

    kind: what verification knows it by (llmconv.families.oracle). last: the role of the linear that gives its output.
    takes: which of "positions" and "mask" its nets have as inputs.
    splits: whether the compiler can split it over devices.
    single: the roles of its block's norms that `compiling` has computed in f32, with weights in f32; their operations
    are called by these roles.
    maskless: whether prefill without history has a constant tile in place of the mask in any scheme.
    across: whether it looks at what a tower gives, not at the tokens before (llmconv.blocks.tower.Tower.joins).
    """

    kind: str
    last: str
    takes: frozenset[str] = frozenset()
    splits: bool = False
    single: frozenset[str] = frozenset()
    maskless: bool = False
    across: bool = False

    @abstractmethod
    def states(self, spec: Spec) -> tuple[State, ...]:
        """What a layer keeps."""

    @abstractmethod
    def ports(self, spec: Spec, layer: int, step: Step) -> Ports:
        """The tensors of a net that carry the states."""

    @abstractmethod
    def linears(self, spec: Spec) -> Mapping[str, tuple[int, int]]:
        """(K, N) of its linears, by role. Mixers of one model that share a role give it the same size."""

    @abstractmethod
    def mix(
        self, g: Graph, spec: Spec, layer: int, step: Step, x: Value, given: Given
    ) -> tuple[Value, Mapping[str, Value]]:
        """x [B, L, H], normed -> what is added to the residual [B, L, H], and by name the states that are outputs."""

    def own(self, spec: Spec, step: Step) -> tuple[Port, ...]:
        """The inputs of its own, behind the hidden states and positions, in their public order."""
        return ()

    def behind_mlp(self, g: Graph, spec: Spec, layer: int, y: Value, given: Given) -> Value:
        """What the MLP of its layer adds to the residual [B, L, H]; y: what the MLP gives."""
        return y

    def check(self, cores: int) -> None:  # noqa: B027
        """Raise InputError for sizes that do not go with so many cores of a chip."""

    def compiling(self, spec: Spec, step: Step) -> Compiling:
        """What the compiler is told of a net."""
        return Compiling(precision=tuple((role, "F32") for role in sorted(self.single)))
