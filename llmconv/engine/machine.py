"""Cores and memory that this process may use, within the limits of control groups."""

from __future__ import annotations

import os
from pathlib import Path

SHARE = 0.8  # of the available memory: the rest is for the page cache, llmconv itself and other programs
# bytes: enough for one small task on each core; large tasks take turns
MODEST = 1_500_000_000


def cores() -> int:
    """Usable cores: the affinity mask, cut down to the control group's quota."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cpu_quota()
    return max(1, min(usable, int(quota + 0.5)) if quota else usable)


def memory() -> int:
    """Bytes that running tasks may take together by default; one that needs more runs alone."""
    return min(int(available() * SHARE), MODEST)


def available() -> int:
    """Bytes that could be allocated now without swapping."""
    free = _meminfo("MemAvailable") or 4 << 30
    room = _cgroup_room()
    return min(free, room) if room is not None else free


def total() -> int:
    """Bytes of memory (and swap) that exist: more than this can never be had."""
    whole = (_meminfo("MemTotal") or 1 << 62) + (_meminfo("SwapTotal") or 0)
    limit = _cgroup_limit()
    return min(whole, limit) if limit is not None else whole


def _meminfo(name: str) -> int | None:
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) << 10
    return None


def _groups() -> dict[str, str]:
    """Controller -> path of this process's group; "" is the unified (v2) hierarchy."""
    groups = {}
    for line in _read("/proc/self/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            groups[name] = path
    return groups


def _group_dirs(controller: str) -> list[Path]:
    """Directories of this process's group and its parents (each may limit), v1 and v2."""
    groups, root = _groups(), Path("/sys/fs/cgroup")
    dirs = []
    for base, path in ((root / controller, groups.get(controller)), (root, groups.get(""))):
        if path is None:
            continue
        here = base / path.lstrip("/")
        while True:
            dirs.append(here)
            if here == base:
                break
            here = here.parent
    return dirs


def _cgroup_limit() -> int | None:
    limits = []
    for folder in _group_dirs("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _read(folder / name).strip()
            if text.isdigit() and int(text) < 1 << 60:  # v1 writes a huge number for "no limit"
                limits.append(int(text))
    return min(limits) if limits else None


def _cgroup_room() -> int | None:
    rooms = []
    for folder in _group_dirs("memory"):
        for top, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            limit, usage = _read(folder / top).strip(), _read(folder / used).strip()
            if not (limit.isdigit() and usage.isdigit()) or int(limit) >= 1 << 60:
                continue
            cached = sum(
                int(line.split()[1])
                for line in _read(folder / "memory.stat").splitlines()
                if line.startswith("inactive_file ")
            )
            rooms.append(int(limit) - int(usage) + cached)
    return max(0, min(rooms)) if rooms else None


def _cpu_quota() -> float | None:
    quotas = []
    for folder in _group_dirs("cpu"):
        both = _read(folder / "cpu.max").split()
        if len(both) == 2 and both[0].isdigit():
            quotas.append(int(both[0]) / int(both[1]))
        quota, period = _read(folder / "cpu.cfs_quota_us").strip(), _read(folder / "cpu.cfs_period_us").strip()
        if quota.isdigit() and period.isdigit() and int(period):
            quotas.append(int(quota) / int(period))
    return min(quotas) if quotas else None


def _read(path: str | Path) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
