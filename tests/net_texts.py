"""A plan's nets as short texts, for the golden files: what the MLIR says, by names in place of numbers.

A line for every input, weight, operation and output. An operation's line has only the attributes that differ from their
defaults, so that a change of a graph is a change of the lines that it means; golden/mlir/*.mlir holds some whole MLIR
texts.
A net that is much like an earlier one of its kind is told by the lines that differ (- before, + in this net).
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from dataclasses import fields

from llmconv.plan.net import IO, Net
from llmconv.top.graph import Op, Value
from llmconv.top.ops import OPS


def shape(value: Value | IO) -> str:
    return "x".join(map(str, value.shape))


def head(net: Net) -> str:
    """The first line: kind, and the flags that differ from their defaults."""
    flags = {f.name: getattr(net.flags, f.name) for f in fields(net.flags)}
    told = [flags.pop("mode")] + [f"{f.name}={flags[f.name]}" for f in fields(net.flags) if f.name in flags]
    usual = {f"{f.name}={f.default}" for f in fields(net.flags)} | {"chip=bm1684x"}
    more = [f"stage of {net.stage_of}"] * bool(net.stage_of)
    extra = [f"lora_rank={net.graph.lora_rank}"] * bool(net.graph.lora_rank) + [net.graph.platform]
    return f"{net.kind} {' '.join([*(word for word in told if word not in usual), *more, *extra])}"


def lines(net: Net) -> list[str]:
    """The net, one thing a line; names of its layer begin with ~."""
    found = [head(net)]
    found += [f"in {io.name} {shape(io)} {io.dtype}" for io in net.inputs]
    for op in net.graph.ops:
        if op.kind == "Weight":
            weight = net.graph.weights[op.results[0].name]
            found.append(f"weight {weight.name} {shape(weight)} {weight.dtype} {recipe(weight.recipe)}{attributes(op)}")
        elif op.kind == "Input" and attributes(op):
            found.append(f"input {op.results[0].name}{attributes(op)}")
        elif op.kind not in ("None", "Input"):
            made = ", ".join(f"{value.name} {shape(value)}" for value in op.results)
            operands = [value.name or "none" for value in op.operands]
            found.append(f"{made} = {op.kind}({', '.join(operands)}){attributes(op)}")
    ends = zip(net.graph.outputs, net.outputs, strict=True)
    found += [f"out {value.name} as {io.name} {shape(io)} {io.dtype}" for value, io in ends]
    return [line.replace(net.scope, "~") if net.scope else line for line in found]


def recipe(given: tuple) -> str:
    return json.dumps(given).replace('"', "").replace(", ", " ")


def attributes(op: Op) -> str:
    usual = OPS[op.kind].defaults if op.kind in OPS else {"do_preprocess": False}
    told = [f"{name}={value}" for name, value in op.attrs.items() if usual.get(name) != value]
    return f" {{{' '.join(told)}}}" if told else ""


def texts(sections: Iterable[tuple[str, Sequence[Net]]]) -> str:
    """Sections of nets (title, nets) as one text. What is there already is left out, but for its name."""
    seen: dict[str, str] = {}
    kinds: dict[str, list[tuple[str, list[str]]]] = {}
    out: list[str] = []
    for title, nets in sections:
        out.append(f"=== {title}")
        for net in nets:
            name, made = f"{net.name} of {title}", lines(net)
            if (whole := "\n".join(made)) in seen:
                out.append(f"{net.name}: as {seen[whole]}")
                continue
            seen[whole] = name
            pattern, told = name, made
            for other, theirs in kinds.setdefault(net.kind, []):
                differ = list(difflib.unified_diff(theirs, made, n=0, lineterm=""))[2:]
                differ = [line for line in differ if not line.startswith("@@")]
                if len(differ) < len(told):
                    pattern, told = other, differ
            kinds[net.kind].append((name, made))
            out += [
                f"{net.name}:" if pattern == name else f"{net.name}: as {pattern} but for",
                *(f"  {t}" for t in told),
            ]
    return "\n".join(out) + "\n"
