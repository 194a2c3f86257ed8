"""The compiler: find or fetch tpu_mlir's native half, and run it. The only package that starts compilers."""
