"""`doit help TASK`: the options behind a task's name, and the variables that it takes."""

from __future__ import annotations

import doit.cmd_help
from doit.exceptions import InvalidCommand

from llmconv.doit_verbs.ending import Ending

MANUAL = "manual"  # in a task's `meta`: what else its help says


class Help(Ending, doit.cmd_help.Help):
    def _execute(self, pos_args: list[str]) -> bool:
        """What doit calls for a task."""
        if not super()._execute(pos_args):
            raise InvalidCommand(not_found=pos_args[0])
        manual = next(((task.meta or {}).get(MANUAL) for task in self.task_list if task.name == pos_args[0]), None)
        if manual:
            print(f"\n{manual}")
        return True
