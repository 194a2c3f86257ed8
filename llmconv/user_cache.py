"""Where llmconv keeps what it need not make twice."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

PRIVATE = "LLMCONV_CACHE_PRIVATE"  # the workers of a run with --no_cache keep things there, and only read the cache


def cache_dir(env: Mapping[str, str] | None = None) -> Path:
    """The cache that is written: the per-user one, or what a run has in its place."""
    env = os.environ if env is None else env
    return Path(env[PRIVATE]) if env.get(PRIVATE) else per_user(env)


def per_user(env: Mapping[str, str] | None = None) -> Path:
    """The cache that all runs share: $LLMCONV_CACHE, else $XDG_CACHE_HOME/llmconv, else ~/.cache/llmconv."""
    env = os.environ if env is None else env
    if env.get("LLMCONV_CACHE"):
        return Path(env["LLMCONV_CACHE"]).expanduser().absolute()
    xdg = env.get("XDG_CACHE_HOME", "")
    base = Path(xdg) if xdg.startswith("/") else Path(env.get("HOME") or os.path.expanduser("~")) / ".cache"
    return base.absolute() / "llmconv"
