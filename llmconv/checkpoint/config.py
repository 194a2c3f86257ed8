"""config.json: read as plain data, in each of its published forms. Code of a checkpoint is never run."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from llmconv.checkpoint.directory import Directory, place
from llmconv.checkpoint.fields import LEGAL, legal
from llmconv.checkpoint.plain import Unreadable, load, told
from llmconv.errors import InputError, shown

_MISSING = object()
LISTS = {"short_factor", "long_factor", "mrope_section"}  # of rope's parameters; the others are numbers


def _named(data: Mapping[str, Any]) -> bool:
    """Whether a config.json says which model it is of."""
    return isinstance(data.get("model_type"), str) or bool(architectures(data))


def architectures(data: Mapping[str, Any]) -> list[str]:
    """The classes that a config.json names."""
    given = data.get("architectures")
    return [name for name in given if isinstance(name, str)] if isinstance(given, list) else []


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
    def read(cls, model: Path | Directory) -> Config:
        """Of a model directory. Raises InputError when it has no config.json, or when that is not a JSON object that
        names a model_type or architectures."""
        found = place(model) if isinstance(model, Path) else model
        file = found.path / "config.json"
        found.expect_config()
        try:
            data = load(file)
        except Unreadable as error:
            raise InputError(f"{file} is not valid JSON", str(error), "Download it again.") from None
        if not isinstance(data, dict) or not _named(data):
            raise InputError(
                f"{file} names no model_type, and no architectures",
                "they tell the model's family",
                "Download it again.",
            )
        return cls(data, file)

    def sub(self, *names: str) -> Config:
        """The part under the first of `names` that exists, else the whole."""
        for name in names:
            if isinstance(self.data.get(name), dict):
                return Config(self.data[name], self.file, f"{name}.")
        return self

    def language(self) -> Config:
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
        """A whole number >= least that is legal for the field (llmconv.checkpoint.fields). null counts as missing."""
        value = self._given(key, default)
        return value if self.data.get(key) is None else self._legal(key, value, True, least)

    def float(self, key: str, default: Any = _MISSING) -> float:
        """A finite number that is legal for the field. null counts as missing."""
        value = self._given(key, default)
        return value if self.data.get(key) is None else float(self._legal(key, value, False))

    def _given(self, key: str, default: Any) -> Any:
        value = self.data.get(key)
        if value is None and default is _MISSING:
            raise self.error(key, "is missing, and the model cannot be built without it")
        return default if value is None else value

    def _legal(self, key: str, value: Any, whole: bool, least: float | None = None) -> Any:
        allowed = legal(key, whole)
        if fault := allowed.fault(value):
            raise self.error(key, f"is {told(value)}; {fault}")
        if whole and not isinstance(value, int):
            raise self.error(key, f"is {told(value)}; a whole number is expected")
        if least is not None and value < least:
            raise self.error(key, f"is {told(value)}; a whole number of at least {least} is expected")
        return value

    def bool(self, key: str, default: bool) -> bool:
        value = self.data.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(key, f"is {told(value)}; true or false is expected")
        return value

    def text(self, key: str, default: str) -> str:
        """A word such as the name of an activation. null and "" count as missing."""
        value = self.data.get(key)
        if value is None or value == "":
            return default
        if not isinstance(value, str):
            raise self.error(key, f"is {told(value)}; a name is expected")
        return value

    def numbers(self, key: str, default: Any, count: int | None = None, whole: bool = True) -> Any:
        """A list of numbers that are legal for the field, as a tuple; of `count` items, if that is given. null counts
        as missing, and [] too where items are counted."""
        value = self.data.get(key)
        if value is None or (count is not None and value == []):
            return default
        if not isinstance(value, (list, tuple)):
            raise self.error(key, f"is {told(value)}; a list of {'whole ' if whole else ''}numbers is expected")
        if count is not None and len(value) != count:
            raise self.error(key, f"has {len(value)} items; {count} are expected")
        return tuple(self._legal(key, item, whole) for item in value)

    def kinds(self, key: str, count: int, known: Collection[str]) -> tuple[str, ...] | None:
        """The kind of each of `count` layers, out of `known`. None where the field is missing, null or empty."""
        value = self.data.get(key)
        if value is None or value == []:
            return None
        if not isinstance(value, (list, tuple)) or not all(isinstance(kind, str) for kind in value):
            raise self.error(key, f"is {told(value)}; a list of names is expected")
        if len(value) != count:
            raise self.error(key, f"has {len(value)} items; the model has {count} layers")
        other = next((kind for kind in value if kind not in known), None)
        if other is not None:
            raise self.error(key, f"has the kind {shown(other)!r}; llmconv knows {', '.join(known)} here")
        return tuple(value)

    def require(self, key: str, value: Any) -> None:
        """Raises InputError when the field is neither missing, null nor `value`."""
        given = self.data.get(key)
        if given is not None and given != value:
            raise InputError(
                f"{self.where}{key} in {self.file} is {told(given)}",
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
        rope = self._scaling(kind)
        name = rope.pop("type", None)
        name = rope.get("rope_type", name) or "default"
        rope["rope_type"] = {"su": "longrope", "mrope": "default"}.get(name, name)
        rope.setdefault("rope_theta", self.float("rope_theta", 10000.0))
        partial = rope.pop("partial_rotary_factor", None)
        partial = self.float("partial_rotary_factor", 1.0) if partial is None else partial
        rope["dim"] = int(head_dim * partial)
        rope["max_position"] = self.int("max_position_embeddings", 2048)
        inner = rope.pop("original_max_position_embeddings", None)
        outer = self.int("original_max_position_embeddings", None)
        rope["original_max_position"] = outer or inner or rope["max_position"]
        return rope

    def _scaling(self, kind: str) -> dict[str, Any]:
        """rope_scaling or rope_parameters, without nulls, its numbers checked."""
        name = "rope_scaling" if self.data.get("rope_scaling") else "rope_parameters"
        given = self.data.get(name)
        if kind and isinstance(given, dict) and isinstance(given.get(kind), dict):
            given = given[kind]
        if given is not None and not isinstance(given, dict):
            raise self.error(name, f"is {told(given)}; an object is expected")
        part = Config(given or {}, self.file, f"{self.where}{name}.")
        rope = {key: value for key, value in part.items() if value is not None}
        for key in ("rope_type", "type"):
            part.text(key, "")
        for key in LEGAL.keys() & rope.keys():
            whole = LEGAL[key].whole
            rope[key] = list(part.numbers(key, (), whole=whole)) if key in LISTS else part._legal(key, rope[key], whole)
        return rope
