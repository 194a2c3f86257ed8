"""doit's commands for projects that build with llmconv. `[tool.doit.plugins.command]` of a pyproject.toml, or
`[COMMAND]` of a doit.cfg, puts them in the place of doit's own (docs/doit.md)."""

from __future__ import annotations

import doit.cmd_completion
import doit.cmd_ignore
import doit.cmd_resetdep
import doit.cmd_run
import doit.cmd_strace

from llmconv.doit_verbs.clean import Clean
from llmconv.doit_verbs.dumpdb import DumpDB
from llmconv.doit_verbs.ending import Ending
from llmconv.doit_verbs.forget import Forget
from llmconv.doit_verbs.help import Help
from llmconv.doit_verbs.info import Info
from llmconv.doit_verbs.list import List

__all__ = ["Clean", "DumpDB", "Forget", "Help", "Ignore", "Info", "List", "ResetDep", "Run", "Strace", "TabCompletion"]


class Run(Ending, doit.cmd_run.Run):
    """doit's own, with llmconv's exit codes; so are those below."""


class Ignore(Ending, doit.cmd_ignore.Ignore):
    pass


class ResetDep(Ending, doit.cmd_resetdep.ResetDep):
    pass


class Strace(Ending, doit.cmd_strace.Strace):
    pass


class TabCompletion(Ending, doit.cmd_completion.TabCompletion):
    pass
