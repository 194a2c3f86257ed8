"""A kernel source of the compiler that its own JIT refuses, mended on the way.

top.Insert (batched decoding) is compiled by the JIT from a source inside libppl_host.so, which declares `void`
pointers: 1.30.2's ppl-compile takes no cast from those ("'ppl.ptr_cast' op operand #0 must be memref"), and the
compiler then goes on without the kernel. The JIT gives the text to `ppl_jit.sh` as an argument, so a script of that
name earlier in PATH can declare them bf16. Each use in the source casts them to the element's width, so nothing else
changes."""

from __future__ import annotations

import os
from pathlib import Path

SCRIPT = r"""#!/bin/sh
source=$1
function=$2
shift
if [ "$function" = insert_tensor ]; then
    source=$(printf '%s' "$source" | sed 's/insert_tensor(void \*ptr_dst, void \*ptr_src/insert_tensor(bf16 *ptr_dst, bf16 *ptr_src/')
fi
exec /bin/sh "$PPL_PROJECT_ROOT/bin/ppl_jit.sh" "$source" "$@"
"""


def put(folder: Path, env: dict[str, str]) -> dict[str, str]:
    """Write the script into `folder`, and return `env` with it first in PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "ppl_jit.sh"
    script.write_text(SCRIPT, encoding="ascii")
    script.chmod(0o755)
    return env | {"PATH": os.pathsep.join([str(folder), env["PATH"]])}
