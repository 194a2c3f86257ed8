"""Check what this machine needs for a build, and name the command that mends it (llmconv.queries.machine shows it)."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmconv.errors import ConvertError, InputError
from llmconv.extras import EXTRAS, Extra
from llmconv.toolchain.fetch import TREE_BYTES, WHEEL_BYTES
from llmconv.toolchain.find import find, is_whole, places
from llmconv.toolchain.pinned import FOLDER, VERSION
from llmconv.user_cache import cache_dir
from llmconv.words import size

MIN_GLIBC = (2, 35)
MIN_CMAKE = (3, 5)
MIN_MEMORY = 2 << 30  # a 7B block takes 1.7 to 2.4 GB, a 0.5B one 0.2 GB
MIN_OUT = 256 << 20
# what the lack of something is called: a build cannot do without it; it may fail; it does not need it
MISSING, WARNING, ABSENT = "MISSING", "WARNING", "absent"
_PACKAGES = {  # tool -> package, by package manager
    "apt-get": {"cmake": "cmake", "make": "make", "c++": "build-essential", "libtinfo": "libtinfo6"},
    "dnf": {"cmake": "cmake", "make": "make", "c++": "gcc-c++", "libtinfo": "ncurses-libs"},
    "zypper": {"cmake": "cmake", "make": "make", "c++": "gcc-c++", "libtinfo": "libncurses6"},
    "pacman": {"cmake": "cmake", "make": "make", "c++": "base-devel", "libtinfo": "ncurses"},
}
_INSTALL = {"apt-get": "apt-get install", "dnf": "dnf install", "zypper": "zypper install", "pacman": "pacman -S"}


@dataclass(frozen=True)
class Check:
    """One need of a build. found: what is there; why: what needs it; mend: a command or a sentence, if it is not ok.
    lack: what it is called when it is not ok, MISSING, WARNING or ABSENT.
    """

    name: str
    ok: bool
    found: str
    why: str = ""
    mend: str = ""
    lack: str = MISSING

    @property
    def state(self) -> str:
        """ "ok", or the lack."""
        return "ok" if self.ok else self.lack


def check(
    out: Path | None = None, cache: Path | None = None, *, thorough: bool = True, env: Mapping[str, str] | None = None
) -> list[Check]:
    """Every check, in the order in which they are shown. out: where results go (the cwd by default).

    thorough: also compile a small library, look for the compiler (hashing it the first time), and say which extras are
    installed. Nothing is installed.
    """
    env = os.environ if env is None else env
    cache = (cache or cache_dir(env)).absolute()
    found = [_machine(), _glibc(), _tool("cmake", env, MIN_CMAKE), _tool("make", env), _cxx(env, thorough)]
    if thorough:
        found.append(_compiler(cache, env))
    present = (
        any(c.name == "compiler" and c.ok and c.found.startswith(VERSION) for c in found)
        or _fetched(cache, env)
        or bool(env.get("TPUC_ROOT"))
    )
    found.append(
        _disk(
            "disk (cache)",
            cache,
            64 << 20 if present else TREE_BYTES + WHEEL_BYTES + (64 << 20),
            "the compiler and its kernels are kept there",
            optional=present,
        )
    )
    found.append(
        _disk(
            "disk (out)",
            (out or Path.cwd()).absolute(),
            MIN_OUT,
            "the .bmodel and the nets on the way to it are written there",
        )
    )
    found.append(_memory())
    found.append(_locks())
    return [*found, *map(_extra, EXTRAS)] if thorough else found


def _fetched(cache: Path, env: Mapping[str, str]) -> bool:
    """Whether some cache has a compiler, as it seems."""
    try:
        return any((place / FOLDER).is_dir() for place in places(cache, env))
    except InputError:  # the compiler's own check tells it
        return False


def preflight(out: Path | None = None, cache: Path | None = None, env: Mapping[str, str] | None = None) -> None:
    """Check before a build, in milliseconds.

    Raises an InputError that names all that is missing at once, with one command where that is enough.
    """
    env = os.environ if env is None else env
    failed = [c for c in check(out, cache, thorough=False, env=env) if c.state == MISSING]
    if failed:
        raise InputError(
            "this machine cannot build yet",
            "; ".join(f"{c.name}: {c.found} ({c.why})" for c in failed),
            mend(failed, env),
        )


def _machine() -> Check:
    found = f"{platform.system()} {platform.machine()}"
    return Check(
        "machine",
        found in ("Linux x86_64", "Linux amd64"),
        found,
        "the compiler is built for Linux on x86-64",
        "Run llmconv on a Linux x86-64 machine or in a container of one",
    )


def _glibc() -> Check:
    name, version = platform.libc_ver()
    ok = name == "glibc" and _numbers(version) >= MIN_GLIBC
    return Check(
        "glibc",
        ok,
        f"{name} {version}".strip() or "none",
        f"the compiler needs glibc {MIN_GLIBC[0]}.{MIN_GLIBC[1]} or newer",
        "Use a newer system (Debian 12, Ubuntu 22.04, Fedora 36 or later), or a container of one",
    )


def _tool(name: str, env: Mapping[str, str], least: tuple[int, ...] = ()) -> Check:
    path = shutil.which(name, path=env.get("PATH"))
    why = "attention kernels are built with it"
    if not path:
        return Check(name, False, "not found", why, _install([name], env))
    version = _first_line([path, "--version"], env)
    if least and (_numbers(version) or least) < least:
        return Check(
            name, False, version, f"{why}, version {'.'.join(map(str, least))} or newer", _install([name], env)
        )
    return Check(name, bool(version), version or f"{path} does not run", why, _install([name], env))


def _cxx(env: Mapping[str, str], thorough: bool) -> Check:
    """A C and a C++ compiler, as cmake looks for them."""
    why, mend = "attention kernels are built with it", _install(["c++"], env)
    paths = {}
    for language, variable, names in (("C", "CC", ("cc", "gcc", "clang")), ("C++", "CXX", ("c++", "g++", "clang++"))):
        candidates = [env[variable].split()[0]] if env.get(variable, "").strip() else names
        paths[language] = next(filter(None, (shutil.which(n, path=env.get("PATH")) for n in candidates)), None)
        if not paths[language]:
            return Check("c++", False, f"no {language} compiler", why, mend)
    problem = _try_to_compile(paths, env) if thorough else ""
    if problem:
        return Check("c++", False, problem, why, mend)
    return Check("c++", True, _first_line([paths["C++"], "--version"], env) or str(paths["C++"]), why)


def _try_to_compile(paths: Mapping[str, str | None], env: Mapping[str, str]) -> str:
    """Build a small shared library in both languages; the compiler's first error, or ''. Finds missing headers and
    libraries.
    """
    with tempfile.TemporaryDirectory(prefix="llmconv-") as folder:
        for language, suffix, text in (
            ("C", "c", "#include <stdio.h>\n#include <math.h>\n"),
            ("C++", "cpp", "#include <string>\n#include <unordered_map>\n"),
        ):
            source = Path(folder, f"try.{suffix}")
            source.write_text(text, encoding="ascii")
            try:
                done = subprocess.run(
                    [str(paths[language]), "-shared", "-fPIC", str(source), "-o", f"{source}.so"],
                    env=dict(env),
                    cwd=folder,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    errors="replace",
                    timeout=60,
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                return str(error)
            if done.returncode:
                words = (
                    [line for line in done.stderr.splitlines() if "error" in line]
                    or done.stderr.splitlines()
                    or ["no message"]
                )
                return f"{paths[language]} compiles no {language}: {words[0].strip()}"
    return ""


def _compiler(cache: Path, env: Mapping[str, str]) -> Check:
    why = "it makes the nets"
    try:
        tc = find(cache, env)
    except ConvertError as error:
        mend = _install(["libtinfo"], env) if "libtinfo" in str(error) else error.try_
        return Check("compiler", False, f"{error.what}: {error.why}", why, mend)
    fetched = cache / FOLDER
    if fetched.is_dir() and (tc is None or tc.root == fetched) and not is_whole(fetched):
        return Check(
            "compiler", False, f"{fetched} is damaged", why, f"Remove {fetched}: the next build fetches it again"
        )
    if tc is None:
        return Check(
            "compiler", True, f"tpu_mlir {VERSION} will be fetched ({size(WHEEL_BYTES)}) by the first build", why
        )
    note = "" if tc.version == VERSION else f" (llmconv is tested with {VERSION})"
    return Check("compiler", True, f"{tc.version} in {tc.root}{note}", why)


def _disk(name: str, place: Path, need: int, why: str, optional: bool = False) -> Check:
    """optional: a build works without writing there."""
    folder = next((p for p in (place, *place.parents) if p.is_dir()), Path("/"))
    if not os.access(folder, os.W_OK | os.X_OK):
        if optional:
            return Check(name, True, f"{folder} may not be written: it is used as it is", why)
        return Check(
            name,
            False,
            f"{folder} may not be written",
            why,
            "Name another folder" if "out" in name else "Set LLMCONV_CACHE to a folder of yours",
        )
    if os.statvfs(folder).f_flag & os.ST_NOEXEC:
        return Check(
            name,
            False,
            f"{folder} is mounted noexec",
            "programs and kernels are run from there",
            "Name a folder on another disk" if "out" in name else "Set LLMCONV_CACHE to a folder on another disk",
        )
    free = shutil.disk_usage(folder).free
    return Check(
        name,
        free >= need,
        f"{size(free)} free in {folder}",
        f"{why}; {size(need)} at least",
        f"Make room on the disk of {folder}",
    )


def _memory() -> Check:
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        text = ""
    found = re.search(r"MemAvailable:\s+(\d+) kB", text)
    if found is None:
        return Check("memory", True, "unknown")
    free = int(found[1]) << 10
    return Check(
        "memory",
        free >= MIN_MEMORY,
        f"{size(free)} available",
        f"a net takes up to {size(MIN_MEMORY)} to compile",
        "Close other programs, or use a machine with more memory",
        WARNING,
    )


def _locks() -> Check:
    """Lock files of the kernel JIT in /tmp that another user left: the compiler cannot open them and aborts."""
    why = "the kernel JIT locks /tmp/ppl_*.lock, which it cannot when another user made it"
    blocked = [p.name for p in Path("/tmp").glob("ppl_*.lock") if not os.access(p, os.W_OK)]
    if not blocked:
        return Check("jit locks", True, "none of another user in /tmp", why)
    mend = "Run sudo rm /tmp/ppl_*.lock"
    return Check("jit locks", False, f"{len(blocked)} of another user in /tmp", why, mend, WARNING)


def _extra(extra: Extra) -> Check:
    mend = f"Run {extra.command}"
    return Check(f"extra {extra.name}", not extra.lacking, extra.found, extra.use, mend, ABSENT)


def _install(tools: Sequence[str], env: Mapping[str, str]) -> str:
    """The command that installs `tools` with this system's package manager."""
    for manager, packages in _PACKAGES.items():
        if shutil.which(manager, path=env.get("PATH")):
            sudo = "" if os.geteuid() == 0 else "sudo "
            return f"Run {sudo}{_INSTALL[manager]} {' '.join(dict.fromkeys(packages[t] for t in tools))}"
    return f"Install {' '.join(tools)} with your system's package manager"


def mend(failed: Sequence[Check], env: Mapping[str, str] | None = None) -> str:
    """What to do about all of these, with the packages in one command."""
    env = os.environ if env is None else env
    installs = [c.name for c in failed if c.name in ("cmake", "make", "c++")]
    rest = [c.mend for c in failed if c.name not in ("cmake", "make", "c++") and c.mend]
    return ". ".join(([_install(installs, env)] if installs else []) + rest)


def _first_line(argv: Sequence[str | None], env: Mapping[str, str]) -> str:
    try:
        done = subprocess.run(
            [str(a) for a in argv],
            env=dict(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=20,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip().partition("\n")[0] if done.returncode == 0 else ""


def _numbers(version: str) -> tuple[int, ...]:
    found = re.search(r"(\d+)\.(\d+)", version)
    return (int(found.group(1)), int(found.group(2))) if found else ()
