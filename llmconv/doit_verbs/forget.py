"""`doit forget`: tasks run again, or come from the cache, as if they had never been built here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import doit.cmd_forget
from doit.cmd_base import check_tasks_exist, subtasks_iter, tasks_and_deps_iter
from doit.control import TaskControl

from llmconv.doit_verbs.ending import Ending


class Forget(Ending, doit.cmd_forget.Forget):
    doc_description = "If no task is specified, the default tasks are forgotten with all that they need."

    dep_manager: Any

    def _execute(self, forget_sub: bool, forget_disable_default: bool, forget_all: bool) -> None:
        """What doit calls, with the values of its options. Unlike doit's own it knows that a task which reads a file
        needs the one that makes it."""
        if forget_all or (self.sel_default_tasks and forget_disable_default):
            super()._execute(forget_sub, forget_disable_default, forget_all)
            return
        tasks = TaskControl(self.task_list).tasks
        names: Iterable[str] = self.sel_tasks or tasks
        check_tasks_exist(tasks, names)
        if forget_sub or self.sel_default_tasks:
            chosen = [task.name for task in tasks_and_deps_iter(tasks, names)]
        else:
            chosen = [name for one in names for name in (one, *(sub.name for sub in subtasks_iter(tasks, tasks[one])))]
        for name in chosen:
            self.dep_manager.remove(name)
            self.outstream.write(f"forgetting {name}\n")
        self.dep_manager.close()
