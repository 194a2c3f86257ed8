"""Unpack the part of the tpu_mlir wheel that llmconv uses: about 300 of its 945 MB."""

from __future__ import annotations

import os
import re
import stat
import zipfile
import zlib
from pathlib import Path

from llmconv.errors import ToolError

# The compiler, model_tool, the simulator and the JIT for bm1684x, bm1688 and cv186x open these files and no others
# (traced, static and dynamic nets). Left out: the Python half, other chips, debuggers, the three files of glibc.
_KEEP = re.compile(
    r"""tpu_mlir/(
        bin/(tpuc-opt|model_tool)
      | lib/lib(backend_bm1684x|backend_bm1688|bm1684x_kernel_module|bmtpulv60_kernel_module|bm1684x_atomic_kernel|cpuop|ppl_host
               |ppl_dyn_host_bm1684x|ppl_dyn_host_bm1688|cmodel_bm1684x|cmodel_bm1688)\.so
      | lib/lib(ortools\.so\.9|bmrt\.so\.1\.0|bmlib_bm1684x\.so\.0)
      | lib/third_party/lib(dnnl\.so\.3|omp\.so\.5|stdc\+\+\.so\.6|gcc_s\.so\.1|z\.so\.1)
      | cross_toolchains/ppl_compile/(version|bin/.+|inc/.+|deps/.+)
    ) | tpu_mlir-[^/]+\.dist-info/licenses/.+""",
    re.VERBOSE,
)
_RUN = re.compile(r"bin/(tpuc-opt|model_tool)|cross_toolchains/ppl_compile/bin/.+")
_CHUNK = 1 << 20


def unpack(wheel: Path, tree: Path) -> None:
    """Unpack `wheel` into the new folder `tree` (bin/, lib/, cross_toolchains/, licenses/) and flush it to the disk.

    ToolError when the file is no wheel or holds a name that leads outside; OSError when the disk refuses.
    """
    tree.mkdir()
    try:
        with zipfile.ZipFile(wheel) as archive:
            for entry in archive.infolist():
                _check(wheel, entry)
                if not entry.is_dir() and _KEEP.fullmatch(entry.filename):
                    _extract(archive, entry, tree)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ToolError(f"cannot unpack {wheel.name}", str(error), "Fetch it again") from None


def _check(wheel: Path, entry: zipfile.ZipInfo) -> None:
    """Refuse names that lead outside the tree, and links."""
    name = entry.filename
    if name.startswith("/") or "\\" in name or ".." in name.split("/") or stat.S_ISLNK(entry.external_attr >> 16):
        raise ToolError(
            f"{wheel.name} is not to be trusted", f"its entry {name!r} leads outside the folder it is unpacked to"
        )


def _extract(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, tree: Path) -> None:
    inner = entry.filename.partition("/")[2]  # tpu_mlir/bin/X -> bin/X, tpu_mlir-V.dist-info/licenses/X -> licenses/X
    path = tree / inner
    path.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(entry) as source, open(path, "xb") as target:
        while chunk := source.read(_CHUNK):
            target.write(chunk)
        os.fchmod(target.fileno(), 0o755 if _RUN.fullmatch(inner) else 0o644)
        target.flush()
        os.fsync(target.fileno())
