"""The one compiler that llmconv is made for, and facts about its files."""

from __future__ import annotations

VERSION = "1.30.2"
WHEEL_SHA256 = "542807361c9eeb0777a7bd35e501d8c71cce767e4bce021a3cb3a7c25c35f909"
# of every file that is unpacked of it (digests.of_tree)
TREE_SHA256 = "ec6c1f8b990bd6abea4430687a4e92647f6033280866ce39f3f72aea0b2bc520"
WHEEL_BYTES = 312 << 20  # about
FOLDER = f"tpu_mlir-{VERSION}"  # of the fetched compiler, in the cache
# lib/third_party's own: with any other ld.so they kill every program
GLIBC = ("libc.so.6", "libm.so.6", "libpthread.so.0")
