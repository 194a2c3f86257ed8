"""The options: one table for both front doors, the help text and the checks.

Names, short flags and defaults are those of the vendor's llm_convert.py document; `variable` is the short name on the
doit side.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmconv.chips import CHIPS
from llmconv.errors import InputError, shown

QUANTIZE = ("auto", "bf16", "f16", "w8bf16", "w4bf16", "w8f16", "w4f16")
PLACES = ("path", "file")  # kinds of options
HEAD = ("auto", "bf16", "f16", "w8", "w4")
GRAPH = ("fast", "fastest", "vendor")
PROGRESS = ("auto", "tty", "plain", "json", "quiet")


@dataclass(frozen=True)
class Option:
    """kind: str, int, flag, path, file, size (bytes, with K/M/G), pixels ("W,H") or one of `choices`."""

    name: str
    kind: str
    default: Any
    help: str
    group: str
    flags: tuple[str, ...] = ()
    variable: str = ""
    choices: tuple[str, ...] = ()


OPTIONS = (
    Option(
        "model_path",
        "path",
        None,
        "directory of the HuggingFace checkpoint, a GGUF file, or org/name[@revision] of the hub",
        "required",
        ("-m",),
        "model",
    ),
    Option("seq_length", "int", None, "longest sequence: the capacity of the KV cache", "required", ("-s",), "seq"),
    Option("mmproj", "file", None, "the tower's GGUF file, for a GGUF file of a model that sees", "checkpoint"),
    Option(
        "quantize",
        "choice",
        "auto",
        "weights: auto follows the checkpoint, else bf16",
        "quantisation",
        ("-q",),
        choices=QUANTIZE,
    ),
    Option("q_group_size", "int", 64, "weights per scale along K, for w4 and w8", "quantisation", ("-g",)),
    Option("symmetric", "flag", False, "symmetric quantisation: zero points at the middle", "quantisation"),
    Option(
        "keep_half",
        "str",
        "",
        "linear layers that stay in half precision beside w4 or w8, e.g. 3.q_proj,0-3.down_proj,*.v_proj,5",
        "quantisation",
    ),
    Option(
        "quantize_head",
        "choice",
        "auto",
        "the head's weights: auto is half precision, or what a quantised checkpoint has",
        "quantisation",
        choices=HEAD,
    ),
    Option("chip", "choice", "bm1684x", "target chip", "target", ("-c", "--processor"), choices=tuple(CHIPS)),
    Option("num_device", "int", 1, "devices that share the model", "target"),
    Option(
        "distribute_strategy",
        "choice",
        "tp",
        "how devices share it: the matrices of every layer (tp) or the layers (pp)",
        "target",
        choices=("tp", "pp"),
    ),
    Option("num_core", "int", 0, "cores to use; 0: all of the chip's", "target"),
    Option(
        "graph",
        "choice",
        "fast",
        "graphs with few cycles on the chip (fastest: also where a tied table is stored twice), or the vendor's",
        "target",
        choices=GRAPH,
    ),
    Option(
        "tune",
        "flag",
        False,
        "compile the graphs that could be taken, and take those with the fewest cycles; remembered in the cache",
        "target",
    ),
    Option("batch", "int", 1, "sequences decoded at once", "sequence", ("-b",)),
    Option("max_input_length", "int", 0, "longest prompt of one prefill; 0: seq_length", "sequence"),
    Option("max_prefill_kv_length", "int", 0, "history that a prefill can take; 0: seq_length", "sequence"),
    Option("use_block_with_kv", "flag", False, "prefill takes KV history", "sequence"),
    Option("share_prompt", "flag", False, "a prompt shared by many conversations", "sequence"),
    Option("use_history_kv", "flag", False, "prefill with history in the vendor's newer scheme", "sequence"),
    Option("chunk_length", "int", 0, "decode stages of growing KV length", "sequence"),
    Option("max_pixels", "pixels", "", "W,H of the largest image; default: the model family's", "vision"),
    Option(
        "exact_audio",
        "flag",
        False,
        "sound as the model hears it, for runtimes that give the audio net whole windows and masks",
        "audio",
    ),
    Option("lora_max_rank", "int", 0, "room for LoRA adapters of this rank; 0: none", "other nets"),
    Option("do_sample", "flag", False, "logits and sampling heads instead of the greedy token", "other nets"),
    Option("embedding_disk", "flag", False, "embedding table as a file for the CPU", "other nets"),
    Option("dynamic", "flag", False, "prefill at any length up to the maximum", "sequence"),
    Option("rvti", "flag", False, "for bm1690e alone", "target"),
    Option("out_dir", "path", None, "output directory; default ./<model>_<chip>_<quantize>", "flow", ("-o",), "out"),
    Option("only_mlir", "flag", False, "write every net's MLIR and stop", "flow"),
    Option("again", "flag", False, "go on where a build stopped (which is what happens anyway)", "flow"),
    Option("debug", "flag", False, "keep intermediate files and show tracebacks", "flow"),
    Option("dry_run", "flag", False, "check everything, print the plan, write nothing", "flow"),
    Option("jobs", "int", 0, "tasks at once; 0: one per core", "build", ("-n",)),
    Option(
        "memory",
        "size",
        None,
        "memory that running tasks may use together, e.g. 8G; default: 1.5G, if that is free",
        "build",
    ),
    Option(
        "no_cache",
        "flag",
        False,
        "take no results from the cache that all output directories share, and write nothing to it",
        "build",
    ),
    Option(
        "slim",
        "flag",
        False,
        "move coefficients into the .bmodel instead of copying them, so that the disk holds them once (docs/resume.md)",
        "build",
    ),
    Option("no_stamp", "flag", False, "compile every net, instead of one per structure", "build"),
    Option(
        "progress",
        "choice",
        "auto",
        "how the build is shown: tty (a footer), plain (lines), json, quiet (failures); auto: tty on a terminal",
        "build",
        choices=PROGRESS,
    ),
    Option(
        "scheduler",
        "str",
        "",
        "address of Dask's scheduler, on whose workers nets are compiled, e.g. tcp://host:8786 (docs/cluster.md)",
        "build",
    ),
    Option("cluster", "str", "", "start a Dask cluster on this machine instead: local:4 has 4 workers", "build"),
    Option("continue", "flag", False, "after a failure, go on with independent tasks", "build"),
)

# of a whole run, however many conversions it has
OF_RUN = (*(o.name for o in OPTIONS if o.group == "build" and o.name != "no_stamp"), "again", "dry_run")
BY_NAME = {o.name: o for o in OPTIONS}
ALIASES = {alias: o.name for o in OPTIONS for alias in (o.name, o.variable) if alias} | {"processor": "chip"}

LARGEST = (1 << 31) - 1  # as the compiler's and the runtimes' sizes
_WHOLE = re.compile(r"[+-]?[0-9]+")
_TRUE, _FALSE = {"1", "true", "yes", "on", ""}, {"0", "false", "no", "off"}
_AMOUNT = re.compile(r"([0-9.]+)\s*([kmgt]?)(i?)b?", re.IGNORECASE)  # the i of GiB: 1024 in place of 1000
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse(given: Mapping[str, Any]) -> dict[str, Any]:
    """Every option with its typed value: what is given (strings or values), else the default.

    Raises InputError for an unknown name (with the near miss) and a value that does not parse.
    """
    values = {o.name: o.default for o in OPTIONS}
    for key, raw in given.items():
        if raw is not None:
            option = _option(key)
            values[option.name] = _value(option, raw)
    return values


def typed(given: Mapping[str, Any]) -> dict[str, str]:
    """The given options as text, by their own names and in their order. Raises InputError for an unknown name."""
    found = {_option(key).name: str(raw) for key, raw in given.items() if raw is not None}
    return {o.name: found[o.name] for o in OPTIONS if o.name in found}


def arguments(given: Mapping[str, str]) -> list[str]:
    """The arguments of `llmconv convert` for what `typed` gave."""
    words: list[str] = []
    for name, text in given.items():
        option = BY_NAME[name]
        if option.kind != "flag":
            words += [f"--{name}", text]
        elif _value(option, text):
            words.append(f"--{name}")
    return words


def _option(key: str) -> Option:
    name = ALIASES.get(key.lstrip("-").replace("-", "_"))
    if name is not None:
        return BY_NAME[name]
    near = difflib.get_close_matches(key, ALIASES, n=1)
    hint = f"Did you mean {near[0]}?" if near else "`llmconv convert --help` lists them."
    raise InputError(f"unknown option {key!r}", "llmconv takes no such option", hint)


def _value(option: Option, raw: Any) -> Any:
    text = str(raw) if option.kind in PLACES else str(raw).strip()

    def bad(rule: str) -> InputError:
        near = difflib.get_close_matches(text, option.choices, n=1) if len(text) < 100 else []
        return InputError(f"{option.name}={shown(str(raw))}", rule, f"Did you mean {near[0]}?" if near else "")

    if option.kind == "flag":
        if text.lower() in _TRUE:
            return True
        if text.lower() in _FALSE:
            return False
        raise bad("a switch takes 1 or 0")
    if option.kind == "int":
        if not _WHOLE.fullmatch(text):
            raise bad("a whole number is expected")
        if len(text) > 15 or abs(int(text)) > LARGEST:
            raise bad(f"a number up to {LARGEST} is expected")
        return int(text)
    if option.kind == "pixels":
        sides = [part.strip() for part in text.split(",")]
        if len(sides) != 2 or not all(_WHOLE.fullmatch(s) and len(s) < 10 and int(s) >= 0 for s in sides):
            raise bad("two whole numbers with a comma between them are expected, e.g. 672,896")
        return ",".join(str(int(side)) for side in sides)
    if option.kind == "size":
        value = amount(text)
        if value is None:
            raise bad("an amount of memory such as 8G is expected")
        return value
    if option.kind == "choice":
        chosen = next((choice for choice in option.choices if choice.lower() == text.lower()), None)
        if chosen is None:
            raise bad(f"one of {', '.join(option.choices)} is expected")
        return chosen
    if option.kind in PLACES and (not text.strip() or "\0" in text):
        raise bad("a path is expected")
    return text


def amount(text: str) -> int | None:
    """Bytes of "8G" (8 * 1000^3), "500MB", "8GiB" (8 * 1024^3) or "1000"; None when it is no amount."""
    found = _AMOUNT.fullmatch(text.strip())
    if found is None:
        return None
    number, unit, binary = found.groups()
    try:
        return int(float(number) * (1024 if binary else 1000) ** _POWERS[unit.lower()])
    except (ValueError, OverflowError):
        return None
