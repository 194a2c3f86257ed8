"""What lower does not do: the caller compiles such a net natively."""

from __future__ import annotations


class NotCovered(Exception):
    """Coefficients that llmconv does not compute itself; `reason` is a short phrase for the summary and the manifest."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason
