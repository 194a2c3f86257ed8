"""The tower that hears: its net takes a chunk of sound a launch, or all chunks that see each other."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Any

from llmconv.blocks.audio import host
from llmconv.blocks.audio.graph import graph
from llmconv.blocks.audio.spec import FRAMES, HOP, RATE, AudioSpec
from llmconv.blocks.tower import Given, Tower
from llmconv.checkpoint.config import Config
from llmconv.top.graph import Graph

if TYPE_CHECKING:
    import numpy as np
    import torch

LONGEST = 3  # launches of a random prompt's sound


@dataclass(frozen=True)
class Sounds:
    """frames [mels, n] float32 of one or several clips, one behind the other, each of which has so many `lengths`;
    step: frames of a launch."""

    frames: np.ndarray
    lengths: tuple[int, ...]
    step: int

    def clips(self) -> Iterator[Sounds]:
        """The clips one by one."""
        first = 0
        for length in self.lengths:
            yield Sounds(self.frames[:, first : first + length], (length,), self.step)
            first += length

    def each(self) -> Iterator[Sounds]:
        """The parts that a launch takes, clip by clip."""
        for clip in self.clips():
            (length,) = clip.lengths
            for first in range(0, length, self.step):
                part = clip.frames[:, first : first + self.step]
                yield Sounds(part, (part.shape[1],), self.step)


@dataclass(frozen=True)
class AudioTower(Tower[AudioSpec, Sounds]):
    """A family's knobs. read: (config.json, names of the checkpoint's tensors) -> the sizes of a launch of one chunk,
    None for a model without this tower; raises InputError. features: (transformers' model, frames [mels, n]) -> hidden
    states [k, H]. text: what stands around a sound's placeholders in a prompt."""

    read: Callable[[Config, Container[str]], AudioSpec | None]
    features: Callable[[Any, torch.Tensor], torch.Tensor]
    token: tuple[str, int]
    text: tuple[str, str]

    net = "audio"
    title = "Audio tower"
    item = "sound"
    one = "a sound"
    reads = ("exact_audio",)
    dynamic = False

    def spec(self, config: Config, tensors: Container[str], options: Mapping[str, Any]) -> AudioSpec | None:
        found = self.read(config, tensors)
        return replace(found, masked=True, chunks=found.attends) if found and options["exact_audio"] else found

    def notes(self, spec: AudioSpec, options: Mapping[str, Any], length: int) -> list[str]:
        """What a launch takes, what that loses, and how much sound a prefill has room for."""
        room = length // spec.tokens
        found = [
            f"a sound of {spec.seconds:g} s is a launch of {spec.tokens} tokens: a prefill of {length} tokens has room "
            f"for {room * spec.seconds:g} s"
        ]
        if spec.chunks < spec.attends:
            found.append(
                f"the model hears {spec.seconds * spec.attends:g} s of sound together, and the audio net "
                f"{spec.seconds:g} s alone, as the public demo launches it: `llmconv verify` tells what that loses, "
                "and exact_audio makes a net that loses nothing, for runtimes that prepare its inputs"
            )
        return found

    def largest(self, spec: AudioSpec) -> dict[str, float]:
        """seconds, frames: of a launch; tokens: rows of the output; seconds_of_attention: that the model hears
        together."""
        seconds = int(spec.seconds) if spec.seconds.is_integer() else spec.seconds
        whole = spec.chunk * spec.attends / FRAMES
        return {
            "seconds": seconds,
            "frames": spec.frames,
            "tokens": spec.tokens,
            "seconds_of_attention": int(whole) if whole.is_integer() else whole,
        }

    def graph(self, spec: AudioSpec, dynamic: bool) -> Graph:
        return graph(self.net, spec)

    def prepare(self, spec: AudioSpec, items: Sounds, dynamic: bool) -> dict[str, np.ndarray]:
        return host.launch(spec, items.frames)

    def around(self, spec: AudioSpec) -> tuple[int, ...]:
        return spec.bounds

    def present(self, spec: AudioSpec, given: Given) -> tuple[Sounds, str]:
        """With silence behind the sound up to whole launches, unless the net has masks."""
        samples = given.values if spec.masked else host.filled(spec, given.values)
        frames = host.log_mel(samples, spec.mels)
        items, (before, behind) = Sounds(frames, (frames.shape[1],), spec.frames), self.text
        return items, before + given.mark * self.count(spec, items) + behind

    def each(self, items: Sounds) -> Iterator[Sounds]:
        return items.each()

    def count(self, spec: AudioSpec, items: Sounds) -> int:
        return sum(map(spec.heard, items.lengths))

    def label(self, items: Sounds) -> str:
        return f"{' and '.join(map(str, items.lengths))} frames"

    def trials(self, spec: AudioSpec, dynamic: bool, rng: np.random.Generator) -> Iterator[Sounds]:
        """A launch that is full: noise, a voice that glides, silence; with masks other lengths too, of which one ends
        within a chunk, and the shortest."""
        import numpy as np

        yield noise(spec, (spec.frames,), rng)
        if spec.masked:
            yield noise(spec, (max(1, spec.frames * 2 // 3 + 1),), rng)
            yield noise(spec, (2**spec.halvings * spec.pool // 2 + 1,), rng)
        yield Sounds(glide(spec, spec.frames, rng), (spec.frames,), spec.frames)
        yield Sounds(np.full((spec.mels, spec.frames), -1.5, np.float32), (spec.frames,), spec.frames)

    def sample(self, spec: AudioSpec, room: int, rng: np.random.Generator) -> Sounds | None:
        """A clip of some launches, as far as there is room; with masks the last one is not full."""
        count = min(room // spec.tokens, LONGEST)
        if spec.masked:
            most = min(room, LONGEST * spec.tokens)
            frames = next((n for n in range(ceil(most / spec.tokens) * spec.frames, 0, -1) if spec.heard(n) <= most), 0)
            return noise(spec, (frames - 1,), rng) if frames > 1 and spec.heard(frames - 1) else None
        return noise(spec, (count * spec.frames,), rng) if count else None

    def apart(self, spec: AudioSpec, rng: np.random.Generator) -> tuple[Sounds, Sounds] | None:
        if spec.chunks == spec.attends:
            return None
        whole = spec.chunk * spec.attends
        frames = glide(spec, whole, rng)
        return Sounds(frames, (whole,), spec.frames), Sounds(frames, (whole,), whole)

    def reference(self, model: Any, items: Sounds, dtype: torch.dtype) -> list[torch.Tensor]:
        """Launch by launch, as a runtime has it; the class cuts, pads and masks a part by itself."""
        import torch

        parts = (torch.from_numpy(part.frames).to(dtype) for part in items.each())
        return [torch.cat([self.features(model, frames) for frames in parts])]


def noise(spec: AudioSpec, lengths: Sequence[int], rng: np.random.Generator) -> Sounds:
    """Clips of so many frames of noise, with values as loud as those of `log_mel`."""
    import numpy as np

    frames = 0.7 * rng.standard_normal((spec.mels, sum(lengths))).astype(np.float32)
    return Sounds(frames, tuple(lengths), spec.frames)


def glide(spec: AudioSpec, frames: int, rng: np.random.Generator) -> np.ndarray:
    """Frames [mels, frames] of a tone with overtones that glides and swells, like a voice, in some noise."""
    import numpy as np

    at = np.arange(frames * HOP) / RATE
    turns = np.cumsum(140 + 60 * np.sin(2 * np.pi * 0.7 * at) + 30 * np.sin(2 * np.pi * 2.3 * at)) / RATE
    voice = sum(np.sin(2 * np.pi * n * turns) / n for n in range(1, 20))
    wave = 0.1 * (1 + np.sin(2 * np.pi * 3.1 * at)) * voice + 0.003 * rng.standard_normal(len(at))
    return host.log_mel(wave, spec.mels)
