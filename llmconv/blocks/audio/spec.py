"""The sizes of a tower that hears, and how many hidden states it makes of so many frames of sound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llmconv.blocks.vision import checks
from llmconv.errors import InputError

WHERE = "of audio_config in config.json"
RATE = 16000  # samples a second
HOP = 160  # samples from one frame to the next
FRAMES = RATE // HOP  # frames a second


@dataclass(frozen=True, kw_only=True)
class AudioSpec:
    """Sizes of one tower. It reads frames of `mels` bands in chunks of `chunk` frames, each by itself through
    convolutions (`halvings` of them halve the frames), then transformer blocks.

    names: role -> whole name of a tensor without .weight and .bias, {i} a block. With the role conv_out convolutions
    go over bands and frames, `channels` wide, and that linear joins what they give of a frame; else over frames alone.
    project0 and so on are the `linears` of the projector behind the last norm; bare: roles of linears without a bias.
    depth, width, heads, intermediate: of the blocks; activation: of their MLPs and between the projector's linears;
    pool: hidden states that are averaged to one, before the last norm; out: size of the language model's hidden states.
    chunks: of a launch. attends: chunks that see each other in the model's own attention. masked: the net takes masks,
    so that a launch may have fewer frames. token: id of the placeholder; bounds: of
    the tokens right before and behind a sound, if the class looks for them.
    """

    names: Mapping[str, str]
    mels: int
    chunk: int
    halvings: int
    channels: int
    depth: int
    width: int
    heads: int
    intermediate: int
    out: int
    activation: str
    token: int
    linears: int
    attends: int = 1
    chunks: int = 1
    pool: int = 1
    masked: bool = False
    bounds: tuple[int, ...] = ()
    bare: frozenset[str] = frozenset()
    eps: float = 1e-5  # a constant of the classes

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def planar(self) -> bool:
        """Whether convolutions go over bands and frames."""
        return "conv_out" in self.names

    @property
    def frames(self) -> int:
        """Frames of a launch."""
        return self.chunk * self.chunks

    @property
    def rows(self) -> int:
        """Hidden states of a launch in the blocks."""
        return self.chunks * self.states(self.chunk)

    @property
    def tokens(self) -> int:
        """Hidden states that a launch gives."""
        return self.rows // self.pool

    @property
    def seconds(self) -> float:
        """Of a launch."""
        return self.frames / FRAMES

    def states(self, frames: int) -> int:
        """Hidden states in the blocks of so many frames. A convolution that halves them rounds up, chunk by chunk."""
        whole, rest = divmod(frames, self.chunk)
        return whole * self._halved(self.chunk) + self._halved(rest)

    def _halved(self, frames: int) -> int:
        return -(-frames // 2**self.halvings)

    def heard(self, frames: int) -> int:
        """Hidden states that the tower gives of so many frames. One that is left of a pool is dropped."""
        return self.states(frames) // self.pool

    def path(self, role: str, index: int | None = None) -> str:
        """The name of a role's tensor; `index`: block."""
        return self.names[role].format(i=index)

    def check(self, layers: int, hidden: int) -> None:
        """Raise InputError for sizes that contradict each other or the language model's (layers, hidden size)."""
        if self.width % self.heads or self.width % 2:
            why = "every head has the same share of it, and half of it are sines"
            raise InputError(f"{self.heads} heads {WHERE} with a width of {self.width}", why, checks.MEND)
        checks.activation(self.activation, "activation_function", WHERE)
        if self.states(self.chunk) % self.pool:
            why = f"{self.pool} hidden states become one"
            raise InputError(f"n_window {self.chunk // 2} {WHERE}", why, checks.MEND)
        checks.output(self.out, hidden)
