"""config.json: read as plain data, in each of its published forms. Code of a checkpoint is never run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmconv.errors import InputError

_MISSING = object()


class Config(Mapping):
    """A config.json (or a part of it); its errors name the file and the field.

    Looks like the dict that it wraps; `get` and `[]` are the dict's own.
    """

    def __init__(self, data: dict[str, Any], file: Path, where: str = ""):
        self.data, self.file, self.where = data, file, where

    def __getitem__(self, key: str) -> Any:
        return self.data[key]

    def __iter__(self):
        return iter(self.data)

    def __len__(self) -> int:
        return len(self.data)

    @classmethod
    def read(cls, model: Path) -> Config:
        """Raises InputError when there is no config.json, or when it is not a JSON object with a model_type."""
        file = model / "config.json"
        if not model.is_dir():
            raise InputError(
                f"the model directory {model} does not exist",
                "",
                "Give the directory that holds config.json (-m DIR or model=DIR).",
            )
        if not file.is_file():
            raise InputError(
                f"{model} has no config.json",
                "it tells the model's family and sizes",
                "Give the directory of a complete HuggingFace checkpoint.",
            )
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, OSError) as e:
            raise InputError(f"{file} is not valid JSON", str(e), "Download it again.") from None
        if not isinstance(data, dict) or not isinstance(data.get("model_type"), str):
            raise InputError(f"{file} names no model_type", "it tells the model's family", "Download it again.")
        return cls(data, file)

    def sub(self, *names: str) -> Config:
        """The part under the first of `names` that exists, else the whole."""
        for name in names:
            if isinstance(self.data.get(name), dict):
                return Config(self.data[name], self.file, f"{name}.")
        return self

    def text(self) -> Config:
        """The part that describes the language model, under one of the names that it is published with, else the
        whole."""
        return self.sub("text_config", "llm_config")

    def over(self, defaults: Mapping[str, Any]) -> Config:
        """This config, with defaults for the fields that it lacks."""
        return Config({**defaults, **self.data}, self.file, self.where)

    def under(self, fields: Mapping[str, Any]) -> Config:
        """This config with some fields replaced."""
        return Config({**self.data, **fields}, self.file, self.where)

    def error(self, key: str, why: str) -> InputError:
        """What is wrong with a field."""
        return InputError(f"{self.where}{key} in {self.file}", why, "Repair config.json or download it again.")

    def int(self, key: str, default: Any = _MISSING, least: int = 1) -> int:
        """A whole number >= least. null counts as missing."""
        value = self.data.get(key)
        if value is None:
            if default is _MISSING:
                raise self.error(key, "is missing, and the model cannot be built without it")
            return default
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self.error(key, f"is {value!r}; a whole number of at least {least} is expected")
        return value

    def float(self, key: str, default: Any = _MISSING) -> float:
        value = self.data.get(key)
        if value is None:
            if default is _MISSING:
                raise self.error(key, "is missing, and the model cannot be built without it")
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.error(key, f"is {value!r}; a number is expected")
        return float(value)

    def bool(self, key: str, default: bool) -> bool:
        value = self.data.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(key, f"is {value!r}; true or false is expected")
        return value

    def require(self, key: str, value: Any) -> None:
        """Raises InputError when the field is neither missing, null nor `value`."""
        given = self.data.get(key)
        if given is not None and given != value:
            raise InputError(
                f"{self.where}{key} in {self.file} is {given!r}",
                f"llmconv knows {json.dumps(value)} alone here",
                "Convert another model.",
            )

    def dtype(self) -> str | None:
        """The checkpoint's declared type: bfloat16, float16, float32 or None."""
        value = self.data.get("dtype", self.data.get("torch_dtype"))
        return value.removeprefix("torch.") if isinstance(value, str) else None

    def rope(self, head_dim: int, kind: str = "") -> dict[str, Any]:
        """Rotary parameters in one form, whichever the file uses (rope_parameters; or rope_theta and rope_scaling).

        kind: the layer type, where rope_parameters has an object for each.
        Keys: rope_type, rope_theta, dim (rotated sizes of a head), max_position, original_max_position, and those
        of the type (factor, low_freq_factor, ...).
        Defaults and precedence are those of transformers' standardize_rope_params.
        """
        given = self.data.get("rope_scaling") or self.data.get("rope_parameters")
        if kind and isinstance(given, dict) and isinstance(given.get(kind), dict):
            given = given[kind]
        if given is not None and not isinstance(given, dict):
            raise self.error("rope_scaling", f"is {given!r}; an object is expected")
        rope = {k: v for k, v in (given or {}).items() if v is not None}
        name = rope.pop("type", None)
        name = rope.get("rope_type", name) or "default"
        rope["rope_type"] = {"su": "longrope", "mrope": "default"}.get(name, name)
        rope.setdefault("rope_theta", self.float("rope_theta", 10000.0))
        partial = rope.pop("partial_rotary_factor", None)
        partial = self.float("partial_rotary_factor", 1.0) if partial is None else partial
        rope["dim"] = int(head_dim * partial)
        rope["max_position"] = self.int("max_position_embeddings", 2048)
        inner = rope.pop("original_max_position_embeddings", None)
        outer = self.data.get("original_max_position_embeddings")
        rope["original_max_position"] = outer or inner or rope["max_position"]
        return rope
