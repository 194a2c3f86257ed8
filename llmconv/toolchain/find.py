"""Find the compiler: tpu_mlir's native half, wherever it is on this machine."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llmconv.errors import InputError, ToolError
from llmconv.extras import HUB, need
from llmconv.toolchain import digests, pinned
from llmconv.toolchain.pinned import FOLDER, GLIBC
from llmconv.toolchain.shadow import shadow, shadow_of
from llmconv.user_cache import PRIVATE, cache_dir, per_user

BELOW = "LLMCONV_CACHE_BELOW"
OWN = "Unset it to let llmconv fetch its own compiler, or name the folder that holds bin/tpuc-opt"


@dataclass(frozen=True)
class Toolchain:
    """A compiler that runs. root: the folder with bin/ and lib/; digest: sha256 (hex) over what determines a net's
    bytes.
    """

    root: Path
    version: str
    digest: str

    @property
    def record(self) -> str:
        """JSON with all that a build may depend on."""
        return json.dumps({"version": self.version, "digest": self.digest})


@dataclass(frozen=True)
class Kept:
    """What is known of compilers. own: where it is kept, unless `keep` is false; shared: where it is looked up too."""

    own: Path
    shared: Path
    keep: bool = True

    def digest(self, root: Path) -> str:
        """The digest of a compiler that is as it was when it was hashed, else ""."""
        return digests.recall(root, self.own) or digests.recall(root, self.shared)

    def remember(self, root: Path) -> str:
        """The digest, hashed anew. What is remembered already is renewed by a mere look too, because a task that is up
        to date renews nothing, and every command would hash again."""
        renewed = self.keep or digests.known(root, self.own)
        return digests.remember(root, self.own) if renewed else digests.hashed(root)

    def shadow(self, root: Path) -> Path | None:
        """A view of an install without its glibc."""
        there = next((place for cache in (self.own, self.shared) if (place := shadow_of(root, cache)).is_dir()), None)
        return there or (shadow(root, self.own) if self.keep else None)


def caches_below(env: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """What $LLMCONV_CACHE_BELOW names: caches of others, which have the layout of `cache_dir`: directories, and
    addresses that begin with http:// or https://. InputError for one that cannot be any, and for an address where the
    library that asks is not installed."""
    env = os.environ if env is None else env
    found = []
    for one in env.get(BELOW, "").replace(",", " ").split():
        place, address = Path(one).expanduser(), one.startswith(("http://", "https://"))
        if not address and "://" in one:
            raise InputError(f"{BELOW} names {one}", "caches are directories, and addresses with http:// or https://")
        if address:
            need(HUB, f"{BELOW} names {one}", ", or leave the address out")
        elif not place.is_dir():
            raise InputError(f"{BELOW} names {one}", "there is no such directory", "Make it, or leave it out.")
        found.append(one.rstrip("/") if address else str(place.absolute()))
    return tuple(found)


def places(cache: Path, env: Mapping[str, str]) -> tuple[Path, ...]:
    """Directories that may hold what a run needs: its own cache, then those that it only reads."""
    shared = (per_user(env),) if env.get(PRIVATE) else ()
    return (cache, *shared, *(Path(one) for one in caches_below(env) if "://" not in one))


def find(cache: Path | None = None, env: Mapping[str, str] | None = None, keep: bool = True) -> Toolchain | None:
    """The compiler to use, or None when it has to be fetched.

    keep: remember its digest in the cache, and make a view of it there where it needs one. False only renews a digest
    that is remembered there, and gives None for a compiler that needs a view that is not there yet.

    Order: $TPUC_ROOT (a wrong one is an InputError: the user named it), a tpu_mlir package of this Python (not
    imported), the cache, those below it. An install that still holds the bundled glibc is used through a private shadow
    of it in the cache.
    """
    env = os.environ if env is None else env
    cache = (cache or cache_dir(env)).absolute()
    kept = Kept(cache, per_user(env), keep)
    named = env.get("TPUC_ROOT", "").strip()
    if named:
        root = Path(named).expanduser().absolute()
        problem = _problem(root)
        if problem:
            raise InputError(
                f"TPUC_ROOT={named}",
                problem,
                OWN,
            )
        return _open(root, kept, f"TPUC_ROOT={named}", OWN)
    installed = _installed()
    if installed and not _problem(installed):
        repair = "Remove that package (pip uninstall tpu_mlir): llmconv fetches a compiler of its own"
        return _open(installed, kept, f"the installed tpu_mlir ({installed})", repair)
    return next((found for place in places(cache, env) if (found := find_fetched(place, kept))), None)


def find_fetched(place: Path, kept: Kept) -> Toolchain | None:
    """The compiler that an earlier fetch put into the cache `place`; None when it is absent, incomplete or damaged.

    Its files are held against the pinned digest when one of them is not as it was (size, times, place).
    """
    fetched = place / FOLDER
    if _problem(fetched):
        return None
    version = version_of(fetched)
    try:
        digest = kept.digest(fetched)
    except OSError:
        return None
    if digest:
        return Toolchain(fetched, version, digest)
    if not is_whole(fetched):
        return None
    return _open(fetched, kept, f"the compiler in {fetched}", repair=f"Remove {fetched} and run again")


def is_whole(root: Path) -> bool:
    """Whether every file of a fetched compiler has the content that was fetched. Reads them all."""
    try:
        return not pinned.TREE_SHA256 or digests.of_tree(root) == pinned.TREE_SHA256
    except OSError:  # a link to nothing, a file that cannot be read
        return False


def version_of(root: Path) -> str:
    """The version that the install states ('1.30.2'), 'unknown' when it states none."""
    if root.name.startswith("tpu_mlir-"):
        return root.name.partition("-")[2]
    for info in sorted(root.parent.glob("tpu_mlir-*.dist-info")):
        return info.name[len("tpu_mlir-") : -len(".dist-info")]
    return _version_in(root / "bin" / "tpuc-opt")


def _version_in(binary: Path) -> str:
    """The version that is compiled into the binary as 'v1.30.2-20260831'."""
    import mmap

    with open(binary, "rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return "unknown"
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            found = re.search(rb"\0v(\d+\.\d+(?:\.\d+)?)-20\d{6}", data)
            return found.group(1).decode() if found else "unknown"


def _installed() -> Path | None:
    """The folder of a tpu_mlir package that this Python could import; it is not imported."""
    try:
        spec = importlib.util.find_spec("tpu_mlir")
    except (ImportError, ValueError):
        return None
    for place in (spec.submodule_search_locations or ()) if spec else ():
        return Path(place)
    return None


def _problem(root: Path) -> str:
    """Why `root` cannot be a compiler; '' when it looks like one."""
    if not root.is_dir():
        return "there is no such folder"
    for part in (
        "bin/tpuc-opt",
        "bin/model_tool",
        "cross_toolchains/ppl_compile/bin/ppl-compile",
        "lib/libppl_host.so",
    ):
        path = root / part
        if not path.is_file():
            return f"{part} is missing"
        if not part.startswith("lib/") and not os.access(path, os.X_OK):
            return f"{part} may not be executed"
    return ""


def _open(root: Path, kept: Kept, what: str, repair: str) -> Toolchain | None:
    """Make a Toolchain of a folder that looks right: shadow its glibc if it has one, hash it, see that it runs (both
    once). None where the shadow is not there and may not be made.
    """
    version = version_of(root)
    if any((root / "lib" / "third_party" / name).exists() for name in GLIBC):
        shadowed = kept.shadow(root)
        if shadowed is None:
            return None
        root = shadowed
    digest = kept.digest(root)
    if not digest:
        _try(root, what, repair)
        digest = kept.remember(root)
    return Toolchain(root, version, digest)


def _try(root: Path, what: str, repair: str) -> None:
    """Run `tpuc-opt --version`; ToolError with the loader's own words when it does not run here."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("LD_")}
    try:
        done = subprocess.run(
            [root / "bin" / "tpuc-opt", "--version"],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolError(f"{what} does not run", str(error), repair) from None
    if done.returncode:
        words = done.stdout.decode("utf-8", "replace").strip().splitlines()
        raise ToolError(
            f"{what} does not run",
            words[0] if words else f"tpuc-opt --version returned {done.returncode}",
            repair,
        )
