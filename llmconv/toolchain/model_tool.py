"""The vendor's model_tool: inspection of .bmodel files."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from llmconv.errors import ToolError
from llmconv.toolchain.environment import environment
from llmconv.toolchain.find import Toolchain


def model_tool(tc: Toolchain, *args: str | Path, timeout: float | None = None) -> str:
    """Run `model_tool ARGS` (--info F, --print F, --combine A B -o C, ...) and return what it printed. ToolError when
    it fails.

    timeout in seconds. Paths should be absolute; it runs in a temporary folder, since it writes side files into its
    cwd.
    """
    argv = [str(tc.root / "bin" / "model_tool"), *(str(a) for a in args)]
    with tempfile.TemporaryDirectory(prefix="llmconv-") as cwd:
        env = environment(tc, Path(cwd) / "ppl", 1) | {"PWD": cwd}
        try:
            done = subprocess.run(
                argv,
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired:
            raise ToolError(f"model_tool {args[0] if args else ''} did not end within {timeout:g} s") from None
        except OSError as error:
            raise ToolError(
                "model_tool cannot be started", error.strerror or str(error), "Run llmconv doctor"
            ) from None
    text = done.stdout.decode("utf-8", "replace")
    if done.returncode:
        last = [line for line in text.splitlines() if line.strip()][-1:]
        raise ToolError(
            f"model_tool {' '.join(map(str, args))} returned {done.returncode}",
            last[0].strip() if last else "it printed nothing",
        )
    return text
