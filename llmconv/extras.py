"""What is installed apart, because converting a directory needs none of it, and the one sentence that says how."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from llmconv.errors import InputError


@dataclass(frozen=True)
class Extra:
    """An extra of pyproject.toml. packages: {name as pip has it: its module}; use: which commands need it."""

    name: str
    packages: Mapping[str, str]
    use: str

    @property
    def lacking(self) -> tuple[str, ...]:
        """The packages that are not installed. Nothing is imported."""
        return tuple(package for package, module in self.packages.items() if find_spec(module) is None)

    @property
    def command(self) -> str:
        """What installs it."""
        return f"{shlex.quote(sys.executable)} -m pip install 'llmconv[{self.name}]'"

    @property
    def found(self) -> str:
        """Its packages with their versions, or those that are not installed."""
        return absent(self.lacking) if self.lacking else ", ".join(map(_with_version, self.packages))


VERIFY = Extra(
    "verify",
    {
        "torch": "torch",
        "transformers": "transformers",
        "safetensors": "safetensors",
        "pillow": "PIL",
        "jinja2": "jinja2",
    },
    "verify, quality, demo, run and chat",
)
HUB = Extra(
    "hub", {"huggingface_hub": "huggingface_hub", "httpx2": "httpx2"}, "models of the hub, and caches behind an address"
)
GGUF = Extra("gguf", {"gguf": "gguf"}, "GGUF files")
DASK = Extra(
    "dask",
    {"dask": "dask", "distributed": "distributed", "cryptography": "cryptography"},
    "several machines (--scheduler, --cluster)",
)
EXTRAS = (VERIFY, HUB, GGUF, DASK)


def need(extra: Extra, what: str, instead: str = "") -> None:
    """Raise an InputError that says what to install if `what` cannot be done without. instead: what helps as well."""
    if extra.lacking:
        raise InputError(what, absent(extra.lacking), f"Run `{extra.command}`{instead}.")


def absent(packages: tuple[str, ...]) -> str:
    """ "torch is not installed", "torch and transformers are not installed"."""
    names = " and ".join(filter(None, (", ".join(packages[:-1]), packages[-1])))
    return f"{names} {'are' if len(packages) > 1 else 'is'} not installed"


def _with_version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version  # here: it takes longer than all that need no version

    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:  # a module without a distribution
        return package
