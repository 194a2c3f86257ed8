"""`doit clean`: removes what tasks have made, and tells how much that frees."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import doit.cmd_clean

from llmconv.doit_verbs.ending import Ending, work
from llmconv.engine.cleaning import Removed, line, removed, total
from llmconv.engine.into_doit import Dependency


class Clean(Ending, doit.cmd_clean.Clean):
    dep_manager: Any

    def clean_tasks(self, tasks: Sequence[Any], dryrun: bool, cleanforget: bool) -> None:
        """What doit calls with the tasks to clean, users before what they need. Tasks of a user's own are cleaned as
        they say."""
        if not isinstance(self.dep_manager, Dependency):  # no conversion is in this dodo.py
            super().clean_tasks(tasks, dryrun, cleanforget)
            return
        gone: list[Removed] = []
        once = {task.name: task for task in tasks}
        with nullcontext() if dryrun else self.dep_manager.held():
            for task in once.values():
                action = work(task)
                if action is None:
                    task.clean(self.outstream, dryrun)
                    continue
                for one in removed(action.written, dryrun):
                    gone.append(one)
                    self.outstream.write(f"{task.name} - {line(one, dryrun)}\n")
        if cleanforget and not dryrun:
            for name in once:
                self.dep_manager.remove(name)
        self.dep_manager.close()
        groups = [task.name for task in once.values() if not task.targets and task.task_dep]
        if groups and len(groups) == len(once):
            self.outstream.write(f"{', '.join(groups)} makes no files itself; -c cleans what it needs too\n")
        self.outstream.write(f"{total(gone, dryrun)}\n")
