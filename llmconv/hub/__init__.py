"""Models of the hub: `org/name` or `org/name@revision` instead of a directory.

This package is light: a function that needs huggingface_hub imports it.
"""

from llmconv.hub.name import Name

__all__ = ["Name"]
