"""Models of the hub: `org/name` or `org/name@revision` instead of a directory. Light: huggingface_hub is imported when it is used."""

from llmconv.hub.name import Name

__all__ = ["Name"]
