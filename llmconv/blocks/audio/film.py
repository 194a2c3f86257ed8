"""Where the tokens of Qwen2.5-Omni's prompts stand, in NumPy: images, videos, sound, and videos with their own sound,
whose tokens alternate by time. (TMRoPE, Xu et al. 2025, Qwen2.5-Omni.)"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from llmconv.errors import InputError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Marks:
    """Ids of tokens: placeholders of images, videos and sound; and the first token of what is seen, and of sound.

    merge: a token is merge x merge patches; rate: positions a second; chunk: seconds of video, then of its sound."""

    image: int
    video: int
    audio: int
    vision_start: int
    audio_start: int
    merge: int = 2
    rate: float = 25
    chunk: float = 2


@dataclass(frozen=True)
class Shown:
    """What a prompt shows, in its order. images, videos: grids (frames, rows, columns) in patches; seconds: between two
    frames of each video; sounds: hidden states of each sound, `AudioSpec.heard`. together: the sound of a video stands
    with it: sounds has that too, in the prompt's order."""

    images: Sequence[Sequence[int]] = ()
    videos: Sequence[Sequence[int]] = ()
    seconds: Sequence[float] = ()
    sounds: Sequence[int] = ()
    together: bool = False


def chunks(times: np.ndarray, size: int) -> list[int]:
    """How many tokens each chunk has. times [n]: rising positions from 0. A token at or behind a chunk's end begins the
    next one, and only one: behind a gap, chunks of one token may follow, as in the class."""
    counts, begin, end = [], 0, size
    for at, time in enumerate(times):
        if time >= end:
            counts.append(at - begin)
            begin, end = at, end + size
    return [*counts, len(times) - begin]


def alternating(seen: np.ndarray, heard: int, size: int) -> np.ndarray:
    """bool [n + heard]: which tokens of a video with sound are the video's. seen [n]: positions in time of the video's
    tokens; heard: tokens of its sound, one a position; size: positions of a chunk. A chunk of the video, then one of
    its sound, and so on."""
    import numpy as np

    parts = [chunks(seen, size), chunks(np.arange(heard), size)]
    order = [
        np.full(counts[number], which)
        for number in range(max(map(len, parts)))
        for counts, which in zip(parts, (True, False))
        if number < len(counts)
    ]
    return np.concatenate(order)


def token_positions(marks: Marks, ids: np.ndarray, shown: Shown, first: int = 0) -> tuple[np.ndarray, int]:
    """(int32 [3, n]: time, height and width of every token [n] of a prompt; the position of the token generated next).

    Text and sound have one number in all three rows, one more for every token: 40 ms of sound. An image or video has
    the first position behind the text, plus its rows and columns, and in time `rate` positions a second. What follows
    begins behind the largest number. Of a video with its own sound both first tokens stand at one position, both last
    ones too, and its sound begins where the video does.

    Raises InputError for a prompt that does not have the tokens of what is shown.
    """
    import numpy as np

    made, at = np.zeros((3, len(ids)), np.int32), 0
    images, sounds = iter(shown.images), iter(shown.sounds)
    videos = iter(zip(shown.videos, shown.seconds, strict=True))

    def put(block: np.ndarray, tokens: np.ndarray) -> None:
        """A block of positions from 0, for tokens that have to be these."""
        nonlocal at, first
        if not np.array_equal(ids[at : at + len(tokens)], tokens):
            what = f"token {at} of the prompt"
            raise InputError(what, f"what is shown has {len(tokens)} placeholders there", "Repeat them as often.")
        made[:, at : at + len(tokens)] = first + block
        at, first = at + len(tokens), first + int(block.max(initial=-1)) + 1

    while at < len(ids):
        token = ids[at]
        opens = shown.together and token == marks.vision_start and ids[at + 1 : at + 2].tolist() == [marks.audio_start]
        if opens:
            grid, heard = next(videos, None), next(sounds, None)
            if grid is None or heard is None:
                raise _missing(at, "a video with its sound")
            both, order = _film(marks, *grid, heard)
            put(np.zeros((3, 2), int), ids[at : at + 2])
            put(both, np.where(order, marks.video, marks.audio))
            put(np.zeros((3, 2), int), ids[at : at + 2])
        elif token in (marks.image, marks.video):
            found = next(videos, None) if token == marks.video else next(((one, 1.0) for one in images), None)
            if found is None:
                raise _missing(at, "an image or a video")
            block = _block(marks, *found)
            put(block, np.full(block.shape[1], token))
        else:
            if token == marks.audio:
                count = next(sounds, None)
                if count is None:
                    raise _missing(at, "a sound")
                put(np.tile(np.arange(count), (3, 1)), np.full(count, token))
                continue
            put(np.zeros((3, 1), int), ids[at : at + 1])
    return made, first


def _missing(at: int, what: str) -> InputError:
    return InputError(f"token {at} of the prompt", f"it stands for {what}, and no more is shown", "Show it too.")


def _block(marks: Marks, grid: Sequence[int], seconds: float) -> np.ndarray:
    """Positions [3, k] from 0 of an image or video, whose frames are so many seconds apart."""
    import numpy as np

    frames, rows, columns = grid
    found = np.indices((frames, rows // marks.merge, columns // marks.merge)).reshape(3, -1)
    times = np.arange(frames, dtype=np.float32) * np.float32(seconds) * np.float32(marks.rate)
    return np.stack([np.repeat(times.astype(int), found.shape[1] // frames), *found[1:]])


def _film(marks: Marks, grid: Sequence[int], seconds: float, heard: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions [3, k + heard] from 0 of a video with its sound, and which are the video's."""
    import numpy as np

    seen = _block(marks, grid, seconds)
    order = alternating(seen[0], heard, int(marks.rate * marks.chunk))
    both = np.zeros((3, prod(order.shape)), int)
    both[:, order], both[:, ~order] = seen, np.arange(heard)
    return both, order
