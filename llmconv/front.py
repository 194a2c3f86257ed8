"""Modules that can be called: `llmconv.convert(...)`, `llmconv.plan(...)` and `llmconv.verify(...)` are functions of
llmconv.api, and packages of the same names."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class Callable(ModuleType):
    """A module; calling it calls the function of its name in llmconv.api."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(import_module("llmconv.api"), self.__name__.rpartition(".")[2])(*args, **kwargs)


def callable_module(name: str) -> None:
    """Make the module `name` callable. To be said in that module, as its last line."""
    sys.modules[name].__class__ = Callable
