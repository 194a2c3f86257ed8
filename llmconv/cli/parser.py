"""argparse with short help that shows defaults, errors of one line that name the near miss, and shell completion."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NoReturn

from llmconv.request.manual import meaning, placeholder
from llmconv.request.options import ALIASES, BY_NAME, OPTIONS

SHELLS = ("bash", "zsh", "fish")
_UNKNOWN = re.compile(r"unrecognized arguments: (\S+)")
_CHOICE = re.compile(r"argument (\S+): invalid choice: '(.*?)' \(choose from (.*)\)")


class Help(argparse.HelpFormatter):
    """One line of names for each option: the vendor's spelling stands for both, and the value is named once."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=30)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        shown = [
            name
            for name in action.option_strings
            if not (name.startswith("--") and "-" in name[2:]) or len(action.option_strings) == 1
        ]
        value = f" {self._format_args(action, action.dest.upper())}" if action.nargs != 0 else ""
        return ", ".join(shown) + value


class Parser(argparse.ArgumentParser):
    """Reports an error in one line, with what was probably meant.

    mixed: arguments without a name may stand behind options too, where there may be any number of them. examples:
    commands that the help ends with."""

    mixed = False

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{"formatter_class": Help} | kwargs)
        self.examples: Sequence[str] = ()

    def format_help(self) -> str:
        """Argparse's own text, and the examples, line by line."""
        lines = [f"  {example}" for example in self.examples]
        return super().format_help() + ("\n".join(["", "examples:", *lines, ""]) if lines else "")

    def parse_known_args(self, args=None, namespace=None):  # pyright: ignore[reportIncompatibleMethodOverride]
        if not self.mixed:
            return super().parse_known_args(args, namespace)
        self.mixed = False  # argparse comes here again
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self.mixed = True

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"ERROR: {self._told(message)}\n")
        raise SystemExit(2)

    def _told(self, message: str) -> str:
        unknown, choice = _UNKNOWN.search(message), _CHOICE.search(message)
        if choice:
            near = difflib.get_close_matches(choice[2], re.findall(r"[\w-]+", choice[3]), n=1)
            hint = f"Did you mean {near[0]}?" if near else f"It is one of {choice[3]}."
            return f"there is no {choice[1].lower()} {choice[2]}. {hint}"
        if unknown:
            word = unknown[1].partition("=")[0]
            near = difflib.get_close_matches(
                word.replace("-", "_").lstrip("_"), {name.lstrip("-"): None for name in self._names()}, n=1
            )
            hint = f"Did you mean --{near[0]}?" if near else f"`{self.prog} COMMAND --help` lists the options."
            return f"unknown option {word}. {hint}" if word.startswith("-") else f"{word} is one argument too many."
        return f"{message}. `{self.prog} --help` says more."

    def _names(self) -> Iterator[str]:
        """Option names of this parser and of those below it, as the vendor spells them."""
        for action in self._actions:
            yield from (name for name in action.option_strings if name.startswith("--"))
            if isinstance(action, argparse._SubParsersAction):
                for parser in action.choices.values():
                    yield from parser._names()


def add_options(parser: argparse.ArgumentParser, names: Collection[str] = tuple(BY_NAME)) -> None:
    """Add the options of a conversion (those of the given names), in their groups.

    llmconv.request.options checks the values.
    """
    groups: dict[str, Any] = {}
    for option in (BY_NAME[name] for name in names):
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        flags = [*option.flags, f"--{option.name}"]
        if "_" in option.name:
            flags.append(f"--{option.name.replace('_', '-')}")
        kind: dict[str, Any] = (
            {"action": "store_const", "const": "1"} if option.kind == "flag" else {"metavar": placeholder(option)}
        )
        groups[option.group].add_argument(*flags, dest=option.name, default=None, help=meaning(option), **kind)


def completion(parsers: Sequence[argparse.ArgumentParser], shell: str) -> str:
    """A shell's completion script for commands of ours; shell: of SHELLS."""
    import shtab

    known = {option.name: option for option in OPTIONS}
    for parser in parsers:
        for action in _actions(parser):
            option = known.get(action.dest)
            if option is not None and option.choices:
                action.choices = option.choices
            if action.metavar in ("DIR", "OUT") or (option is not None and option.kind == "path"):
                _complete(action, shtab.DIRECTORY)
            elif action.metavar == "FILE":
                _complete(action, shtab.FILE)
    doit = (
        [_DOIT.replace("@NAMES@", " ".join(_variables())).replace("@CHOICES@", _choices())] if shell == "bash" else []
    )
    return "\n".join([*(shtab.complete(parser, shell) for parser in parsers), *doit])


def _complete(action: argparse.Action, what: object) -> None:
    """Say how to complete an argument, in the attribute that shtab reads."""
    vars(action)["complete"] = what


# bash splits name=value into three words
_DOIT = """
# doit: the variables of a conversion, beside what doit's own script completes (doit tabcompletion)
_llmconv_doit() {
  local word="${COMP_WORDS[COMP_CWORD]}" name="" known=""
  if [[ $word == "=" ]]; then name="${COMP_WORDS[COMP_CWORD-1]}" word=""
  elif [[ ${COMP_WORDS[COMP_CWORD-1]} == "=" ]]; then name="${COMP_WORDS[COMP_CWORD-2]}"; fi
  case "$name" in
    "") declare -F _doit > /dev/null && _doit "$@"
        [[ -n $word ]] && known="@NAMES@"
        COMPREPLY+=( $(compgen -W "$known" -- "$word") )
        [[ ${COMPREPLY[0]} == *= ]] && compopt -o nospace 2> /dev/null ;;
@CHOICES@
    *) COMPREPLY=( $(compgen -f -- "$word") ) ;;
  esac
}
complete -o filenames -F _llmconv_doit doit
"""


def _variables() -> list[str]:
    return [f"{name}=" for name in ALIASES if name != "processor"]


def _choices() -> str:
    """The cases of options with few values."""
    lines = [
        f'    {option.name}) COMPREPLY=( $(compgen -W "{" ".join(option.choices)}" -- "$word") ) ;;'
        for option in OPTIONS
        if option.choices
    ]
    flags = "|".join(option.name for option in OPTIONS if option.kind == "flag")
    return "\n".join([*lines, f'    {flags}) COMPREPLY=( $(compgen -W "0 1" -- "$word") ) ;;'])


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from _actions(below)
        else:
            yield action
