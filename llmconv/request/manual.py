"""The options in words: for `llmconv ... --help`, and as the variables of doit."""

from __future__ import annotations

import textwrap

from llmconv.request.options import OPTIONS, Option


def placeholder(option: Option) -> str:
    """What stands for its value."""
    return {"int": "N", "path": "DIR", "file": "FILE", "size": "SIZE", "pixels": "W,H"}.get(option.kind, "X")


def meaning(option: Option) -> str:
    """Meaning, choices and default. A default that the meaning itself explains is not repeated."""
    text = option.help
    if option.choices:
        text += f" ({', '.join(option.choices)})"
    if option.kind == "flag":
        return f"{text} [off]"
    if option.default in (None, ""):
        return text if "default" in text else f"{text} [required]" if option.group == "required" else f"{text} [none]"
    return f"{text} [{option.default}]"


def variables() -> str:
    """Every option as a variable of doit's command line, in groups: name=value and what it means."""
    lines: list[str] = []
    for group in dict.fromkeys(option.group for option in OPTIONS):
        lines += ["", f"{group}:"]
        for option in (one for one in OPTIONS if one.group == group):
            name = f"  {option.variable or option.name}={'1' if option.kind == 'flag' else placeholder(option)}"
            told = textwrap.wrap(meaning(option), 88)
            lines += [f"{name:<28}{told[0]}", *(f"{'':<28}{line}" for line in told[1:])]
    return "\n".join(lines[1:])
