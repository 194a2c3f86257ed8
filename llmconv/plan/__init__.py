"""Which nets there are, and how each is made. Pure."""

from llmconv.front import callable_module

callable_module(__name__)
