"""What a runtime does with sound for a tower that hears, in NumPy: samples to frames (`log_mel`), and frames to the
inputs of launches (`preprocess`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmconv.blocks.audio.spec import HOP, RATE, AudioSpec
from llmconv.blocks.vision.grid import mask
from llmconv.errors import InputError

if TYPE_CHECKING:
    import numpy as np

WINDOW = 400  # samples of a frame
LEAST = 1e-10  # energy that counts, before the logarithm
RANGE = 8.0  # powers of ten below the loudest value that count
# Slaney's mel scale (Auditory Toolbox, 1998): 15 mel for 1000 Hz, then 27 for every factor of 6.4
LINEAR, CORNER, STEP = 3.0 / 200.0, 1000.0, 27.0


def filters(bands: int) -> np.ndarray:
    """float64 [bands, 201]: triangles of equal area, whose corners lie evenly from 0 to 8000 Hz in Slaney's mel."""
    import numpy as np

    def hertz(mel: np.ndarray) -> np.ndarray:
        beyond = mel - LINEAR * CORNER
        return np.where(beyond < 0, mel / LINEAR, CORNER * 6.4 ** (np.maximum(beyond, 0) / STEP))

    top = LINEAR * CORNER + STEP * np.log(RATE / 2 / CORNER) / np.log(6.4)
    corners = hertz(np.linspace(0, top, bands + 2))
    at = np.linspace(0, RATE / 2, WINDOW // 2 + 1)
    width, slope = np.diff(corners), at - corners[:, None]
    rising, falling = slope[:-2] / width[:-1, None], -slope[2:] / width[1:, None]
    area = 2 / (corners[2:] - corners[:-2])
    return np.maximum(0, np.minimum(rising, falling)) * area[:, None]


def log_mel(samples: np.ndarray, bands: int, length: int = 0) -> np.ndarray:
    """float32 [bands, frames]: the log-mel spectrogram of samples [n] from -1 to 1, 16000 a second; n // 160 frames.

    A frame is 400 samples about every 160th, weighted with Hann's window of period 400; what is missing at the ends is
    mirrored. The powers of its spectrum are summed by `filters`. Of their logarithm to base 10 no value is more than 8
    below the largest, and (x + 4) / 4 comes out. length: samples that the clip is filled up to with silence first, as
    processors do that fill all clips to one length: the last frame may be another then, and there are length // 160.
    Equal to transformers' WhisperFeatureExtractor and Qwen3ASRFeatureExtractor. Raises InputError for fewer samples
    than the mirror needs.
    """
    import numpy as np

    wave = np.zeros(max(length, len(samples)))
    wave[: len(samples)] = samples
    if len(wave) <= WINDOW // 2:
        what = f"a sound of {len(wave)} samples"
        raise InputError(what, f"a frame mirrors {WINDOW // 2} samples at the ends", "Fill it up with silence.")
    ends = np.pad(wave, WINDOW // 2, mode="reflect")
    parts = np.lib.stride_tricks.sliding_window_view(ends, WINDOW)[::HOP][: len(wave) // HOP]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    power = np.abs(np.fft.rfft(parts * hann, axis=1)) ** 2
    values = np.log10(np.maximum(filters(bands) @ power.T, LEAST))
    return ((np.maximum(values, values.max() - RANGE) + 4) / 4).astype(np.float32)


def filled(spec: AudioSpec, samples: np.ndarray) -> np.ndarray:
    """The samples with silence behind them, up to whole chunks: nets without masks take no others. The public demo cuts
    the rest off instead."""
    import numpy as np

    size = spec.chunk * HOP
    return np.concatenate([samples, np.zeros(-len(samples) % size, samples.dtype)])


def preprocess(spec: AudioSpec, frames: np.ndarray) -> list[dict[str, np.ndarray]]:
    """The inputs of every launch of the audio net for one clip, by name. frames: [mels, n] of `log_mel`.

    Launch i takes frames i * spec.frames and on. Of its output the first spec.heard(frames that it got) rows count, and
    take the places of the next placeholders. Raises InputError for a part of a chunk where the net has no masks.
    """
    size = spec.frames
    return [launch(spec, frames[:, first : first + size]) for first in range(0, frames.shape[1], size)]


def launch(spec: AudioSpec, frames: np.ndarray) -> dict[str, np.ndarray]:
    """The inputs of one launch for frames [mels, n], n at most spec.frames.

    input_states: chunk by chunk, zeros behind the frames. attn_mask: 0 between hidden states of frames that are there,
    else -10000. frame_mask: 1 for frames that are there.
    """
    import numpy as np

    bands, count = frames.shape
    if bands != spec.mels or not 0 < count <= spec.frames:
        what, why = (
            f"frames of shape {[bands, count]}",
            f"a launch takes {spec.mels} bands of 1 to {spec.frames} frames",
        )
        raise InputError(what, why, "Launch the net for one part of the sound after the other.")
    if count < spec.frames and not spec.masked:
        raise InputError(
            f"a launch of {count} frames",
            f"the net has no masks, and takes {spec.frames} frames",
            "Fill the sound up with silence, cut the rest off, or convert with exact_audio.",
        )
    full = np.zeros((spec.mels, spec.frames), np.float32)
    full[:, :count] = frames
    chunks = full.reshape(spec.mels, spec.chunks, spec.chunk).transpose(1, 0, 2)
    made = {"input_states": np.ascontiguousarray(chunks[:, None] if spec.planar else chunks)}
    if spec.masked and not spec.planar:
        there = np.arange(spec.frames) < count
        made["frame_mask"] = there.astype(np.float32).reshape(spec.chunks, 1, spec.chunk)
    return made | ({"attn_mask": mask([spec.states(count)], spec.rows)} if spec.masked else {})
