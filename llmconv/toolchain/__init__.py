"""The compiler: find or fetch tpu_mlir's native half, and run it. The only package that starts compilers."""

from .compile import CompileFlags, CompileResult, compile_mlir, passes
from .environment import environment
from .find import Toolchain, cache_dir, find
from .model_tool import model_tool
from .pinned import VERSION

__all__ = ["CompileFlags", "CompileResult", "Toolchain", "VERSION", "cache_dir", "compile_mlir", "environment", "find", "model_tool", "passes"]
