"""`doit dumpdb`: what is kept of every task that was built."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from doit.cmd_base import DoitCmdBase
from doit.exceptions import InvalidCommand

from llmconv.doit_verbs.ending import Ending
from llmconv.engine.into_doit import Dependency


class DumpDB(Ending, DoitCmdBase):
    name = "dumpdb"
    doc_purpose = "dump what is kept of every task that was built"
    doc_usage = ""
    doc_description = "A line for each task: its name, -> and a JSON object. The file itself is state.db, in SQLite."

    dep_manager: Any

    def _execute(self) -> None:
        """What doit calls."""
        if not isinstance(self.dep_manager, Dependency):
            raise InvalidCommand("no conversion of llmconv is in this dodo.py")
        for row in self.dep_manager.rows().values():
            told = {name: value for name, value in asdict(row).items() if not name.endswith("_text") and name != "name"}
            told |= {"fields": row.fields, "targets": row.targets, "values": row.values}
            self.outstream.write(f"{row.name} -> {json.dumps(told)}\n")
