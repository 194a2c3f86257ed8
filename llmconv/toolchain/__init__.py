"""The compiler: find or fetch tpu_mlir's native half, and run it. The only package that starts compilers."""

from llmconv.toolchain.doctor import Check, check, preflight, report, status
from llmconv.toolchain.environment import environment
from llmconv.toolchain.fetch import fetch, obtain
from llmconv.toolchain.find import Toolchain, cache_dir, find
from llmconv.toolchain.flags import CompileFlags, passes
from llmconv.toolchain.jit import kernels
from llmconv.toolchain.model_tool import model_tool
from llmconv.toolchain.pinned import VERSION
from llmconv.toolchain.tpuc_opt import CompileResult, compile_mlir

__all__ = [
    "VERSION", "Check", "CompileFlags", "CompileResult", "Toolchain", "cache_dir", "check", "compile_mlir",
    "environment", "fetch", "find", "kernels", "model_tool", "obtain", "passes", "preflight", "report", "status",
]  # fmt: skip
