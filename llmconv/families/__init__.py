"""Model families: every module of this package declares one, and its `model_types` register it.

To add a family, add a file; see docs/add-a-family.md.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from dataclasses import replace
from functools import cache, lru_cache
from typing import Any

from llmconv.blocks.tower import Tower
from llmconv.errors import InputError, shown
from llmconv.families.family import Family


@lru_cache(maxsize=1)
def families() -> dict[str, Family]:
    """model_type -> Family, from every module of this package that defines `family`."""
    found = filter(None, map(_declared, _names()))
    return {model_type: family for family in found for model_type in family.model_types}


@lru_cache(maxsize=1)
def _names() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(__path__)]


@cache
def _declared(name: str) -> Family | None:
    """The family that the module of that name declares."""
    found = getattr(importlib.import_module(f"{__name__}.{name}"), "family", None)
    return replace(found, name=name) if isinstance(found, Family) else None


def family_of(model_type: str) -> Family:
    """The family of a config.json's model_type. Raises InputError for an unknown one."""
    # most are in the module of their name, and planning one model need not import every family
    if model_type in _names() and (own := _declared(model_type)) and model_type in own.model_types:
        return own
    table = families()
    if model_type in table:
        return table[model_type]
    raise InputError(
        f"model_type {shown(model_type)!r} is not supported",
        f"llmconv knows {', '.join(sorted(table))}",
        "Convert a model of one of these families.",
    )


def type_of(architecture: str) -> str | None:
    """The model_type that a class of transformers is for, None where no family has it: Qwen2ForCausalLM is qwen2's."""
    name = re.sub(r"(ForCausalLM|ForConditionalGeneration|LMHeadModel|Model)$", "", architecture)
    plain = {known.replace("_", ""): known for known in families()}
    return plain.get(name.replace("_", "").lower())


def towers() -> dict[str, tuple[Tower[Any, Any], ...]]:
    """Every kind of tower that a family has, by what it looks at: of each net of another name one."""
    found: dict[str, dict[str, Tower[Any, Any]]] = {}
    for family in families().values():
        for tower in family.towers:
            found.setdefault(tower.item, {}).setdefault(tower.net, tower)
    return {item: tuple(nets.values()) for item, nets in found.items()}
