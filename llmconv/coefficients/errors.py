"""Coefficients that llmconv does not compute. The caller then compiles the net as it is."""

from __future__ import annotations


class NotCovered(Exception):
    """Coefficients that llmconv does not compute itself; `reason`: a short phrase for summary and manifest."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason

    @property
    def told(self) -> str:
        """The reason as a clause of its own."""
        return f"llmconv does not compute {self.reason}"
