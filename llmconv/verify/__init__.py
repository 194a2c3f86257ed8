"""Verification: the nets of a .bmodel on the chip simulator, compared with the model's own maths (see verification)."""

from llmconv.front import callable_module

callable_module(__name__)
