"""`doit list`: with -s it says why a status cannot be told (E)."""

from __future__ import annotations

import sys
from typing import Any

import doit.cmd_list

from llmconv.doit_verbs.ending import Ending


class List(Ending, doit.cmd_list.List):
    dep_manager: Any

    def parse_execute(self, in_args: list[str]) -> int:
        """What doit calls."""
        status = super().parse_execute(in_args)
        if fault := getattr(self.dep_manager, "fault", ""):
            print(f"E: {fault}", file=sys.stderr)
        return status
