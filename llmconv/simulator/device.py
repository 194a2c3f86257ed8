"""The vendor's runtime (libsophon) of a device, where this machine has one: the same libbmrt that the simulator has."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llmconv.errors import InputError

VARIABLE = "LIBSOPHON"  # names another place of the libraries
PLACES = ("/opt/sophon/libsophon-current/lib", "/opt/sophon/lib", "/system/lib", "/usr/lib")
NODES = ("bm-sophon0", "bm-tpu0", "soph-tpu0")  # of a card's driver, and of a board's own, below /dev
RUNTIME, DRIVER = ("libbmrt.so.1.0", "libbmrt.so"), ("libbmlib.so.0", "libbmlib.so")


@dataclass(frozen=True)
class Libsophon:
    """The two libraries. They find their neighbours by the path that they are loaded from."""

    runtime: Path
    driver: Path


def find(present: bool = True) -> Libsophon | None:
    """The libraries of this machine; None without any. present: only where a device's driver is there too, unless the
    variable LIBSOPHON names the libraries.

    Raises InputError where that variable names a folder without them."""
    if named := os.environ.get(VARIABLE):
        found = next(filter(None, map(_in, _folders(Path(named)))), None)
        if found is None:
            what = f"{VARIABLE}={named} holds no {RUNTIME[1]} and {DRIVER[1]}"
            raise InputError(what, "they run a .bmodel on a device", f"Name their folder, or unset {VARIABLE}.")
        return found
    if present and not any(Path("/dev", node).exists() for node in NODES):
        return None
    return next(filter(None, map(_in, map(Path, PLACES))), None)


def _folders(root: Path) -> Iterator[Path]:
    yield root
    yield root / "lib"


def _in(folder: Path) -> Libsophon | None:
    runtime, driver = (next((p for n in names if (p := folder / n).is_file()), None) for names in (RUNTIME, DRIVER))
    return Libsophon(runtime.absolute(), driver.absolute()) if runtime and driver else None
