"""How doit's commands end: by the exit codes of llmconv, with one line for what is wrong."""

from __future__ import annotations

import difflib
import sys
import traceback
from getopt import GetoptError
from typing import Any

from doit.cmd_base import Command
from doit.cmdparse import CmdParseError
from doit.exceptions import InvalidCommand, InvalidDodoFile, InvalidTask

from llmconv.ending import guarded
from llmconv.engine.task import Action
from llmconv.errors import ConvertError, InputError


def work(task: Any) -> Action | None:
    """What llmconv's engine does for a doit task; None for a group, and for a task of a user's own."""
    action = (task.meta or {}).get("action")
    return action if action and action.call else None


class Ending(Command):
    """Stands before a class of doit's. Wrong usage, a wrong dodo.py and wrong tasks have exit code 2, which doit itself
    ends with 3; a closed stdout ends a command quietly."""

    task_list: Any = ()
    loader: Any = None

    def parse_execute(self, in_args: list[str]) -> int:
        """What doit calls."""
        try:
            return guarded(lambda: super(Ending, self).parse_execute(in_args) or 0)
        except (CmdParseError, InvalidDodoFile, InvalidCommand, InvalidTask) as error:
            return self._refuse(self._told(error, in_args))
        except ConvertError as error:
            return self._refuse(error)
        except Exception:
            if self.pdb:  # doit opens its debugger
                raise
            traceback.print_exc()  # a dodo.py of a user's own has a mistake, and this is where
            return InputError.exit_code

    @staticmethod
    def _refuse(error: ConvertError) -> int:
        print(f"ERROR: {error}", file=sys.stderr)
        return error.exit_code

    def _told(self, error: Exception, args: list[str]) -> InputError:
        """An error of doit's in a sentence."""
        unknown = (arg for arg in args if str(error) == f"'{arg}' is not a task.")
        wanted = getattr(error, "not_found", None) or next(unknown, None)
        if wanted is not None:
            known = [*(task.name for task in self.task_list), *(self.loader.cmd_names if self.loader else ())]
            near = difflib.get_close_matches(str(wanted), known, n=1)
            advice = f"Did you mean {near[0]}?" if near else f"See `{self.bin_name} list` and `{self.bin_name} help`."
            return InputError(f"there is no task, target or command {wanted}", try_=advice)
        cause, advice = error.__context__, f"`{self.bin_name} help COMMAND` and `help TASK` list the options."
        if isinstance(cause, GetoptError):  # doit's text shows every option that it knows, as Python
            return InputError(str(cause), try_=advice)
        if isinstance(error, CmdParseError) and isinstance(cause, ValueError):  # and Python's name of the type
            return InputError(str(error).partition(" <class")[0], str(cause), advice)
        return InputError(" ".join(str(error).split()))
