"""Files that a prompt shows: a picture, a sound; read as arrays, and handed to the towers of the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmconv.blocks.tower import Fitted, Given
from llmconv.checkpoint.plain import Unreadable, load
from llmconv.errors import InputError
from llmconv.extras import VERIFY, need
from llmconv.plan.plan import Plan
from llmconv.request.output import Layout
from llmconv.runtime.seen import Shown

if TYPE_CHECKING:
    import numpy as np

RATE = 16000  # samples a second that the towers hear


@dataclass(frozen=True)
class Media:
    """image, audio: files, None for nothing of the kind."""

    image: Path | None = None
    audio: Path | None = None

    def shown(self, plan: Plan, mark: Callable[[int], str]) -> tuple[tuple[Shown, ...], str]:
        """What the towers look at, and what stands for it in the text. InputError for a file that cannot be read, and
        for a model without a tower for it, or whose tower takes it from another processor on. mark: a placeholder's id
        -> its text."""
        found, text = [], ""
        for path, item, read in ((self.image, "image", picture), (self.audio, "sound", sound)):
            if path is not None:
                towers = _towers(plan, path, item)
                items, told = _shown(plan, towers, read(path), mark)
                found.append(items)
                text += told
        return tuple(found), text


def _towers(plan: Plan, path: Path, item: str) -> list[Fitted]:
    """The model's towers for an item. InputError where there is none."""
    found = [fitted for fitted in plan.towers if fitted.tower.item == item]
    if not found:
        raise InputError(f"{path}: {_family(plan)} takes no {item}", "the model has no tower for it", "Leave it out.")
    return found


def _family(plan: Plan) -> str:
    return ", ".join(plan.family.model_types)


def _shown(plan: Plan, towers: Sequence[Fitted], values: np.ndarray, mark: Callable[[int], str]) -> tuple[Shown, str]:
    """What the first tower that takes it as it is makes of it."""
    settings = _processor(plan)
    for fitted in towers:
        tower, spec = fitted
        made: tuple[Any, str] | None = tower.present(spec, Given(values, mark(spec.token), settings))
        if made is not None:
            return Shown(fitted, made[0]), made[1]
    one = towers[0].tower.one
    raise InputError(
        f"{one} cannot be shown to {_family(plan)}",
        "its tower takes what the model's own processor makes of it, and llmconv has none",
        "Use the public demo of the family, or leave it out.",
    )


def _processor(plan: Plan) -> Mapping[str, Any]:
    file = Layout(plan.job.out_dir).config / "preprocessor_config.json"
    try:
        found = load(file) if file.is_file() else {}
    except Unreadable as error:
        raise InputError(f"{file} is not valid JSON", str(error)) from None
    return found if isinstance(found, dict) else {}


def picture(path: Path) -> np.ndarray:
    """uint8 [height, width, 3], RGB, turned as its EXIF data says. InputError for a file that is no picture."""
    import numpy as np

    need(VERIFY, f"{path} cannot be read")
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} is no picture that can be read", str(error), "Give a PNG or JPEG file.") from None


def sound(path: Path) -> np.ndarray:
    """float32 [samples], from -1 to 1, of a WAV file of 16 kHz; several channels become their mean. InputError for any
    other file."""
    import wave

    import numpy as np

    try:
        with wave.open(str(path), "rb") as file:
            rate, width, channels = file.getframerate(), file.getsampwidth(), file.getnchannels()
            data = file.readframes(file.getnframes())
    except (OSError, EOFError, wave.Error) as error:
        raise InputError(f"{path} is no WAV file that can be read", str(error), "Give PCM of 16 kHz.") from None
    kinds = {1: ("u1", 128.0, 128.0), 2: ("<i2", 0.0, 32768.0), 4: ("<i4", 0.0, 2147483648.0)}
    if rate != RATE or width not in kinds:
        what = f"{path} has {rate} samples a second of {8 * width} bits"
        advice = f"Convert it, e.g. ffmpeg -i {path.name} -ar {RATE} -ac 1 -sample_fmt s16 out.wav."
        raise InputError(what, f"{RATE} of 8, 16 or 32 bits are expected", advice)
    kind, middle, scale = kinds[width]
    values = np.frombuffer(data, kind).reshape(-1, channels).astype(np.float64)
    return ((values - middle) / scale).mean(1).astype(np.float32)
