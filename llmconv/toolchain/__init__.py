"""The compiler: find or fetch tpu_mlir's native half, and run it. The only package that starts compilers."""

from .compile import CompileFlags, CompileResult, compile_mlir, passes
from .doctor import Check, check, preflight, report, status
from .environment import environment
from .fetch import fetch, obtain
from .find import Toolchain, cache_dir, find
from .jit import kernels
from .model_tool import model_tool
from .pinned import VERSION

__all__ = [
    "Check", "CompileFlags", "CompileResult", "Toolchain", "VERSION", "cache_dir", "check", "compile_mlir", "environment", "fetch", "find",
    "kernels", "model_tool", "obtain", "passes", "preflight", "report", "status",
]
