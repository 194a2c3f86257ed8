"""Positions of Qwen2.5-Omni's prompts with images, videos, sound and videos with sound, in NumPy, against transformers'
class, and the order of their tokens against its processor."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import audio_checkpoints
import numpy as np
import pytest

from llmconv.blocks.audio import film
from llmconv.blocks.audio.film import Marks, Shown
from llmconv.errors import InputError

MARKS = Marks(image=1001, video=1002, audio=1000, vision_start=998, audio_start=996)
VISION_END, AUDIO_END = 999, 997


def frames_of(rng: np.random.Generator) -> int:
    """Frames of a sound, some of whole chunks."""
    return int(rng.choice([4, 30, 199, 200, 401, 650, 1003]))


def heard(frames: int) -> int:
    return (frames + 1) // 2 // 2


def parts(rng: np.random.Generator) -> Iterator[tuple]:
    """Random things that a prompt shows: (what, grid, seconds between frames, frames of sound)."""
    for what in rng.permutation(["image", "sound", "video", "image", "video", "sound"]):
        grid = (1 if what == "image" else int(rng.integers(1, 7)), *(2 * rng.integers(1, 5, 2)).tolist())
        yield what, grid, float(rng.choice([0.5, 1.0, 2.0, 1.37, 5.0])), frames_of(rng)


def prompt(rng: np.random.Generator, together: bool) -> tuple[np.ndarray, Shown, list[int]]:
    """A prompt as the processor lays it out, what it shows, and the frames of its sounds."""
    ids, images, videos, seconds, sounds = [], [], [], [], []
    for what, grid, apart, frames in parts(rng):
        ids += rng.integers(0, 900, rng.integers(1, 5)).tolist()
        tokens = int(np.prod(grid)) // 4
        if what == "sound":
            sounds.append(frames)
            ids += [996, *[1000] * heard(frames), AUDIO_END]
        elif what == "image":
            images.append(grid)
            ids += [998, *[1001] * tokens, VISION_END]
        else:
            videos.append(grid)
            seconds.append(apart)
            if together:
                sounds.append(frames)
                ids += [998, *laid_out(grid, apart, heard(frames)), VISION_END]
            else:
                ids += [998, *[1002] * tokens, VISION_END]
    ids += rng.integers(0, 900, 3).tolist()
    shown = Shown(images, videos, seconds, list(map(heard, sounds)), together)
    return np.array(ids), shown, sounds


def laid_out(grid: tuple[int, ...], seconds: float, sound: int) -> list[int]:
    """What transformers' processor writes for a video with sound."""
    from transformers import Qwen2_5OmniProcessor

    made = Qwen2_5OmniProcessor
    own = SimpleNamespace(
        video_processor=SimpleNamespace(merge_size=2),
        audio_bos_token="(",
        audio_eos_token=")",
        video_token="v",
        audio_token="a",
        get_chunked_index=lambda *given: made.get_chunked_index(None, *given),
    )
    video = {"video_grid_thw": np.array([grid]), "video_second_per_grid": [seconds]}
    text = made.replace_video_with_audio_token(
        own, video, 0, {"num_audio_tokens": [sound]}, 0, position_id_per_seconds=25, seconds_per_chunk=2.0
    )
    return [{"(": 996, ")": AUDIO_END, "v": 1002, "a": 1000}[letter] for letter in text]


@pytest.mark.parametrize("together", [False, True])
def test_positions_are_those_of_the_class(together):
    import torch

    model = audio_checkpoints.whole("qwen2_5_omni", audio_checkpoints.CONFIGS["qwen2_5_omni"]).base_model
    for seed in range(12):
        ids, shown, sounds = prompt(np.random.default_rng(seed), together)
        given = torch.from_numpy(ids)[None]
        right, _ = model.get_rope_index(
            given,
            image_grid_thw=torch.tensor(shown.images),
            video_grid_thw=torch.tensor(shown.videos),
            attention_mask=torch.ones_like(given),
            use_audio_in_video=together,
            audio_seqlens=torch.tensor(sounds),
            second_per_grids=torch.tensor(shown.seconds),
        )
        found, following = film.token_positions(MARKS, ids, shown)
        np.testing.assert_array_equal(found, right[:, 0].numpy(), err_msg=str(seed))
        assert following == right.max() + 1
        later, behind = film.token_positions(MARKS, ids, shown, first=7)
        assert (later == found + 7).all() and behind == following + 7


@pytest.mark.parametrize("seconds", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("sound", [1, 49, 50, 51, 173])
def test_tokens_of_a_video_and_its_sound_alternate(seconds, sound):
    grid = (5, 4, 6)
    order = film.alternating(np.repeat((np.arange(5) * seconds * 25).astype(int), 6), sound, 50)
    assert laid_out(grid, seconds, sound)[1:-1] == np.where(order, 1002, 1000).tolist()


@pytest.mark.parametrize(
    "ids, shown, word",
    [
        ([1, 998, 1001, 999], Shown(), "stands for an image or a video, and no more is shown"),
        ([1, 996, 1000, 997], Shown(), "stands for a sound, and no more is shown"),
        ([998, 996, 1002, 1000, 997, 999], Shown(together=True), "a video with its sound"),
        ([1, 1001, 1001, 2], Shown(images=[(1, 2, 2 * 3)]), "has 3 placeholders there"),
        ([1, 1000, 2], Shown(sounds=[2]), "has 2 placeholders there"),
    ],
)
def test_prompts_that_lack_what_is_shown(ids, shown, word):
    with pytest.raises(InputError, match=word):
        film.token_positions(MARKS, np.array(ids), shown)
