"""Read a compiler's log for a person: its last meaningful lines, and the cause where the words are known."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

_TAIL_BYTES = 256 * 1024

# From here on a crash log is LLVM's: an address list without symbols, and the whole command line.
_CRASH = re.compile(r"PLEASE submit a bug report|^Stack dump:")

_NOISE = re.compile(
    r"""^\s*$ | ^\s*[=*-]{3} | ^\s*\#\s*\d+\s+0x | ^\[(Running|Success)\] | ^\[\d+\]\s\[DBG\] | ^Stack\ dump | ^\d+\.\s+Program\ arguments
    | ^Run\ \w+\ : | ^\ {4}\w[\w\s]*\.?$ | ^Can\ not\ open\ (config|hash)\ file | ^\s+-\ current\ directory | ^GroupMethod_process
    | ^total\ num\ of\ base_group | ^process\ base\ group | ^output_bytes: | ^GmemAllocator | ^in\ cmodel,\ enable | ^The\ dir\ path\ of
    | ^bmcpu\ init | ^Cannot\ open\ libusercpu | ^Create\ Core | ^\s+(Local|Static)Mem\ \[ | ^f?attention\w*\ (block_m|success) | ^fattention
    | ^block(_\w+)?\ is\ not\ suitable | ^(group|layer_group|layergroup)\b.*(cost|time|cycle) | ^\s*\d+(\.\d+)?\s*%  | ^\r
    | ^terminate\ called\ after | ^\s*\[[\s#=>*.-]*\]\s*(\d+(\.\d+)?\s*%)?\s*$""",
    re.VERBOSE,
)

# Words of the compiler -> (why, what to do). Groups of the pattern fill the braces.
_CAUSES: tuple[tuple[re.Pattern[str], str, str], ...] = (
    (re.compile(r"failed to find tensor (\S+) to read"), "the weight file lacks the tensor {0}", ""),
    (
        re.compile(r"Failed to open: (/tmp/ppl_\d+\.lock)"),
        "the kernel JIT cannot open {0}",
        "It belongs to another user of this machine; remove it, or ask its owner to",
    ),
    (
        re.compile(r"run ppl_jit failed with ret 0x7f00"),
        "the kernel JIT did not find cmake or make",
        "Install cmake, make and a C++ compiler (llmconv doctor)",
    ),
    (
        re.compile(r"error while loading shared libraries: ([^\s:]+): (?:file too short|invalid ELF header|.*\bELF\b)"),
        "its library {0} is damaged",
        "Run llmconv doctor",
    ),
    (re.compile(r"No space left on device"), "the disk is full", "Make room and run again"),
    (re.compile(r"std::bad_alloc|Cannot allocate memory"), "memory ran out", "Run fewer jobs at once (-n 1)"),
    (
        re.compile(r"(ppl jit call failed)"),
        "the kernel JIT failed",
        "Check cmake, make and the C++ compiler (llmconv doctor)",
    ),
    (re.compile(r"([^/\s:]+:\d+): .*Assertion `(.*)' failed"), "its assertion `{1}' failed ({0})", ""),
    (re.compile(r"\berror: (.{1,300})"), "{0}", ""),
)


def meaningful(lines: Iterable[str]) -> list[str]:
    """The lines about this net, without progress, banners and stack frames. Repeated neighbours become one line."""
    kept: list[str] = []
    for line in lines:
        line = line.rstrip().rpartition("\r")[2]  # what a progress bar has written over is gone
        if _CRASH.search(line):
            break
        if _NOISE.search(line) or (kept and kept[-1] == line):
            continue
        kept.append(line)
    return kept


def tail(log: Path, count: int = 6) -> list[str]:
    """The last `count` meaningful lines of a log file, [] when it cannot be read. Reads at most its last 256 KiB."""
    try:
        with open(log, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return meaningful(text.splitlines())[-count:]


def cause(lines: Iterable[str]) -> tuple[str, str]:
    """(why, what to do) for the first known failure in `lines`, else the last line as it stands, else two empty
    strings.
    """
    lines = list(lines)
    for pattern, why, cure in _CAUSES:
        for line in lines:
            found = pattern.search(line)
            if found:
                return why.format(*found.groups()), cure
    return (lines[-1].strip()[:300] if lines else ""), ""
